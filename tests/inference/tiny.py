"""Small classifiers that are right, or wrong, about a few rendered tiles: random trunks with a fitted head."""

from __future__ import annotations

import io
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np
from PIL import Image
from sklearn.linear_model import LogisticRegression

from satx.config import ModelConfig
from satx.models.backbones import Network, build_backbone, build_head, calibrate_batch_normalization
from satx.models.classifier import Classifier
from satx.sample.sample import render_sample
from satx.tiles.layout import SAMPLE_MARKER, read_layout
from satx.tiles.store import TileStore, build_store, open_store

SIZE_PX = 32


def render_tiles(folder: Path) -> Path:
    return render_sample(folder, session=2, num_tiles=60, workers=1)


def without_marker(sample: Path, folder: Path) -> Path:
    """Copy sample tiles without the sample marker, so that they count as real ones."""
    shutil.copytree(sample, folder, ignore=shutil.ignore_patterns(SAMPLE_MARKER))
    return folder


def open_tiles(folder: Path, cache_dir: Path, *, size_px: int = SIZE_PX) -> TileStore:
    return build_store(read_layout(folder), image_size_px=size_px, cache_dir=cache_dir)


def fitted_classifier(store: TileStore, *, sign: float = 1.0) -> Classifier:
    """Return a classifier fitted to the test tiles, so right about them with `sign=1` and wrong with `sign=-1`.

    The classifiers of a store share their frozen trunk.
    """
    keras.utils.set_random_seed(20)
    model = ModelConfig(backbone="mobilenetv2", unfreeze="none", dense_units=0)
    trunk, kernel, bias = _fitted(store.folder)
    head = build_head(trunk.output_shape[-1], len(store.classes), model)
    network = Network("mobilenetv2", trunk, None, head)
    head.layers[-1].set_weights([sign * kernel, sign * bias])
    return Classifier(
        network=network,
        model=model,
        image_size_px=store.image_size_px,
        classes=store.classes,
        positive_class="school",
        task="school-sample" if store.sample else "school",
        sample=store.sample,
    )


@cache
def _fitted(store_dir: Path) -> tuple[Any, np.ndarray, np.ndarray]:
    """Return a random trunk that is calibrated on all tiles, and kernel and bias of a head fitted to the test tiles."""
    store = open_store(store_dir)
    keras.utils.set_random_seed(20)
    trunk = build_backbone("mobilenetv2", store.image_size_px, None)
    tiles = np.asarray(store.pixels())
    calibrate_batch_normalization(trunk, "mobilenetv2", tiles, batch_size=len(tiles) // 2)
    network, rows = Network("mobilenetv2", trunk, None, None), store.rows("test")
    features = np.asarray(network.features(network.encode(tiles[rows])))
    fit = LogisticRegression(C=0.01, max_iter=1000).fit(features, store.labels()[rows])
    kernel = np.concatenate([-fit.coef_, fit.coef_]).T / 2  # (channels, 2)
    return trunk, kernel, np.concatenate([-fit.intercept_, fit.intercept_]) / 2


def encoded(pixels: np.ndarray, kind: str, *, mode: str = "RGB", size: tuple[int, int] | None = None) -> bytes:
    image = Image.fromarray(pixels).convert(mode)
    stream = io.BytesIO()
    (image.resize(size) if size else image).save(stream, kind)
    return stream.getvalue()


def untrained_classifier(*, size_px: int = 16, **changes: Any) -> Classifier:
    """Return a classifier of three classes and few weights, whose probabilities depend on every pixel of the tile."""
    keras.utils.set_random_seed(7)
    network = keras.Sequential(
        [
            keras.Input((size_px, size_px, 3), dtype="uint8"),
            keras.layers.Rescaling(1 / 64),
            keras.layers.Flatten(),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )
    classifier = Classifier(
        network=network,
        model=ModelConfig(backbone="mobilenetv2", unfreeze="none", dense_units=0),
        image_size_px=size_px,
        classes=("clinic", "other", "school"),
        positive_class="school",
        task="school",
        sample=False,
        temperature=2.5,
        threshold=0.3,
        threshold_rule="recall_at_fpr(0.05)",
    )
    return replace(classifier, **changes)
