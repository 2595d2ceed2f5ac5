from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from satx.errors import StateMismatch
from satx.training.checkpoint import (
    Epoch,
    TrainingProgress,
    load_checkpoint,
    remove_checkpoint,
    require_shapes,
    save_checkpoint,
)


def epoch(step: int, val_auc: float = 0.5) -> Epoch:
    return Epoch(step, "head", 0.1 + 0.2, 1 / 3, 0.5, 0.7, val_auc, 1e-3, 0.25)


def arrays(value: float) -> dict[str, list[np.ndarray]]:
    return {
        "current": [np.full((2, 3), value, np.float32), np.array([7, 8], np.uint32)],
        "optimizer": [np.array(3), np.full(2, value, np.float32)],
        "best": [np.full((2, 3), -value, np.float32)],
    }


def written(folder: Path, num_epochs: int = 3, best_step: int = 3) -> TrainingProgress:
    progress = TrainingProgress()
    for step in range(1, num_epochs + 1):
        progress.history.append(epoch(step))
        progress.best_step = min(step, best_step)
        progress.plateau_loss = 1 / 3
        save_checkpoint(folder, progress, arrays(float(step)))
    return progress


def test_a_checkpoint_is_loaded_exactly_as_it_was_saved(tmp_path: Path) -> None:
    progress = written(tmp_path)
    found = load_checkpoint(tmp_path)
    assert found is not None
    assert found[0] == progress
    for kind, expected in arrays(3.0).items():
        for ours, theirs in zip(expected, found[1][kind], strict=True):
            assert ours.dtype == theirs.dtype
            assert np.array_equal(ours, theirs)


def test_an_infinite_plateau_loss_is_saved_and_loaded(tmp_path: Path) -> None:
    progress = TrainingProgress(history=[epoch(1)], best_step=1)
    save_checkpoint(tmp_path, progress, arrays(1.0))
    found = load_checkpoint(tmp_path)
    assert found is not None
    assert found[0].plateau_loss == float("inf")


def test_the_arrays_of_the_best_epoch_are_kept_while_later_epochs_are_worse(tmp_path: Path) -> None:
    written(tmp_path, num_epochs=4, best_step=2)
    found = load_checkpoint(tmp_path)
    assert found is not None
    assert found[1]["best"][0][0, 0] == -2.0
    assert found[1]["current"][0][0, 0] == 4.0
    assert found[0].best == epoch(2)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["best-2.npz", "current-4.npz", "optimizer-4.npz", "state.json"]


def test_an_empty_or_absent_folder_has_no_checkpoint(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path) is None
    assert load_checkpoint(tmp_path / "absent") is None
    remove_checkpoint(tmp_path / "absent")


