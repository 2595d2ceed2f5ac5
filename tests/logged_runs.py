"""Runs as sweeps log them, written through `satx.tracking.runs` without training."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from satx.tracking.artifacts import curve_files
from satx.tracking.client import MlflowClient, experiment_id, open_tracker
from satx.tracking.curves import direct_curves
from satx.tracking.runs import CURVES, curve_of, get_run, log_files, log_numbers, start_run
from satx.training.checkpoint import Epoch

SCORES = {"test_auc": 0.95, "test_auc_low": 0.91, "test_auc_high": 0.98}
SCORES |= {"test_accuracy": 0.9, "test_accuracy_low": 0.85, "test_accuracy_high": 0.94}
NEGATIVES, POSITIVES = 40, 20


def epochs(best_auc: float, *, num_epochs: int = 4, seconds: float = 2.0) -> list[Epoch]:
    rising = [best_auc - 0.02 * (num_epochs - step) for step in range(1, num_epochs + 1)]
    return [
        Epoch(step, "head", auc - 0.1, 1 - auc, auc - 0.05, 1.2 - auc, auc, 1e-3, seconds)
        for step, auc in enumerate(rising, start=1)
    ]


def predictions(false_alarms: dict[str, int], *, digest_prefix: str = "tile") -> pd.DataFrame:
    """Return test predictions with this many false positives per slice and no false negatives."""
    slices = ["built-up"] * (NEGATIVES // 2) + ["open-land"] * (NEGATIVES // 2) + ["school"] * POSITIVES
    score = np.array([0.1] * NEGATIVES + [0.9] * POSITIVES)
    for name, number in false_alarms.items():
        score[slices.index(name) : slices.index(name) + number] = 0.8
    return pd.DataFrame(
        {
            "content_digest": [f"{digest_prefix}-{row}" for row in range(len(slices))],
            "relative": [f"test/{row}.jpg" for row in range(len(slices))],
            "label": ["not-school"] * NEGATIVES + ["school"] * POSITIVES,
            "slice": slices,
            "split": "test",
            "probability_not-school": 1 - score,
            "probability_school": score,
        }
    )


def log_configuration(
    client: MlflowClient,
    experiment: str,
    name: str,
    *,
    study: str,
    backbone: str,
    val_auc: float = 0.9,
    status: str = "FINISHED",
    tested: pd.DataFrame | None = None,
    valid: pd.DataFrame | None = None,
    of_sweep: bool = True,
    unfreeze: str = "none",
) -> str:
    """Log the run of a configuration, and return its id.

    Args:
        client: MLflow client.
        experiment: Experiment id.
        name: Name of the run and of its configuration.
        study: Study of the run.
        backbone: Backbone of the configuration.
        val_auc: Best validation AUC.
        status: Final status of the run.
        tested: Predictions on the test tiles, if it has any.
        valid: Predictions on the validation tiles, if it has any on the test tiles; by default without false positives.
        of_sweep: True for a run of a sweep, False for one of `satx tune`.
        unfreeze: What it trains.
    """
    tags = {"study": study, "configuration": name, "backbone": backbone}
    tags |= {"weights_digest": "abc"} if of_sweep else {}
    tags |= {"pruned": "true"} if status == "KILLED" else {}
    params = {"model.backbone": backbone, "model.unfreeze": unfreeze, "train.batch_size": 16}
    params |= {"train.finetune_epochs": 2, "train.early_stopping_patience_epochs": 5, "model.dropout": 0.1 * len(name)}
    run = start_run(client, experiment, name=name, tags=tags, params=params, parent=None)
    run_id = str(run.info.run_id)
    curves = direct_curves(client, run)
    history = epochs(val_auc, seconds=2.0 if backbone == "mobilenetv2" else 6.0)
    for epoch in history:
        curves.add(epoch)
    curves.flush()
    log_files(client, run, curve_files(history))
    if status == "FINISHED":
        log_numbers(client, run_id, {"best_val_auc": val_auc, "best_val_accuracy": val_auc - 0.05})
        log_numbers(client, run_id, {"best_val_loss": 1.2 - val_auc, "shared_seconds": 3.0})
    if tested is not None:
        log_tested(client, run_id, tested, valid)
    if status != "RUNNING":
        client.update_run(run_id, status=status)
    return run_id


def log_tested(client: MlflowClient, run_id: str, frame: pd.DataFrame, valid: pd.DataFrame | None = None) -> None:
    """Log predictions of the test tiles, and of validation tiles (by default without false positives), to a run."""
    log_numbers(client, run_id, SCORES)
    validated = predictions({}, digest_prefix="valid").assign(split="valid") if valid is None else valid
    frames = {"test": frame, "valid": validated}

    def written(split: str) -> Callable[[Path], None]:
        return lambda path: frames[split].to_parquet(path, index=False)

    log_files(client, get_run(client, run_id), {f"predictions/{split}.parquet": written(split) for split in frames})


def log_session(
    name: str,
    *,
    built_up: int,
    study: str = "quick-1",
    digest_prefix: str = "tile",
    best_trains: str = "none",
    tested: pd.DataFrame | None = None,
    valid: pd.DataFrame | None = None,
) -> dict[str, str]:
    """Log a small sweep of two backbones with a baseline in experiment `name`; return run ids by run name.

    Args:
        name: Name of the experiment.
        built_up: False positives in built-up land on the test tiles; the baseline has one more.
        study: End of the study's name.
        digest_prefix: Beginning of the digests of the test tiles.
        best_trains: What the best run, of Xception, trains.
        tested: Predictions on the test tiles, instead of those with `built_up` false positives.
        valid: Predictions on the validation tiles, instead of those without false positives.
    """
    client = open_tracker()
    experiment = experiment_id(client, name)
    study = f"{name}-{study}"
    if tested is None:
        tested = predictions({"built-up": built_up}, digest_prefix=digest_prefix)
    parent_tags = {"study": study, "kind": "sweep"}
    start_run(client, experiment, name=study, tags=parent_tags, params={}, parent=None)
    made = {
        "xception-best": log_configuration(
            client,
            experiment,
            "xception-best",
            study=study,
            backbone="xception",
            val_auc=0.97,
            tested=tested,
            valid=valid,
            unfreeze=best_trains,
        ),
        "xception-pruned": log_configuration(
            client, experiment, "xception-pruned", study=study, backbone="xception", val_auc=0.8, status="KILLED"
        ),
        "mobilenetv2-best": log_configuration(
            client, experiment, "mobilenetv2-best", study=study, backbone="mobilenetv2", val_auc=0.95, tested=tested
        ),
        "mobilenetv2-waiting": log_configuration(
            client, experiment, "mobilenetv2-waiting", study=study, backbone="mobilenetv2", status="SCHEDULED"
        ),
    }
    baseline_tags = {"study": study, "kind": "baseline", "backbone": "mobilenetv2"}
    fitted = start_run(client, experiment, name="baseline-mobilenetv2", tags=baseline_tags, params={}, parent=None)
    baseline = str(fitted.info.run_id)
    log_numbers(client, baseline, {"best_val_auc": 0.93, "best_val_accuracy": 0.83})
    for run_name, usd in {"xception-best": 0.42, "xception-pruned": 0.18, "mobilenetv2-best": 0.35}.items():
        log_numbers(client, made[run_name], {"cost_usd": usd})
    log_tested(client, baseline, predictions({"built-up": built_up + 1}, digest_prefix=digest_prefix))
    client.set_terminated(baseline)
    return made | {"baseline-mobilenetv2": baseline}


def curves_of(client: MlflowClient, run_id: str) -> pd.DataFrame:
    """Return a run's curves from MLflow, one row per step, with `run_id`; empty if the run has none."""
    columns: dict[str, dict[int, float]] = {}
    for name in CURVES:
        columns[name] = {metric.step: metric.value for metric in curve_of(client, run_id, name)}
    frame = pd.DataFrame(columns).sort_index()
    frame.insert(0, "run_id", run_id)
    return frame.rename_axis("step").reset_index()
