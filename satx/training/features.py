"""Pooled trunk features, computed once per (weights, size, tiles, view) and kept for all trials and processes.

The head phase of every trial, and the baseline, read them instead of running a frozen backbone again. Kept as float16
`.npy` under `SATX_HOME/cache/features`, in the order of the tile store; a file is written under a temporary name, under
a lock, with its SHA-256 beside it, so one process builds while others wait and a damaged file is built again.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from satx.config import AugmentationConfig, Configuration
from satx.errors import SatxError
from satx.models.backbones import Network, build_backbone
from satx.models.weights import Weights
from satx.storage import digest_of, file_digest, locked, replacing, write_json
from satx.tiles.store import TileStore
from satx.training.augmentation import view_name, views
from satx.training.devices import precision_policy

logger = logging.getLogger(__name__)

BATCH_SIZE = 32  # one canonical batch size, so that a feature's bits do not depend on who computed it
Progress = Callable[[int, int], None]


def _silent(done: int, total: int) -> None:
    """Report nothing."""


@dataclass(frozen=True)
class FeatureSource:
    """What decides a backbone's pooled features, beside the view.

    Attributes:
        store: The tiles.
        weights: The backbone's weights.
        cache_dir: `SATX_HOME/cache`.
        augmentation: The recipe of the views.
        seed: Of the views' variants.
    """

    store: TileStore
    weights: Weights
    cache_dir: Path
    augmentation: AugmentationConfig
    seed: int

    @property
    def folder(self) -> Path:
        """Where the arrays of this source are kept."""
        identity = [self.weights.backbone, self.weights.digest, self.store.digest, self.store.image_size_px, "float16"]
        return self.cache_dir / "features" / f"{self.weights.backbone}-{digest_of(identity)[:16]}"

    @cached_property
    def network(self) -> Any:
        """The frozen backbone, built at the first miss only; in float32, whatever the trial that asks first trains in."""
        name = self.weights.backbone
        with precision_policy("float32"):
            backbone = build_backbone(name, self.store.image_size_px, self.weights.verified_file())
            return Network(name, backbone, None, None)

    def split(self, split: str, view: int = 0, *, on_progress: Progress = _silent) -> np.ndarray:
        """Features of one view of a split's tiles, in the order of `store.rows(split)`: `(n, channels)` float16.

        Raises:
            SatxError: A feature overflows float16.
        """
        name = view_name(view, config=self.augmentation, seed=self.seed)
        path = self.folder / f"{split}-{name}.npy"
        found = _intact(path)
        if found is None:
            with locked(path):
                found = _intact(path)
                if found is None:
                    self._build(path, split, view, on_progress)
                    found = np.load(path, mmap_mode="r", allow_pickle=False)
        return found

    def _build(self, path: Path, split: str, view: int, on_progress: Progress) -> None:
        started = time.perf_counter()
        rows = self.store.rows(split)
        pixels = self.store.pixels()
        parts = []
        for start in range(0, len(rows), BATCH_SIZE):
            chosen = rows[start : start + BATCH_SIZE]
            batch = views(
                pixels, chosen, np.full(len(chosen), view), config=self.augmentation, seed=self.seed
            )  # (B, S, S, 3) uint8
            if len(chosen) < BATCH_SIZE:  # padded, so that one compiled shape serves and bits do not depend on the rest
                batch = np.concatenate([batch, np.zeros((BATCH_SIZE - len(chosen), *batch.shape[1:]), np.uint8)])
            parts.append(self.network.predict_on_batch(batch)[: len(chosen)])
            on_progress(min(start + BATCH_SIZE, len(rows)), len(rows))
        features = np.concatenate(parts).astype(np.float16)  # (n, channels) float16
        if not np.isfinite(features).all():
            raise SatxError(
                f"{self.weights.backbone}: expected pooled features within float16 (65504), got larger ones. "
                f"Check that {self.weights.file} are weights of this backbone."
            )
        with replacing(path) as temporary, temporary.open("wb") as stream:
            np.save(stream, features, allow_pickle=False)
        seconds = time.perf_counter() - started
        write_json(_note(path), {"sha256": file_digest(path), "build_seconds": round(seconds, 3)})

    def build_seconds(self) -> float:
        """Seconds spent on everything kept for this source."""
        notes = self.folder.glob("*.json")
        return float(sum(json.loads(note.read_text())["build_seconds"] for note in notes))


def build_all(source: FeatureSource, *, on_progress: Progress = _silent) -> None:
    """Compute what every trial of a sweep reads: all views of the training tiles and the validation tiles."""
    jobs: Iterable[tuple[str, int]] = [("valid", 0)]
    if source.augmentation.mode == "views":
        jobs = [*jobs, *(("train", view) for view in range(source.augmentation.num_views))]
    else:
        jobs = [*jobs, ("train", 0)]  # the baseline reads it
    sizes = [len(source.store.rows(split)) for split, _ in jobs]
    before = 0
    for (split, view), size in zip(jobs, sizes, strict=True):
        source.split(split, view, on_progress=lambda done, _, before=before: on_progress(before + done, sum(sizes)))  # type: ignore[misc]
        before += size
        on_progress(before, sum(sizes))


def feature_source(configuration: Configuration, store: TileStore, weights: Weights, cache_dir: Path) -> FeatureSource:
    """The pooled features that a configuration's head is trained on."""
    return FeatureSource(store, weights, cache_dir, configuration.augmentation, configuration.train.seed)


def _note(path: Path) -> Path:
    return path.with_suffix(".json")


def _intact(path: Path) -> np.ndarray | None:
    try:
        recorded = json.loads(_note(path).read_text())["sha256"]
        if file_digest(path) == recorded:
            return np.load(path, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]
    except (OSError, ValueError, KeyError):
        return None
    logger.warning("%s does not match its digest and is built again", path.name)
    return None
