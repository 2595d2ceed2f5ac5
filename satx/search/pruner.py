"""Pruner that compares trials at rungs: after the head, taking the cost of the tail into account, and within the tail.

Every trial trains its head first, which costs next to nothing with the trunk cache. The score of the head, compared
with the heads of the same backbone, decides whether the tail starts: the more expensive the tail, the better the head
must be. Two rungs within the tail compare all trials at the same epoch of their tails, whatever the tails cost.

The rungs are those of successive halving (Jamieson and Talwalkar 2016), made asynchronous as in ASHA (Li et al. 2020).
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
MAX_SHARE = 0.8  # upper limit, since even of the cheapest tails not all are worth training


class RungPruner(BasePruner):
    """Pruner by validation AUC, at the end of the head phase and at two epochs of the tail."""

    def __init__(self, sweep: SweepConfig, defaults: Configuration) -> None:
        """Compute the rungs, and the median cost of the tails that the sweep may draw."""
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
        """Return whether the trial should be pruned at the step that it reported last."""
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
            and other.state != TrialState.FAIL  # its retry is compared instead
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
        """Return the share of heads that may start a tail of this cost.

        It is `keep` at the sweep's median cost, falls with the square root of the cost, and is at most `MAX_SHARE`.
        """
        return min(MAX_SHARE, self.keep * math.sqrt(self.usual_cost / cost))


def rung_step(phase: str, phase_epoch: int, head_epochs: int) -> int:
    """Return the step to report an epoch at; a tail begins at `head_epochs + 1`, even if the head stopped early."""
    return phase_epoch if phase == "head" else head_epochs + phase_epoch


def _reached(trial: FrozenTrial, step: int, *, at_head: bool) -> bool:
    """Return whether a trial can be compared at this step.

    At the head's rung, a complete trial counts even if its head stopped early; at a tail's rung, only trials whose tail
    reached the step count.
    """
    if trial.last_step is None:
        return False
    return trial.last_step >= step or (at_head and trial.state == TrialState.COMPLETE)


def _best_until(trial: FrozenTrial, step: int) -> float:
    return max(value for at, value in trial.intermediate_values.items() if at <= step)


def pruner_for(sweep: SweepConfig, defaults: Configuration) -> optuna.pruners.BasePruner:
    """Return the pruner that the sweep names."""
    settings = sweep.pruner
    if settings.name == "rungs":
        return RungPruner(sweep, defaults)
    if settings.name == "median":
        return optuna.pruners.MedianPruner(settings.num_startup_trials, n_warmup_steps=settings.num_warmup_epochs)
    return optuna.pruners.NopPruner()
