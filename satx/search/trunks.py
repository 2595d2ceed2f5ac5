"""The trunk cache of a sweep: filled for all trials of a backbone at once, when the first of them comes.

So the trials of a cheap backbone have their scores before a dear one has looked at a tile.
"""

from __future__ import annotations

from collections.abc import Callable

import optuna

from satx.catalogue import BACKBONES, NONE
from satx.errors import TrialFailed
from satx.search.costs import saved_by_keeping
from satx.search.features import Features, share_features
from satx.search.job import Job
from satx.search.space import settings_of, unfreeze_choices
from satx.storage import satx_home
from satx.training.cache_room import entry_gb, make_room, room_on_disk_gb, why_not_cached
from satx.training.devices import out_of_memory_fails_the_trial
from satx.training.trunk import TrunkSource, build_all, is_cached, trunk_source


def trunk_of(job: Job, backbone: str) -> TrunkSource:
    """The trunk that every trial of this backbone reads."""
    data = job.data_for(backbone)
    return trunk_source(settings_of(job.sweep, job.defaults), job.store, data.weights, data.cache_dir)


def shared_cuts(job: Job) -> dict[str, tuple[str, ...]]:
    """By backbone, the cuts whose outputs are worth keeping for the trials to come, pooled features first.

    Where not all have room, pooled features come first, which every trial reads, then what saves most computing a gigabyte.
    """
    settings = settings_of(job.sweep, job.defaults)
    num_views, sizes = settings.augmentation.num_views, dict[tuple[str, str], float]()
    for backbone in job.sweep.backbones:
        source, names = trunk_of(job, backbone), unfreeze_choices(job.sweep, backbone, settings)
        for cut in (NONE, *(name for name in names if name in BACKBONES[backbone].cuts)):
            expected = job.trials / len(job.sweep.backbones) / (1 if cut == NONE else len(names))
            if why_not_cached(source, cut, settings, num_trainings=expected) is None:
                sizes[backbone, cut] = entry_gb(backbone, cut, job.store, num_views)
    room_gb = min(settings.cache_gb, room_on_disk_gb(satx_home() / "cache"))
    kept: dict[str, tuple[str, ...]] = dict.fromkeys(job.sweep.backbones, ())
    for backbone, cut in sorted(sizes, key=lambda key: (key[1] != NONE, -saved_by_keeping(*key) / sizes[key])):
        if sizes[backbone, cut] <= room_gb:
            room_gb -= sizes[backbone, cut]
            kept[backbone] = (*kept[backbone], cut)
    return kept


def fill_trunk(study: optuna.Study, job: Job, backbone: str, *, on_progress: Callable[[int, int], None]) -> None:
    """Compute what the trials of this backbone will read; what is there already costs nothing, workers help each other.

    Where machines share a bucket and only pooled features are kept, one machine computes those for all. Deeper cuts,
    many times as large, are computed by every machine, and pooled features come out of the same pass.

    Raises:
        TrialFailed: Memory ran out.
    """
    source, cuts = trunk_of(job, backbone), shared_cuts(job)[backbone]
    limit_gb = settings_of(job.sweep, job.defaults).cache_gb

    def build(on_progress: Callable[[int, int], None]) -> None:
        with out_of_memory_fails_the_trial(kind=TrialFailed):  # no fault of a trial's batch size
            build_all(source, cuts, limit_gb=limit_gb, on_progress=on_progress)

    if all(is_cached(source, cut) for cut in cuts):
        return
    if job.bucket and cuts == (NONE,):
        folder, num_views = source.folder / NONE, source.augmentation.num_views
        needed_gb = entry_gb(backbone, NONE, job.store, num_views)
        features = Features(study, f"{job.study_name}/{source.folder.name}", job.bucket, folder, job.cache_dir)
        make_room(job.cache_dir, needed_gb=needed_gb, limit_gb=limit_gb, keep={folder})
        share_features(features, build, lambda: is_cached(source, NONE), on_progress=on_progress)
    else:
        build(on_progress)
