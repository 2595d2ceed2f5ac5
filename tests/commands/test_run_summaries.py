"""What the parent run shows does not decide how a sweep ends: errors while it is logged are ignored."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import pytest
from mlflow.exceptions import MlflowException
from projects import with_databases

from satx.commands import sweep as sweeping
from satx.commands import tune as tuning
from satx.errors import SweepStopped
from satx.execution.worker import run_worker
from satx.planning.plan import plan_sweep
from satx.sessions.prepare import SessionRequest
from satx.testing.rehearsal import rehearsal_engine

HYPERMODEL = Path(__file__).resolve().parents[2] / "sweeps" / "hypermodel.py"


def broken(*_: Any, **__: Any) -> NoReturn:
    raise MlflowException("the server has gone")


def stopped(*_: Any, **__: Any) -> NoReturn:
    raise SweepStopped("5 trials failed in a row")


@pytest.mark.parametrize("name", ["log_sweep", "log_curves", "log_summary"])
def test_a_sweep_finishes_although_its_run_cannot_show_it(
    name: str, open_tiny: Any, tiny_ready: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = open_tiny(trials=2)
    run_worker(sweep.job.study_name, rehearsal_engine(0.0), stop=lambda: False)
    monkeypatch.setattr(sweeping, name, broken)
    monkeypatch.setattr(sweeping, "log_baselines", lambda *_, **__: None)  # they train on the real features
    finished, finalists = sweeping._run(sweep, plan_sweep(tiny_ready, sweep.job.sweep, 0), 1, None, None)
    assert finished and finalists
    assert sweep.client.get_run(sweep.job.parent_run_id).info.status == "FINISHED"


def test_an_error_of_the_summary_does_not_hide_what_ended_the_sweep(
    open_tiny: Any, tiny_ready: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = open_tiny(trials=2)
    monkeypatch.setattr(sweeping, "run_workers", stopped)
    monkeypatch.setattr(sweeping, "log_summary", broken)
    with pytest.raises(SweepStopped, match="5 trials"):
        sweeping._run(sweep, plan_sweep(tiny_ready, sweep.job.sweep, 2), 1, None, None)
    assert sweep.client.get_run(sweep.job.parent_run_id).info.status == "FAILED"


@pytest.mark.parametrize("name", ["log_curves", "log_summary"])
def test_a_hypermodels_sweep_ends_alike_whether_its_run_shows_it_or_not(
    name: str, tiny_tiles: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_databases(home, tmp_path.parent)
    monkeypatch.setattr(tuning, "tune", lambda *_, **__: None)  # no trial is finished
    monkeypatch.setattr(tuning, name, broken)
    with pytest.raises(SweepStopped, match="Expected a trial that finished"):
        tuning.tune_command(HYPERMODEL, SessionRequest("2", tiny_tiles, None, 32), trials=1, epochs=1, batch_size=8)
