"""How trials ended, and counts over them: what is done, what failed for good, and when failures stop a sweep."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

import optuna
from optuna.trial import FrozenTrial, TrialState

DONE = (TrialState.COMPLETE, TrialState.PRUNED)
MAX_CRASHES = 2  # a configuration whose process crashed twice is not tried a third time
MAX_VANISHED = 8  # higher limit for attempts lost with their machine, which is rarely the fault of the configuration
MAX_FAILURES_IN_A_ROW = 5  # then the sweep stops
CALLED_AT = "called_at_seconds"  # attribute of the study: when the driver last started, in seconds since 1970


class Outcome(StrEnum):
    """How an attempt ended without a result; the user attribute `outcome` of a failed trial.

    A failed trial without the attribute has vanished: its machine sent no more heartbeats, and Optuna failed the trial.
    """

    FAILED = "failed"
    OUT_OF_MEMORY = "out of memory"
    LOST = "lost"
    STARVED = "lost, perhaps for want of memory"
    INTERRUPTED = "interrupted"
    DUPLICATE = "duplicate"
    SURPLUS = "surplus"
    TOO_LARGE = "too large"


VANISHED = "lost with its machine"  # how a failed trial without the attribute `outcome` is described
# What Optuna's dashboard shows with trials that Optuna counts as failed, but whose configuration did not fail.
NOT_FAILED: Mapping[str, str] = MappingProxyType(
    {
        Outcome.INTERRUPTED: "**Interrupted, not failed.** Its process was stopped. A later trial continues with its "
        "configuration, in the same MLflow run.",
        Outcome.LOST: "**Lost, not failed.** Its process died. Its configuration is tried once more.",
        Outcome.STARVED: "**Lost, perhaps for want of memory.** The kernel ended a process on its machine. Its "
        "configuration is tried once more.",
        VANISHED: "**Lost, not failed.** Its machine sent no more heartbeats. A later trial tries its configuration again.",
        Outcome.DUPLICATE: "**Refused, not failed.** Another trial has the same configuration; this one trained nothing.",
        Outcome.SURPLUS: "**Not needed.** Enough configurations were done without it; it trained nothing.",
        Outcome.TOO_LARGE: "**Refused.** A batch of this size or smaller ran out of memory before; it trained nothing.",
    }
)
FAILED_FOR_GOOD = (Outcome.FAILED, Outcome.OUT_OF_MEMORY)
REFUSED_AT_ONCE = (Outcome.DUPLICATE, Outcome.TOO_LARGE)  # not counted as attempts: nothing was trained
ATTEMPTS_FAILED = (*FAILED_FOR_GOOD, Outcome.LOST, Outcome.STARVED)


def counted(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that count towards `TRIALS`: finished and pruned configurations, each once."""
    return counted_of(study.get_trials(deepcopy=False))


def counted_of(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    """Return the trials that count towards `TRIALS`, of trials that were read already."""
    return [trial for trial in trials if trial.state in DONE and "duplicate_of" not in trial.user_attrs]


def is_complete(study: optuna.Study) -> bool:
    """Return whether as many configurations are done as are wanted."""
    return bool(len(counted(study)) >= study.user_attrs.get("trials", float("inf")))


def is_given_up(attempts: list[FrozenTrial]) -> bool:
    """Return whether a configuration failed for good.

    It did if one attempt failed or ran out of memory, or if its process or its machine died too often.

    Args:
        attempts: The trials of the configuration, none of which succeeded.
    """
    outcomes = [trial.user_attrs.get("outcome") for trial in attempts if trial.state == TrialState.FAIL]
    crashes = outcomes.count(Outcome.LOST) + outcomes.count(Outcome.STARVED)
    too_often = crashes >= MAX_CRASHES or outcomes.count(None) >= MAX_VANISHED
    return too_often or not {*FAILED_FOR_GOOD}.isdisjoint(outcomes)


def num_duplicates_in_a_row(study: optuna.Study, trials: list[FrozenTrial] | None = None) -> int:
    """Count the latest draws in a row that were duplicates or too large to train; 0 while trials are queued."""
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
    """Count the latest results in a row that were failures (crashes included), back from the newest.

    Failures before the current call of the sweep do not count: their common cause may have been fixed since.

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
    """Return the error message if so many trials in a row failed that the sweep stops; None otherwise.

    Args:
        study: The study.
        trials: Its trials, if they were read already.
    """
    if num_failures_in_a_row(study, trials) < MAX_FAILURES_IN_A_ROW:
        return None
    return (
        f"Expected at most {MAX_FAILURES_IN_A_ROW - 1} failures in a row, got {MAX_FAILURES_IN_A_ROW}; the sweep was stopped. "
        f"See the tag `reason` of the failed runs, fix their common cause, and run the same command again."
    )
