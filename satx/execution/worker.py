"""The worker, which runs trials of the study one after another until enough configurations are done."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import optuna
import psutil
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from satx.errors import ConfigError, Interrupted, StateMismatch, SweepStopped, TrialFailed
from satx.execution.engine import Engine
from satx.execution.job import Job, read_job
from satx.execution.sharing import checkpoints_uri, remove_checkpoints
from satx.execution.trial import run_trial
from satx.search.identity import keras_backend
from satx.search.pruner import pruner_for
from satx.search.sampler import BackboneSampler
from satx.search.space import suggest
from satx.storage import satx_home
from satx.study.admission import known_value, once_earlier_have_drawn, refuse_surplus, refuse_too_large
from satx.study.database import PATIENCE_SECONDS, alone_at, open_storage, open_study
from satx.study.outages import BREAKS
from satx.study.outcomes import Outcome, counted_of, num_duplicates_in_a_row, too_many_failures
from satx.study.owner import owner_of_this_process
from satx.study.reconcile import reconcile, reconcile_now_and_then, unless_away
from satx.tracking.client import MlflowClient, tracker_that_may_be_away
from satx.tracking.spooled_writer import SpooledRuns
from satx.training.checkpoint import remove_checkpoint
from satx.training.contract import TRAINER_VERSION

logger = logging.getLogger(__name__)

MAX_DUPLICATES_IN_A_ROW = 25  # then the space counts as exhausted
FILLING = "filling"  # trial attribute: progress of the cache that the trial waits for
FILLED_SECONDS = "filled_seconds"  # trial attribute: seconds of filling, not part of the trial's own cost
REPORT_SECONDS = 2.0
LOOK_AGAIN_SECONDS = 2.0
MAX_IDLE_SECONDS = 600.0  # an idle machine then costs more than it is likely to save
OVER = "Cannot tell a "  # prefix of Optuna's error if the result of a finished trial is reported again
MAX_GROWTH_GB = 1.0  # a guard: memory grew by 0.05 GB in 180 trials on compiled steps; Keras leaked 30 MB per training
Shape = tuple[str, str]  # backbone and cut, for which steps are compiled


@dataclass
class _WorkerState:
    """State that a worker keeps between trials.

    Attributes:
        filled: Backbones whose trunk cache is filled.
        compiled: Backbones and cuts that have compiled steps.
        ended: Finished or pruned configurations, whose checkpoints can be removed once the study has the result.
    """

    filled: set[str] = field(default_factory=set)
    compiled: set[Shape] = field(default_factory=set)
    ended: list[str] = field(default_factory=list)


def run_worker(name: str, engine: Engine, *, stop: Callable[[], bool], waits: bool = False) -> bool:
    """Train trials of a study until enough configurations are done or the memory of this process has grown too much.

    Args:
        name: Name of the study.
        engine: Fills caches and trains.
        stop: Polled; if it returns True, the worker hands the trial back and ends.
        waits: Whether there is no driver: the worker then stays while others train the last trials, and reconciles
            the trials of dead workers.

    Returns:
        True if this process has grown and another process should continue, False if the worker is done.

    Raises:
        ConfigError: The study's scores come from another backend or version of the trainer.
        Interrupted: `stop` returned True.
        SweepStopped: Five failures in a row, counted over the study.
    """
    storage = open_storage(opening_seconds=PATIENCE_SECONDS, patience_seconds=PATIENCE_SECONDS, stop=stop)
    study = open_study(storage, name)
    _refuse_incomparable_scores(study)
    job = read_job(study)
    study.sampler = sampler = BackboneSampler(job.sweep, job.defaults)
    study.pruner = pruner_for(job.sweep, job.defaults)
    client = tracker_that_may_be_away()
    alone = partial(alone_at, study, "opening runs")
    spooled_runs = SpooledRuns(client, job.experiment_id, satx_home() / "spool" / name, alone)
    try:
        return _work(study, job, client, spooled_runs, engine, sampler, stop, waits=waits)
    finally:
        spooled_runs.finish(PATIENCE_SECONDS, stop)


def _refuse_incomparable_scores(study: optuna.Study) -> None:
    """Raise `ConfigError` if this worker's scores cannot be compared with those of the study."""
    identity = study.user_attrs["identity"]
    backend, trainer = identity.get("backend"), identity.get("trainer")
    if trainer != TRAINER_VERSION:
        raise ConfigError(
            f"Study {study.study_name}: expected trainer version {trainer}, got {TRAINER_VERSION} in this satx; their scores are "
            f"never mixed. Install the satx that opened the study, or start a new study with `satx sweep`."
        )
    if backend != keras_backend():
        raise ConfigError(
            f"Study {study.study_name} trains with Keras on {backend}, this worker with Keras on {keras_backend()}; their "
            f"scores are never mixed. Set KERAS_BACKEND={backend}."
        )


