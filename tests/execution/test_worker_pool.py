"""Worker processes: one that ignores the stop signal, and the message of a sweep that ends early."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import optuna
import pytest

from satx.execution import worker_pool
from satx.execution.driver import Sweep
from satx.study.admission import why_exhausted
from satx.study.outcomes import Outcome

DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"


def test_a_worker_that_ignores_the_stop_signal_is_killed_after_the_time_limit(
    open_tiny: Callable[..., Sweep], monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[bytes]] = []

    def start(*_: Any) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, "-c", DEAF], stdout=subprocess.PIPE)
        assert process.stdout is not None and process.stdout.readline() == b"deaf\n"
        process.stdout.close()
        started.append(process)
        return process

    monkeypatch.setattr(worker_pool, "_start_worker", start)
    finished = worker_pool.run_workers(
        open_tiny(),
        num_workers=1,
        ends_at=time.monotonic(),
        on_tick=lambda sweep: None,
        tick_seconds=0.1,
        grace_seconds=0.5,
    )
    assert not finished
    assert [process.returncode for process in started] == [-9]


def test_a_sweep_that_ends_early_for_lack_of_memory_gives_this_reason() -> None:
    study = optuna.create_study(direction="maximize")
    study.tell(study.ask(), 0.5)
    for outcome in (Outcome.TOO_LARGE, Outcome.DUPLICATE, Outcome.TOO_LARGE):
        trial = study.ask()
        trial.set_user_attr("outcome", outcome)
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
    assert "2 of the last 3 draws" in why_exhausted(study)
    known = study.ask()
    known.set_user_attr("duplicate_of", 0)
    study.tell(known, 0.5)
    assert "2 of the last 4 draws" in why_exhausted(study)
