"""The trainer's explicit state on disk, so that a killed trial continues from its last epoch with the same curve.

Keras's own `BackupAndRestore` keeps weights and epoch, but not the state of early stopping and plateau, and not the
best weights. A checkpoint is written after every epoch: first the arrays, under names that contain the step, then
`state.json`, which points at them. A reader therefore sees either one epoch or the next, always complete. Only trained
variables are saved; the trunk comes from the weights file. Nothing is pickled.
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
UNCHECKED: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Epoch:
    """Metrics of one epoch; `step` counts epochs across both phases, from 1."""

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
    """State of a training, without its arrays.

    Attributes:
        phase: The current phase, `head` or `tail`.
        phase_epoch: Epochs finished in this phase.
        epochs_without_gain: Epochs since the best one, for early stopping.
        plateau_epochs: Epochs since the validation loss last fell or the rate was last reduced.
        plateau_loss: The lowest validation loss of this phase.
        rate_factor: Factor of the learning rate after all reductions on plateaus.
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
    made_by: Mapping[str, str] = UNCHECKED,
) -> None:
    """Write one epoch's state, then remove the arrays of earlier epochs.

    Args:
        folder: The trial's own folder.
        progress: State of the training.
        made_by: Configuration and trainer that wrote the checkpoint. Only the same training may resume from it.
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
            continue  # already written at the best step
        with replacing(folder / name) as temporary, temporary.open("wb") as stream:
            np.savez(stream, *arrays[kind])
    state = {"format": CHECKPOINT_FORMAT, "made_by": dict(made_by), "arrays": names, "progress": asdict(progress)}
    write_json(folder / "state.json", state)
    for path in folder.glob("*.npz"):
        if path.name not in names.values():
            path.unlink()


def load_checkpoint(
    folder: Path, *, made_by: Mapping[str, str] = UNCHECKED
) -> tuple[TrainingProgress, dict[str, list[np.ndarray]]] | None:
    """Load the last epoch's state, or return None if there is none or it cannot be read.

    Args:
        folder: The trial's own folder.
        made_by: Values that `save_checkpoint` must have been called with. Empty to skip the check, for read-only use.

    Raises:
        StateMismatch: The checkpoint belongs to another training.
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
                f"{', '.join(differing)}. Remove the folder to train from the start, or restore the right one."
            )
        arrays = {kind: _read(folder / name) for kind, name in state["arrays"].items()}
        epochs = [Epoch(**epoch) for epoch in state["progress"].pop("history")]
        return TrainingProgress(**state["progress"], history=epochs), arrays
    except (OSError, ValueError, LookupError, TypeError, AttributeError, EOFError, zipfile.BadZipFile):
        return None


def require_shapes(folder: Path, what: str, found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    """Check that arrays of a checkpoint have the number and shapes that a training needs to resume.

    Args:
        folder: Folder of the checkpoint.
        what: Description of the arrays for the error message.
        found: Arrays in the checkpoint.
        expected: Arrays of the right number and shapes.

    Raises:
        StateMismatch: The number or the shapes differ. The configuration is not at fault.
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
    """Return the number of epochs in a folder's checkpoint, 0 if there is none or it cannot be read."""
    try:
        return len(json.loads((folder / "state.json").read_text())["progress"]["history"])
    except (OSError, ValueError, LookupError, TypeError):
        return 0


def remove_checkpoint(folder: Path) -> None:
    """Remove the checkpoint of a finished training."""
    shutil.rmtree(folder, ignore_errors=True)


def _read(path: Path) -> list[np.ndarray]:
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
        return [archive[f"arr_{number}"] for number in range(len(archive.files))]