def _work(
    study: optuna.Study,
    job: Job,
    client: MlflowClient,
    spooled_runs: SpooledRuns,
    engine: Engine,
    sampler: BackboneSampler,
    stop: Callable[[], bool],
    *,
    waits: bool,
) -> bool:
    """Run trials one after another; arguments and results are those of `run_worker`."""
    state = _WorkerState()
    objective = _objective(study, job, spooled_runs, engine, stop, sampler, state)
    idle_at = 0.0
    num_compiled, base_gb = 0, 0.0  # as of the last compilation, which takes memory only once
    # An earlier process on this machine may have died; other machines cannot tell that from the loss of the machine.
    if waits:
        with unless_away(study):
            reconcile(study, client, job.experiment_id)
    while not stop():
        if waits:
            reconcile_now_and_then(study, client, job.experiment_id)
        trials = study.get_trials(deepcopy=False)
        num_running = sum(trial.state == TrialState.RUNNING for trial in trials)
        num_done = len(counted_of(trials))
        if num_done >= job.trials or (num_done + num_running >= job.trials and not waits):
            if waits:  # no other process may be left to close queued trials
                with unless_away(study):
                    reconcile(study, client, job.experiment_id)
            return False
        failures = too_many_failures(study, trials)
        if failures is not None:
            raise SweepStopped(failures)
        if num_duplicates_in_a_row(study, trials) >= MAX_DUPLICATES_IN_A_ROW:
            logger.warning("the space seems exhausted: no new draw among the last %d", MAX_DUPLICATES_IN_A_ROW)
            return False
        if num_done + num_running >= job.trials:  # workers of the running trials may still die
            idle_at = idle_at or time.monotonic()
            if time.monotonic() - idle_at > MAX_IDLE_SECONDS:
                logger.warning(
                    "exiting after %.0f s without a trial; other workers run the last ones", MAX_IDLE_SECONDS
                )
                return False
            time.sleep(LOOK_AGAIN_SECONDS)
            continue
        idle_at = 0.0
        _take_one(study, objective)
        spooled_runs.spool.drain()
        while state.ended:
            _forget(study, job, state.ended.pop())
        if len(state.compiled) > num_compiled:
            num_compiled, base_gb = len(state.compiled), _own_memory_gb()
        elif _own_memory_gb() - base_gb > MAX_GROWTH_GB:
            logger.warning(
                "exiting: memory grew from %.1f to %.1f GB; a new worker continues", base_gb, _own_memory_gb()
            )
            return True
    raise Interrupted("Stopped between trials; the same command continues.")


def _take_one(study: optuna.Study, objective: Callable[[optuna.Trial], float]) -> None:
    """Run the next trial.

    If the trial was given to another worker meanwhile, because heartbeats of this one were missing, leave it to
    that worker.
    """
    try:
        study.optimize(objective, n_trials=1, catch=(TrialFailed,))
    except ValueError as error:
        if not str(error).startswith(OVER):
            raise
        logger.warning("another worker has taken over the trial: %s", error)


def _forget(study: optuna.Study, job: Job, digest: str) -> None:
    """Remove the checkpoints of a configuration that has ended."""
    folder = job.checkpoint_dir(digest)
    remove_checkpoint(folder)
    if job.bucket:
        attempts = [t for t in study.get_trials(deepcopy=False) if t.user_attrs.get("configuration") == digest]
        remove_checkpoints(attempts, checkpoints_uri(job.bucket, job.study_name, folder))


def _own_memory_gb() -> float:
    """Return the resident memory without the mapped files of the caches, which the kernel can reclaim at any time."""
    memory = psutil.Process().memory_info()
    return float(memory.rss - getattr(memory, "shared", 0)) / 1e9  # only Linux reports mapped files


def _objective(
    study: optuna.Study,
    job: Job,
    spooled_runs: SpooledRuns,
    engine: Engine,
    stop: Callable[[], bool],
    sampler: BackboneSampler,
    state: _WorkerState,
) -> Callable[[optuna.Trial], float]:
    def objective(trial: optuna.Trial) -> float:
        trial.set_user_attr("owner", owner_of_this_process())
        configuration = suggest(trial, job.sweep, job.defaults)
        digest = configuration.digest()
        trial.set_user_attr("configuration", digest)
        trials = once_earlier_have_drawn(study, trial, sampler.trials)
        known = known_value(trials, trial, digest)
        if known is not None:
            return known
        refuse_surplus(trials, trial, job.trials)
        refuse_too_large(trials, trial, configuration, job.configuration_of)
        backbone = configuration.model.backbone
        try:
            if backbone not in state.filled:
                _fill(study, trial, job, backbone, engine, stop)
                state.filled.add(backbone)
            state.compiled.add((backbone, configuration.model.unfreeze))
            value = run_trial(trial, trials, job, spooled_runs, configuration, engine, stop)
        except optuna.TrialPruned:
            state.ended.append(digest)
            raise
        except (*BREAKS, Interrupted, StateMismatch):  # not the configuration's fault
            trial.set_user_attr("outcome", Outcome.INTERRUPTED)
            raise
        except TrialFailed:
            raise  # the outcome was set where it was raised
        except Exception:  # any error ends this process: the study must know why first; raised again below
            # it counts as a crash of the configuration, like a killed process, and not as a lost machine
            with contextlib.suppress(UpdateFinishedTrialError):  # another worker has taken over the trial
                trial.set_user_attr("outcome", Outcome.LOST)
            raise
        state.ended.append(digest)
        return value

    return objective


def _fill(
    study: optuna.Study, trial: optuna.Trial, job: Job, backbone: str, engine: Engine, stop: Callable[[], bool]
) -> None:
    started = time.monotonic()
    try:
        engine.fill(study, job, backbone, on_progress=_filling(trial, backbone, stop))
    except TrialFailed:  # not the configuration's fault: it is tried once more
        trial.set_user_attr("outcome", Outcome.LOST)
        raise
    trial.set_user_attr(FILLED_SECONDS, time.monotonic() - started)


def _filling(trial: optuna.Trial, backbone: str, stop: Callable[[], bool]) -> Callable[[int, int], None]:
    """Return a callback that records the cache's progress for the driver and raises `Interrupted` on a stop."""
    reported_at = time.monotonic()

    def on_progress(done: int, total: int) -> None:
        nonlocal reported_at
        if stop():
            raise Interrupted("Stopped while the trunk cache was being filled; the same command continues from there.")
        if time.monotonic() - reported_at > REPORT_SECONDS:
            reported_at = time.monotonic()
            trial.set_user_attr(FILLING, f"{backbone} trunk cache {done}/{total}")

    return on_progress
