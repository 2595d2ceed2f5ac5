"""Imagery and scorers for tests of bulk prediction: fast, deterministic, and broken on request."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from satx.bulk.block_file import ModelIdentity
from satx.imagery.contract import Fetched, Tile, Unscored

SIZE_PX = 16
MODEL = ModelIdentity(
    name="school",
    version=3,
    digest="d" * 64,
    classes=("not-school", "school"),
    positive_class="school",
    threshold=0.5,
    image_size_px=SIZE_PX,
    sample=False,
)


def tile_file(tile: Tile) -> bytes:
    """Return a picture of several colors that only this tile has."""
    rng = np.random.default_rng(list(tile.tile_id.encode()))
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (SIZE_PX, SIZE_PX, 3), dtype=np.uint8)).save(file, "png")
    return file.getvalue()


class PlayedImagery:
    """Serves what a function says of each tile, and counts how far ahead it was asked."""

    identity: Mapping[str, Any] = {"kind": "played"}
    attribution = "played"

    def __init__(self, answer: Callable[[Tile], Fetched] = tile_file) -> None:
        self._answer = answer
        self.num_fetched = 0

    def fetch(self, tiles: Iterable[Tile]) -> Iterator[Fetched]:
        for tile in tiles:
            self.num_fetched += 1
            yield self._answer(tile)

    def close(self) -> None:
        """Hold nothing."""


class PlayedScorer:
    """Scores a tile by its mean color and its place in the batch's length, so that other batches give other bytes."""

    model = MODEL

    def __init__(self, *, batch_size: int = 8, num_parallel: int = 1) -> None:
        self.batch_size, self.num_parallel = batch_size, num_parallel
        self.before: Callable[[int], None] = lambda number: None
        self._lock, self.num_batches = threading.Lock(), 0

    def score(self, tiles: np.ndarray, files: Sequence[bytes]) -> list[np.ndarray | Unscored]:
        assert tiles.dtype == np.uint8 and tiles.shape == (len(files), SIZE_PX, SIZE_PX, 3)
        assert 1 <= len(tiles) <= self.batch_size
        with self._lock:
            self.num_batches += 1
            number = self.num_batches
        self.before(number)
        positive = tiles.mean((1, 2, 3)) / 255 * (1 - 1e-3 * len(tiles))
        return [np.array([1 - share, share], np.float32) for share in positive]

    def about(self) -> dict[str, Any]:
        return {"played": True}

    def close(self) -> None:
        """Hold nothing."""
