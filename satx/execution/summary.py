"""What the parent run of a study shows in MLflow: the sweep, how its trials ended, its best runs, and their curves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import optuna
import yaml
from mlflow.entities import Run
from optuna.trial import FrozenTrial, TrialState

from satx.evaluation.style import backbone_order, png_bytes
from satx.execution.driver import Sweep
from satx.reports.comparison import read_session
from satx.reports.figure import compare_figure
from satx.reports.mlflow_links import best_runs
from satx.study.outcomes import FAILED_FOR_GOOD, VANISHED
from satx.tracking.client import MlflowClient
from satx.tracking.naming import NOTE, run_link
from satx.tracking.runs import CONFIRMED, find_runs, log_files, log_numbers, runs_query

ENDED = {TrialState.COMPLETE: "finished", TrialState.PRUNED: "pruned"}
UNENDED = {TrialState.RUNNING: "running", TrialState.WAITING: "queued"}


def log_sweep(sweep: Sweep) -> None:
    """Log the sweep's YAML, with all defaults filled in, to its parent run, and a first summary."""
    written = yaml.safe_dump(sweep.job.sweep.model_dump(mode="json"), sort_keys=False)
    run = sweep.client.get_run(sweep.job.parent_run_id)
    log_files(sweep.client, run, {"sweep.yaml": lambda path: path.write_text(written, encoding="utf-8")})
    log_summary(sweep.client, sweep.study, sweep.job.parent_run_id, wanted=sweep.job.trials)


def log_curves(client: MlflowClient, study: optuna.Study, parent_run_id: str) -> None:
    """Log the figure of all curves of a study to its parent run, unless no run has an epoch."""
    parent = client.get_run(parent_run_id)
    configurations = runs_query({"study": study.study_name}, having=("configuration",))
    if not find_runs(client, parent.info.experiment_id, configurations):
        return
    session = read_session(client, parent.data.tags["session"], study=study.study_name)
    if session.histories.empty:
        return
    figure = compare_figure(session.runs, session.histories, title=study.study_name)
    log_files(client, parent, {"curves.png": lambda path: path.write_bytes(png_bytes(figure))})


def log_summary(client: MlflowClient, study: optuna.Study, parent_run_id: str, *, wanted: int) -> None:
    """Log how the trials of a study ended, and its best runs, as numbers and description of its parent run.

    All of it follows from what is recorded, so a later call corrects an earlier one.

    Args:
        client: MLflow client.
        study: The study.
        parent_run_id: Its parent run.
        wanted: Finished and pruned configurations wanted in total.
    """
    trials = study.get_trials(deepcopy=False)
    counts = Counter(_how_it_ended(trial) for trial in trials)
    minutes = sum(_seconds(trial) for trial in trials) / 60
    numbers = {
        "num_finished": counts["finished"],
        "num_pruned": counts["pruned"],
        "num_failed": sum(counts[outcome] for outcome in FAILED_FOR_GOOD),
        "trial_minutes": minutes,
    }
    experiment_id = client.get_run(parent_run_id).info.experiment_id
    best = best_runs(client, experiment_id, study.study_name)
    done = counts["finished"] + counts["pruned"]
    said = f"{done} of {wanted} configurations are done, after {minutes:.1f} minutes of trials on all workers."
    ways = ", ".join(f"{number} {outcome}" for outcome, number in counts.most_common())
    table = _table(
        ["backbone", "best run", "validation AUC", "test AUC"],
        [_row(best[name]) for name in sorted(best, key=backbone_order)],
    )
    parts = [said, *([table] if best else []), *([f"Trials: {ways}."] if ways else [])]
    log_numbers(client, parent_run_id, numbers, tags={NOTE: "\n\n".join(parts)})


def _how_it_ended(trial: FrozenTrial) -> str:
    if "duplicate_of" in trial.user_attrs:
        return "known from another trial"
    if trial.state in ENDED | UNENDED:
        return (ENDED | UNENDED)[trial.state]
    return str(trial.user_attrs.get("outcome", VANISHED))


def _seconds(trial: FrozenTrial) -> float:
    return trial.duration.total_seconds() if trial.duration is not None else 0.0


def _row(run: Run) -> list[str]:
    """Return a row of the table of best runs: the run as a link, its scores with their intervals."""
    metrics = run.data.metrics
    return [run.data.tags["backbone"], run_link(run), val_auc_text(metrics), test_auc_text(metrics)]


def val_auc_text(metrics: Mapping[str, float]) -> str:
    """Format the validation AUC from the search and, for a confirmed run, the mean over seeds."""
    mean = f"; mean of {metrics['num_seeds']:.0f} seeds {metrics[CONFIRMED]:.4f}" if CONFIRMED in metrics else ""
    return f"{metrics['best_val_auc']:.4f}{mean}"


def test_auc_text(metrics: Mapping[str, float]) -> str:
    """Format the test AUC with its interval; `-` without a test split."""
    if "test_auc" not in metrics:
        return "-"
    return f"{metrics['test_auc']:.3f} ({metrics['test_auc_low']:.3f} to {metrics['test_auc_high']:.3f})"


def _table(titles: list[str], rows: list[list[str]]) -> str:
    """Return a table in Markdown."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
