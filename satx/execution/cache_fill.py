"""Filling of a sweep's trunk cache, for all trials of a backbone at once, before its first trial trains.

So the trials of a cheap backbone have scores before an expensive backbone has processed any tile.
"""

from __future__ import annotations

from collections.abc import Callable

import optuna

from satx.catalogue import NONE
from satx.errors import TrialFailed
from satx.execution.job import Job
from satx.execution.shared_features import Features, share_features
from satx.search.space import settings_of
from satx.training.cache_room import entry_gb, make_room
from satx.training.devices import out_of_memory_fails_the_trial
from satx.training.trunk import TrunkSource, build_all, is_cached, trunk_source


def trunk_of(job: Job, backbone: str) -> TrunkSource:
    """Return the trunk that all trials of this backbone share."""
    data = job.data_for(backbone)
    return trunk_source(settings_of(job.sweep, job.defaults), job.store, data.weights, data.cache_dir)


def fill_trunk(study: optuna.Study, job: Job, backbone: str, *, on_progress: Callable[[int, int], None]) -> None:
    """Compute the cache entries that the trials of this backbone will read, except those that exist already.

    Workers of a machine share the computation. If machines share a bucket and only pooled features are kept, one
    machine computes them for all. Deeper cuts are many times as large, so every machine computes its own; the same
    pass yields the pooled features.

    Raises:
        TrialFailed: Memory ran out.
    """
    source, cuts = trunk_of(job, backbone), job.kept[backbone]
    limit_gb = settings_of(job.sweep, job.defaults).cache_gb

    def build(on_progress: Callable[[int, int], None]) -> None:
        with out_of_memory_fails_the_trial(kind=TrialFailed):  # not caused by a trial's batch size
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
