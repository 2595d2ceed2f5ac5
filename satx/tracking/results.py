"""Write what came of a training into its run: numbers for all, plots, predictions and the model where they are wanted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from mlflow.entities import Run

from satx.config import Configuration, SessionConfig
from satx.evaluation import plots
from satx.evaluation.intervals import Statistic, bootstrap_interval
from satx.evaluation.metrics import accuracy, log_loss, roc_auc, summary
from satx.evaluation.style import png_bytes
from satx.models.backbones import Network
from satx.models.classifier import WEIGHTS_NAME, Classifier, save_classifier
from satx.storage import file_digest, write_json
from satx.tiles.store import TileStore
from satx.tracking.artifacts import curve_files, evaluation_files
from satx.tracking.runs import CurveLogger, log_files, log_numbers
from satx.tracking.tracker import MlflowClient
from satx.training.checkpoint import Epoch
from satx.training.trainer import TrainingResult


def result_numbers(result: TrainingResult, *, store: TileStore, session: SessionConfig) -> dict[str, float]:
    """The best epoch's numbers on the validation tiles, as `best_val_*`."""
    labels = store.labels()[store.rows("valid")]
    numbers = summary(labels, result.val_probabilities, positive_index=store.classes.index(session.positive_class))
    best = {f"best_val_{name}": value for name, value in numbers.items()}
    return best | {"best_val_auc": result.best.val_auc, "best_step": float(result.best.step)}


def log_evidence(
    client: MlflowClient,
    run: Run,
    configuration: Configuration,
    network: Network,
    history: pd.DataFrame,
    val_probabilities: np.ndarray,
    *,
    store: TileStore,
    session: SessionConfig,
) -> None:
    """Plots, per-slice numbers, predictions and the model, for the runs worth looking at."""
    classifier = Classifier(
        network=network,
        model=configuration.model,
        image_size_px=configuration.image_size_px,
        classes=store.classes,
        positive_class=session.positive_class,
        task=session.task,
        sample=store.sample,
    )
    digests: dict[str, str] = {}

    def write_model(path: Path) -> None:
        save_classifier(classifier, path)
        digests["weights_sha256"] = file_digest(path / WEIGHTS_NAME)

    files = evaluation_files(store, "valid", val_probabilities, session)
    files["plots/learning_curves.png"] = lambda path: path.write_bytes(png_bytes(plots.learning_curves(history)))
    log_files(client, run, {**files, "model": write_model})
    log_numbers(client, run.info.run_id, {}, tags={"model": "kept", **digests})


def close_run(
    client: MlflowClient,
    configuration: Configuration,
    history: Sequence[Epoch],
    curves: CurveLogger,
    *,
    status: str,
    tags: Mapping[str, str],
    numbers: Mapping[str, float] | None = None,
) -> None:
    """Write `config.json` (what `satx train --from-run` repeats) and `history.csv`, send what waits, and end the run."""
    log_files(
        client,
        curves.run,
        {"config.json": lambda path: write_json(path, configuration.model_dump()), **curve_files(history)},
    )
    seconds = sum(epoch.epoch_seconds for epoch in history)
    curves.flush({**(numbers or {}), "compute_seconds": seconds}, tags=tags)
    client.set_terminated(curves.run_id, status=status)


def log_split_scores(
    client: MlflowClient,
    run: Run,
    split: str,
    probabilities: np.ndarray,
    *,
    store: TileStore,
    session: SessionConfig,
) -> None:
    """A model's numbers on a split, with bootstrap intervals, and its plots, slices and predictions.

    Args:
        client: MLflow.
        run: The model's.
        split: `valid` or `test`.
        probabilities: `(n, num_classes)`, in the order of `store.rows(split)`.
        store: The tiles.
        session: Names the class of interest and the threshold.
    """
    labels = store.labels()[store.rows(split)]
    positive_index = store.classes.index(session.positive_class)
    numbers = summary(labels, probabilities, positive_index=positive_index)
    statistics: dict[str, Statistic] = {
        "auc": partial(roc_auc, positive_index=positive_index),
        "accuracy": accuracy,
        "loss": log_loss,
    }
    prefix = "best_val" if split == "valid" else split
    metrics = {f"{prefix}_{name}": value for name, value in numbers.items()}
    for name, statistic in statistics.items():
        interval = bootstrap_interval(statistic, labels, probabilities)
        metrics |= {f"{prefix}_{name}_low": interval.low, f"{prefix}_{name}_high": interval.high}
    log_files(client, run, evaluation_files(store, split, probabilities, session))
    log_numbers(client, run.info.run_id, metrics)  # last: a run that has them was scored whole
