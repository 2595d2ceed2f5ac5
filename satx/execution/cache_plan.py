"""Selection of the cuts that the trunk cache keeps for all trials of a sweep, made once before any computation."""

from __future__ import annotations

from pathlib import Path

from satx.catalogue import BACKBONES, NONE
from satx.config import Configuration
from satx.search.costs import saved_by_keeping
from satx.search.space import SweepConfig, settings_of, unfreeze_choices
from satx.tiles.store import TileStore
from satx.training.cache_room import entry_gb, room_on_disk_gb, why_not_cached


def cuts_to_keep(
    sweep: SweepConfig, defaults: Configuration, store: TileStore, cache_dir: Path, *, num_trials: int
) -> dict[str, tuple[str, ...]]:
    """Return, by backbone, the cuts whose outputs are worth keeping for the coming trials, pooled features first.

    If there is not enough room for all, pooled features have priority, since every trial reads them. The other cuts
    follow in the order of the computation that they save per gigabyte.

    Args:
        sweep: The sweep.
        defaults: The session's settings at the tiles' size.
        store: The tiles.
        cache_dir: `SATX_HOME/cache`.
        num_trials: Trials of the sweep, all backbones together.
    """
    settings = settings_of(sweep, defaults)
    num_views, sizes = settings.augmentation.num_views, dict[tuple[str, str], float]()
    for backbone in sweep.backbones:
        names = unfreeze_choices(sweep, backbone, settings)
        for cut in (NONE, *(name for name in names if name in BACKBONES[backbone].cuts)):
            expected = num_trials / len(sweep.backbones) / (1 if cut == NONE else len(names))
            if why_not_cached(backbone, cut, store, settings, cache_dir, num_trainings=expected) is None:
                sizes[backbone, cut] = entry_gb(backbone, cut, store, num_views)
    room_gb = min(settings.cache_gb, room_on_disk_gb(cache_dir))
    kept: dict[str, tuple[str, ...]] = dict.fromkeys(sweep.backbones, ())
    for backbone, cut in sorted(sizes, key=lambda key: (key[1] != NONE, -saved_by_keeping(*key) / sizes[key])):
        if sizes[backbone, cut] <= room_gb:
            room_gb -= sizes[backbone, cut]
            kept[backbone] = (*kept[backbone], cut)
    return kept
