"""Chances that a trial trains its next epochs, estimated before it starts from the pruner's rule and early stopping."""

from __future__ import annotations

import math
from collections.abc import Mapping

from satx.catalogue import NONE
from satx.config import Configuration, TrainConfig
from satx.search.costs import epoch_cost
from satx.search.pruner import TAIL_RUNGS_EPOCHS, RungPruner
from satx.search.space import SweepConfig, settings_of

MEDIAN_SHARE = 0.5  # share of trials that Optuna's median pruner lets through


class Chances:
    """Chances of the trials of one sweep."""

    def __init__(
        self, sweep: SweepConfig, defaults: Configuration, draws: Mapping[tuple[str, str], float], *, num_done: int
    ) -> None:
        """Compute the chance of passing each rung.

        Args:
            sweep: The sweep, with its pruner and sampler.
            defaults: The session's settings.
            draws: Expected number of coming trials, by backbone and cut.
            num_done: Trials on record, with which the pruner compares the coming ones.
        """
        self.settings: TrainConfig = settings_of(sweep, defaults).train
        self.pruner, self.is_searching = sweep.pruner, sweep.sampler.name == "tpe"
        self.rungs = RungPruner(sweep, defaults) if sweep.pruner.name == "rungs" else None
        num_free = max(0.0, sweep.pruner.num_startup_trials - num_done)  # not judged: too few trials to compare with
        self.starting = {}
        for backbone, cut in draws:
            free_here = max(0.0, sweep.pruner.num_startup_trials - num_done / len(sweep.backbones))
            num_here = sum(num for (name, _), num in draws.items() if name == backbone)
            self.starting[backbone, cut] = _with_free(self._of_starting(backbone, cut), free_here, num_here)
        num_tails = sum(num * self.starting[kind] for kind, num in draws.items() if kind[1] != NONE)
        self.passing: dict[int, float] = {}
        for rung in TAIL_RUNGS_EPOCHS if self.rungs is not None else ():
            self.passing[rung] = _with_free(self._passes(sweep.pruner.keep), num_free, num_tails)
            num_tails *= self.passing[rung]

    def of(self, kind: tuple[str, str]) -> list[float]:
        """Return, for each epoch of head and tail, the chance that a trial of this backbone and cut trains it."""
        heads = _until_early_stopping([1.0] * self.settings.head_epochs, self.settings)
        if kind[1] == NONE:
            return heads
        tails, chance = [], self.starting[kind]
        for epoch in range(1, self.settings.finetune_epochs + 1):
            tails.append(chance)
            chance *= self.passing.get(epoch, 1.0)
        return [*heads, *_until_early_stopping(tails, self.settings)]

    def of_an_end(self, kind: tuple[str, str]) -> float:
        """Return the chance that a trial of this backbone and cut is never pruned."""
        return self.starting[kind] * math.prod(self.passing.values()) if kind[1] != NONE else 1.0

    def _of_starting(self, backbone: str, cut: str) -> float:
        if cut == NONE or self.pruner.name == "none":
            return 1.0
        return self._passes(MEDIAN_SHARE if self.rungs is None else self.rungs.share(epoch_cost(backbone, cut)))

    def _passes(self, share: float) -> float:
        """Return the chance of passing a rung that keeps this share of the trials.

        A rung ranks a trial among all earlier ones. A search improves over time, so more trials pass than the share.
        In 200 trials of TPE with `keep` at 0.33, the 53 trials with a cheap tail trained 178 epochs of it, and the 76
        trials with an expensive tail trained 152. The square root of the share predicts 153 and 167, the share itself
        68 and 56.
        """
        return math.sqrt(share) if self.is_searching else share


def _with_free(share: float, num_free: float, total: float) -> float:
    """Return the share of `total` trials that passes if the first `num_free` of them always pass."""
    free = min(1.0, num_free / total) if total else 1.0
    return free + (1 - free) * share


def _until_early_stopping(chances: list[float], settings: TrainConfig) -> list[float]:
    """Set the chances to 0 where early stopping ends a phase with its best epoch in the middle, the average case."""
    last = math.ceil(len(chances) / 2) + settings.early_stopping_patience_epochs
    return [chance if number < last else 0.0 for number, chance in enumerate(chances)]
