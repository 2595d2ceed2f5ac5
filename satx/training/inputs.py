"""Batches of a training: the order and views of the tiles, and their trunk outputs, from the trunk cache or computed.

Everything follows from (seed, epoch, tile), so an epoch can be repeated, and an epoch read from the trunk cache has the
same numbers as one computed during training. On a GPU, inputs that fit are kept in its memory: batches are gathered
there, and tiles or features are not transferred again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import keras
import numpy as np

from satx.catalogue import ALL
from satx.config import Configuration
from satx.models.weights_file import Weights
from satx.tiles.store import TileStore
from satx.training.augmentation import random_views, views
from satx.training.batch import Batch
from satx.training.devices import device_name, is_out_of_memory
from satx.training.head import dropout_mask
from satx.training.shards import gather
from satx.training.steps import class_weights
from satx.training.trunk import TrunkSource, entries_of, trunk_source

logger = logging.getLogger(__name__)

VALID_BATCH_SIZE = 32
RESIDENT_GB = 4.0  # GPU memory to use for inputs; small current GPUs have 16 GB
Item = TypeVar("Item")


class Inputs:
    """The batches of one training."""

    def __init__(
        self,
        configuration: Configuration,
        store: TileStore,
        weights: Weights,
        cache_dir: Path,
        *,
        resident_gb: float = RESIDENT_GB,
    ) -> None:
        """Look up rows and labels; tiles are not read yet."""
        self.config, self.store, self.resident_gb = configuration, store, resident_gb
        self.source: TrunkSource = trunk_source(configuration, store, weights, cache_dir)
        self.rows = {split: store.rows(split) for split in ("train", "valid")}
        labels = store.labels()
        self.labels = {split: labels[rows] for split, rows in self.rows.items()}
        num_classes, smoothing = len(store.classes), configuration.train.label_smoothing
        self.class_weights = class_weights(self.labels["train"], num_classes, configuration.train.class_weight)
        self.targets = np.eye(num_classes, dtype=np.float32) * np.float32(1 - smoothing) + np.float32(
            smoothing / num_classes
        )
        self._entries: dict[tuple[str, int], list[np.ndarray]] | None = None
        # split to all views of its tiles, concatenated, on the device
        self._resident: dict[str, Any] | None = None
        self.cut, self.shape, self.dtype = ALL, tuple(store.pixels().shape[1:]), "uint8"

    def start_at(self, cut: str, *, cached: bool) -> None:
        """Switch to the inputs at this cut, from the trunk cache or computed during training.

        At `ALL` the inputs are the tiles themselves, at `NONE` pooled features.
        """
        self.cut = cut
        self.release()
        if cut == ALL:
            self.shape, self.dtype = tuple(self.store.pixels().shape[1:]), "uint8"
            self._move_to_the_device()
            return
        self.dtype = "float16"
        if cached:
            self._entries = {
                (split, view): self.source.entry(split, view, cut)
                for split, view in entries_of(self.config.augmentation)
            }
            self.shape = next(shards[0].shape[1:] for shards in self._entries.values() if shards)
            self._move_to_the_device()
        else:
            self.shape = self.source.shape(cut)

    def release(self) -> None:
        """Release memory-mapped entries and device memory."""
        self._entries, self._resident = None, None

    def _move_to_the_device(self) -> None:
        """Copy all views to the GPU, if there is one, the views are enumerable (`mode: views`) and they fit."""
        recipe = self.config.augmentation
        bytes_a_tile = int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize
        counts = {"train": len(self.rows["train"]) * recipe.num_views, "valid": len(self.rows["valid"])}
        fits = sum(counts.values()) * bytes_a_tile <= self.resident_gb * 1e9
        if device_name() == "gpu" and recipe.mode == "views" and fits:
            found: dict[str, list[np.ndarray]] = {split: [] for split in counts}
            for split, view in entries_of(recipe):
                places = np.arange(len(self.rows[split]))
                found[split].append(self._read(split, places, np.full(len(places), view), None))
            try:
                self._resident = {split: keras.ops.convert_to_tensor(np.concatenate(p)) for split, p in found.items()}
            except Exception as error:  # each backend has its own out-of-memory class
                if not is_out_of_memory(error):
                    raise
                logger.warning("The inputs do not fit in GPU memory; they are read from disk, batch by batch")

    def order(self, step: int) -> np.ndarray:
        """Return the training tiles in this epoch's order, split into batches, `(num_batches, B)` int64.

        The last batch is filled up from the start of the order, so that every batch has the same weight.
        """
        num_tiles, size = len(self.rows["train"]), self.config.train.batch_size
        order = np.random.default_rng([self.config.train.seed, step]).permutation(num_tiles)
        return np.resize(order, (-(-num_tiles // size), size))

    def chosen_views(self, step: int) -> np.ndarray:
        """Return the view of every training tile in this epoch, drawn from (configuration seed, epoch, tile)."""
        draw = np.random.default_rng([self.config.train.seed, step, 1])
        return draw.integers(self.config.augmentation.num_views, size=len(self.rows["train"]))

    def train_batches(self, step: int, head_width: int) -> Iterator[Batch]:
        """Return an epoch's batches; each is read while the one before is trained on.

        Args:
            step: The epoch.
            head_width: Width of the last layer's input, for the dropout mask.
        """
        order = self.order(step)
        chosen = self.chosen_views(step)

        def batch(number: int) -> Batch:
            places = order[number]
            labels = self.labels["train"][places]
            inputs = self._read("train", places, chosen[places], step)
            draw = np.random.default_rng([self.config.train.seed, step, 2, number])
            mask = dropout_mask(draw, self.config.model.dropout, (len(places), head_width))
            return Batch(inputs, self.targets[labels], self.class_weights[labels], mask)

        return read_ahead(batch, len(order))

    def valid_batches(self) -> Iterator[Any]:
        """Return the validation tiles, unaugmented and in order.

        All batches have the same size: the last one is filled up with its last tile.
        """
        count = len(self.rows["valid"])

        def batch(number: int) -> Any:
            places = np.arange(VALID_BATCH_SIZE) + number * VALID_BATCH_SIZE
            return self._read("valid", np.minimum(places, count - 1), np.zeros(VALID_BATCH_SIZE, np.int64), None)

        return read_ahead(batch, -(-count // VALID_BATCH_SIZE))

    def _read(self, split: str, places: np.ndarray, chosen: np.ndarray, step: int | None) -> Any:
        if self._resident is not None:
            return keras.ops.take(self._resident[split], chosen * len(self.rows[split]) + places, axis=0)
        if self._entries is None:
            tiles = self._tiles(split, places, chosen, step)
            return tiles if self.cut == ALL else self.source.encode(tiles, self.cut)
        out = np.empty((len(places), *self.shape), np.float16)
        for view in np.unique(chosen).tolist():
            here = chosen == view
            part = np.empty((int(here.sum()), *self.shape), np.float16)
            gather(self._entries[split, view], places[here], part)
            out[here] = part
        return out

    def _tiles(self, split: str, places: np.ndarray, chosen: np.ndarray, step: int | None) -> np.ndarray:
        pixels, rows, recipe = self.store.pixels(), self.rows[split][places], self.config.augmentation
        if step is not None and recipe.mode == "random":
            return random_views(pixels, rows, config=recipe, seed=self.config.train.seed, step=step)
        return views(pixels, rows, chosen, config=recipe)


def read_ahead(read: Callable[[int], Item], count: int) -> Iterator[Item]:
    """Yield `read(0) .. read(count - 1)`; another thread reads each item while the one before is used."""
    with ThreadPoolExecutor(1) as reader:
        waiting = [reader.submit(read, number) for number in range(min(1, count))]
        for number in range(count):
            item = waiting.pop().result()
            if number + 1 < count:
                waiting.append(reader.submit(read, number + 1))
            yield item
