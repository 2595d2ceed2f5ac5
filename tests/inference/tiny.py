"""Small classifiers that are right, or wrong, about a few rendered tiles: random trunks with a fitted head."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import keras
import numpy as np
from PIL import Image
from sklearn.linear_model import LogisticRegression

from satx.config import ModelConfig
from satx.models.backbones import build_network, calibrate_batch_normalisation
from satx.models.classifier import Classifier
from satx.sample.sample import render_sample
from satx.tiles.layout import SAMPLE_MARKER, read_layout
from satx.tiles.store import TileStore, build_store

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
    """Return a classifier fitted to the test tiles, so right about them with `sign=1` and wrong with `sign=-1`."""
    keras.utils.set_random_seed(20)
    model = ModelConfig(backbone="mobilenetv2", unfreeze="none", dense_units=0)
    network = build_network(model, image_size_px=store.image_size_px, num_classes=len(store.classes), weights_file=None)
    tiles = np.asarray(store.pixels())
    calibrate_batch_normalisation(network.trunk, "mobilenetv2", tiles, batch_size=len(tiles) // 2)
    rows = store.rows("test")
    features = np.asarray(network.features(network.encode(tiles[rows])))
    fit = LogisticRegression(C=0.01, max_iter=1000).fit(features, store.labels()[rows])
    kernel = np.concatenate([-fit.coef_, fit.coef_]).T / 2  # (channels, 2)
    bias = np.concatenate([-fit.intercept_, fit.intercept_]) / 2
    network.head.layers[-1].set_weights([sign * kernel, sign * bias])
    return Classifier(
        network=network,
        model=model,
        image_size_px=store.image_size_px,
        classes=store.classes,
        positive_class="school",
        task="school-sample" if store.sample else "school",
        sample=store.sample,
    )


def encoded(pixels: np.ndarray, kind: str, *, mode: str = "RGB", size: tuple[int, int] | None = None) -> bytes:
    image = Image.fromarray(pixels).convert(mode)
    stream = io.BytesIO()
    (image.resize(size) if size else image).save(stream, kind)
    return stream.getvalue()
