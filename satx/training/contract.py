"""Inputs and results of a training, importable without Keras."""

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

TRAINER_VERSION = 8  # part of a study's identity; increment when the same configuration would train differently
OnStage = Callable[[str, int, int], None]  # name of the stage, items done, items in total


def run_params(configuration: Configuration, num_classes: int) -> dict[str, Any]:
    """Return the parameters that a run logs: every setting, and the number of trained parameters of its network.

    `backbone_trainable_parameters` counts the parameters of the tail. It follows from backbone and cut, and it is the
    number actually trained, because `training/compiled.py` refuses compiled steps with another number. A training that
    is pruned before its tail phase trains only the head, whose size is `trainable_parameters` minus
    `backbone_trainable_parameters`.

    Args:
        configuration: The configuration of the training.
        num_classes: Number of classes of the tiles.
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
    """Inputs of a training.

    Attributes:
        store: The tiles.
        weights: The backbone's starting weights.
        positive_index: Index of the class of interest.
        cache_dir: `SATX_HOME/cache`.
        kept: Cuts that the sweep keeps in the trunk cache for all its trials; empty for a single training.
    """

    store: TileStore
    weights: Weights
    positive_index: int
    cache_dir: Path
    kept: Kept = field(default_factory=dict)


@dataclass(frozen=True)
class TrainingResult:
    """Result of a training.

    Attributes:
        history: All epochs.
        best: The best epoch.
        val_probabilities: Predictions of the best epoch on the validation tiles, `(n, num_classes)` float32.
        trunk_cache: `read` if the last phase read the trunk cache, else the reason why not.
        values: Values of the best epoch's variables: the tail's, if the best epoch trained it, then the head's.
        build: Builds the network with these values.
    """

    history: tuple[Epoch, ...]
    best: Epoch
    val_probabilities: np.ndarray
    trunk_cache: str
    values: list[np.ndarray]
    build: Callable[[], Network]

    @cached_property
    def network(self) -> Network:
        """The classifier of the best epoch, built on first access; most trials never need it."""
        return self.build()
