"""How trials ended, and counts over them: what is done, what failed for good, and when failures stop a sweep."""

from __future__ import annotations

from enum import StrEnum

import optuna
from optuna.trial import FrozenTrial, TrialState

DONE = (TrialState.COMPLETE, TrialState.PRUNED)
MAX_CRASHES = 2  # a configuration that took its process down twice is not tried a third time
MAX_VANISHED = 8  # nor one whose machine was gone so often, which is rarely its fault
MAX_FAILURES_IN_A_ROW = 5  # then a sweep stops itself
CALLED_AT = "called_at_seconds"  # attribute of the study: when the driver was started last, seconds since 1970


class Outcome(StrEnum):
    """How an attempt ended without a result; the user attribute `outcome` of a failed trial.

    One without it has vanished: its machine was not heard of, and Optuna failed it.
    """

    FAILED = "failed"
    OUT_OF_MEMORY = "out of memory"
    LOST = "lost"
    STARVED = "lost, perhaps for want of memory"
    INTERRUPTED = "interrupted"
    DUPLICATE = "duplicate"
    SURPLUS = "surplus"
    TOO_LARGE = "too large"


FAILED_FOR_GOOD = (Outcome.FAILED, Outcome.OUT_OF_MEMORY)
REFUSED_AT_ONCE = (Outcome.DUPLICATE, Outcome.TOO_LARGE)  # draws that are no attempts: nothing of them was trained
ATTEMPTS_FAILED = (*FAILED_FOR_GOOD, Outcome.LOST, Outcome.STARVED)


def counted(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that count towards `TRIALS`: finished and pruned configurations, each once."""
    return counted_of(study.get_trials(deepcopy=False))


def counted_of(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    """The same of trials that were read already."""
    return [trial for trial in trials if trial.state in DONE and "duplicate_of" not in trial.user_attrs]


def is_complete(study: optuna.Study) -> bool:
    """Whether as many configurations are done as are wanted."""
    return bool(len(counted(study)) >= study.user_attrs.get("trials", float("inf")))


def is_given_up(attempts: list[FrozenTrial]) -> bool:
    """Whether a configuration failed for good: by its own fault or for memory once, or when its process died too often.

    Args:
        attempts: Its trials, none of which succeeded.
    """
    outcomes = [trial.user_attrs.get("outcome") for trial in attempts if trial.state == TrialState.FAIL]
    crashes = outcomes.count(Outcome.LOST) + outcomes.count(Outcome.STARVED)
    too_often = crashes >= MAX_CRASHES or outcomes.count(None) >= MAX_VANISHED
    return too_often or not {*FAILED_FOR_GOOD}.isdisjoint(outcomes)


def num_duplicates_in_a_row(study: optuna.Study, trials: list[FrozenTrial] | None = None) -> int:
    """How many of the latest draws had been trained before, or cannot be; 0 while there is work in the queue."""
    trials = study.get_trials(deepcopy=False) if trials is None else trials
    if any(trial.state == TrialState.WAITING for trial in trials):
        return 0
    count = 0
    for trial in reversed([trial for trial in trials if trial.state.is_finished()]):
        if "duplicate_of" not in trial.user_attrs and trial.user_attrs.get("outcome") not in REFUSED_AT_ONCE:
            break
        count += 1
    return count


def num_failures_in_a_row(study: optuna.Study, trials: list[FrozenTrial] | None = None) -> int:
    """How many of the latest results were failures (crashes included), counted back from the newest.

    Those before the current call of the sweep do not count: what they had in common may have been mended since.

    Args:
        study: The study.
        trials: Its trials, if they were read already.
    """
    trials = study.get_trials(deepcopy=False) if trials is None else trials
    if all(trial.state != TrialState.FAIL for trial in trials):
        return 0
    since = study.user_attrs.get(CALLED_AT, 0.0)
    ended = [(trial.datetime_complete.timestamp(), trial) for trial in trials if trial.datetime_complete is not None]
    ended = [(at, trial) for at, trial in ended if trial.state.is_finished() and at > since]
    count = 0
    for _, trial in sorted(ended, key=lambda pair: pair[0], reverse=True):
        if trial.state in DONE:
            break
        count += trial.user_attrs.get("outcome") in ATTEMPTS_FAILED
    return count


def too_many_failures(study: optuna.Study, trials: list[FrozenTrial] | None = None) -> str | None:
    """What is to be said when as many trials in a row failed that a sweep stops itself; None otherwise.

    Args:
        study: The study.
        trials: Its trials, if they were read already.
    """
    if num_failures_in_a_row(study, trials) < MAX_FAILURES_IN_A_ROW:
        return None
    return (
        f"Expected at most {MAX_FAILURES_IN_A_ROW - 1} failures in a row, got {MAX_FAILURES_IN_A_ROW}; the sweep stopped itself. "
        f"See the tag `reason` of the failed runs, mend what they share, and run the same command."
    )
