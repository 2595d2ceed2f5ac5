"""Estimate of what a sweep will spend, with pruning, early stopping and the trunk cache taken into account.

Seconds are those of the catalogue, times the slowness of this machine (`training.speed`). They are accurate to within a
factor of two; during the sweep, the durations of its trials correct them (`planning.time_left`).
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from satx.catalogue import ALL, BACKBONES, NONE
from satx.config import Configuration
from satx.execution.cache_plan import cuts_to_keep
from satx.planning.chances import Chances
from satx.search.costs import epoch_factor, scoring_factor
from satx.search.space import BACKBONE, UNFREEZE, SweepConfig, settings_of, unfreeze_choices
from satx.sessions.prepare import PreparedSession
from satx.storage import satx_home
from satx.tiles.store import TileStore
from satx.training.cache_room import entry_gb
from satx.training.trunk import SHARD_TILES, entries_of, trunk_source

Kind = tuple[str, str]  # backbone, and the part of it that is trained

# Actual over expected seconds of an epoch. The catalogue's passes were measured with Keras's operations, but tails
# are trained with faster ones (`models.faster`). At 160 px on two cores, an epoch of MobileNetV2 took 0.22 to 0.37 of
# the time that its multiply-adds suggest for two cuts, and 0.58 to 0.71 for the whole backbone (two machines, with and
# without AVX-512).
CUT_PACE, WHOLE_PACE = 0.3, 0.65

# None of these get shorter with more cores or with a GPU; on a busy machine they get longer.
WORKER_SECONDS = 10.0  # for a worker to import Keras and open study and runs
BACKBONE_SECONDS = 4.0  # for a worker to build a backbone and read its weights
TRACE_SECONDS = 6.0  # to trace the training step of a whole backbone; for a tail its share, at least one second
TRIAL_SECONDS = 0.2  # to draw a trial, and to open and close its run
HEAD_SECONDS_PER_TILE = 2e-4  # for an epoch of a head on cached features
CHECKPOINT_SECONDS_PER_PARAMETER = 16 / 5e8  # values, best values and the optimizer's two, 4 bytes each, at 500 MB/s
BASELINE_SECONDS = 10.0  # to fit a baseline
MODEL_SECONDS = 8.0  # to write model and plots of a leading run
MAX_SLOWNESS = 3.0  # a higher factor means that only the backend's convolutions are slow


@dataclass(frozen=True)
class Training:
    """The expected cost of one training of a backbone and cut.

    Attributes:
        backbone: Name of the backbone.
        unfreeze: The part of it that is trained.
        trainable_parameters: Number of trained parameters in the tail, without the head.
        cached: Whether the trunk cache keeps the inputs of the tail, or of the head if only the head is trained.
        full_seconds: Seconds with every epoch of head and tail.
        usual_seconds: Expected seconds, with pruning and early stopping.
        num_expected: Number of such trainings that the sweep is likely to draw.
        epochs: For every epoch of head and tail, in order, its seconds and the chance that it is trained.
    """

    backbone: str
    unfreeze: str
    trainable_parameters: int
    cached: bool
    full_seconds: float
    usual_seconds: float
    num_expected: float
    epochs: tuple[tuple[float, float], ...]

    def seconds_after(self, step: int) -> float:
        """Return the expected remaining seconds of a training that has reached this step and was not pruned there.

        Args:
            step: Epochs reported, as `search.pruner.rung_step` counts them; 0 for none.
        """
        following = self.epochs[step:]
        reached = following[0][1] if step and following else 1.0
        return sum(seconds * chance / reached for seconds, chance in following) if reached else 0.0

    @property
    def finished_seconds(self) -> float:
        """Seconds of a training that is never pruned but stops early."""
        return TRIAL_SECONDS + sum(seconds for seconds, chance in self.epochs if chance)


@dataclass(frozen=True)
class Plan:
    """The expected cost of a sweep.

    Attributes:
        num_configurations: Number of configurations still to train.
        hours: Hours of this machine for the search, all workers together.
        num_confirming: Number of confirming trainings after the search, including those already done.
        confirming_hours: Hours of computation for the confirming trainings.
        cache_gb: Size of the trunk caches, which are limited to the room on the disk and evict entries if necessary.
        model_gb: Size of the kept models and checkpoints.
        free_gb: Free space on the disk of `SATX_HOME`.
        machine_factor: Slowness of this machine relative to the catalogue's, core for core; 1 if it was not measured.
        filling_seconds: By backbone, seconds to compute what its trunk cache lacks; part of `hours`.
        closing_seconds: Seconds for models, plots and baselines at the end.
        trainings: Expected cost of one training, for every backbone and cut.
    """

    num_configurations: int
    hours: float
    num_confirming: int
    confirming_hours: float
    cache_gb: float
    model_gb: float
    free_gb: float
    machine_factor: float
    filling_seconds: Mapping[str, float]
    closing_seconds: float
    trainings: tuple[Training, ...]

    @property
    def total_seconds(self) -> float:
        """Seconds of the search, the confirming trainings and the final steps."""
        return (self.hours + self.confirming_hours) * 3600 + self.closing_seconds

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as JSON values, without the single epochs."""
        values = asdict(self)
        for training in values["trainings"]:
            del training["epochs"]
        return values


