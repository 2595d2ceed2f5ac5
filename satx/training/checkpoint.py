"""The trainer's explicit state on disk, so that a killed trial continues from its last epoch with the same curve.

Keras's own `BackupAndRestore` keeps weights and epoch, but neither early stopping, plateau nor best weights. Written
after every epoch: arrays under a name that carries the step, then `state.json` that points at them, so a reader sees one
epoch or the next, whole. Only what is trained is kept; the trunk comes from the weights file. Nothing is pickled.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from satx.errors import StateMismatch
from satx.storage import replacing, write_json

CHECKPOINT_FORMAT = 3
ANYBODY: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Epoch:
    """What one epoch measured; `step` counts epochs across both phases, from 1."""

    step: int
    phase: str
    accuracy: float
    loss: float
    val_accuracy: float
    val_loss: float
    val_auc: float
    learning_rate: float
    epoch_seconds: float


@dataclass
class TrainingProgress:
    """Where a training stands, beside its arrays.

    Attributes:
        phase: The phase it is in, `head` or `tail`.
        phase_epoch: Epochs done in this phase.
        epochs_without_gain: Epochs since the best one, for early stopping.
        plateau_epochs: Epochs since the validation loss last fell.
        plateau_loss: The lowest validation loss of this phase.
        rate_factor: What plateaus have multiplied the learning rate by.
        best_step: The step of the best epoch so far, 0 before the first.
        history: Every epoch so far.
    """

    phase: str = "head"
    phase_epoch: int = 0
    epochs_without_gain: int = 0
    plateau_epochs: int = 0
    plateau_loss: float = float("inf")
    rate_factor: float = 1.0
    best_step: int = 0
    history: list[Epoch] = field(default_factory=list)

    @property
    def best(self) -> Epoch | None:
        """The best epoch so far."""
        return self.history[self.best_step - 1] if self.best_step else None


def save_checkpoint(
    folder: Path,
    progress: TrainingProgress,
    arrays: dict[str, list[np.ndarray]],
    *,
    made_by: Mapping[str, str] = ANYBODY,
) -> None:
    """Write one epoch's state; what an earlier epoch wrote is removed afterwards.

    Args:
        folder: The trial's own.
        progress: Where it stands.
        made_by: What was trained by what: the only training that may go on from here.
        arrays: `current` (trained variables), `optimizer` and `best` (trained variables of the best epoch).
    """
    step = len(progress.history)
    names = {
        "current": f"current-{step}.npz",
        "optimizer": f"optimizer-{step}.npz",
        "best": f"best-{progress.best_step}.npz",
    }
    for kind, name in names.items():
        if kind == "best" and progress.best_step != step:
            continue  # written when it was new
        with replacing(folder / name) as temporary, temporary.open("wb") as stream:
            np.savez(stream, *arrays[kind])
    state = {"format": CHECKPOINT_FORMAT, "made_by": dict(made_by), "arrays": names, "progress": asdict(progress)}
    write_json(folder / "state.json", state)
    for path in folder.glob("*.npz"):
        if path.name not in names.values():
            path.unlink()


def load_checkpoint(
    folder: Path, *, made_by: Mapping[str, str] = ANYBODY
) -> tuple[TrainingProgress, dict[str, list[np.ndarray]]] | None:
    """The last epoch's state, or None when there is none that can be read.

    Args:
        folder: The trial's own.
        made_by: What `save_checkpoint` must have been given; nothing for whoever only looks.

    Raises:
        StateMismatch: It is the state of another training.
    """
    try:
        state: dict[str, Any] = json.loads((folder / "state.json").read_text())
        if state["format"] != CHECKPOINT_FORMAT:
            return None
        differing = [
            f"{name} {state['made_by'].get(name)}" for name in made_by if state["made_by"].get(name) != made_by[name]
        ]
        if differing:
            wanted = ", ".join(f"{name} {value}" for name, value in made_by.items())
            raise StateMismatch(
                f"{folder / 'state.json'}: expected the checkpoint of a training with {wanted}, got one with "
                f"{', '.join(differing)}. Remove the folder to train from the start, or put the right one back."
            )
        arrays = {kind: _read(folder / name) for kind, name in state["arrays"].items()}
        epochs = [Epoch(**epoch) for epoch in state["progress"].pop("history")]
        return TrainingProgress(**state["progress"], history=epochs), arrays
    except (OSError, ValueError, LookupError, TypeError, AttributeError, EOFError, zipfile.BadZipFile):
        return None


def require_shapes(folder: Path, what: str, found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    """Check that arrays of a checkpoint are those that a training would go on from.

    Args:
        folder: Where the checkpoint is.
        what: The arrays, in words.
        found: What it holds.
        expected: Arrays of the right number and shapes.

    Raises:
        StateMismatch: They are not; no fault of the configuration.
    """
    shapes = [[tuple(array.shape) for array in arrays] for arrays in (found, expected)]
    if shapes[0] == shapes[1]:
        return
    place = next((n for n, (a, b) in enumerate(zip(*shapes, strict=False)) if a != b), min(map(len, shapes)))
    first = [str(part[place]) if place < len(part) else "nothing" for part in shapes]
    raise StateMismatch(
        f"{folder}: expected a checkpoint with {len(expected)} arrays of {what}, got {len(found)}; the first that differs is "
        f"array {place}: {first[0]} in the checkpoint, {first[1]} in the training. It was written by another version of satx "
        f"or Keras, or is damaged. Remove the folder to train from the start."
    )


def num_epochs(folder: Path) -> int:
    """How many epochs the state in a folder has; 0 when there is none that can be read."""
    try:
        return len(json.loads((folder / "state.json").read_text())["progress"]["history"])
    except (OSError, ValueError, LookupError, TypeError):
        return 0


def remove_checkpoint(folder: Path) -> None:
    """Forget a training that is finished."""
    shutil.rmtree(folder, ignore_errors=True)


def _read(path: Path) -> list[np.ndarray]:
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
        return [archive[f"arr_{number}"] for number in range(len(archive.files))]
