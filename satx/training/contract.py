"""What goes into a training and what comes out, for those who hand it on without Keras."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from satx.models.weights_file import Weights
from satx.tiles.store import TileStore
from satx.training.cache_room import Kept
from satx.training.checkpoint import Epoch

if TYPE_CHECKING:
    from satx.models.backbones import Network

TRAINER_VERSION = 7  # part of a study's identity: raise it when the same configuration would train differently
Notify = Callable[[str, int, int], None]  # what is being done, done, total


@dataclass(frozen=True)
class TrainingData:
    """What a training reads.

    Attributes:
        store: The tiles.
        weights: The backbone's starting weights.
        positive_index: Index of the class of interest.
        cache_dir: `SATX_HOME/cache`.
        kept: What the sweep keeps in the trunk cache for all its trials; nothing for a training of its own.
    """

    store: TileStore
    weights: Weights
    positive_index: int
    cache_dir: Path
    kept: Kept = field(default_factory=dict)


@dataclass(frozen=True)
class TrainingResult:
    """What a training returns.

    Attributes:
        history: Every epoch.
        best: The best of them.
        val_probabilities: Of the best epoch on the validation tiles, `(n, num_classes)` float32.
        trunk_cache: Whether the last phase read the trunk cache, and if not, why.
        values: The best epoch's variables: the tail's, if it was trained by then, and the head's.
        build: Makes the network that has them.
    """

    history: tuple[Epoch, ...]
    best: Epoch
    val_probabilities: np.ndarray
    trunk_cache: str
    values: list[np.ndarray]
    build: Callable[[], Network]

    @cached_property
    def network(self) -> Network:
        """The classifier of the best epoch; built when it is asked for, which for most trials is never."""
        return self.build()
