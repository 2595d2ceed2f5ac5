"""Checks of a drawn configuration before it is trained: duplicates, surplus trials, batches too large for memory."""

from __future__ import annotations

import time
from collections.abc import Callable

import optuna
from optuna.trial import FrozenTrial, TrialState

from satx.catalogue import ALL, BACKBONES, NONE
from satx.config import Configuration
from satx.errors import TrialFailed
from satx.study.outcomes import DONE, Outcome, counted_of, is_given_up, num_duplicates_in_a_row
from satx.study.owner import owner_is_dead
from satx.study.reconcile import GRACE_SECONDS

LOOK_AGAIN_SECONDS = 0.05


def known_value(trials: list[FrozenTrial], trial: optuna.Trial, digest: str) -> float | None:
    """Return the value of a configuration that another trial finished, or None; a configuration is never trained twice.

    Raises:
        TrialPruned: The other trial was pruned.
        TrialFailed: The configuration is queued or being trained, or it failed for good.
    """
    others = attempts_at(trials, trial, digest)
    for other in others:
        if other.state in DONE:
            trial.set_user_attr("duplicate_of", other.number)
            for step, value in other.intermediate_values.items():
                trial.report(value, step)
            if other.state == TrialState.PRUNED:
                raise optuna.TrialPruned(f"the same configuration as trial {other.number}")
            return other.value
    under_way = any(not other.state.is_finished() and other.number < trial.number for other in others)
    if under_way or is_given_up(others):
        trial.set_user_attr("outcome", Outcome.DUPLICATE)
        why = "is queued or being trained" if under_way else "failed for good"
        raise TrialFailed(f"Trial {others[0].number} has the same configuration and {why}.")
    return None


def attempts_at(trials: list[FrozenTrial], trial: optuna.Trial, digest: str) -> list[FrozenTrial]:
    """Return the other trials that drew this configuration."""
    drew = [other for other in trials if other.user_attrs.get("configuration") == digest]
    return [other for other in drew if other.number != trial.number]


def once_earlier_have_drawn(study: optuna.Study, trial: optuna.Trial, trials: list[FrozenTrial]) -> list[FrozenTrial]:
    """Return all trials, once every earlier running trial has recorded its configuration.

    So of two trials that draw the same configuration, the later one can be refused.

    Args:
        study: Its trials are read again while an earlier trial has not recorded its configuration.
        trial: The later trial.
        trials: All trials, read after `trial` began.
    """
    deadline = time.monotonic() + GRACE_SECONDS
    while True:
        earlier = [other for other in trials if other.state == TrialState.RUNNING and other.number < trial.number]
        undrawn = [other for other in earlier if "configuration" not in other.user_attrs]
        if all(owner_is_dead(other.user_attrs.get("owner")) for other in undrawn) or time.monotonic() > deadline:
            return trials
        time.sleep(LOOK_AGAIN_SECONDS)
        trials = study.get_trials(deepcopy=False)


def refuse_surplus(trials: list[FrozenTrial], trial: optuna.Trial, wanted: int) -> None:
    """Refuse a trial beyond the number wanted; several workers may start their last trials at once.

    Raises:
        TrialFailed: Enough configurations are done, or are running or queued as earlier trials.
    """
    ahead = [other for other in trials if not other.state.is_finished() and other.number < trial.number]
    if len(counted_of(trials)) + len(ahead) >= wanted:
        trial.set_user_attr("outcome", Outcome.SURPLUS)
        raise TrialFailed(f"{wanted} configurations are already done, running or queued.")


def refuse_too_large(
    trials: list[FrozenTrial],
    trial: optuna.Trial,
    configuration: Configuration,
    drawn: Callable[[FrozenTrial], Configuration],
) -> None:
    """Refuse a batch as large as one that ran out of memory, if it trains as much of the same backbone or more.

    Args:
        trials: All trials.
        trial: The trial that drew `configuration`.
        configuration: The configuration that the trial is about to train.
        drawn: Returns the configuration of another trial.

    Raises:
        TrialFailed: The batch would not fit.
    """
    model, size = configuration.model, configuration.train.batch_size
    depths = (ALL, *BACKBONES[model.backbone].cuts, NONE)
    for other in [other for other in trials if other.user_attrs.get("outcome") == Outcome.OUT_OF_MEMORY]:
        theirs, too_large = drawn(other).model, drawn(other).train.batch_size
        as_deep = theirs.backbone == model.backbone and depths.index(model.unfreeze) <= depths.index(theirs.unfreeze)
        if as_deep and size >= too_large:
            trial.set_user_attr("outcome", Outcome.TOO_LARGE)
            raise TrialFailed(
                f"A batch of {too_large} of {theirs.backbone}, unfreeze={theirs.unfreeze}, did not fit in memory in trial "
                f"{other.number}; a batch of {size} is not tried."
            )


def why_exhausted(study: optuna.Study) -> str:
    """Return the reason why a sweep ended with fewer configurations than were wanted, for its message."""
    trials = study.get_trials(deepcopy=False)
    latest = [trial for trial in trials if trial.state.is_finished()][-num_duplicates_in_a_row(study, trials) :]
    num_too_large = sum(trial.user_attrs.get("outcome") == Outcome.TOO_LARGE for trial in latest)
    if not num_too_large:
        return "the search space contains no others"
    return (
        f"the search space contains no others that fit in memory ({num_too_large} of the last {len(latest)} draws had a batch as "
        f"large as one that did not). Add smaller values of train.batch_size"
    )