def plan_sweep(
    prepared: PreparedSession, sweep: SweepConfig, num_configurations: int, *, machine_factor: float = 1.0
) -> Plan:
    """Estimate the cost of a sweep.

    Args:
        prepared: Tiles and weights.
        sweep: The sweep.
        num_configurations: Number of configurations still to train.
        machine_factor: Result of `training.speed.machine_factor`.
    """
    settings = settings_of(sweep, prepared.defaults)
    kept = cuts_to_keep(sweep, prepared.defaults, prepared.store, satx_home() / "cache", num_trials=sweep.trials)
    draws = expected_draws(sweep, prepared.defaults, num_configurations)
    chances = Chances(sweep, prepared.defaults, draws, num_done=sweep.trials - num_configurations)
    forward = {name: _seconds_per_megapixel(name, machine_factor) for name in sweep.backbones}
    trainings = tuple(
        _training(kind, settings, prepared.store, kept[kind[0]], forward[kind[0]], chances, draws[kind])
        for kind in draws
    )
    filling = dict.fromkeys(sweep.backbones, 0.0)
    if num_configurations:
        filling = {name: _filling_seconds(prepared, settings, name, kept[name], forward[name]) for name in filling}
    slowness, num_models = min(MAX_SLOWNESS, max(1.0, machine_factor)), sweep.keep_models_per_backbone
    search = slowness * _starting_seconds(trainings) + sum(one.num_expected * one.usual_seconds for one in trainings)
    num_confirming, num_views = (
        sweep.confirm.num_configurations * sweep.confirm.num_seeds,
        settings.augmentation.num_views,
    )
    weights_gb = sum(Path(prepared.weights[name].file).stat().st_size / 1e9 for name in sweep.backbones)
    return Plan(
        num_configurations=num_configurations,
        hours=(search + sum(filling.values())) / 3600 if num_configurations else 0.0,
        num_confirming=num_confirming,
        confirming_hours=num_confirming * _confirming_seconds(trainings, chances) / 3600,
        cache_gb=sum(entry_gb(name, cut, prepared.store, num_views) for name in sweep.backbones for cut in kept[name]),
        model_gb=weights_gb * (num_models + 4),  # 4 for one checkpoint with its optimizer
        free_gb=shutil.disk_usage(satx_home()).free / 1e9,
        machine_factor=machine_factor,
        filling_seconds=filling,
        closing_seconds=slowness * len(sweep.backbones) * (BASELINE_SECONDS + MODEL_SECONDS * num_models),
        trainings=trainings,
    )


def expected_draws(sweep: SweepConfig, defaults: Configuration, num_left: int) -> dict[Kind, float]:
    """Return the expected number of coming trainings, by backbone and cut.

    Queued configurations are counted as they are. For the remaining draws, each backbone is expected to reach an equal
    share of all draws, since it is unknown which one will lead (`search.sampler`), and each of its cuts an equal part.
    """
    settings = settings_of(sweep, defaults)
    cuts = {name: unfreeze_choices(sweep, name, settings) for name in sweep.backbones}
    draws = {(name, cut): 0.0 for name in sweep.backbones for cut in cuts[name]}
    num_done = sweep.trials - num_left
    queued = sweep.start[num_done : num_done + num_left]
    of_backbone = dict.fromkeys(sweep.backbones, 0.0)
    for start in queued:
        name = str(start.get(BACKBONE, sweep.backbones[0]))
        chosen = [str(start[UNFREEZE])] if UNFREEZE in start else cuts[name]
        of_backbone[name] += 1
        for cut in chosen:
            draws[name, cut] += 1 / len(chosen)
    behind = {name: max(0.0, num_left / len(sweep.backbones) - num) for name, num in of_backbone.items()}
    num_free = num_left - len(queued)
    for name, cut in draws:
        share = behind[name] / sum(behind.values()) if num_free else 0.0
        draws[name, cut] += num_free * share / len(cuts[name])
    return draws


