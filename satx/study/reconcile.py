"""Reconcile study and runs after a crash: each lost trial is queued again or closed, exactly once.

Everything is derived from what is recorded (trials with their configuration and owner, runs with their configuration).
So it does not matter between which two writes a process died, or which process reconciles. The driver reconciles before
it starts workers and whenever one of them ends. Where machines share a study, workers do so between their trials.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from satx.storage import digest_of
from satx.study.database import alone_at, is_lost, shared_storage, was_away_lately
from satx.study.outages import BREAKS
from satx.study.outcomes import (
    DONE,
    MAX_CRASHES,
    NOT_FAILED,
    REFUSED_AT_ONCE,
    VANISHED,
    Outcome,
    is_complete,
    is_given_up,
)
from satx.study.owner import memory_ran_out_since, owner_is_dead
from satx.tracking.client import MlflowClient, is_away
from satx.tracking.runs import UNENDED, WAITING, find_runs, runs_query

logger = logging.getLogger(__name__)

GRACE_SECONDS = 30.0  # for a worker to record owner and configuration of a trial that it started
RECONCILE_SECONDS = 15.0
RECONCILED_AT = "reconciled_at"  # attribute of the study: when a process last reconciled it, in seconds since 1970


def reconcile(
    study: optuna.Study,
    client: MlflowClient,
    experiment_id: str,
    *,
    stopped_pids: frozenset[int] = frozenset(),
    grace_seconds: float = GRACE_SECONDS,
) -> None:
    """Fail the trials of dead workers, queue lost or interrupted configurations again, and close or park their runs.

    Args:
        study: The study.
        client: MLflow client.
        experiment_id: Experiment of the study's runs.
        stopped_pids: Workers on this machine that were killed on purpose; their trials do not count as crashes.
        grace_seconds: Time for a worker to set `owner` on a trial that it started; after that it counts as dead.
    """
    with alone_at(study, "reconciling"):  # two processes at once would queue a configuration twice
        _fail_trials_of_dead_workers(study, stopped_pids, grace_seconds)
        if is_complete(study):
            _empty_queue(study)
        else:
            for trials in _attempts(study).values():
                _queue_again(study, trials)
            _queue_undrawn_again(study)
        _describe_unfailed(study)
        _settle_runs(client, experiment_id, study)


def reconcile_now_and_then(study: optuna.Study, client: MlflowClient, experiment_id: str) -> None:
    """Reconcile if no process on any machine has done so lately; skipped while MLflow or a shared database is down.

    Args:
        study: The study.
        client: MLflow client.
        experiment_id: Experiment of the study's runs.
    """
    if abs(time.time() - study.user_attrs.get(RECONCILED_AT, 0.0)) < RECONCILE_SECONDS:
        return
    study.set_user_attr(RECONCILED_AT, time.time())
    with unless_away(study):
        reconcile(study, client, experiment_id)


@contextlib.contextmanager
def unless_away(study: optuna.Study) -> Iterator[None]:
    """Log a warning instead of raising if MLflow or a shared database is down; the work is left to a later call."""
    try:
        yield
    except BREAKS as error:
        if not is_away(error) and not (shared_storage(study) and is_lost(error)):
            raise
        logger.warning(
            "lost trials are reconciled later, since a server does not respond: %s", str(error).splitlines()[0][:200]
        )


def settle_leftovers(client: MlflowClient, experiment_id: str, storage: RDBStorage) -> None:
    """Close or park the runs that other sweeps and trainings left RUNNING when their process died.

    The run of a single training waits until its command is repeated. A sweep's own run and its baselines are closed
    until that sweep is started again. The studies of trials' runs are reconciled.

    Args:
        client: MLflow client.
        experiment_id: Experiment to search.
        storage: Storage of the studies that the runs name.
    """
    studies = set()
    for run in find_runs(client, experiment_id, runs_query(status="RUNNING")):
        tags = run.data.tags
        if owner_is_dead(json.loads(tags.get("owner", "null"))):
            if tags.get("kind") == "train":
                client.update_run(run.info.run_id, status=WAITING)
            else:
                client.set_terminated(run.info.run_id, status="KILLED")
        elif "configuration" in tags and "study" in tags:
            studies.add(tags["study"])
    known = set(optuna.get_all_study_names(storage=storage))
    for name in sorted(studies & known):
        reconcile(optuna.load_study(study_name=name, storage=storage), client, experiment_id)


def _fail_trials_of_dead_workers(study: optuna.Study, stopped_pids: frozenset[int], grace_seconds: float) -> None:
    now = datetime.datetime.now()
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        owner = trial.user_attrs.get("owner")
        started = trial.datetime_start or now
        is_late = (now - started).total_seconds() > grace_seconds
        if (owner is None and is_late and not was_away_lately(study)) or owner_is_dead(owner):
            try:
                study._storage.set_trial_user_attr(
                    trial._trial_id, "outcome", _how_it_ended(study, trial, stopped_pids)
                )
            except UpdateFinishedTrialError:
                continue  # it ended after it was listed
            study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        optuna.storages.fail_stale_trials(study)  # other machines' trials, by heartbeat; none on SQLite


def _how_it_ended(study: optuna.Study, trial: FrozenTrial, stopped_pids: frozenset[int]) -> Outcome:
    """Determine the outcome of a trial whose worker is dead.

    The kernel's count of out-of-memory kills does not say which process was killed. So one such death does not prove
    that the trial ran out of memory; a second one of the same configuration is taken as proof. Deaths before the first
    epoch do not count: the trial then fills caches, which take memory whatever its batch size.
    """
    owner = trial.user_attrs.get("owner")
    handed_back = trial.user_attrs.get("outcome") == Outcome.INTERRUPTED  # or was about to be when it was killed
    if handed_back or (owner is not None and owner["pid"] in stopped_pids):
        return Outcome.INTERRUPTED
    if not trial.intermediate_values or not memory_ran_out_since(owner):
        return Outcome.LOST
    attempts = _attempts(study).get(trial.user_attrs["configuration"], [])
    before = [attempt for attempt in attempts if attempt.number != trial.number]
    twice = any(attempt.user_attrs.get("outcome") == Outcome.STARVED for attempt in before)
    return Outcome.OUT_OF_MEMORY if twice else Outcome.STARVED


def _empty_queue(study: optuna.Study) -> None:
    """Close the waiting trials once enough configurations are done; they are queued again if more are wanted later."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        # A worker may start this trial at the same moment; it then refuses the trial as surplus itself.
        with contextlib.suppress(UpdateFinishedTrialError):
            study._storage.set_trial_user_attr(trial._trial_id, "outcome", Outcome.SURPLUS)
            study._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)


