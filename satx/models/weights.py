"""Sources of a backbone's weights: a file of the user's, Keras's own download, or seeded random weights.

Each source gives a sweep one local file per backbone with its SHA-256, so that every trial and process starts from the
same bytes.
"""

from __future__ import annotations

import http.client
import logging
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from satx.catalogue import BACKBONES
from satx.deadline import within
from satx.errors import WeightsError
from satx.models.backbones import UNREADABLE, build_backbone, calibrate_batch_normalization
from satx.models.weights_file import Weights
from satx.storage import digest_of, file_digest, locked, replacing

logger = logging.getLogger(__name__)

NUM_CALIBRATION_TILES = 256
SILENT_SECONDS = 30.0  # Keras itself waits for ever for a host that sends nothing
DOWNLOAD_SECONDS = 1800.0  # for a whole file, at most 100 MB
HOST = "Keras's host (storage.googleapis.com)"
BROKEN_OFF = (TimeoutError, ConnectionError, http.client.HTTPException)


def find_weights(backbone: str, weights_dir: Path | None, *, cache_dir: Path, image_size_px: int) -> Weights:
    """Find pretrained weights.

    Args:
        backbone: Its name in the catalogue.
        weights_dir: Folder of `<backbone>_notop.weights.h5`; None for Keras's download.
        cache_dir: `SATX_HOME/cache`; a download is written to its folder `weights`.
        image_size_px: Edge of the tiles, in pixels.

    Raises:
        WeightsError: The folder lacks the file, or Keras's host cannot be reached.
    """
    if weights_dir is not None:
        path = weights_dir.resolve() / f"{backbone}_notop.weights.h5"
        if not path.is_file():
            raise WeightsError(
                f"{weights_dir}: expected a file {path.name}, found none. Put it there, unset SATX_WEIGHTS_DIR "
                f"and leave out WEIGHTS to let Keras download ImageNet weights, or pass --weights none for random ones."
            )
        return Weights(backbone, str(path), file_digest(path), "file")
    return _download(backbone, cache_dir, image_size_px)


def _download(backbone: str, cache_dir: Path, image_size_px: int) -> Weights:
    # MobileNetV2's published weights depend on the input size, so the size is part of the cached name.
    path = cache_dir / "weights" / f"{backbone}_imagenet_{image_size_px}px_notop.weights.h5"
    with locked(path):  # one process downloads, the others read the file
        if not path.is_file():
            network = _downloaded(backbone, image_size_px)
            with replacing(path) as temporary:
                network.save_weights(temporary)
    return Weights(backbone, str(path), file_digest(path), "imagenet")


def _downloaded(backbone: str, image_size_px: int) -> Any:
    keras.utils.clear_session()  # resets Keras's layer numbering, as in `random_weights`
    build = getattr(keras.applications, BACKBONES[backbone].builder)
    download = partial(build, weights="imagenet", include_top=False, input_shape=(image_size_px, image_size_px, 3))
    try:
        # Keras prints its download progress to stdout, which may carry JSON
        with redirect_stdout(sys.stderr), _silence_limited(SILENT_SECONDS):
            return within(DOWNLOAD_SECONDS, download)
    except Exception as error:  # Keras raises a bare Exception for a failed download
        broken_off = isinstance(error, BROKEN_OFF) or str(error).startswith("URL fetch failure")
        unreadable = isinstance(error, UNREADABLE) and not broken_off
        if not unreadable and not broken_off:
            raise
        remedy = (
            "remove the broken file from Keras's models folder" if unreadable else "connect this machine to the network"
        )
        raise WeightsError(
            f"ImageNet weights of {backbone} could not be downloaded from {HOST}: {error}. Either {remedy} and try again, "
            f"or put {backbone}_notop.weights.h5 in a folder and set SATX_WEIGHTS_DIR to it; "
            f"--weights none trains from random weights."
        ) from error


@contextmanager
def _silence_limited(seconds: float) -> Iterator[None]:
    """Limit each wait of new sockets, for libraries that set no limit."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def random_weights(backbone: str, pixels: np.ndarray, rows: np.ndarray, *, seed: int, cache_dir: Path) -> Weights:
    """Create seeded random weights with batch-normalization statistics of these tiles.

    One process writes the file, then all processes read it.

    Args:
        backbone: Its name in the catalogue.
        pixels: Pixels of the tile store, `(N, S, S, 3)` uint8.
        rows: Rows of the training tiles, `(n,)` int64; at most 256 of them are read.
        seed: Seed of the random weights.
        cache_dir: `SATX_HOME/cache`; the file is written to its folder `weights`.
    """
    chosen = np.linspace(0, len(rows) - 1, min(NUM_CALIBRATION_TILES, len(rows))).astype(int)
    sample = np.asarray(pixels[rows[chosen]])  # (n, S, S, 3) uint8
    key = digest_of([backbone, seed, sample.shape, sample.tobytes().hex()])[:16]
    path = cache_dir / "weights" / f"{backbone}_random_{key}_notop.weights.h5"
    with locked(path):  # one process writes it, so that all record the digest of the same bytes
        if not path.is_file():
            keras.utils.clear_session()  # Keras numbers unnamed layers and writes their names into the file
            keras.utils.set_random_seed(seed)
            network = build_backbone(backbone, sample.shape[1], None)
            calibrate_batch_normalization(network, backbone, sample)
            with replacing(path) as temporary:
                network.save_weights(temporary)
    return Weights(backbone, str(path), file_digest(path), "random")
