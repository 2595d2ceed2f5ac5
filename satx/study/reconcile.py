"""Make study and runs agree after a crash: what was lost is queued again or closed, exactly once.

Everything is derived from what is on record (trials with their configuration and owner, runs with their configuration),
so it does not matter between which two writes a process died, nor which process mends it. Run by the driver before it
starts workers and whenever one of them ends; where machines share a study, by whichever of their workers is at leisure.
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
from satx.study.outcomes import DONE, MAX_CRASHES, REFUSED_AT_ONCE, Outcome, is_complete, is_given_up
from satx.study.owner import memory_ran_out_since, owner_is_dead
from satx.tracking.client import MlflowClient, is_away
from satx.tracking.runs import UNENDED, WAITING, find_runs, runs_query

logger = logging.getLogger(__name__)

GRACE_SECONDS = 30  # a worker writes its name on a trial right after taking it
RECONCILE_SECONDS = 15.0
RECONCILED_AT = "reconciled_at"  # attribute of the study: when a worker did it last, seconds since 1970


def reconcile(
    study: optuna.Study, client: MlflowClient, experiment_id: str, *, stopped_pids: frozenset[int] = frozenset()
) -> None:
    """Fail the trials of dead workers, queue what was lost or interrupted again, and close or park the runs.

    Args:
        study: The study.
        client: MLflow.
        experiment_id: Of the study's runs.
        stopped_pids: Workers of this machine that were ended on purpose; their configurations are not to blame.
    """
    with alone_at(study, "reconciling"):  # two would queue the same configuration twice
        _fail_trials_of_the_dead(study, stopped_pids)
        if is_complete(study):
            _empty_queue(study)
        else:
            for trials in _attempts(study).values():
                _queue_again(study, trials)
            _queue_undrawn_again(study)
        _settle_runs(client, experiment_id, study)


def reconcile_now_and_then(study: optuna.Study, client: MlflowClient, experiment_id: str) -> None:
    """The same, if no process of any machine has done it lately; while MLflow is away it is left to the next time.

    Args:
        study: The study.
        client: MLflow.
        experiment_id: Of the study's runs.
    """
    if abs(time.time() - study.user_attrs.get(RECONCILED_AT, 0.0)) < RECONCILE_SECONDS:
        return
    study.set_user_attr(RECONCILED_AT, time.time())
    with unless_away(study):
        reconcile(study, client, experiment_id)


@contextlib.contextmanager
def unless_away(study: optuna.Study) -> Iterator[None]:
    """Do what needs MLflow and a shared database; while one of them is away that is said, and left to the next time."""
    try:
        yield
    except BREAKS as error:
        if not is_away(error) and not (shared_storage(study) and is_lost(error)):
            raise
        logger.warning("what the dead left is settled later: %s", str(error).splitlines()[0][:200])


def settle_leftovers(client: MlflowClient, experiment_id: str, storage: RDBStorage) -> None:
    """Close or park the runs that other sweeps and trainings left RUNNING when their process died.

    A training waits for the same command; a sweep's own run and its baselines are closed until that sweep is called again.

    Args:
        client: MLflow.
        experiment_id: Where to look.
        storage: Of the studies that the runs name.
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


def _fail_trials_of_the_dead(study: optuna.Study, stopped_pids: frozenset[int]) -> None:
    now = datetime.datetime.now()
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        owner = trial.user_attrs.get("owner")
        started = trial.datetime_start or now
        nameless = owner is None and (now - started).total_seconds() > GRACE_SECONDS and not was_away_lately(study)
        if nameless or owner_is_dead(owner):
            try:
                study._storage.set_trial_user_attr(
                    trial._trial_id, "outcome", _how_it_ended(study, trial, stopped_pids)
                )
            except UpdateFinishedTrialError:
                continue  # it ended between the two looks at it
            study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        optuna.storages.fail_stale_trials(study)  # of other machines, by their heartbeats; none where one machine works


def _how_it_ended(study: optuna.Study, trial: FrozenTrial, stopped_pids: frozenset[int]) -> Outcome:
    """Of a trial whose worker is dead.

    Whom the kernel ended for want of memory is not known, only that it ended somebody: once is no proof, twice is. Before its
    first epoch a trial fills caches, whose memory is no matter of its batch size.
    """
    owner = trial.user_attrs.get("owner")
    handed_back = trial.user_attrs.get("outcome") == Outcome.INTERRUPTED  # or nearly, when it was killed
    if handed_back or (owner is not None and owner["pid"] in stopped_pids):
        return Outcome.INTERRUPTED
    if not trial.intermediate_values or not memory_ran_out_since(owner):
        return Outcome.LOST
    attempts = _attempts(study).get(trial.user_attrs["configuration"], [])
    before = [attempt for attempt in attempts if attempt.number != trial.number]
    twice = any(attempt.user_attrs.get("outcome") == Outcome.STARVED for attempt in before)
    return Outcome.OUT_OF_MEMORY if twice else Outcome.STARVED


def _empty_queue(study: optuna.Study) -> None:
    """As many as are wanted are done: what still waits is closed, and queued again should more be wanted later."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        # A worker may take it this moment: it finds it too many itself, before or after it is told that it is over.
        with contextlib.suppress(UpdateFinishedTrialError):
            study._storage.set_trial_user_attr(trial._trial_id, "outcome", Outcome.SURPLUS)
            study._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)


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
    """Queue what was asked for (a sweep's `start`), whose worker died before it wrote the configuration down."""
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
    """What was drawn, over what was asked for: a retry that died early has drawn nothing yet."""
    asked: dict[str, Any] = trial.system_attrs.get("fixed_params", {})
    return asked | trial.params


def _settle_runs(client: MlflowClient, experiment_id: str, study: optuna.Study) -> None:
    """A run is RUNNING only while somebody works on it."""
    unfinished = [
        run
        for status in UNENDED
        for run in find_runs(client, experiment_id, runs_query({"study": study.study_name}, status=status))
    ]
    attempts = _attempts(study)  # read after the runs: a worker takes its trial before it opens the run
    complete = is_complete(study)
    for run in unfinished:
        configuration = run.data.tags.get("configuration")
        if configuration is None:
            continue  # the sweep's own run is the driver's
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
    """What a run's status is to be, and why; RUNNING leaves it as it is."""
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
            return "KILLED", "as many configurations as were wanted were done without it"
        return "RUNNING", ""  # it ended this moment, and is queued again the next time
    if Outcome.OUT_OF_MEMORY in {trial.user_attrs.get("outcome") for trial in trials}:
        return "FAILED", "memory ran out, and the kernel ended its process; larger batches are not tried"
    return "FAILED", "its process died too often" if trials else "its trial was never recorded"
