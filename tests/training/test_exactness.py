"""Trials with and without the trunk cache differ only by float32 noise, at every cut of every backbone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from satx.catalogue import BACKBONES
from satx.config import Configuration
from satx.inference.predictor import predict_split
from satx.models.backbones import build_backbone, calibrate_batch_normalization
from satx.models.weights import random_weights
from satx.models.weights_file import Weights
from satx.storage import file_digest
from satx.tiles.layout import read_layout
from satx.tiles.store import TileStore, build_store
from satx.training.contract import TrainingData
from satx.training.trainer import train
from satx.training.trunk import build_all, trunk_source

FAST, OTHER = ("mobilenetv2", "block16"), ("mobilenetv2", "block7")


def _marks(name: str, cut: str) -> Any:
    """Return the marker of a case: none for one cut of MobileNetV2, which takes seconds.

    One more cut of MobileNetV2 and two of every other backbone are `slow`, all others `exhaustive`.
    """
    if (name, cut) == FAST:
        return ()
    deepest = list(BACKBONES[name].cuts)[-2:]
    is_chosen = (name, cut) == OTHER if name == "mobilenetv2" else cut in deepest
    return pytest.mark.slow if is_chosen else pytest.mark.exhaustive


CUTS = [
    pytest.param(name, cut, marks=_marks(name, cut)) for name, backbone in BACKBONES.items() for cut in backbone.cuts
]


def configuration_for(backbone: str, unfreeze: str, size_px: int, **more: Any) -> Configuration:
    values = {
        "image_size_px": size_px,
        "model.backbone": backbone,
        "model.unfreeze": unfreeze,
        "model.dense_units": 16,
        "train.head_epochs": 2,
        "train.finetune_epochs": 2,
        "train.optimizer": "sgd",  # Adam's steps depend on the signs of gradients; those of small gradients are noise
        # gradients of a random network are in the hundreds; a high rate amplifies noise
        "train.finetune_learning_rate": 1e-5,
        "augmentation.num_flips": 2,
    }
    return Configuration().with_values(values | more, source="test")


def starting_weights(backbone: str, store: TileStore, folder: Path) -> Weights:
    """Return random weights of a network that does not amplify noise.

    In a random EfficientNetV2 some channels hardly vary over few tiles. Normalization by such a small variance makes
    other values, and their gradients, a thousand times larger. So no variance may be below the mean of its layer.
    """
    if not backbone.startswith("efficientnet"):
        return replace(
            random_weights(backbone, store.pixels(), store.rows("train"), seed=20, cache_dir=folder), source="file"
        )
    keras.utils.clear_session()
    keras.utils.set_random_seed(20)
    network = build_backbone(backbone, store.image_size_px, None)
    calibrate_batch_normalization(network, backbone, np.asarray(store.pixels()[store.rows("train")]))
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            variance = np.array(layer.moving_variance)
            layer.moving_variance.assign(np.maximum(variance, variance.mean()))
    path = folder / f"{backbone}.weights.h5"
    network.save_weights(path)
    return Weights(backbone, str(path), file_digest(path), "file")


@pytest.fixture(scope="module")
def data_of(
    tiny_tiles: Path, tiny_store: TileStore, tiny_weights: Weights, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], TrainingData]:
    """Return a function that returns tiles and weights for a backbone; for MobileNetV2 those of the other tests."""

    @cache
    def of(backbone: str) -> TrainingData:
        folder, size_px = tmp_path_factory.mktemp(backbone), BACKBONES[backbone].min_size_px
        if backbone == "mobilenetv2":
            store, weights = tiny_store, replace(tiny_weights, source="file")
        else:
            store = build_store(read_layout(tiny_tiles), image_size_px=size_px, cache_dir=folder)
            weights = starting_weights(backbone, store, folder)
        return TrainingData(store, weights, store.classes.index("school"), folder)

    return of


@pytest.mark.parametrize(("backbone", "cut"), CUTS)
def test_cached_and_uncached_trainings_differ_only_by_noise(
    backbone: str, cut: str, data_of: Callable[[str], TrainingData], tmp_path: Path
) -> None:
    data, size_px = data_of(backbone), BACKBONES[backbone].min_size_px
    store = data.store
    configuration = configuration_for(backbone, cut, size_px)
    cached = train(configuration, data, checkpoint_dir=tmp_path / "cached")
    alone = train(
        configuration.model_copy(update={"cache": "off"}),
        replace(data, cache_dir=tmp_path / "other"),
        checkpoint_dir=tmp_path / "alone",
    )
    assert (cached.trunk_cache, alone.trunk_cache) == ("read", "off (cache: off)")
    assert np.allclose(predict_split(cached.network, store, "valid"), cached.val_probabilities, atol=5e-3), (
        "the built network predicts as in training"
    )
    untrained = configuration.with_values({"train.finetune_learning_rate": 1e-12}, source="test")
    still = train(untrained, data, checkpoint_dir=tmp_path / "still")
    assert still.history[-1].val_loss != cached.history[-1].val_loss, "the tail was trained"
    for one, other in zip(cached.history, alone.history, strict=True):
        assert one.loss == pytest.approx(other.loss, abs=2e-3)
        assert one.val_loss == pytest.approx(other.val_loss, abs=2e-3)


BUILD = """
import os, signal, sys
from dataclasses import replace
from pathlib import Path
from satx.config import Configuration
from satx.models.weights_file import Weights
from satx.tiles.store import open_store
from satx.training import trunk
store, weights, digest, cache, configuration, kill_at = sys.argv[1:]
write, written = trunk.write_shard, []
def counted(path, values, note):
    if len(written) == int(kill_at):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_name(".half.npy").open("wb") as stream:
            stream.write(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
    written.append(path)
    write(path, values, note)
trunk.write_shard = counted
source = trunk.trunk_source(Configuration.model_validate_json(configuration), open_store(Path(store)),
                            Weights("mobilenetv2", weights, digest, "file"), Path(cache))
trunk.build_all(replace(source, shard_tiles=16), ("none", "block14", "block16"), limit_gb=1)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kill_at", [0, pytest.param(4, marks=pytest.mark.faults), 11])
def test_a_cache_whose_builder_was_killed_is_completed_to_the_same_bits(
    kill_at: int, tiny_store: Any, tiny_weights: Any, tmp_path: Path
) -> None:
    configuration = configuration_for("mobilenetv2", "block14", 32)
    arguments = [tiny_store.folder, tiny_weights.file, tiny_weights.digest, tmp_path / "killed"]
    ended = subprocess.run(
        [sys.executable, "-c", BUILD, *map(str, arguments), configuration.model_dump_json(), str(kill_at)],
        timeout=300,
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    assert ended.returncode == -signal.SIGKILL
    weights = replace(tiny_weights, source="file")
    cuts = ("none", "block14", "block16")
    killed, whole = (
        replace(trunk_source(configuration, tiny_store, weights, tmp_path / name), shard_tiles=16)
        for name in ("killed", "whole")
    )
    for source in (killed, whole):
        build_all(source, cuts, limit_gb=1)
    files = sorted(path.relative_to(whole.folder) for path in whole.folder.glob("*/*.npy"))
    assert len(files) > 20
    assert files == sorted(
        path.relative_to(killed.folder) for path in killed.folder.glob("*/*.npy") if path.name != ".half.npy"
    )
    for path in files:
        assert (killed.folder / path).read_bytes() == (whole.folder / path).read_bytes()
