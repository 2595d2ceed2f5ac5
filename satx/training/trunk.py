"""The trunk cache: outputs of a frozen trunk for the tiles, computed once for all trials and processes.

An entry is one split, view and cut of a source (backbone, weights, tiles, size), kept as float16 `.npy` shards of 256
tiles under `SATX_HOME/cache/trunk`, in the order of the tile store. A shard is computed under a lock, written under a
temporary name and renamed, with its SHA-256 in a file beside it. So a killed build loses one shard, several processes
build different shards, and a damaged shard is rebuilt. One pass computes every cut, always with the same program and
batch size, so the bits of an entry do not depend on the order of requests.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import keras
import numpy as np

from satx.catalogue import BACKBONES, NONE
from satx.config import AugmentationConfig, Configuration
from satx.errors import SatxError, TrialFailed
from satx.models.backbones import Trunks, build_backbone
from satx.models.weights_file import Weights
from satx.storage import digest_of, locked
from satx.tiles.store import TileStore
from satx.training.augmentation import view_name, views
from satx.training.cache_room import Kept, entry_gb, make_room, why_not_cached
from satx.training.devices import precision_policy
from satx.training.shards import intact_shard, write_shard

BATCH_SIZE = 32  # all entries are computed at this batch size; a shorter last batch is padded
SHARD_TILES = 256
ENTRY_FORMAT = 1  # increment when the same tiles, weights and view would give different values
OnProgress = Callable[[int, int], None]


def _silent(_done: int, _total: int) -> None:
    """Report nothing."""


@lru_cache(2)
def _frozen_backbone(weights: Weights, image_size_px: int) -> Any:
    return build_backbone(weights.backbone, image_size_px, weights.verified_file())


@lru_cache(16)
def trunks_of(weights: Weights, image_size_px: int, cuts: tuple[str, ...]) -> Any:
    """Build the frozen trunks to these cuts, once per process; in float32, whatever precision the trial trains in."""
    with precision_policy("float32"):
        return Trunks(weights.backbone, _frozen_backbone(weights, image_size_px), cuts)


def _after(before: int, total: int, on_progress: OnProgress) -> OnProgress:
    """Return a callback that reports the progress of a part as progress of the whole."""
    return lambda done, _: on_progress(before + done, total)


@dataclass(frozen=True)
class TrunkSource:
    """The values that determine a trunk's outputs, besides cut and view.

    Attributes:
        store: The tiles.
        weights: The backbone's weights.
        cache_dir: `SATX_HOME/cache`.
        augmentation: The settings of the views.
        shard_tiles: Tiles per file of an entry.
    """

    store: TileStore
    weights: Weights
    cache_dir: Path
    augmentation: AugmentationConfig
    shard_tiles: int = SHARD_TILES

    @property
    def folder(self) -> Path:
        """Folder of this source's entries, with one subfolder per cut."""
        places = {name: cut.layer for name, cut in BACKBONES[self.weights.backbone].cuts.items()}
        tiles = [self.store.digest, self.store.image_size_px]
        identity = [self.weights.backbone, self.weights.digest, *tiles, places, keras.backend.backend(), ENTRY_FORMAT]
        return self.cache_dir / "trunk" / f"{self.weights.backbone}-{digest_of(identity)[:16]}"

    @property
    def cuts(self) -> tuple[str, ...]:
        """Pooled features and every cut of the backbone."""
        return (NONE, *BACKBONES[self.weights.backbone].cuts)

    def shape(self, cut: str) -> tuple[int, ...]:
        """Return the shape of the trunk's output for one tile: `(channels,)` for pooled features, else `(h, w, c)`."""
        found = self._trunks((cut,)).trunk.outputs[0].shape[1:]
        return tuple(found[-1:] if cut == NONE else found)

    def encode(self, tiles: np.ndarray, cut: str) -> np.ndarray:
        """Run the trunk on `(B, S, S, 3)` tiles, without the cache. Returns `(B, channels)` or `(B, h, w, c)` float16.

        Raises:
            TrialFailed: A value overflows float16.
        """
        values = np.asarray(self._trunks((cut,)).predict_on_batch(tiles)[0])
        if not np.isfinite(values).all():
            raise TrialFailed(self._overflow(cut))
        return values

    def build(self, split: str, view: int, cuts: tuple[str, ...], *, on_progress: OnProgress = _silent) -> None:
        """Compute the missing shards of these entries.

        The first pass skips shards that another process is computing. The second pass waits for them and computes those
        that are still missing.

        Raises:
            SatxError: A value overflows float16.
        """
        rows, done = self.store.rows(split), 0
        waiting = list(range(-(-len(rows) // self.shard_tiles)))
        for wait in (False, True):
            left = []
            for number in waiting:
                chosen = rows[number * self.shard_tiles : (number + 1) * self.shard_tiles]
                if self._missing(split, view, cuts, number):
                    with locked(self.folder / f"{split}-{self._view_name(view)}-{number:04d}", wait=wait) as mine:
                        if not mine:
                            left.append(number)
                            continue
                        missing = self._missing(split, view, cuts, number)  # another process may have built it
                        if missing:
                            self._build_shard(missing, chosen, view, _after(done, len(rows), on_progress))
                done += len(chosen)
                on_progress(done, len(rows))
            waiting = left

    def open(self, split: str, view: int, cut: str) -> list[np.ndarray] | None:
        """Return an entry's shards, memory-mapped, or None if one is missing or damaged."""
        count = -(-len(self.store.rows(split)) // self.shard_tiles)
        shards = [intact_shard(self._path(split, view, cut, number)) for number in range(count)]
        if any(shard is None for shard in shards):
            return None
        with contextlib.suppress(FileNotFoundError):  # just evicted by another process; open files stay readable
            (self.folder / cut / "used").touch()
        return [shard for shard in shards if shard is not None]

    def entry(self, split: str, view: int, cut: str, *, on_progress: OnProgress = _silent) -> list[np.ndarray]:
        """Return an entry's shards, memory-mapped; build them if necessary."""
        for _ in range(3):  # rebuild shards that are damaged or evicted between building and opening
            shards = self.open(split, view, cut)
            if shards is not None:
                return shards
            self.build(split, view, (cut,), on_progress=on_progress)
        raise SatxError(
            f"{self.folder}: expected the entries that were just written, found none. Check the disk; if several sweeps share "
            f"this cache, raise cache_gb."
        )

    def split(self, split: str, view: int = 0, *, on_progress: OnProgress = _silent) -> np.ndarray:
        """Return the pooled features of one view of a split, `(n, channels)` float16; build them if necessary."""
        shards = self.entry(split, view, NONE, on_progress=on_progress)
        blank = np.zeros((0, BACKBONES[self.weights.backbone].num_features), np.float16)
        return np.concatenate(shards) if shards else blank

    def build_seconds(self, *, since_seconds: float = 0.0) -> float:
        """Return the seconds spent on building this source's entries; a pass that served several cuts counts once.

        Args:
            since_seconds: Entries built before this time do not count; seconds since 1970.
        """
        passes: dict[str, float] = {}
        for folder, _, names in os.walk(self.folder):
            for name in (name for name in names if name.endswith(".json")):
                path = Path(folder) / name
                with contextlib.suppress(FileNotFoundError):  # just evicted by another process
                    if path.stat().st_mtime >= since_seconds:
                        note = json.loads(path.read_text())
                        passes[note["pass"]] = note["build_seconds"]
        return float(sum(passes.values()))

    def _overflow(self, cut: str) -> str:
        return (
            f"{self.weights.backbone}, cut {cut}: expected values within float16 (65504), got larger ones. Check that "
            f"{self.weights.file} has weights of this backbone; if it has, leave {cut} out of model.unfreeze."
        )

    def _trunks(self, cuts: tuple[str, ...]) -> Any:
        return trunks_of(self.weights, self.store.image_size_px, cuts)

    def _view_name(self, view: int) -> str:
        return view_name(view, config=self.augmentation)

    def _path(self, split: str, view: int, cut: str, number: int) -> Path:
        return self.folder / cut / f"{split}-{self._view_name(view)}-{number:04d}.npy"

    def _missing(self, split: str, view: int, cuts: tuple[str, ...], number: int) -> dict[str, Path]:
        paths = {cut: self._path(split, view, cut, number) for cut in cuts}
        return {cut: path for cut, path in paths.items() if intact_shard(path) is None}

    def _build_shard(self, paths: dict[str, Path], rows: np.ndarray, view: int, on_progress: OnProgress) -> None:
        started = time.perf_counter()
        parts: dict[str, list[np.ndarray]] = {cut: [] for cut in paths}
        for start in range(0, len(rows), BATCH_SIZE):
            chosen = rows[start : start + BATCH_SIZE]
            batch = np.zeros((BATCH_SIZE, *self.store.pixels().shape[1:]), np.uint8)
            which = np.full(len(chosen), view)
            batch[: len(chosen)] = views(self.store.pixels(), chosen, which, config=self.augmentation)
            found = dict(zip(self.cuts, self._trunks(self.cuts).predict_on_batch(batch), strict=True))
            for cut, part in parts.items():
                part.append(np.asarray(found[cut])[: len(chosen)])
            on_progress(start + len(chosen), len(rows))
        seconds = time.perf_counter() - started
        for cut, path in paths.items():
            values = np.concatenate(parts[cut])  # (n, ...) float16
            if not np.isfinite(values).all():
                raise SatxError(self._overflow(cut))
            write_shard(path, values, {"build_seconds": round(seconds, 3), "pass": f"{path.stem}-{started}"})


def trunk_source(configuration: Configuration, store: TileStore, weights: Weights, cache_dir: Path) -> TrunkSource:
    """Return the trunk source on which a configuration's head and tail are trained."""
    return TrunkSource(store, weights, cache_dir, configuration.augmentation)


def entries_of(augmentation: AugmentationConfig) -> list[tuple[str, int]]:
    """Return the splits and views that trainings read: the validation tiles, and every view of the training tiles."""
    # in random mode only the baseline reads entries, and only of unaugmented tiles
    num_views = augmentation.num_views if augmentation.mode == "views" else 1
    return [("valid", 0), *(("train", view) for view in range(num_views))]


def build_all(
    source: TrunkSource, cuts: tuple[str, ...], *, limit_gb: float, on_progress: OnProgress = _silent
) -> None:
    """Compute all entries that trainings read at these cuts; evict the least recently used cuts if room is needed.

    Args:
        source: The trunk source.
        cuts: The cuts to compute. Together they fit under the limit.
        limit_gb: Size limit of the whole trunk cache.
        on_progress: Called with the number of tiles done and in total; each view of a tile counts.
    """
    entries = entries_of(source.augmentation)
    needed_gb = sum(entry_gb(source.weights.backbone, cut, source.store, len(entries) - 1) for cut in cuts)
    make_room(source.cache_dir, needed_gb=needed_gb, limit_gb=limit_gb, keep={source.folder / cut for cut in cuts})
    sizes = [len(source.store.rows(split)) for split, _ in entries]
    before = 0
    for (split, view), size in zip(entries, sizes, strict=True):
        source.build(split, view, cuts, on_progress=_after(before, sum(sizes), on_progress))
        before += size


def cache_for(
    source: TrunkSource,
    cut: str,
    configuration: Configuration,
    *,
    kept: Kept,
    later: str | None = None,
    on_progress: OnProgress = _silent,
) -> str | None:
    """Fill the cache with all entries that a training reads at a cut, unless `why_not_cached` gives a reason not to.

    One such reason is that the entries do not fit beside those that the sweep keeps.

    Args:
        source: The trunk source.
        cut: The cut to read.
        configuration: The configuration to train.
        kept: Cuts that a sweep keeps for all its trials.
        later: A cut that the same training reads later. It is computed in the same pass if both fit.
        on_progress: Called with the number of tiles done and in total.

    Returns:
        None if the training reads the cache, else the reason why not.
    """
    if is_cached(source, cut):
        return "off (cache: off)" if configuration.cache == "off" else None
    backbone = source.weights.backbone
    reason = why_not_cached(backbone, cut, source.store, configuration, source.cache_dir, kept=kept)
    if reason is None:
        cuts: tuple[str, ...] = (cut,)
        if later is not None:
            both = {backbone: (cut, later)}
            if why_not_cached(backbone, later, source.store, configuration, source.cache_dir, kept=both) is None:
                cuts = (cut, later)
        build_all(source, cuts, limit_gb=configuration.cache_gb, on_progress=on_progress)
    return reason


def is_cached(source: TrunkSource, cut: str) -> bool:
    """Return whether every entry of a cut is in the cache."""
    return source.augmentation.mode == "views" and all(
        source.open(split, view, cut) is not None for split, view in entries_of(source.augmentation)
    )