@pytest.mark.parametrize("name", ["state.json", "current-3.npz", "optimizer-3.npz", "best-3.npz"])
@pytest.mark.parametrize("how", ["missing", "empty", "half", "zeros", "text", "flipped", "pickle"])
def test_a_damaged_checkpoint_is_ignored(tmp_path: Path, name: str, how: str) -> None:
    written(tmp_path)
    path = tmp_path / name
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 0xFF
    path.unlink()
    damaged = {
        "empty": b"",
        "half": bytes(content[: len(content) // 2]),
        "zeros": bytes(len(content)),
        "text": b"[1, 2]",
        "flipped": bytes(content),
        "pickle": pickle.dumps([1, 2]),
    }
    if how in damaged:
        path.write_bytes(damaged[how])
    assert load_checkpoint(tmp_path) is None


@pytest.mark.parametrize(
    "change",
    [{"format": 2}, {"arrays": 3}, {"progress": {"history": [{"step": 1}]}}, {"progress": {}}],
    ids=str,
)
def test_a_state_file_of_another_format_is_ignored(tmp_path: Path, change: dict[str, object]) -> None:
    written(tmp_path)
    state = json.loads((tmp_path / "state.json").read_text()) | change
    (tmp_path / "state.json").write_text(json.dumps(state))
    assert load_checkpoint(tmp_path) is None


def test_a_partly_written_epoch_leaves_the_previous_one_intact(tmp_path: Path) -> None:
    progress = written(tmp_path)
    (tmp_path / ".state.json.x1y2").mkdir()
    (tmp_path / ".state.json.x1y2" / "state.json").write_text("{")
    (tmp_path / "current-4.npz").write_bytes(b"PK half")
    found = load_checkpoint(tmp_path)
    assert found is not None
    assert found[0] == progress
    written(tmp_path, num_epochs=4)
    assert load_checkpoint(tmp_path) is not None


def test_a_restarted_training_replaces_the_best_arrays_of_a_damaged_checkpoint(tmp_path: Path) -> None:
    written(tmp_path, num_epochs=1)
    (tmp_path / "best-1.npz").write_bytes(b"damaged")
    assert load_checkpoint(tmp_path) is None
    written(tmp_path, num_epochs=1)
    assert load_checkpoint(tmp_path) is not None


FULL_DISK = """
import resource, sys
from pathlib import Path
import numpy as np
from satx.training.checkpoint import Epoch, load_checkpoint, save_checkpoint
folder = Path(sys.argv[1])
progress, arrays = load_checkpoint(folder)
progress.history.append(Epoch(**(progress.history[-1].__dict__ | {"step": 4})))
resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
try:
    save_checkpoint(folder, progress, {kind: [np.zeros(10_000)] for kind in arrays})
except OSError as error:
    print("OSError", error.errno)
"""


def test_a_full_disk_leaves_the_previous_epoch(tmp_path: Path) -> None:
    progress = written(tmp_path)
    ended = subprocess.run(
        [sys.executable, "-c", FULL_DISK, tmp_path], capture_output=True, text=True, timeout=60, env=os.environ
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("OSError")
    found = load_checkpoint(tmp_path)
    assert found is not None
    assert found[0] == progress
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_remove_checkpoint_removes_its_folder(tmp_path: Path) -> None:
    written(tmp_path / "trial")
    remove_checkpoint(tmp_path / "trial")
    assert not (tmp_path / "trial").exists()


def test_an_epoch_is_the_same_after_json() -> None:
    one = epoch(1)
    assert Epoch(**json.loads(json.dumps(asdict(one)))) == one


def test_a_checkpoint_of_another_training_is_refused_and_the_difference_named(tmp_path: Path) -> None:
    progress = TrainingProgress(history=[epoch(1)], best_step=1)
    save_checkpoint(tmp_path, progress, arrays(1.0), made_by={"configuration": "abc", "trainer": "7"})
    assert load_checkpoint(tmp_path, made_by={"configuration": "abc", "trainer": "7"}) is not None
    with pytest.raises(StateMismatch) as refused:
        load_checkpoint(tmp_path, made_by={"configuration": "abc", "trainer": "8"})
    assert all(words in str(refused.value) for words in (str(tmp_path), "trainer 7", "trainer 8"))


def test_arrays_of_other_shapes_are_refused_and_the_first_difference_is_named(tmp_path: Path) -> None:
    whole = arrays(1.0)["current"]
    require_shapes(tmp_path, "trained variables", whole, whole)
    for found in (whole[:1], [*whole, np.zeros(1)], [np.zeros((2, 4)), whole[1]]):
        with pytest.raises(StateMismatch) as refused:
            require_shapes(tmp_path, "trained variables", found, whole)
        place = 0 if len(found) == 2 else min(len(found), len(whole))
        assert f"array {place}: " in str(refused.value)


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from satx.training.checkpoint import Epoch, load_checkpoint, save_checkpoint
folder, kill_at = Path(sys.argv[1]), int(sys.argv[2])
progress, arrays = load_checkpoint(folder)
progress.history.append(Epoch(**(progress.history[-1].__dict__ | {"step": 4})))
progress.best_step = 4
steps, replace, unlink = [], Path.replace, Path.unlink
def step(real):
    def killed(path, *arguments, **options):
        if len(steps) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        steps.append(path.name)
        return real(path, *arguments, **options)
    return killed
Path.replace, Path.unlink = step(replace), step(unlink)
save_checkpoint(folder, progress, {kind: [value + 1 for value in values] for kind, values in arrays.items()})
"""


@pytest.mark.parametrize("kill_at", range(7))
def test_a_kill_during_a_save_leaves_the_new_or_the_previous_epoch_complete(tmp_path: Path, kill_at: int) -> None:
    """Kill a save before each step: four files are renamed, then three of the previous epoch are removed."""
    before = written(tmp_path)
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, tmp_path, str(kill_at)], capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    found = load_checkpoint(tmp_path)
    assert found is not None
    progress, kept = found
    is_new = kill_at >= 4
    assert len(progress.history) == (4 if is_new else 3)
    assert progress.history[:3] == before.history
    for kind, expected in arrays(3.0).items():
        for ours, theirs in zip(expected, kept[kind], strict=True):
            assert np.array_equal(ours + 1 if is_new else ours, theirs), kind
