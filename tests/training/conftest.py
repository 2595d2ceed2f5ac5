"""Shared fixtures of the training tests: one data set with its cached features, and short configurations."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from satx.config import Configuration
from satx.training.checkpoint import Epoch
from satx.training.contract import TrainingData, TrainingResult
from satx.training.trainer import train

SHORT: dict[str, Any] = {
    "image_size_px": 32,
    "model.backbone": "mobilenetv2",
    "model.unfreeze": "none",
    "model.dense_units": 16,
    "train.head_epochs": 3,
    "train.finetune_epochs": 2,
    "train.head_learning_rate": 1e-3,
    "train.finetune_learning_rate": 1e-4,
    "augmentation.num_flips": 2,
}


TWO_PHASES = {"model__unfreeze": "block16", "train__schedule": "cosine", "train__optimizer": "adamw"}


@pytest.fixture(scope="session")
def short() -> Callable[..., Configuration]:
    """Return a builder of configurations with few epochs; keywords are dotted names with `__` for the dot."""

    def build(**changes: Any) -> Configuration:
        values = SHORT | {name.replace("__", "."): value for name, value in changes.items()}
        return Configuration().with_values(values, source="test")

    return build


@pytest.fixture(scope="session")
def training_data(tiny_store: Any, tiny_weights: Any, tmp_path_factory: pytest.TempPathFactory) -> TrainingData:
    """Return the tiny tiles and weights; tests share the cached features, as trials do."""
    positive = tiny_store.classes.index("school")
    return TrainingData(tiny_store, replace(tiny_weights, source="file"), positive, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def two_phases(
    short: Callable[..., Configuration], training_data: TrainingData, tmp_path_factory: pytest.TempPathFactory
) -> tuple[TrainingResult, list[tuple[Epoch, bool]], Path]:
    """Train a head and then the last block; return the result, the calls of `on_epoch` and the checkpoint folder.

    Beside the folder are copies of it after each epoch, as a training that is killed at that point leaves it.
    """
    folder = tmp_path_factory.mktemp("trials") / "trial"
    reported: list[tuple[Epoch, bool]] = []

    def on_epoch(epoch: Epoch, new: bool) -> None:
        reported.append((epoch, new))
        shutil.copytree(folder, folder.with_name(f"killed-after-{epoch.step}"))

    result = train(short(**TWO_PHASES), training_data, checkpoint_dir=folder, on_epoch=on_epoch)
    return result, reported, folder


@pytest.fixture(scope="session")
def one_phase(
    short: Callable[..., Configuration], training_data: TrainingData, tmp_path_factory: pytest.TempPathFactory
) -> TrainingResult:
    """Train a head alone, with `short()`, and return the result."""
    return train(short(), training_data, checkpoint_dir=tmp_path_factory.mktemp("trial"))
