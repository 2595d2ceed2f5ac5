"""The trunk cache of a sweep: filled for all trials of a backbone at once, when the first of them comes.

So the trials of a cheap backbone have their scores before a dear one has looked at a tile.
"""

from __future__ import annotations

from collections.abc import Callable

from satx.catalogue import BACKBONES, NONE
from satx.search.job import Job
from satx.search.space import settings_of, unfreeze_choices
from satx.training.trunk import TrunkSource, build_all, is_cached, trunk_source, why_not_cached


def trunk_of(job: Job, backbone: str) -> TrunkSource:
    """The trunk that every trial of this backbone reads."""
    data = job.data_for(backbone)
    return trunk_source(settings_of(job.sweep, job.defaults), job.store, data.weights, data.cache_dir)


def shared_cuts(job: Job, backbone: str) -> tuple[str, ...]:
    """Pooled features, and the cuts whose outputs are worth keeping for the trials to come."""
    settings, source = settings_of(job.sweep, job.defaults), trunk_of(job, backbone)
    names = unfreeze_choices(job.sweep, backbone, settings)
    expected = job.trials / (len(job.sweep.backbones) * len(names))
    cuts = [name for name in names if name in BACKBONES[backbone].cuts]
    return (NONE, *(cut for cut in cuts if why_not_cached(source, cut, settings, num_trainings=expected) is None))


def fill_trunk(job: Job, backbone: str, *, on_progress: Callable[[int, int], None]) -> None:
    """Compute what the trials of this backbone will read; what is there already costs nothing, workers help each other."""
    source, cuts = trunk_of(job, backbone), shared_cuts(job, backbone)
    if not all(is_cached(source, cut) for cut in cuts):
        build_all(source, cuts, limit_gb=job.defaults.cache_gb, on_progress=on_progress)