def _training(
    kind: Kind,
    settings: Configuration,
    store: TileStore,
    kept: tuple[str, ...],
    seconds_per_megapixel: float,
    chances: Chances,
    num_expected: float,
) -> Training:
    backbone, cut = kind
    megapixels = {split: len(store.rows(split)) * store.image_size_px**2 / 1e6 for split in ("train", "valid")}
    whole_pass = seconds_per_megapixel * sum(megapixels.values())
    head = HEAD_SECONDS_PER_TILE * len(store.rows("train")) + (0.0 if NONE in kept else whole_pass)
    parameters = BACKBONES[backbone].tail_parameters(cut)
    cached = cut in kept
    pace = WHOLE_PACE if cut == ALL else CUT_PACE if cached else 1.0
    tail = seconds_per_megapixel * (
        pace * epoch_factor(backbone, cut, cached=cached) * megapixels["train"]
        + scoring_factor(backbone, cut, cached=cached) * megapixels["valid"]
    )
    tail += CHECKPOINT_SECONDS_PER_PARAMETER * parameters
    num_tail_epochs = 0 if cut == NONE else settings.train.finetune_epochs
    seconds = [head] * settings.train.head_epochs + [tail] * num_tail_epochs
    epochs = tuple(zip(seconds, chances.of(kind), strict=True))
    return Training(
        backbone=backbone,
        unfreeze=cut,
        trainable_parameters=parameters,
        cached=cached,
        full_seconds=TRIAL_SECONDS + sum(seconds),
        usual_seconds=TRIAL_SECONDS + sum(one * chance for one, chance in epochs),
        num_expected=num_expected,
        epochs=epochs,
    )


def _seconds_per_megapixel(backbone: str, machine_factor: float) -> float:
    """Return the seconds of a forward pass over a megapixel of tiles, on all cores."""
    return BACKBONES[backbone].core_seconds_per_megapixel * machine_factor / (os.cpu_count() or 1)


def _filling_seconds(
    prepared: PreparedSession,
    settings: Configuration,
    backbone: str,
    cuts: tuple[str, ...],
    seconds_per_megapixel: float,
) -> float:
    """Return the seconds of one pass over the tiles that any of these cuts lacks.

    Files are counted but not verified, since verification would read all of them.
    """
    source = trunk_source(settings, prepared.store, prepared.weights[backbone], satx_home() / "cache")
    sizes = [len(prepared.store.rows(split)) for split, _ in entries_of(source.augmentation)]
    num_shards = sum(math.ceil(size / SHARD_TILES) for size in sizes)
    num_there = min((len(list((source.folder / cut).glob("*.npy"))) for cut in cuts), default=num_shards)
    megapixels = sum(sizes) * prepared.store.image_size_px**2 / 1e6
    return seconds_per_megapixel * megapixels * max(0.0, 1 - num_there / num_shards)


def _starting_seconds(trainings: tuple[Training, ...]) -> float:
    """Return the expected seconds in which a worker starts, builds backbones and traces steps.

    Several workers do this in parallel, so it is counted once.
    """
    drawn = {training.backbone for training in trainings if training.num_expected}
    traced = [
        min(1.0, training.num_expected)
        * max(1.0, TRACE_SECONDS * BACKBONES[training.backbone].tail_share(training.unfreeze))
        for training in trainings
        if training.unfreeze != NONE
    ]
    return WORKER_SECONDS + BACKBONE_SECONDS * len(drawn) + sum(traced)


def _confirming_seconds(trainings: tuple[Training, ...], chances: Chances) -> float:
    """Return the expected seconds of one confirming training.

    Of the tails that train to their end, deeper ones are more likely to be among the best, so they get a higher weight.
    In the sweep `seed200` on real tiles, the best three trained a whole backbone, although most of those that trained
    to their end did not.
    """
    tails = [training for training in trainings if training.unfreeze != NONE] or list(trainings)
    ends = [chances.of_an_end((training.backbone, training.unfreeze)) for training in tails]
    depths = [BACKBONES[training.backbone].tail_share(training.unfreeze) or 1.0 for training in tails]
    weights = [end * depth for end, depth in zip(ends, depths, strict=True)]
    total = sum(weights)
    return (
        sum(one.finished_seconds * weight for one, weight in zip(tails, weights, strict=True)) / total if total else 0.0
    )
