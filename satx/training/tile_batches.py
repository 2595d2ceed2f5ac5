"""Tiles of a split for a network of the user's own: as batches from the memory-mapped store, or as arrays in memory."""

from __future__ import annotations

import keras
import numpy as np

from satx.tiles.store import TileStore


class TileBatches(keras.utils.PyDataset):
    """Batches of a split, read from the memory-mapped store: images `(B, S, S, 3)` uint8 and their labels.

    Labels are class indices `(B,)` int64, or one-hot rows `(B, C)` float32.
    """

    def __init__(
        self, store: TileStore, split: str, *, batch_size: int, seed: int | None, one_hot: bool = False
    ) -> None:
        """Open a split; with a seed, every epoch has a new random order."""
        super().__init__()
        self.store, self.split, self.seed, self.one_hot = store, split, seed, one_hot
        self.pixels, self.rows, self.labels = store.pixels(), store.rows(split), labels_of(store, one_hot=one_hot)
        self.batch_size, self.draw = batch_size, np.random.default_rng(seed) if seed is not None else None
        self.on_epoch_end()

    def __len__(self) -> int:
        """Return the number of batches per epoch."""
        return -(-len(self.rows) // self.batch_size)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return one batch."""
        chosen = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        return np.asarray(self.pixels[chosen]), self.labels[chosen]

    def on_epoch_end(self) -> None:
        """Draw the next epoch's order."""
        self.order = self.rows if self.draw is None else self.draw.permutation(self.rows)

    def with_batch_size(self, batch_size: int) -> TileBatches:
        """Return batches of the same tiles in another size."""
        return TileBatches(self.store, self.split, batch_size=batch_size, seed=self.seed, one_hot=self.one_hot)


def labels_of(store: TileStore, *, one_hot: bool) -> np.ndarray:
    """Return the labels of all tiles: class indices `(N,)` int64, or one-hot rows `(N, C)` float32."""
    indices = store.labels()
    return np.eye(len(store.classes), dtype=np.float32)[indices] if one_hot else indices


def tile_arrays(
    store: TileStore, split: str, *, seed: int | None, one_hot: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Read a split into memory: images `(M, S, S, 3)` uint8 and their labels, as in `TileBatches`.

    Args:
        store: The tiles.
        split: Name of the split.
        seed: Seed of a random order; None keeps the store's, which is by class.
        one_hot: Whether the labels are one-hot rows instead of class indices.
    """
    rows = store.rows(split)
    rows = rows if seed is None else np.random.default_rng(seed).permutation(rows)
    return np.asarray(store.pixels()[rows]), labels_of(store, one_hot=one_hot)[rows]
