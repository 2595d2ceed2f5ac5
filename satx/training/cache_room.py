"""Space management of the trunk cache: which entries are worth keeping, their sizes, and which are evicted first."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from satx.catalogue import BACKBONES, NONE
from satx.config import Configuration
from satx.tiles.store import TileStore

logger = logging.getLogger(__name__)

FREE_GB = 1.0  # disk space left free for runs and checkpoints
Kept = Mapping[str, tuple[str, ...]]  # backbone to the cuts that a sweep keeps cached for all its trials


def why_not_cached(
    backbone: str,
    cut: str,
    store: TileStore,
    configuration: Configuration,
    cache_dir: Path,
    *,
    num_trainings: float = 1,
    kept: Kept | None = None,
) -> str | None:
    """Return why a cut's entries are not worth keeping, or None if they are.

    Args:
        backbone: Backbone of the trunk.
        cut: Cut of the backbone.
        store: The tiles.
        configuration: The configuration with the epochs and cache settings.
        cache_dir: `SATX_HOME/cache`.
        num_trainings: Number of trainings expected to read the entries.
        kept: Cuts that the sweep keeps for all its trials. A single trial may not evict them.
    """
    recipe = configuration.augmentation
    if configuration.cache == "off":
        return "off (cache: off)"
    if recipe.mode == "random":
        return "new random views in every epoch"
    settings = configuration.train
    epochs = (settings.head_epochs if cut == NONE else settings.finetune_epochs) * num_trainings
    if recipe.num_views > epochs:
        return f"not worth it: {recipe.num_views} views for {epochs:.0f} epochs"
    needed_gb = entry_gb(backbone, cut, store, recipe.num_views)
    others = [(name, at) for name, cuts in (kept or {}).items() for at in cuts if (name, at) != (backbone, cut)]
    kept_gb = sum(entry_gb(name, at, store, recipe.num_views) for name, at in others)
    taken = f", {kept_gb:.1f} GB of it reserved for other cuts" if others else ""
    if kept_gb + needed_gb > configuration.cache_gb:
        return f"does not fit: {needed_gb:.1f} GB of cache_gb={configuration.cache_gb:g}{taken}"
    room_gb = room_on_disk_gb(cache_dir)
    if kept_gb + needed_gb > room_gb:
        return f"does not fit: {needed_gb:.1f} GB on a disk with space for {room_gb:.1f} GB of trunk cache{taken}"
    return None


def room_on_disk_gb(cache_dir: Path) -> float:
    """Return the GB that the trunk cache may use: what it holds, which can be evicted, and all free space but 1 GB."""
    existing = next(folder for folder in (cache_dir, *cache_dir.parents) if folder.exists())
    kept_gb = sum(size_gb for size_gb, _ in _folders(cache_dir).values())
    return kept_gb + shutil.disk_usage(existing).free / 1e9 - FREE_GB


def entry_gb(backbone: str, cut: str, store: TileStore, num_views: int) -> float:
    """Estimate the disk space of a cut's entries: all views of the training tiles, and the validation tiles."""
    entry = BACKBONES[backbone]
    megabytes = entry.num_features * 2 / 1e6 if cut == NONE else entry.cuts[cut].megabytes(store.image_size_px)
    return (len(store.rows("train")) * num_views + len(store.rows("valid"))) * megabytes / 1e3


def make_room(cache_dir: Path, *, needed_gb: float, limit_gb: float, keep: set[Path]) -> None:
    """Remove the least recently used cuts until `needed_gb` fits under the limit and on the disk.

    Processes that have files of a removed cut open can still read them.
    """
    limit_gb = min(limit_gb, room_on_disk_gb(cache_dir))
    folders = {path: found for path, found in _folders(cache_dir).items() if path not in keep}
    total_gb = needed_gb + sum(size_gb for size_gb, _ in folders.values())
    for path, (size_gb, _) in sorted(folders.items(), key=lambda item: item[1][1]):
        if total_gb <= limit_gb:
            return
        shutil.rmtree(path, ignore_errors=True)
        total_gb -= size_gb
        logger.warning("Removed %s, the least recently used cut, from the trunk cache", path.relative_to(cache_dir))


def _folders(cache_dir: Path) -> dict[Path, tuple[float, float]]:
    """Return every cut's folder with its GB and time of last use; skips files that another process is removing."""
    found = {}
    for source in _listed(cache_dir / "trunk"):
        for folder in _listed(source):
            states = {}
            for entry in (folder, *_listed(folder)):
                with contextlib.suppress(FileNotFoundError):
                    states[entry.name] = entry.stat()
            size = sum(state.st_size for name, state in states.items() if name.endswith(".npy"))
            used = states.get("used", states.get(folder.name))
            found[Path(folder.path)] = (size / 1e9, used.st_mtime if used else 0.0)
    return found


def _listed(folder: Path | os.DirEntry[str]) -> list[os.DirEntry[str]]:
    try:
        return list(os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []
