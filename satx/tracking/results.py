"""Log the results of selected trainings to their runs: plots, predictions, scores of a split, the model."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from mlflow.entities import Run

from satx.config import Configuration, read_yaml, validated
from satx.errors import WeightsError
from satx.evaluation import plots
from satx.evaluation.intervals import Statistic, bootstrap_interval
from satx.evaluation.metrics import accuracy, log_loss, roc_auc, summary
from satx.evaluation.style import png_bytes
from satx.models.backbones import Network
from satx.models.classifier import WEIGHTS_NAME, Classifier, save_classifier
from satx.models.weights_file import Weights
from satx.session_config import SessionConfig
from satx.storage import file_digest
from satx.tiles.store import TileStore
from satx.tracking.artifacts import evaluation_files
from satx.tracking.client import MlflowClient
from satx.tracking.kept_models import FOLDER, NAME
from satx.tracking.runs import delete_folder, fetch_file, log_files, log_numbers
from satx.training.trainer import network_of


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
    """Log plots, per-slice numbers, predictions and the model of a selected run."""
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


def write_model(client: MlflowClient, run: Run, weights: Weights, *, store: TileStore, session: SessionConfig) -> None:
    """Turn the values that `log_trained` logged into model, plots and predictions; set the tag `model` to `kept`.

    Raises:
        WeightsError: The values are missing or differ from those that were logged.
    """
    run_id = str(run.info.run_id)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file in ("config.json", "history.csv", FOLDER):
            fetch_file(client, run_id, file, folder)
        found, recorded = folder / FOLDER / NAME, run.data.tags["trained_sha256"]
        digest = file_digest(found) if found.is_file() else "no file"
        if digest != recorded:
            raise WeightsError(
                f"Run {run_id}: expected trained values with SHA-256 {recorded[:12]}…, got {digest[:12]}. They are not loaded; "
                f"repeat the run: `satx train --from-run {run_id}`."
            )
        configuration = validated(Configuration, read_yaml(folder / "config.json"), source=f"run {run_id}")
        history = pd.read_csv(folder / "history.csv")
        with np.load(found, allow_pickle=False) as archive:
            probabilities, *values = [archive[f"arr_{number}"] for number in range(len(archive.files))]
    network = network_of(configuration, weights, len(store.classes), values)
    log_evidence(client, run, configuration, network, history, probabilities, store=store, session=session)
    delete_folder(client, run, FOLDER)


def log_split_scores(
    client: MlflowClient,
    run: Run,
    split: str,
    probabilities: np.ndarray,
    *,
    store: TileStore,
    session: SessionConfig,
) -> None:
    """Log a model's scores on a split with bootstrap intervals, and its plots, slices and predictions.

    Args:
        client: MLflow client.
        run: The run of the model.
        split: `valid` or `test`.
        probabilities: `(n, num_classes)`, in the order of `store.rows(split)`.
        store: The tiles.
        session: Defines the class of interest and the threshold.
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
    log_numbers(client, run.info.run_id, metrics)  # last: a run that has them also has all files
