"""Two machines with separate `SATX_HOME` folders share a bucket: the second continues what the first did not finish."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from satx.errors import DataError, Interrupted
from satx.execution import sharing
from satx.execution import trial as trial_module
from satx.execution.driver import Sweep
from satx.execution.engine import Engine
from satx.execution.job import read_job
from satx.execution.worker import run_worker
from satx.study.reconcile import reconcile
from satx.testing.rehearsal import rehearsal_engine, rehearsed_curve
from satx.tracking.runs import curve_of
from satx.training.checkpoint import Epoch, TrainingProgress, load_checkpoint, save_checkpoint

EPOCHS = 6
LONG: dict[str, Any] = {
    "start": [],
    "space": {
        "model.unfreeze": {"choices": ["none"]},
        "train.head_learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
    },
    "set": {"model.backbone": "mobilenetv2", "train.head_epochs": EPOCHS},
    "pruner": {"name": "none"},
}


def counting(trained: list[int]) -> Engine:
    """Return an engine that records the epochs it trains, but not those it restores from a checkpoint."""
    engine = rehearsal_engine(0.0)

    def train(*arguments: Any, on_epoch: Any, **named: Any) -> Any:
        def noted(epoch: Any, new: bool) -> None:
            trained.extend([epoch.step] * new)
            on_epoch(epoch, new)

        return engine.train(*arguments, on_epoch=noted, **named)

    return replace(engine, train=train)


def keys(s3: Any, prefix: str) -> list[str]:
    found = s3.list_objects_v2(Bucket="satx-test", Prefix=f"fleet/{prefix}/")
    return [item["Key"] for item in found.get("Contents", [])]


@pytest.mark.parametrize("how", ["handed back", "gone without notice"])
def test_a_trial_continues_at_its_next_epoch_on_another_machine(
    elsewhere: Callable[[Sweep], Path],
    bucket: Any,
    open_tiny: Callable[..., Sweep],
    monkeypatch: pytest.MonkeyPatch,
    how: str,
) -> None:
    sweep = open_tiny(trials=1, **LONG)
    first: list[int] = []
    if how == "gone without notice":
        monkeypatch.setattr(trial_module, "SEND_SECONDS", 0.0)

        def stop() -> bool:
            if len(first) == 3:
                raise MemoryError  # stands for any unexpected error
            return False

        with pytest.raises(MemoryError):
            run_worker(sweep.job.study_name, counting(first), stop=stop)
    else:
        with pytest.raises(Interrupted):
            run_worker(sweep.job.study_name, counting(first), stop=lambda: len(first) == 3)
    assert first == [1, 2, 3]
    reconcile(sweep.study, sweep.client, sweep.job.experiment_id)
    there = elsewhere(sweep)
    second: list[int] = []
    run_worker(sweep.job.study_name, counting(second), stop=lambda: False)
    assert second == [4, 5, 6]
    assert sorted(path.name for path in there.glob("cache/*") if path.is_dir())[-1].startswith("tiles-")
    lost, done = sweep.study.get_trials()
    assert (lost.state, done.state) == (TrialState.FAIL, TrialState.COMPLETE)
    query = f"tags.study = '{sweep.job.study_name}' and tags.configuration LIKE '%'"
    (run,) = sweep.client.search_runs([sweep.job.experiment_id], filter_string=query)
    assert run.info.status == "FINISHED"
    configuration = sweep.job.defaults.with_values(
        {name: value for name, value in done.params.items()} | LONG["set"], source="test"
    )
    expected = [epoch.val_auc for epoch in rehearsed_curve(configuration)]
    assert list(done.intermediate_values.values()) == pytest.approx(expected)
    history = curve_of(sweep.client, run.info.run_id, "val_auc")
    assert [metric.value for metric in history] == pytest.approx(expected), "each once"
    assert keys(bucket, "checkpoints") == [], "an ended configuration leaves no checkpoint"


@pytest.mark.parametrize(("here", "in_the_bucket", "goes_on_from"), [(2, 4, 4), (4, 2, 4), (0, 3, 3)])
def test_a_trial_continues_from_the_checkpoint_with_more_epochs(
    bucket: Any, tmp_path: Path, here: int, in_the_bucket: int, goes_on_from: int
) -> None:
    def save(folder: Path, num_epochs: int) -> None:
        epochs = [Epoch(step, "head", 0.5, 0.5, 0.5, 0.5, 0.5, 1e-3, 0.1) for step in range(1, num_epochs + 1)]
        arrays = {kind: [np.full(1, num_epochs)] for kind in ("current", "optimizer", "best")}
        if epochs:
            save_checkpoint(folder, TrainingProgress(best_step=num_epochs, history=epochs), arrays)

    save(tmp_path / "trial", here)
    save(tmp_path / "elsewhere", in_the_bucket)
    study = optuna.create_study()
    trial = study.ask()
    sharing.send_checkpoint(trial, "s3://satx-test/fleet/checkpoints/s/d", tmp_path / "elsewhere", in_the_bucket)
    sharing.fetch_checkpoint(study.get_trials(), "s3://satx-test/fleet/checkpoints/s/d", tmp_path / "trial")
    found = load_checkpoint(tmp_path / "trial")
    assert found is not None
    assert (len(found[0].history), found[1]["current"][0].tolist()) == (goes_on_from, [goes_on_from])


@pytest.mark.parametrize(
    "written",
    [
        ["s3://satx-test/fleet", "0" * 64],
        ["s3://satx-test/fleet/checkpoints/s", "0" * 64],
        ["s3://satx-test/fleet/checkpoints/s/d/../other/0-1", "0" * 64],
        ["s3://satx-test/fleet/checkpoints/s/other/0-1", "0" * 64],
        "s3://satx-test/fleet/checkpoints/s/d/0-1",
        {"uri": 1},
    ],
)
def test_what_another_process_writes_as_a_checkpoint_is_neither_fetched_nor_deleted(
    bucket: Any, tmp_path: Path, written: Any, caplog: pytest.LogCaptureFixture
) -> None:
    for key in ("fleet/tiles/a", "fleet/checkpoints/s/d/0-1/a", "fleet/checkpoints/s/other/0-1/a"):
        bucket.put_object(Bucket="satx-test", Key=key, Body=b"kept")
    study = optuna.create_study()
    trial = study.ask()
    trial.set_user_attr(sharing.CHECKPOINT, written)
    sharing.remove_checkpoints(study.get_trials(), "s3://satx-test/fleet/checkpoints/s/d")
    sharing.fetch_checkpoint(study.get_trials(), "s3://satx-test/fleet/checkpoints/s/d", tmp_path / "trial")
    assert len(keys(bucket, "tiles")) + len(keys(bucket, "checkpoints")) == 3
    assert list(tmp_path.iterdir()) == []
    assert "ignoring the checkpoint" in caplog.text


@pytest.mark.parametrize(
    "uri", ["s3://satx-test/fleet/tiles/..", "s3://satx-test/fleet/tiles/", "s3://satx-test/.hidden"]
)
def test_an_input_is_only_fetched_into_a_folder_of_the_cache(tmp_path: Path, uri: str) -> None:
    with pytest.raises(DataError, match="name of a folder"):
        sharing.path_here(tmp_path / "elsewhere", sharing.TILES, {sharing.TILES: [uri, "0" * 64]})


def test_inputs_missing_from_the_bucket_raise_one_clear_error(
    elsewhere: Callable[[Sweep], Path], bucket: Any, open_tiny: Callable[..., Sweep]
) -> None:
    sweep = open_tiny(trials=1, **LONG)
    assert keys(bucket, "tiles")
    for key in keys(bucket, "tiles"):
        bucket.delete_object(Bucket="satx-test", Key=key)
    elsewhere(sweep)
    with pytest.raises(DataError, match=f"s3://.*{sweep.job.store.folder.name}"):
        read_job(sweep.study)


def test_the_same_sweep_uploads_its_inputs_only_once(bucket: Any, open_tiny: Callable[..., Sweep]) -> None:
    open_tiny(trials=1, **LONG)
    sent: list[str] = []
    bucket.meta.events.register("before-send.s3.PutObject", lambda request, **_: sent.append(request.url))
    open_tiny(trials=2, **LONG)
    assert sent == []
