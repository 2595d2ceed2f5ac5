"""Prediction with a model that is in memory: a network on stored tiles, or an export on image files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from satx.errors import PromotionRefused
from satx.inference.manifest import verify_export
from satx.tiles.decode import decode_tile, resize_tile
from satx.tiles.store import TileStore

FILES_PER_BATCH = 32
INPUT_NAME, OUTPUT_NAME = "image_bytes", "probabilities"


def predict_split(network: Any, store: TileStore, split: str, *, batch_size: int = 32) -> np.ndarray:
    """Predict a split of the store, in the order of `store.rows(split)`. Returns `(n, num_classes)` float32."""
    rows, pixels = store.rows(split), store.pixels()
    parts = []
    for start in range(0, len(rows), batch_size):
        chosen = rows[start : start + batch_size]
        batch = np.zeros((batch_size, *pixels.shape[1:]), np.uint8)  # padded, so that one shape is compiled
        batch[: len(chosen)] = pixels[chosen]
        parts.append(np.asarray(network.predict_on_batch(batch), np.float32)[: len(chosen)])
    return np.concatenate(parts)


def predict_files(network: Any, files: Sequence[bytes], image_size_px: int) -> np.ndarray:
    """Predict at least one image file with a network, decoded and resized as in the tile store.

    Returns:
        `(n, num_classes)` float32.

    Raises:
        BrokenTile: A file is damaged, or is no image that satx reads.
    """
    parts = []
    for start in range(0, len(files), FILES_PER_BATCH):
        chunk = files[start : start + FILES_PER_BATCH]
        tiles = [resize_tile(decode_tile(data, "image").pixels, image_size_px) for data in chunk]
        parts.append(np.asarray(network.predict_on_batch(np.stack(tiles)), np.float32))
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
        self._signature = self._loaded.signatures["serving_default"]
        if list(self._signature.structured_outputs) != [OUTPUT_NAME]:
            outputs = ", ".join(self._signature.structured_outputs)
            raise PromotionRefused(
                f"{folder}: expected a single output {OUTPUT_NAME}, got {outputs}. The champion is unchanged."
            )

    def predict(self, image_bytes: Sequence[bytes]) -> np.ndarray:
        """Return the probabilities for JPEG, PNG, GIF or BMP files: `(N, num_classes)` float32."""
        import tensorflow as tf

        return np.asarray(self._signature(**{INPUT_NAME: tf.constant(list(image_bytes))})[OUTPUT_NAME])
