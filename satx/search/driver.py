"""The driver: creates the study and its runs, logs the baselines, runs workers as processes and looks after them.

Workers are processes of their own so that one killed by the kernel, or by hand, costs one epoch and no more.
"""

from __future__ import annotations

import datetime
import fcntl
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import optuna
from optuna.trial import TrialState

from satx.errors import ConfigError, Interrupted, SweepStopped
from satx.search.job import Job, read_job, write_job
from satx.search.prepare import Ready
from satx.search.reconcile import CALLED_AT, reconcile
from satx.search.space import SweepConfig, fixed_settings, start_params
from satx.search.study import counted, identity_of, open_storage, open_study, owner_host, study_name, what_changed
from satx.search.worker import MAX_DUPLICATES_IN_A_ROW, MAX_FAILURES_IN_A_ROW, num_duplicates_in_a_row
from satx.storage import satx_home
from satx.tracking.runs import find_run, log_dataset, start_run
from satx.tracking.tracker import MlflowClient, experiment_id, open_tracker, tracking_uri
from satx.training.trainer import TRAINER_VERSION

logger = logging.getLogger(__name__)

TICK_SECONDS = 0.5
GRACE_SECONDS = 120  # for a worker to finish its epoch after the first stop signal


@dataclass
class Sweep:
    """A sweep under way.

    Attributes:
        job: What the workers read.
        study: Where they meet.
        client: MLflow.
        changed: How it differs from the last sweep of this session and name, if it does.
        interrupts: Stop signals received.
        workers: Processes under way, by their number.
        told: Ids of processes that got their one stop signal; a second would end them at once.
        killed: Ids of processes that the driver ended at once.
        deaths: Workers killed by others since the last configuration was done.
        num_done: Configurations done when a worker died last.
    """

    job: Job
    study: optuna.Study
    client: MlflowClient
    changed: str | None
    interrupts: int = 0
    workers: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    told: set[int] = field(default_factory=set)
    killed: set[int] = field(default_factory=set)
    deaths: int = 0
    num_done: int = -1


def name_of_study(ready: Ready, sweep: SweepConfig) -> tuple[str, dict[str, object]]:
    """The study's name and the identity it carries."""
    identity = identity_of(
        sweep=sweep,
        fixed=fixed_settings(sweep, ready.defaults),
        data_digest=ready.store.digest,
        weights={name: weights.digest for name, weights in ready.weights.items()},
        image_size_px=ready.store.image_size_px,
        trainer=TRAINER_VERSION,
    )
    return study_name(ready.session.experiment_name, sweep.name, identity), identity


def num_done(name: str) -> int:
    """How many configurations of a study are finished or pruned; 0 for one that does not exist."""
    storage = open_storage()
    return len(counted(open_study(storage, name))) if name in optuna.get_all_study_names(storage=storage) else 0


@contextmanager
def only_driver(name: str) -> Iterator[None]:
    """One driver a study; the lock goes with the process.

    Raises:
        ConfigError: Another one runs.
    """
    path = satx_home() / "locks" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            stream.seek(0)
            raise ConfigError(
                f"Sweep {name} is being driven by process {stream.read().strip()}. Watch it there, or stop it first."
            ) from error
        stream.truncate(0)
        stream.write(str(os.getpid()))
        stream.flush()
        yield


def open_sweep(ready: Ready, sweep: SweepConfig, trials: int, *, git_commit: str) -> Sweep:
    """Create the study, its experiment and parent run, or take them up again."""
    name, identity = name_of_study(ready, sweep)
    storage = open_storage()
    prefix = f"{ready.session.experiment_name}-{sweep.name}"
    changed = what_changed(storage, prefix, name, dict(identity))
    client = open_tracker()
    experiment = experiment_id(client, ready.session.experiment_name)
    study = optuna.create_study(study_name=name, storage=storage, direction="maximize", load_if_exists=True)
    tags = {
        "session": ready.session.experiment_name,
        "task": ready.session.task,
        "sweep": sweep.name,
        "data_digest": ready.store.digest,
        "git_commit": git_commit,
        "sample": str(ready.store.sample).lower(),
    }
    own = {"study": name, "kind": "sweep"}
    found = find_run(client, experiment, own)
    if found is None:
        parent = start_run(client, experiment, name=name, tags=tags | own, params={}, parent=None)
        log_dataset(client, parent, ready.store, ready.session.experiment_name)
    else:
        parent = str(found.info.run_id)
        client.update_run(parent, status="RUNNING")
    study.set_user_attr("identity", identity)
    study.set_user_attr(CALLED_AT, str(datetime.datetime.now()))
    job = Job(name, ready.session, sweep, ready.defaults, ready.store, ready.weights, experiment, parent, trials, tags)
    write_job(study, job)
    reconcile(study, client, experiment)
    for start in sweep.start:
        study.enqueue_trial(start_params(sweep, start), skip_if_exists=True)
    return Sweep(job=read_job(study), study=study, client=client, changed=changed)


def run_workers(sweep: Sweep, *, num_workers: int, minutes: float | None, on_tick: Callable[[Sweep], None]) -> bool:
    """Run worker processes until the study is done; restart those that die; pass on the stop signal.

    Args:
        sweep: What `open_sweep` returned.
        num_workers: Processes at a time.
        minutes: Time allowed, None for no limit.
        on_tick: Called twice a second, to draw progress.

    Returns:
        True when every configuration is done or the space has no more of them, False when time ran out first.

    Raises:
        Interrupted: `Ctrl-C`; everything is checkpointed.
        SweepStopped: A worker stopped for a reason that a restart would not mend.
    """
    ends_at = time.monotonic() + minutes * 60 if minutes else float("inf")
    timed_out = False
    with _interrupts_counted(sweep):
        try:
            while True:
                stopping = bool(sweep.interrupts or timed_out)
                _replace_finished(sweep, num_workers, accept_new=not stopping)
                if not sweep.workers and (stopping or not _awaits_others(sweep)):
                    break
                on_tick(sweep)
                timed_out = timed_out or time.monotonic() > ends_at
                if timed_out or sweep.interrupts:
                    _tell_all_to_stop(sweep)
                time.sleep(TICK_SECONDS)
        finally:
            _end_all(sweep)
            _reconcile(sweep)
    on_tick(sweep)
    if sweep.interrupts:
        raise Interrupted("Stopped. What was done is kept; the same command continues.")
    return len(counted(sweep.study)) >= sweep.job.trials or is_exhausted(sweep)


