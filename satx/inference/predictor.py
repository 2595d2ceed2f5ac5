"""Prediction with a model that is in memory: a network on stored tiles, or an export on image files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from satx.errors import PromotionRefused
from satx.inference.graph import INPUT_NAME, OUTPUT_NAME, SERVING_SIGNATURE
from satx.inference.manifest import verify_export
from satx.models.classifier import TILES_PER_BATCH, Classifier
from satx.tiles.decode import decode_tile, resize_tile
from satx.tiles.store import TileStore


def predict_split(network: Any, store: TileStore, split: str, *, batch_size: int = 32) -> np.ndarray:
    """Predict a split of the store, in the order of `store.rows(split)`.

    Returns:
        `(n, num_classes)` float32, not calibrated.
    """
    rows, pixels = store.rows(split), store.pixels()
    parts = []
    for start in range(0, len(rows), batch_size):
        chosen = rows[start : start + batch_size]
        batch = np.zeros((batch_size, *pixels.shape[1:]), np.uint8)  # padded, so that one shape is compiled
        batch[: len(chosen)] = pixels[chosen]
        parts.append(np.asarray(network.predict_on_batch(batch), np.float32)[: len(chosen)])
    return np.concatenate(parts)


def predict_files(classifier: Classifier, files: Sequence[bytes]) -> np.ndarray:
    """Predict image files, decoded and resized as in the tile store.

    Returns:
        Calibrated probabilities, `(n, num_classes)` float32.

    Raises:
        BrokenTile: A file is damaged, or is no image that satx reads.
    """
    size_px, parts = classifier.image_size_px, [np.zeros((0, len(classifier.classes)), np.float32)]
    for start in range(0, len(files), TILES_PER_BATCH):
        chunk = files[start : start + TILES_PER_BATCH]
        tiles = [resize_tile(decode_tile(data, "image").pixels, size_px) for data in chunk]
        parts.append(classifier.predict(np.stack(tiles)))
    return np.concatenate(parts)


class ServedModel:
    """An export that is verified and loaded once, and then predicts as TensorFlow Serving would."""

    def __init__(self, folder: Path, *, digest: str | None = None) -> None:
        """Verify an export and load its graph.

        Args:
            folder: The export.
            digest: Digest of its manifest as recorded elsewhere, if the caller has it.

        Raises:
            WeightsError: The export's files are not those that were written.
            PromotionRefused: The export has another signature.
        """
        import tensorflow as tf

        self.export = verify_export(folder, digest=digest)
        self._loaded = tf.saved_model.load(str(folder))  # the signature does not keep its variables alive
        self._signature = self._loaded.signatures[SERVING_SIGNATURE]
        if list(self._signature.structured_outputs) != [OUTPUT_NAME]:
            outputs = ", ".join(self._signature.structured_outputs)
            raise PromotionRefused(
                f"{folder}: expected a single output {OUTPUT_NAME}, got {outputs}. The champion is unchanged."
            )

    def predict(self, image_bytes: Sequence[bytes]) -> np.ndarray:
        """Return the calibrated probabilities for JPEG, PNG, GIF or BMP files: `(N, num_classes)` float32."""
        import tensorflow as tf

        return np.asarray(self._signature(**{INPUT_NAME: tf.constant(list(image_bytes))})[OUTPUT_NAME])
