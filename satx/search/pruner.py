"""Which trials go on: rungs by phase, where what is expensive must be earned.

Every trial trains its head first, which from the trunk cache costs next to nothing. The head's result decides, against the
heads of the same backbone, whether the tail may start: the dearer the tail, the better the head must be. Two rungs within
the tail compare all trials at the same epoch of their tails, whatever they cost.

Successive halving by rungs is that of Jamieson and Talwalkar 2016, made asynchronous as in Li et al. 2020 (ASHA).
"""

from __future__ import annotations

import math
import statistics

import optuna
from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial, TrialState

from satx.catalogue import NONE
from satx.config import Configuration
from satx.search.costs import epoch_cost
from satx.search.space import BACKBONE, UNFREEZE, SweepConfig, settings_of, unfreeze_choices, value_of

TAIL_RUNGS_EPOCHS = (1, 3)
MAX_SHARE = 0.8  # even the cheapest tails are not all worth it


class RungPruner(BasePruner):
    """Prunes at the end of the head phase and at two epochs of the tail, by validation AUC."""

    def __init__(self, sweep: SweepConfig, defaults: Configuration) -> None:
        """Read the rungs and the costs of what the sweep may draw."""
        settings = settings_of(sweep, defaults)
        self.sweep, self.keep = sweep, sweep.pruner.keep
        self.num_startup_trials = sweep.pruner.num_startup_trials
        self.tail_rungs_epochs = TAIL_RUNGS_EPOCHS
        self.head_epochs = settings.train.head_epochs
        costs = [
            epoch_cost(backbone, unfreeze)
            for backbone in sweep.backbones
            for unfreeze in unfreeze_choices(sweep, backbone, settings)
            if unfreeze != NONE
        ]
        self.usual_cost = statistics.median(costs) if costs else 1.0

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Whether the trial, which has just reported, is not worth its next epochs."""
        step = trial.last_step
        if step is None or step not in (
            self.head_epochs,
            *(self.head_epochs + rung for rung in self.tail_rungs_epochs),
        ):
            return False
        backbone, unfreeze = (str(value_of(self.sweep, trial, name)) for name in (BACKBONE, UNFREEZE))
        if unfreeze == NONE:
            return False
        at_head = step == self.head_epochs
        others = [
            _best_until(other, step)
            for other in study.get_trials(deepcopy=False)
            if other.number != trial.number
            and other.state != TrialState.FAIL  # its next attempt stands for it
            and "duplicate_of" not in other.user_attrs
            and _reached(other, step, at_head=at_head)
            and (not at_head or value_of(self.sweep, other, BACKBONE) == backbone)
        ]
        if len(others) < self.num_startup_trials:
            return False
        share = self.share(epoch_cost(backbone, unfreeze)) if at_head else self.keep
        own = _best_until(trial, step)
        num_better = sum(value > own for value in others)
        return num_better >= share * (len(others) + 1)

    def share(self, cost: float) -> float:
        """Of heads that may start a tail of this cost: `keep` at the sweep's median, falling with the root of the cost."""
        return min(MAX_SHARE, self.keep * math.sqrt(self.usual_cost / cost))


def rung_step(phase: str, phase_epoch: int, head_epochs: int) -> int:
    """The step an epoch is reported under: a tail's first epoch is `head_epochs + 1`, however early the head stopped."""
    return phase_epoch if phase == "head" else head_epochs + phase_epoch


def _reached(trial: FrozenTrial, step: int, *, at_head: bool) -> bool:
    """A head that stopped early has come as far as it will; a rung of tails is for those that have one."""
    if trial.last_step is None:
        return False
    return trial.last_step >= step or (at_head and trial.state == TrialState.COMPLETE)


def _best_until(trial: FrozenTrial, step: int) -> float:
    return max(value for at, value in trial.intermediate_values.items() if at <= step)


def pruner_for(sweep: SweepConfig, defaults: Configuration) -> optuna.pruners.BasePruner:
    """The sweep's pruner."""
    settings = sweep.pruner
    if settings.name == "rungs":
        return RungPruner(sweep, defaults)
    if settings.name == "median":
        return optuna.pruners.MedianPruner(settings.num_startup_trials, n_warmup_steps=settings.num_warmup_epochs)
    return optuna.pruners.NopPruner()
