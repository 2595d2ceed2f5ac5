"""What goes into a training and what comes out, for those who hand it on without Keras."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from satx.catalogue import BACKBONES
from satx.config import Configuration
from satx.models.weights_file import Weights
from satx.tiles.store import TileStore
from satx.training.cache_room import Kept
from satx.training.checkpoint import Epoch

if TYPE_CHECKING:
    from satx.models.backbones import Network

TRAINER_VERSION = 8  # part of a study's identity: raise it when the same configuration would train differently
OnStage = Callable[[str, int, int], None]  # what is being done, done, total


def run_params(configuration: Configuration, num_classes: int) -> dict[str, Any]:
    """What a run logs as its parameters: every setting, and how many parameters of its network are trained.

    `backbone_trainable_parameters` are the tail's. They follow from backbone and cut, and compiled steps that would train
    another number are refused (`training/compiled.py`), so they are what was trained. A training that is pruned before its
    tail begins trains the head alone, whose size is the difference to `trainable_parameters`.

    Args:
        configuration: What is trained.
        num_classes: Of the tiles.
    """
    model, backbone = configuration.model, BACKBONES[configuration.model.backbone]
    widths = [backbone.num_features, *([model.dense_units] if model.dense_units else []), num_classes]
    head = sum((width_in + 1) * width_out for width_in, width_out in pairwise(widths))
    tail = backbone.tail_parameters(model.unfreeze)
    return configuration.flat() | {
        "backbone_trainable_parameters": tail,
        "trainable_parameters": tail + head,
        "total_parameters": backbone.total_parameters + head,
    }


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