def _describe_unfailed(study: optuna.Study) -> None:
    """Write a note for Optuna's dashboard with each failed trial whose configuration did not fail.

    Optuna has no state for such trials: as PRUNED, they would count as done and be learned from. The dashboard reads
    notes from these attributes of the study (`optuna_dashboard.save_note` writes them).
    """
    storage, study_id = study._storage, study._study_id
    written = storage.get_study_system_attrs(study_id)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.FAIL,)):
        note = NOT_FAILED.get(trial.user_attrs.get("outcome", VANISHED))
        version = f"dashboard:{trial._trial_id}:note_ver"
        if note is not None and version not in written:
            storage.set_study_system_attr(study_id, f"dashboard:{trial._trial_id}:note_str:0", note)
            storage.set_study_system_attr(study_id, version, 1)


def _attempts(study: optuna.Study) -> dict[str, list[FrozenTrial]]:
    attempts: dict[str, list[FrozenTrial]] = defaultdict(list)
    for trial in study.get_trials(deepcopy=False):
        if "configuration" in trial.user_attrs and trial.user_attrs.get("outcome") not in REFUSED_AT_ONCE:
            attempts[trial.user_attrs["configuration"]].append(trial)
    return attempts


def _queue_again(study: optuna.Study, trials: list[FrozenTrial]) -> None:
    if any(trial.state in (*DONE, TrialState.RUNNING, TrialState.WAITING) for trial in trials):
        return
    last = trials[-1]
    if not is_given_up(trials):
        study.enqueue_trial(
            _known_params(last), user_attrs={"configuration": last.user_attrs["configuration"], "retry_of": last.number}
        )


def _queue_undrawn_again(study: optuna.Study) -> None:
    """Queue requested trials (a sweep's `start`) again if their worker died before it recorded the configuration."""
    trials = study.get_trials(deepcopy=False)
    undrawn = [trial for trial in trials if "configuration" not in trial.user_attrs]
    alive = [_known_params(trial) for trial in trials if trial not in undrawn or trial.state != TrialState.FAIL]
    for params in {digest_of(_known_params(trial)): _known_params(trial) for trial in undrawn}.values():
        ended = [trial for trial in undrawn if trial.state == TrialState.FAIL and _known_params(trial) == params]
        crashes = sum(trial.user_attrs.get("outcome") != Outcome.SURPLUS for trial in ended)
        taken_up = any(params.items() <= known.items() for known in alive)
        if params and ended and not taken_up and crashes < MAX_CRASHES:
            study.enqueue_trial(params)


def _known_params(trial: FrozenTrial) -> dict[str, Any]:
    """Return the drawn parameters over the requested ones; a retry whose worker died early has drawn nothing yet."""
    asked: dict[str, Any] = trial.system_attrs.get("fixed_params", {})
    return asked | trial.params


def _settle_runs(client: MlflowClient, experiment_id: str, study: optuna.Study) -> None:
    """Set the status of unended runs from their trials, so that a run is RUNNING only while a process works on it."""
    unfinished = [
        run
        for status in UNENDED
        for run in find_runs(client, experiment_id, runs_query({"study": study.study_name}, status=status))
    ]
    attempts = _attempts(study)  # read after the runs: a worker starts its trial before it opens the run
    complete = is_complete(study)
    for run in unfinished:
        configuration = run.data.tags.get("configuration")
        if configuration is None:
            continue  # the sweep's own run, which the driver ends
        wanted, reason = _status_on_record(attempts.get(configuration, []), complete=complete)
        if wanted in (run.info.status, "RUNNING"):
            continue
        if wanted == WAITING:
            client.update_run(run.info.run_id, status=WAITING)
        else:
            if reason:
                client.set_tag(run.info.run_id, "reason", reason)
            client.set_terminated(run.info.run_id, status=wanted)


def _status_on_record(trials: list[FrozenTrial], *, complete: bool) -> tuple[str, str]:
    """Return the status that a run should have, and the reason for it; RUNNING leaves the run unchanged."""
    states = {trial.state for trial in trials}
    if TrialState.RUNNING in states:
        return "RUNNING", ""
    if TrialState.COMPLETE in states:
        return "FINISHED", ""
    if TrialState.PRUNED in states:
        return "KILLED", ""
    if TrialState.WAITING in states:
        return WAITING, ""
    if trials and not is_given_up(trials):
        if complete:
            return "KILLED", "not needed: enough other configurations are done"
        return "RUNNING", ""  # it ended just now, and the next call queues it again
    if Outcome.OUT_OF_MEMORY in {trial.user_attrs.get("outcome") for trial in trials}:
        return "FAILED", "memory ran out, and the kernel ended its process; larger batches are not tried"
    return "FAILED", "its process died too often" if trials else "its trial was never recorded"
