"""The interface between a worker and what trains its trials, so that a worker can be tested without Keras."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import optuna

from satx.config import Configuration
from satx.execution.job import Job
from satx.training.checkpoint import Epoch
from satx.training.contract import TrainingData, TrainingResult


class Train(Protocol):
    """Signature of `training.trainer.train`, which documents the arguments and exceptions."""

    def __call__(
        self,
        configuration: Configuration,
        data: TrainingData,
        *,
        checkpoint_dir: Path,
        on_epoch: Callable[[Epoch, bool], None],
        on_tail: Callable[[], None],
        on_cache: Callable[[str], None],
        stop: Callable[[], bool],
    ) -> TrainingResult:
        """Train one configuration."""
        ...


class Fill(Protocol):
    """Signature of `execution.cache_fill.fill_trunk`."""

    def __call__(
        self, study: optuna.Study, job: Job, backbone: str, *, on_progress: Callable[[int, int], None]
    ) -> None:
        """Compute the cache entries that the trials of a backbone share."""
        ...


@dataclass(frozen=True)
class Engine:
    """The functions that fill caches and train, and the hardware that they run on.

    Attributes:
        fill: Called before a worker's first trial of a backbone.
        train: Trains one configuration.
        device: `gpu` or `cpu`; a tag of the runs.
        machine: Id and type of a fleet's machine, a tag of the runs; empty outside a fleet.
        threads: Threads that share one operation, a tag of the runs; 0 if nothing is computed.
        usd_per_hour: Cost of this worker's share of its machine; 0 if costs are not tracked.
    """

    fill: Fill
    train: Train
    device: str
    machine: str = ""
    threads: int = 0
    usd_per_hour: float = 0.0


def keras_engine() -> Engine:
    """Return the engine that trains with Keras; this imports Keras."""
    from satx.environment import num_threads
    from satx.execution.cache_fill import fill_trunk
    from satx.training.devices import device_name
    from satx.training.trainer import train

    return Engine(fill_trunk, train, device_name(), threads=num_threads())
