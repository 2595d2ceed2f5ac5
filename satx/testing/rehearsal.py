"""An engine that only simulates training, to rehearse failures of a fleet quickly and without Keras.

Its scores depend only on the configuration and the epoch, so a curve that was interrupted at any point, any number of
times, can be compared with the uninterrupted one.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from satx.catalogue import NONE
from satx.config import Configuration
from satx.errors import ConfigError, Interrupted
from satx.execution.engine import Engine
from satx.execution.job import Job
from satx.training.checkpoint import Epoch, TrainingProgress, load_checkpoint, save_checkpoint
from satx.training.contract import TrainingData, TrainingResult


def rehearsal_engine(seconds_per_epoch: float) -> Engine:
    """Return an engine whose epochs take `seconds_per_epoch`."""

    def train(
        configuration: Configuration,
        data: TrainingData,
        *,
        checkpoint_dir: Path,
        on_epoch: Callable[[Epoch, bool], None],
        on_tail: Callable[[], None],
        on_cache: Callable[[str], None],
        stop: Callable[[], bool],
    ) -> TrainingResult:
        made_by = {"configuration": configuration.digest()}
        found = load_checkpoint(checkpoint_dir, made_by=made_by)
        progress = found[0] if found else TrainingProgress()
        for epoch in progress.history:
            on_epoch(epoch, False)
        for epoch in rehearsed_curve(configuration)[len(progress.history) :]:
            time.sleep(seconds_per_epoch)
            progress.history.append(epoch)
            best = max(progress.history, key=lambda one: one.val_auc)
            progress.best_step = best.step
            arrays: dict[str, list[np.ndarray]] = {kind: [] for kind in ("current", "optimizer", "best")}
            save_checkpoint(checkpoint_dir, progress, arrays, made_by=made_by)
            on_epoch(epoch, True)
            if stop():
                raise Interrupted(f"Stopped after epoch {epoch.step}; the same command continues.")
        best = max(progress.history, key=lambda one: one.val_auc)
        num_valid = len(data.store.rows("valid"))
        probabilities = np.full((num_valid, len(data.store.classes)), 1 / len(data.store.classes), np.float32)
        return TrainingResult(tuple(progress.history), best, probabilities, "off (cache: off)", [], _no_network)

    return Engine(_fill_nothing, train, "cpu")


def rehearsed_curve(configuration: Configuration) -> list[Epoch]:
    """Return all epochs of a configuration, which are the same for every training of it."""
    settings = configuration.train
    tail = settings.finetune_epochs * (configuration.model.unfreeze != NONE)
    phases = ["head"] * settings.head_epochs + ["tail"] * tail
    chance = random.Random(configuration.digest())
    auc, epochs = chance.uniform(0.6, 0.9), list[Epoch]()
    for step, phase in enumerate(phases, start=1):
        auc += (1 - auc) * chance.uniform(0.0, 0.2)
        epochs.append(
            Epoch(
                step=step,
                phase=phase,
                loss=1 - auc,
                accuracy=auc,
                val_loss=1 - auc,
                val_accuracy=auc,
                val_auc=auc,
                learning_rate=settings.head_learning_rate,
                epoch_seconds=0.0,
            )
        )
    return epochs


def _fill_nothing(study: optuna.Study, job: Job, backbone: str, *, on_progress: Callable[[int, int], None]) -> None:
    on_progress(1, 1)


def _no_network() -> Any:
    raise ConfigError("Expected a training with a network, got a rehearsal, which has none. Train with Keras.")
