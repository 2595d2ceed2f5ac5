"""A confirming training whose process is killed continues at its next epoch, in the same run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from projects import ROOT, TINY_SWEEP

from satx.execution.confirm import confirm_best
from satx.execution.driver import Sweep
from satx.execution.engine import keras_engine
from satx.execution.worker import run_worker
from satx.search.space import SweepConfig
from satx.tracking.runs import curve_of
from satx.training import trainer

PARTS: dict[str, Any] = {
    "start": [{"model.unfreeze": "none"}],
    "space": {"model.unfreeze": {"choices": ["none"]}},
    "confirm": {"num_configurations": 1, "num_seeds": 1},
}
KILLED = """
import os, signal, sys
from pathlib import Path
from projects import SIZE_PX
from satx.session_config import load_session
from satx.execution.confirm import confirm_best
from satx.execution.driver import open_sweep
from satx.sessions.prepare import SessionRequest, prepare_folder
from satx.search.space import SweepConfig
from satx.tiles.layout import read_layout
from satx.training import trainer
tiles, name, sweep = Path(sys.argv[1]), sys.argv[2], SweepConfig.model_validate_json(sys.argv[3])
prepared = prepare_folder(read_layout(tiles), load_session("2"), SessionRequest("2", tiles, "none", SIZE_PX), ("mobilenetv2",))
opened = open_sweep(prepared, sweep, 1, git_commit="0" * 40)
assert opened.job.study_name == name, opened.job.study_name
save = trainer.save_checkpoint
def kill(*arguments, **keywords):
    save(*arguments, **keywords)
    os.kill(os.getpid(), signal.SIGKILL)
trainer.save_checkpoint = kill
confirm_best(opened, on_progress=lambda what, done, total: None)
"""


@pytest.mark.slow
@pytest.mark.faults
def test_a_killed_confirming_training_continues_at_its_next_epoch(
    open_tiny: Callable[..., Sweep], tiny_tiles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = open_tiny(trials=1, **PARTS)
    run_worker(sweep.job.study_name, keras_engine(), stop=lambda: False)
    config = SweepConfig.model_validate(TINY_SWEEP | PARTS).model_dump_json()
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, tiny_tiles, sweep.job.study_name, config],
        capture_output=True,
        text=True,
        timeout=500,
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    written: list[int] = []
    save = trainer.save_checkpoint

    def noted(folder: Path, progress: Any, arrays: Any, **keywords: Any) -> None:
        written.append(len(progress.history))
        save(folder, progress, arrays, **keywords)

    monkeypatch.setattr(trainer, "save_checkpoint", noted)
    found = confirm_best(sweep, on_progress=lambda what, done, total: None)
    assert (found.num_confirmed, found.num_wanted) == (1, 1)
    assert written == [2], "the first epoch is restored from the checkpoint"
    runs = sweep.client.search_runs([sweep.job.experiment_id], filter_string="tags.kind = 'confirm'")
    assert [run.info.status for run in runs] == ["FINISHED"]
    steps = [metric.step for metric in curve_of(sweep.client, runs[0].info.run_id, "val_auc")]
    assert steps == [1, 2]
