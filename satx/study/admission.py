"""Draws that are not trained: what was trained before, what is more than was asked for, and what does not fit in memory."""

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
    """The value of a configuration that another trial finished; a configuration is never trained twice.

    Raises:
        TrialPruned: It was pruned then, so it is pruned now.
        TrialFailed: It is queued or being trained, or it failed for good.
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
        raise TrialFailed(f"The same configuration as that of trial {others[0].number}, which {why}.")
    return None


def attempts_at(trials: list[FrozenTrial], trial: optuna.Trial, digest: str) -> list[FrozenTrial]:
    """The other trials that drew this configuration."""
    drew = [other for other in trials if other.user_attrs.get("configuration") == digest]
    return [other for other in drew if other.number != trial.number]


def once_earlier_have_drawn(study: optuna.Study, trial: optuna.Trial, trials: list[FrozenTrial]) -> list[FrozenTrial]:
    """All trials, once every earlier one has written down what it drew: of two that draw alike, the later one gives way.

    Args:
        study: Read again while one has not.
        trial: The later one.
        trials: All, read after `trial` began.
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
    """Several workers may start their last trials at once.

    Raises:
        TrialFailed: As many as are wanted are done, or are under way or queued as earlier trials.
    """
    ahead = [other for other in trials if not other.state.is_finished() and other.number < trial.number]
    if len(counted_of(trials)) + len(ahead) >= wanted:
        trial.set_user_attr("outcome", Outcome.SURPLUS)
        raise TrialFailed(f"{wanted} configurations are done or under way already.")


def refuse_too_large(
    trials: list[FrozenTrial],
    trial: optuna.Trial,
    configuration: Configuration,
    drawn: Callable[[FrozenTrial], Configuration],
) -> None:
    """Where a batch did not fit, no larger one of the same backbone is tried that trains as much or more.

    Args:
        trials: All.
        trial: The one that drew `configuration`.
        configuration: What it is about to train.
        drawn: The configuration of another trial.

    Raises:
        TrialFailed: It would not fit.
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
                f"{other.number}; {size} is not tried."
            )


def why_exhausted(study: optuna.Study) -> str:
    """What to say of a sweep that ended with fewer configurations than were wanted."""
    trials = study.get_trials(deepcopy=False)
    latest = [trial for trial in trials if trial.state.is_finished()][-num_duplicates_in_a_row(study, trials) :]
    num_too_large = sum(trial.user_attrs.get("outcome") == Outcome.TOO_LARGE for trial in latest)
    if not num_too_large:
        return "its space has no more of them"
    return (
        f"its space has no more of them that fit in memory ({num_too_large} of the last {len(latest)} draws had a batch as large "
        f"as one that did not). Give it smaller values of train.batch_size"
    )
