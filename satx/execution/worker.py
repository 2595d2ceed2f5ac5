"""The worker: takes trials from the study, one after another, until as many are done as are wanted."""

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
from satx.execution.sharing import remove_checkpoints
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

logger = logging.getLogger(__name__)

MAX_DUPLICATES_IN_A_ROW = 25  # then the space has nothing new to offer
FILLING = "filling"  # of a trial: how far the cache is that it waits for
FILLED_SECONDS = "filled_seconds"  # of a trial: what that took, which is no trial's own cost
TELL_EVERY_SECONDS = 2.0
LOOK_AGAIN_SECONDS = 2.0
MAX_IDLE_SECONDS = 600.0  # then a machine costs more than it is likely to save
OVER = "Cannot tell a "  # begins what Optuna raises on being told how a trial ended that has ended already
MAX_GROWTH_GB = 1.0  # a guard: 180 trials on compiled steps grew by 0.05 GB, where Keras leaked 30 MB a training
Shape = tuple[str, str]  # backbone and cut: what steps are compiled for


@dataclass
class _WorkerState:
    """What a worker remembers from trial to trial.

    Attributes:
        filled: Backbones whose trunk cache it has seen full.
        compiled: What it has steps for.
        ended: Configurations that are finished or pruned, whose checkpoints can go once the study knows.
    """

    filled: set[str] = field(default_factory=set)
    compiled: set[Shape] = field(default_factory=set)
    ended: list[str] = field(default_factory=list)


def run_worker(name: str, engine: Engine, *, stop: Callable[[], bool], waits: bool = False) -> bool:
    """Train trials of a study until enough configurations are done, or this process has grown: the driver starts another.

    Args:
        name: The study.
        engine: What trains.
        stop: Asked all the time; True hands the trial back and ends the worker.
        waits: Stay while others train the last trials, and settle what the dead among them leave: there is no driver.

    Returns:
        Whether there is more to do, for a process that has not grown.

    Raises:
        ConfigError: The study's scores come from another backend.
        Interrupted: `stop` said so.
        SweepStopped: Five failures in a row, counted in the study.
    """
    storage = open_storage(opening_seconds=PATIENCE_SECONDS, patience_seconds=PATIENCE_SECONDS, stop=stop)
    study = open_study(storage, name)
    backend = study.user_attrs["identity"]["backend"]
    if backend != keras_backend():
        raise ConfigError(
            f"Study {name} is trained with Keras on {backend}, this worker has {keras_backend()}: scores of the two are never "
            f"mixed. Set KERAS_BACKEND={backend}."
        )
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
    """Take trials, one after another; as `run_worker`."""
    state = _WorkerState()
    objective = _objective(study, job, spooled_runs, engine, stop, sampler, state)
    idle_at = 0.0
    num_compiled, base_gb = 0, 0.0  # when something was last compiled, which takes memory once
    if (
        waits
    ):  # the process before this one here may have died, which nobody elsewhere can tell from a machine that is gone
        with unless_away(study):
            reconcile(study, client, job.experiment_id)
    while not stop():
        if waits:
            reconcile_now_and_then(study, client, job.experiment_id)
        trials = study.get_trials(deepcopy=False)
        num_running = sum(trial.state == TrialState.RUNNING for trial in trials)
        num_done = len(counted_of(trials))
        if num_done >= job.trials or (num_done + num_running >= job.trials and not waits):
            if waits:  # nobody else may be left to close what is still queued
                with unless_away(study):
                    reconcile(study, client, job.experiment_id)
            return False
        failures = too_many_failures(study, trials)
        if failures is not None:
            raise SweepStopped(failures)
        if num_duplicates_in_a_row(study, trials) >= MAX_DUPLICATES_IN_A_ROW:
            logger.warning("the space seems exhausted: %d draws in a row were trained before", MAX_DUPLICATES_IN_A_ROW)
            return False
        if num_done + num_running >= job.trials:  # the others may die yet
            idle_at = idle_at or time.monotonic()
            if time.monotonic() - idle_at > MAX_IDLE_SECONDS:
                logger.warning("nothing to do for %.0f s; others train what is left", MAX_IDLE_SECONDS)
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
            logger.warning("grown from %.1f to %.1f GB; another worker goes on", base_gb, _own_memory_gb())
            return True
    raise Interrupted("Stopped between trials; the same command continues.")


def _take_one(study: optuna.Study, objective: Callable[[optuna.Trial], float]) -> None:
    """The next trial. One that was given to another worker, since this one had not been heard of, is left to it."""
    try:
        study.optimize(objective, n_trials=1, catch=(TrialFailed,))
    except ValueError as error:
        if not str(error).startswith(OVER):
            raise
        logger.warning("another worker has the trial by now: %s", error)


def _forget(study: optuna.Study, job: Job, digest: str) -> None:
    """A configuration has ended: its checkpoints can go."""
    remove_checkpoint(job.checkpoint_dir(digest))
    if job.bucket:
        trials = study.get_trials(deepcopy=False)
        remove_checkpoints([trial for trial in trials if trial.user_attrs.get("configuration") == digest])


def _own_memory_gb() -> float:
    """Resident, without the mapped files of the caches, which the kernel takes back when it likes."""
    memory = psutil.Process().memory_info()
    return float(memory.rss - getattr(memory, "shared", 0)) / 1e9  # Linux alone says what is mapped


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
        except (*BREAKS, Interrupted, StateMismatch):  # none of them is the configuration's fault
            trial.set_user_attr("outcome", Outcome.INTERRUPTED)
            raise
        except TrialFailed:
            raise  # whoever raised it has said how it ended
        except Exception:
            # whatever it is, it took its trial down: a crash, as a kill is, and not a machine's absence
            with contextlib.suppress(UpdateFinishedTrialError):  # another worker has it by now
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
    except TrialFailed:  # no fault of the configuration: it is tried once more
        trial.set_user_attr("outcome", Outcome.LOST)
        raise
    trial.set_user_attr(FILLED_SECONDS, time.monotonic() - started)


def _filling(trial: optuna.Trial, backbone: str, stop: Callable[[], bool]) -> Callable[[int, int], None]:
    """Lets the driver see how far the trunk cache is that a trial waits for, and the trial be stopped while it waits."""
    told_at = time.monotonic()

    def on_progress(done: int, total: int) -> None:
        nonlocal told_at
        if stop():
            raise Interrupted(
                "Stopped while the trunk cache was being filled; the same command continues with what is there."
            )
        if time.monotonic() - told_at > TELL_EVERY_SECONDS:
            told_at = time.monotonic()
            trial.set_user_attr(FILLING, f"{backbone} trunk cache {done}/{total}")

    return on_progress
