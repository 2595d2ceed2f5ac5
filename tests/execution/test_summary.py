"""What the parent run of a sweep shows, after trials that finished, were pruned, failed and were interrupted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState
from projects import TINY_SWEEP

from satx.config import read_yaml
from satx.errors import Interrupted
from satx.execution.driver import Sweep, close_sweep
from satx.execution.summary import log_curves, log_summary, log_sweep
from satx.execution.worker import run_worker
from satx.search.space import SweepConfig
from satx.study.outcomes import Outcome
from satx.testing.rehearsal import rehearsal_engine
from satx.tracking.naming import NOTE
from satx.tracking.runs import CONFIRMED, fetch_file, log_numbers, start_run

RATE = "train.head_learning_rate"
HEADS: dict[str, Any] = {
    "start": [{RATE: 0.001}, {RATE: 0.002}],
    "space": {RATE: {"low": 1e-4, "high": 1e-2, "log": True}},
    "set": {"model.backbone": "mobilenetv2", "model.unfreeze": "none", "train.head_epochs": 3},
    "pruner": {"name": "none"},
}


def summarize(sweep: Sweep) -> None:
    log_summary(sweep.client, sweep.study, sweep.job.parent_run_id, wanted=sweep.job.trials)


def parent_of(sweep: Sweep) -> Any:
    return sweep.client.get_run(sweep.job.parent_run_id)


def test_the_parent_run_has_the_sweep_a_summary_and_the_figure_of_its_curves(
    open_tiny: Callable[..., Sweep], tmp_path: Path
) -> None:
    sweep = open_tiny(trials=2, **HEADS)
    log_sweep(sweep)
    first = parent_of(sweep).data
    assert first.metrics["num_finished"] == 0 and "0 of 2" in first.tags[NOTE]
    log_curves(sweep.client, sweep.study, sweep.job.parent_run_id)  # of no run yet
    assert {item.path for item in sweep.client.list_artifacts(sweep.job.parent_run_id)} == {"sweep.yaml"}
    run_worker(sweep.job.study_name, rehearsal_engine(0.0), stop=lambda: False)
    close_sweep(sweep, "FINISHED")
    log_curves(sweep.client, sweep.study, sweep.job.parent_run_id)
    summarize(sweep)

    parent = parent_of(sweep)
    assert parent.info.status == "FINISHED", "a summary does not reopen the run"
    numbers = {name: parent.data.metrics[name] for name in ("num_finished", "num_pruned", "num_failed")}
    assert numbers == {"num_finished": 2, "num_pruned": 0, "num_failed": 0}
    seconds = sum(trial.duration.total_seconds() for trial in sweep.study.get_trials() if trial.duration)
    assert parent.data.metrics["trial_minutes"] == pytest.approx(seconds / 60)
    best = max(sweep.study.get_trials(), key=lambda trial: trial.value or 0.0)
    (run,) = sweep.client.search_runs([sweep.job.experiment_id], f"tags.trial_numbers = '{best.number}'")
    assert f"mobilenetv2 head only #{best.number}" in parent.data.tags[NOTE]
    assert f"/runs/{run.info.run_id}" in parent.data.tags[NOTE] and f"{best.value:.4f}" in parent.data.tags[NOTE]
    written = fetch_file(sweep.client, parent.info.run_id, "sweep.yaml", tmp_path)
    assert written is not None
    assert SweepConfig.model_validate(read_yaml(written)) == SweepConfig.model_validate(TINY_SWEEP | HEADS)
    figure = fetch_file(sweep.client, parent.info.run_id, "curves.png", tmp_path)
    assert figure is not None and figure.read_bytes().startswith(b"\x89PNG")


def test_the_summary_counts_trials_by_how_they_ended(open_tiny: Callable[..., Sweep]) -> None:
    sweep = open_tiny(trials=9, **HEADS)
    for outcome in (Outcome.FAILED, Outcome.OUT_OF_MEMORY, Outcome.INTERRUPTED, None):
        trial = sweep.study.ask()
        if outcome is not None:
            trial.set_user_attr("outcome", outcome)
        sweep.study.tell(trial, state=TrialState.FAIL)
    pruned = sweep.study.ask()
    pruned.report(0.5, 1)
    sweep.study.tell(pruned, state=TrialState.PRUNED)
    known = sweep.study.ask()
    known.set_user_attr("duplicate_of", 0)
    sweep.study.tell(known, 0.5)
    sweep.study.ask()
    summarize(sweep)
    parent = parent_of(sweep).data
    assert (parent.metrics["num_finished"], parent.metrics["num_pruned"], parent.metrics["num_failed"]) == (0, 1, 2)
    assert "1 of 9" in parent.tags[NOTE]
    ways = ("failed", "out of memory", "interrupted", "lost with its machine", "pruned", "running")
    for way in (*ways, "known from another trial"):
        assert f"1 {way}" in parent.tags[NOTE]


def test_the_summary_names_the_confirmed_run_and_its_test_scores(open_tiny: Callable[..., Sweep]) -> None:
    sweep = open_tiny(trials=2, **HEADS)
    for name, numbers in {
        "lucky": {"best_val_auc": 0.95},
        "steady": {"best_val_auc": 0.94, CONFIRMED: 0.93, "num_seeds": 3.0}
        | {"test_auc": 0.9, "test_auc_low": 0.85, "test_auc_high": 0.95},
        "unscored": {},
    }.items():
        tags = {"study": sweep.job.study_name, "configuration": name, "backbone": "mobilenetv2"}
        run = start_run(sweep.client, sweep.job.experiment_id, name=name, tags=tags, params={}, parent=None)
        log_numbers(sweep.client, run.info.run_id, numbers)
        sweep.client.set_terminated(run.info.run_id)
    summarize(sweep)
    note = parent_of(sweep).data.tags[NOTE]
    assert "steady" in note and "lucky" not in note and "unscored" not in note
    assert "0.9300" in note and "0.900 (0.850 to 0.950)" in note


def test_the_summary_of_an_interrupted_sweep_is_corrected_by_the_next_call(open_tiny: Callable[..., Sweep]) -> None:
    sweep = open_tiny(trials=2, **HEADS)
    with pytest.raises(Interrupted):
        run_worker(
            sweep.job.study_name, rehearsal_engine(0.0), stop=lambda: bool(sweep.study.get_trials()[0].last_step)
        )
    summarize(sweep)
    assert "0 of 2" in parent_of(sweep).data.tags[NOTE]
    assert "1 interrupted" in parent_of(sweep).data.tags[NOTE]
    again = open_tiny(trials=2, **HEADS)
    run_worker(again.job.study_name, rehearsal_engine(0.0), stop=lambda: False)
    summarize(again)
    assert parent_of(again).data.metrics["num_finished"] == 2
    assert "2 of 2" in parent_of(again).data.tags[NOTE]
