"""A training that was stopped or killed continues with the same curve."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from satx.config import Configuration
from satx.errors import Interrupted
from satx.training.checkpoint import CHECKPOINT_FORMAT, Epoch, load_checkpoint
from satx.training.compiled import workbench
from satx.training.contract import TrainingData, TrainingResult
from satx.training.trainer import train

Short = Callable[..., Configuration]
# as in the fixture `two_phases`
TWO_PHASES = {"model__unfreeze": "block16", "train__schedule": "cosine", "train__optimizer": "adamw"}


def curve(history: tuple[Epoch, ...]) -> list[dict[str, Any]]:
    return [{name: value for name, value in asdict(epoch).items() if name != "epoch_seconds"} for epoch in history]


def alike(left: TrainingResult, right: TrainingResult) -> bool:
    return curve(left.history) == curve(right.history) and np.array_equal(
        left.val_probabilities, right.val_probabilities
    )


def trained_in_pieces(
    configuration: Configuration, data: TrainingData, folder: Path, stop_after: set[int]
) -> tuple[TrainingResult, int]:
    """Train and stop after each of these steps; return the result and the number of stops."""
    seen, stops = [0], 0
    while True:
        try:
            result = train(
                configuration,
                data,
                checkpoint_dir=folder,
                on_epoch=lambda epoch, new: seen.append(epoch.step if new else 0),
                stop=lambda: seen[-1] in stop_after,
            )
            return result, stops
        except Interrupted as interrupted:
            stops += 1
            assert f"epoch {seen[-1]}" in str(interrupted)


@pytest.mark.parametrize(
    ("step", "where"),
    [
        pytest.param(1, "head", marks=pytest.mark.slow),
        pytest.param(3, "between the phases", marks=pytest.mark.slow),
        (4, "tail"),
        pytest.param(5, "when all is done", marks=pytest.mark.slow),
    ],
)
def test_a_training_killed_after_an_epoch_continues_with_the_same_curve(
    short: Short, training_data: TrainingData, tmp_path: Path, two_phases: Any, step: int, where: str
) -> None:
    whole, _, folder = two_phases
    shutil.copytree(folder.with_name(f"killed-after-{step}"), tmp_path / "trial")
    reported: list[bool] = []
    result = train(
        short(**TWO_PHASES),
        training_data,
        checkpoint_dir=tmp_path / "trial",
        on_epoch=lambda epoch, new: reported.append(new),
    )
    assert reported == [False] * step + [True] * (5 - step), where
    assert alike(result, whole)


@pytest.mark.slow
def test_a_training_stopped_after_every_epoch_has_the_same_curve(
    short: Short, training_data: TrainingData, tmp_path: Path, two_phases: Any
) -> None:
    result, stops = trained_in_pieces(short(**TWO_PHASES), training_data, tmp_path, {1, 2, 3, 4, 5})
    assert stops == 5
    assert alike(result, two_phases[0])


def test_a_stop_in_a_long_epoch_repeats_that_epoch_and_does_not_change_the_curve(
    short: Short, training_data: TrainingData, one_phase: TrainingResult, tmp_path: Path
) -> None:
    asked, seen = [0], [0]

    def in_the_second_epoch() -> bool:
        asked[0] += seen[-1] == 1
        return asked[0] == 3  # in its third batch

    with pytest.raises(Interrupted, match="epoch 2"):
        train(
            short(),
            training_data,
            checkpoint_dir=tmp_path,
            on_epoch=lambda epoch, new: seen.append(epoch.step),
            stop=in_the_second_epoch,
            stop_seconds=-1.0,
        )
    found = load_checkpoint(tmp_path)
    assert found is not None
    assert len(found[0].history) == 1
    assert alike(train(short(), training_data, checkpoint_dir=tmp_path), one_phase)


def test_a_stop_while_the_trunk_cache_is_filled_takes_effect_at_once(
    short: Short, training_data: TrainingData, tmp_path: Path
) -> None:
    asked = [0]

    def at_once() -> bool:
        asked[0] += 1
        return True

    with pytest.raises(Interrupted):
        train(short(), replace(training_data, cache_dir=tmp_path / "cache"), checkpoint_dir=tmp_path, stop=at_once)
    assert asked == [1]


def test_early_stopping_and_plateaus_continue_where_they_were(
    short: Short, training_data: TrainingData, tmp_path: Path
) -> None:
    configuration = short(
        train__head_epochs=12,
        train__head_learning_rate=0.5,
        train__early_stopping_patience_epochs=3,
        train__plateau_patience_epochs=1,
        model__dense_units=0,
    )
    whole = train(configuration, training_data, checkpoint_dir=tmp_path / "whole")
    assert len({epoch.learning_rate for epoch in whole.history}) > 1
    assert len(whole.history) < 12
    pieces, stops = trained_in_pieces(configuration, training_data, tmp_path / "pieces", {3})
    assert stops == 1
    assert alike(pieces, whole)


@pytest.mark.parametrize(
    "damage",
    [
        "leftover",
        pytest.param("missing arrays", marks=pytest.mark.slow),
        pytest.param("half an array", marks=pytest.mark.slow),
        pytest.param("half a state", marks=pytest.mark.slow),
    ],
)
def test_a_partly_written_checkpoint_does_not_change_the_curve(
    short: Short, training_data: TrainingData, one_phase: TrainingResult, tmp_path: Path, damage: str
) -> None:
    configuration = short()
    folder = tmp_path / "cut"
    with pytest.raises(Interrupted):
        train(configuration, training_data, checkpoint_dir=folder, stop=lambda: (folder / "state.json").exists())
    if damage == "leftover":
        (folder / ".current-2.npz.abcd").mkdir()
        (folder / ".current-2.npz.abcd" / "current-2.npz").write_bytes(b"PK")
        (folder / "current-2.npz").write_bytes(b"PK")
    elif damage == "missing arrays":
        (folder / "best-1.npz").unlink()
    elif damage == "half an array":
        content = (folder / "current-1.npz").read_bytes()
        (folder / "current-1.npz").write_bytes(content[: len(content) // 2])
    else:
        (folder / "state.json").write_text("{")
    reported: list[bool] = []
    result = train(configuration, training_data, checkpoint_dir=folder, on_epoch=lambda _, new: reported.append(new))
    assert reported == [damage != "leftover", True, True]
    assert alike(result, one_phase)


TRAIN = """
import json, os, signal, sys
from dataclasses import asdict
from pathlib import Path
from satx.config import Configuration
from satx.models.weights_file import Weights
from satx.tiles.store import open_store
from satx.training import trainer
store, weights, digest, cache, folder, configuration, kill_after = sys.argv[1:]
done, batches, train_on_batch = [0], [0], trainer.CompiledSteps.train_on_batch
def on_epoch(epoch, new):
    done[0] = epoch.step
