"""Make study and runs agree after a crash: what was lost is queued again or closed, exactly once.

Everything is derived from what is on record (trials with their configuration and owner, runs with their configuration),
so it does not matter between which two writes a process died. Run by the driver before it starts workers and whenever
one of them ends.
"""

from __future__ import annotations

import datetime
from collections import defaultdict
from enum import StrEnum

import optuna
from optuna.trial import FrozenTrial, TrialState

from satx.search.study import DONE, owner_is_dead
from satx.tracking.runs import WAITING
from satx.tracking.tracker import MlflowClient

MAX_CRASHES = 2  # a configuration that took its process down twice is not tried a third time
GRACE_SECONDS = 30  # a worker writes its name on a trial right after taking it


class Outcome(StrEnum):
    """How an attempt ended without a result; the user attribute `outcome` of a failed trial."""

    FAILED = "failed"
    LOST = "lost"
    INTERRUPTED = "interrupted"
    DUPLICATE = "duplicate"
    SURPLUS = "surplus"


def reconcile(study: optuna.Study, client: MlflowClient, experiment_id: str) -> None:
    """Fail the trials of dead workers, queue what was lost or interrupted again, and close or park the runs."""
    _fail_trials_of_the_dead(study)
    attempts = _attempts(study)
    for trials in attempts.values():
        _queue_again(study, trials)
    _settle_runs(client, experiment_id, study, _attempts(study))


def num_failures_in_a_row(study: optuna.Study) -> int:
    """How many of the latest results were failures (crashes included), counted back from the newest."""
    ended = [t for t in study.get_trials(deepcopy=False) if t.state.is_finished() and t.datetime_complete is not None]
    count = 0
    for trial in sorted(ended, key=lambda t: str(t.datetime_complete), reverse=True):
        if trial.state in DONE:
            break
        count += trial.user_attrs.get("outcome") in (Outcome.FAILED, Outcome.LOST)
    return count


def _fail_trials_of_the_dead(study: optuna.Study) -> None:
    now = datetime.datetime.now()
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        owner = trial.user_attrs.get("owner")
        started = trial.datetime_start or now
        nameless = owner is None and (now - started).total_seconds() > GRACE_SECONDS
        if nameless or owner_is_dead(owner):
            study._storage.set_trial_user_attr(trial._trial_id, "outcome", Outcome.LOST)
            study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)


def _attempts(study: optuna.Study) -> dict[str, list[FrozenTrial]]:
    attempts: dict[str, list[FrozenTrial]] = defaultdict(list)
    for trial in study.get_trials(deepcopy=False):
        if "configuration" in trial.user_attrs and trial.user_attrs.get("outcome") not in (
            Outcome.DUPLICATE,
            Outcome.SURPLUS,
        ):
            attempts[trial.user_attrs["configuration"]].append(trial)
    return attempts


def _queue_again(study: optuna.Study, trials: list[FrozenTrial]) -> None:
    if any(trial.state in (*DONE, TrialState.RUNNING, TrialState.WAITING) for trial in trials):
        return
    outcomes = [trial.user_attrs.get("outcome", Outcome.LOST) for trial in trials]
    crashes = outcomes.count(Outcome.LOST)
    if outcomes[-1] in (Outcome.LOST, Outcome.INTERRUPTED) and crashes < MAX_CRASHES:
        last = trials[-1]
        study.enqueue_trial(
            last.params, user_attrs={"configuration": last.user_attrs["configuration"], "retry_of": last.number}
        )


def _settle_runs(
    client: MlflowClient, experiment_id: str, study: optuna.Study, attempts: dict[str, list[FrozenTrial]]
) -> None:
    """A run is RUNNING only while somebody works on it."""
    for status in ("RUNNING", WAITING):
        query = f"tags.study = '{study.study_name}' and attributes.status = '{status}'"
        for run in client.search_runs([experiment_id], filter_string=query, max_results=5000):
            configuration = run.data.tags.get("configuration")
            if configuration is None:
                continue  # the sweep's own run is the driver's
            wanted, reason = _status_on_record(attempts.get(configuration, []))
            if wanted == run.info.status:
                continue
            if wanted == WAITING:
                client.update_run(run.info.run_id, status=WAITING)
            else:
                if reason:
                    client.set_tag(run.info.run_id, "reason", reason)
                client.set_terminated(run.info.run_id, status=wanted)


def _status_on_record(trials: list[FrozenTrial]) -> tuple[str, str]:
    states = {trial.state for trial in trials}
    if TrialState.RUNNING in states:
        return "RUNNING", ""
    if TrialState.COMPLETE in states:
        return "FINISHED", ""
    if TrialState.PRUNED in states:
        return "KILLED", ""
    if TrialState.WAITING in states:
        return WAITING, ""
    return "FAILED", "its process died twice" if trials else "its trial was never recorded"
