"""What the trunk cache has room for: which entries are worth keeping, how large they are, and which go first."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from satx.catalogue import BACKBONES, NONE
from satx.config import Configuration
from satx.tiles.store import TileStore

if TYPE_CHECKING:
    from satx.training.trunk import TrunkSource

logger = logging.getLogger(__name__)

FREE_GB = 1.0  # of the disk, left for runs and checkpoints


def why_not_cached(
    source: TrunkSource, cut: str, configuration: Configuration, *, num_trainings: float = 1
) -> str | None:
    """Why a cut's entries are not worth keeping, or None if they are.

    Args:
        source: The trunk.
        cut: Where.
        configuration: Its epochs and cache settings.
        num_trainings: How many trainings are expected to read them.
    """
    recipe = configuration.augmentation
    if configuration.cache == "off":
        return "off, as set"
    if recipe.mode == "random":
        return "fresh draws every epoch"
    settings = configuration.train
    epochs = (settings.head_epochs if cut == NONE else settings.finetune_epochs) * num_trainings
    if recipe.num_views > epochs:
        return f"would not pay: {recipe.num_views} views for {epochs:.0f} epochs"
    needed_gb = entry_gb(source.weights.backbone, cut, source.store, recipe.num_views)
    if needed_gb > configuration.cache_gb:
        return f"would not fit: {needed_gb:.1f} GB of cache_gb={configuration.cache_gb:g}"
    room_gb = room_on_disk_gb(source.cache_dir)
    if needed_gb > room_gb:
        return f"would not fit: {needed_gb:.1f} GB on a disk with room for {room_gb:.1f} GB of trunk cache"
    return None


def room_on_disk_gb(cache_dir: Path) -> float:
    """What the trunk cache may take of the disk: what it has, which it may evict, and what is free but for a gigabyte."""
    kept = sum(path.stat().st_size for path in (cache_dir / "trunk").glob("*/*/*.npy"))
    return (kept + shutil.disk_usage(cache_dir.parent).free) / 1e9 - FREE_GB


def entry_gb(backbone: str, cut: str, store: TileStore, num_views: int) -> float:
    """Roughly what a cut's entries take on disk: all views of the training tiles, and the validation tiles."""
    entry = BACKBONES[backbone]
    megabytes = entry.num_features * 2 / 1e6 if cut == NONE else entry.cuts[cut].megabytes(store.image_size_px)
    return (len(store.rows("train")) * num_views + len(store.rows("valid"))) * megabytes / 1e3


def make_room(cache_dir: Path, *, needed_gb: float, limit_gb: float, keep: set[Path]) -> None:
    """Remove the cuts used least recently until `needed_gb` fits under the limit; whoever reads them goes on reading."""
    folders = [path for path in (cache_dir / "trunk").glob("*/*") if path.is_dir() and path not in keep]
    sizes = {path: sum(file.stat().st_size for file in path.glob("*.npy")) / 1e9 for path in folders}
    total_gb = needed_gb + sum(sizes.values())
    for path in sorted(folders, key=_used_at):
        if total_gb <= limit_gb:
            return
        shutil.rmtree(path, ignore_errors=True)
        total_gb -= sizes[path]
        logger.warning("%s was used least recently and made room in the trunk cache", path.relative_to(cache_dir))


def _used_at(folder: Path) -> float:
    marker = folder / "used"
    return (marker if marker.exists() else folder).stat().st_mtime