def counted(steps, batch, rate):
    batches[0] += done[0] == int(kill_after)
    if batches[0] == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return train_on_batch(steps, batch, rate)
trainer.CompiledSteps.train_on_batch = counted
store = open_store(Path(store))
data = trainer.TrainingData(store, Weights("mobilenetv2", weights, digest, "file"), store.classes.index("school"), Path(cache))
result = trainer.train(
    Configuration.model_validate_json(configuration), data, checkpoint_dir=Path(folder), on_epoch=on_epoch
)
print(json.dumps([asdict(epoch) for epoch in result.history]))
"""
NEVER = -1


def train_in_a_process(
    configuration: Configuration, data: TrainingData, folder: Path, *, kill_after: int = NEVER
) -> subprocess.CompletedProcess[str]:
    """Train in a new process, which kills itself in the second batch of the epoch after `kill_after`."""
    weights = data.weights
    arguments = [data.store.folder, weights.file, weights.digest, data.cache_dir, folder]
    return subprocess.run(
        [sys.executable, "-c", TRAIN, *map(str, arguments), configuration.model_dump_json(), str(kill_after)],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": keras.backend.backend()},
    )


@pytest.mark.slow
@pytest.mark.parametrize("kill_after", [1, pytest.param(4, marks=pytest.mark.faults)])
def test_a_killed_training_continues_with_the_same_curve(
    short: Short, training_data: TrainingData, tmp_path: Path, two_phases: Any, kill_after: int
) -> None:
    configuration = short(**TWO_PHASES)
    ended = train_in_a_process(configuration, training_data, tmp_path / "trial", kill_after=kill_after)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    found = load_checkpoint(tmp_path / "trial")
    assert found is not None
    assert len(found[0].history) == kill_after
    assert json.loads((tmp_path / "trial" / "state.json").read_text())["format"] == CHECKPOINT_FORMAT
    assert alike(train(configuration, training_data, checkpoint_dir=tmp_path / "trial"), two_phases[0])


@pytest.fixture(scope="module")
def after_another_cut(
    short: Short, training_data: TrainingData, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Configuration, TrainingResult]:
    """Train a tail in this process after a shorter one; return its configuration and result.

    The steps of both are compiled again, as in a process that has trained nothing else.
    """
    workbench.cache_clear()
    for cut in ("block16", "block14"):
        configuration = short(**TWO_PHASES | {"model__unfreeze": cut})
        result = train(configuration, training_data, checkpoint_dir=tmp_path_factory.mktemp(cut))
    return configuration, result


@pytest.mark.slow
def test_a_curve_does_not_depend_on_the_cut_that_its_process_trained_before(
    training_data: TrainingData, tmp_path: Path, after_another_cut: tuple[Configuration, TrainingResult]
) -> None:
    configuration, result = after_another_cut
    fresh = train_in_a_process(configuration, training_data, tmp_path / "trial")
    assert fresh.returncode == 0, fresh.stderr
    history = tuple(Epoch(**epoch) for epoch in json.loads(fresh.stdout.splitlines()[-1]))
    assert curve(history) == curve(result.history)


@pytest.mark.slow
@pytest.mark.faults
def test_a_killed_tail_resumes_with_the_same_curve_in_a_process_that_trained_another_cut(
    training_data: TrainingData, tmp_path: Path, after_another_cut: tuple[Configuration, TrainingResult]
) -> None:
    configuration, whole = after_another_cut
    killed = train_in_a_process(configuration, training_data, tmp_path / "trial", kill_after=4)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    reported: list[bool] = []
    result = train(
        configuration,
        training_data,
        checkpoint_dir=tmp_path / "trial",
        on_epoch=lambda _, new: reported.append(new),
    )
    assert reported == [False] * 4 + [True]
    assert alike(result, whole)
