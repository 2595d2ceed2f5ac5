"""Failures one after another, which stop a sweep: what all its trials share is broken, and more of them would fail alike."""

from __future__ import annotations

import optuna
from optuna.trial import FrozenTrial, TrialState

from satx.search.reconcile import FAILED_FOR_GOOD, Outcome
from satx.search.study import DONE

ATTEMPTS_FAILED = (*FAILED_FOR_GOOD, Outcome.LOST, Outcome.STARVED)
MAX_FAILURES_IN_A_ROW = 5  # then a sweep stops itself
CALLED_AT = "called_at_seconds"  # attribute of the study: when the driver was started last, seconds since 1970


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