def is_exhausted(sweep: Sweep) -> bool:
    """Whether the space has no configuration left that was not trained."""
    return num_duplicates_in_a_row(sweep.study) >= MAX_DUPLICATES_IN_A_ROW


def close_sweep(sweep: Sweep, status: str) -> None:
    """End the sweep's own run; `FINISHED`, or `KILLED` for one that the next call continues."""
    sweep.client.set_terminated(sweep.job.parent_run_id, status=status)


def worker_log(sweep: Sweep, number: int) -> Path:
    """Where a worker's output goes."""
    return satx_home() / "logs" / sweep.job.study_name / f"worker-{number}.log"


def _replace_finished(sweep: Sweep, num_workers: int, *, accept_new: bool) -> None:
    for number, process in list(sweep.workers.items()):
        code = process.poll()
        if code is None:
            continue
        del sweep.workers[number]
        _reconcile(sweep)
        if code < 0 and accept_new:
            _count_death(sweep, number, -code)
        if code > 0 and code != Interrupted.exit_code:
            path = worker_log(sweep, number)
            kind = ConfigError if code == ConfigError.exit_code else SweepStopped
            raise kind(f"A worker stopped. {_last_words(path)}\nIts log: {path}")
    busy = len(sweep.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))
    missing = sweep.job.trials - len(counted(sweep.study)) - busy
    if accept_new and missing > 0 and not is_exhausted(sweep):
        for number in range(num_workers):
            if number not in sweep.workers and missing > 0:
                sweep.workers[number] = _start_worker(sweep, number, num_workers)
                missing -= 1


def _count_death(sweep: Sweep, number: int, by_signal: int) -> None:
    """A worker that dies before it takes a trial leaves nothing in the study to count."""
    done = len(counted(sweep.study))
    sweep.deaths = sweep.deaths + 1 if done == sweep.num_done else 1
    sweep.num_done = done
    if sweep.deaths >= MAX_FAILURES_IN_A_ROW:
        raise SweepStopped(
            f"Workers were killed {sweep.deaths} times in a row (by {signal.Signals(by_signal).name}) without a configuration "
            f"done: expected them to live. Free some memory, or use fewer WORKERS. Log: {worker_log(sweep, number)}"
        )


def _awaits_others(sweep: Sweep) -> bool:
    """Whether workers of an earlier driver are still finishing their epoch; what they hand back is then queued again."""
    if len(counted(sweep.study)) >= sweep.job.trials:
        return False
    _reconcile(sweep)
    trials = sweep.study.get_trials(deepcopy=False, states=(TrialState.RUNNING, TrialState.WAITING))
    return any(trial.user_attrs.get("owner", {}).get("host", owner_host()) == owner_host() for trial in trials)


def _reconcile(sweep: Sweep) -> None:
    reconcile(sweep.study, sweep.client, sweep.job.experiment_id, stopped_pids=frozenset(sweep.killed))


def _start_worker(sweep: Sweep, number: int, num_workers: int) -> subprocess.Popen[bytes]:
    path = worker_log(sweep, number)
    path.parent.mkdir(parents=True, exist_ok=True)
    threads = str(max(1, (os.cpu_count() or 1) // num_workers))
    environment = os.environ | {
        "SATX_HOME": str(satx_home()),
        "MLFLOW_TRACKING_URI": tracking_uri(),
        "TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "2"),
        "TF_NUM_INTRAOP_THREADS": threads,
        "OMP_NUM_THREADS": threads,
    }
    command = [sys.executable, "-m", "satx", "worker", "--study", sweep.job.study_name, "--parent", str(os.getpid())]
    command += ["--number", str(number)]
    with path.open("ab") as log:  # a session of its own: Ctrl-C reaches the driver alone, which passes it on
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
        )


@contextmanager
def _interrupts_counted(sweep: Sweep) -> Iterator[None]:
    def count(_number: int, _frame: object) -> None:
        sweep.interrupts += 1
        if sweep.interrupts == 1:
            _tell_all_to_stop(sweep)
        else:
            _kill_all(sweep)

    before = {number: signal.signal(number, count) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _tell_all_to_stop(sweep: Sweep) -> None:
    for process in list(sweep.workers.values()):
        if process.pid not in sweep.told and process.poll() is None:
            sweep.told.add(process.pid)
            process.terminate()


def _kill_all(sweep: Sweep) -> None:
    for process in list(sweep.workers.values()):
        if process.poll() is None:
            sweep.killed.add(process.pid)
            process.kill()


def _end_all(sweep: Sweep) -> None:
    _tell_all_to_stop(sweep)
    deadline = time.monotonic() + GRACE_SECONDS
    for process in sweep.workers.values():
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            _kill_all(sweep)
            process.wait()
    sweep.workers.clear()


def _last_words(path: Path) -> str:
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    said = max((number for number, line in enumerate(lines) if line.startswith("Error: ")), default=len(lines) - 1)
    return "\n".join(lines[said:]).removeprefix("Error: ") or "Its log is empty."
