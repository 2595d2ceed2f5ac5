"""The worker processes of a sweep: how they are started, monitored, replaced when they die, and stopped.

Workers are separate processes, so that a kill by the kernel or by hand costs one epoch and no more.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from optuna.trial import TrialState

from satx.environment import THREADS, num_processors
from satx.errors import ConfigError, Interrupted, SweepStopped
from satx.execution.driver import Sweep
from satx.execution.worker import MAX_DUPLICATES_IN_A_ROW
from satx.storage import satx_home
from satx.study.database import shared_storage
from satx.study.outcomes import MAX_FAILURES_IN_A_ROW, counted, num_duplicates_in_a_row
from satx.study.owner import owner_host
from satx.study.reconcile import reconcile, unless_away

TICK_SECONDS = 1.0
STARTED = "=== worker"  # prefix of the line in the log at which the output of a process begins
GRACE_SECONDS = 120.0


def run_workers(
    sweep: Sweep,
    *,
    num_workers: int,
    ends_at: float,
    on_tick: Callable[[Sweep], None],
    tick_seconds: float = TICK_SECONDS,
    grace_seconds: float = GRACE_SECONDS,
) -> bool:
    """Run worker processes until the study is done; restart those that die, and pass on the stop signal.

    Args:
        sweep: Result of `open_sweep`.
        num_workers: Number of parallel processes.
        ends_at: When to stop, on `time.monotonic`'s clock.
        on_tick: Called every `tick_seconds`, to draw progress.
        tick_seconds: Time between two looks at the workers.
        grace_seconds: Time for a worker to finish its epoch after the first stop signal; then it is killed.

    Returns:
        True if every configuration is done or the space is exhausted, False if time ran out first.

    Raises:
        Interrupted: Stopped by `Ctrl-C`; everything is checkpointed.
        SweepStopped: A worker stopped for a reason that a restart would not fix.
    """
    kill_at = float("inf")
    with _interrupts_counted(sweep):
        try:
            while True:
                stopping = bool(sweep.interrupts or sweep.timed_out)
                _replace_finished(sweep, num_workers, accept_new=not stopping)
                if not sweep.workers and (stopping or not _awaits_others(sweep)):
                    break
                on_tick(sweep)
                sweep.timed_out = sweep.timed_out or time.monotonic() > ends_at
                if sweep.timed_out or sweep.interrupts:
                    _stop_all(sweep)
                if sweep.timed_out:  # a worker may hang with no user there to press Ctrl-C
                    kill_at = min(kill_at, time.monotonic() + grace_seconds)
                    if time.monotonic() > kill_at:
                        _kill_all(sweep)
                time.sleep(tick_seconds)
        finally:
            _end_all(sweep, grace_seconds)
            _reconcile(sweep)
    on_tick(sweep)
    if sweep.interrupts:
        raise Interrupted("Stopped. Finished work is kept.")
    return len(counted(sweep.study)) >= sweep.job.trials or is_exhausted(sweep)


def is_exhausted(sweep: Sweep) -> bool:
    """Return whether the space has no untrained configuration left."""
    return num_duplicates_in_a_row(sweep.study) >= MAX_DUPLICATES_IN_A_ROW


def worker_log(sweep: Sweep, number: int) -> Path:
    """Return the path of a worker's log."""
    return satx_home() / "logs" / sweep.job.study_name / f"worker-{number}.log"


def worker_environment(num_workers: int, tracking_uri: str) -> dict[str, str]:
    """Return the environment of a worker process; the processors are divided evenly between the workers.

    Args:
        num_workers: Number of parallel processes. It determines the threads of each, and so the last bits of its
            results.
        tracking_uri: URI of the MLflow store or server that the workers write to.
    """
    threads = str(max(1, num_processors() // num_workers))
    return os.environ | {
        "SATX_HOME": str(satx_home()),
        "MLFLOW_TRACKING_URI": tracking_uri,
        THREADS: threads,
        "OMP_NUM_THREADS": threads,
        # The arrays of a step are large and short-lived. With huge pages the kernel has fewer pages to allocate: a step
        # of the whole MobileNetV2, batch 32, 160 px, was 1.18 times as fast (medians of three pairs, two AMD cores).
        "GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"),
    }


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
            raise kind(f"A worker stopped. {_last_error(path)}\nIts log: {path}")
    running = len(sweep.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))
    busy = max(running, len(sweep.workers))  # a worker that has just started has no trial yet
    missing = sweep.job.trials - len(counted(sweep.study)) - busy
    if accept_new and missing > 0 and not is_exhausted(sweep):
        for number in range(num_workers):
            if number not in sweep.workers and missing > 0:
                sweep.workers[number] = _start_worker(sweep, number, num_workers)
                missing -= 1


def _count_death(sweep: Sweep, number: int, by_signal: int) -> None:
    """Count a killed worker, and stop the sweep after too many of them without a finished configuration.

    The study cannot count them: a worker that dies before it takes a trial leaves no record there.
    """
    done = len(counted(sweep.study))
    sweep.deaths = sweep.deaths + 1 if done == sweep.num_done else 1
    sweep.num_done = done
    if sweep.deaths >= MAX_FAILURES_IN_A_ROW:
        raise SweepStopped(
            f"Workers were killed {sweep.deaths} times in a row (by {signal.Signals(by_signal).name}) before any finished a "
            f"configuration. Free some memory, or use fewer WORKERS. Log: {worker_log(sweep, number)}"
        )


def _awaits_others(sweep: Sweep) -> bool:
    """Return whether workers of an earlier driver are finishing an epoch; trials they hand back are queued again."""
    if len(counted(sweep.study)) >= sweep.job.trials:
        return False
    _reconcile(sweep)
    trials = sweep.study.get_trials(deepcopy=False, states=(TrialState.RUNNING, TrialState.WAITING))
    return any(trial.user_attrs.get("owner", {}).get("host", owner_host()) == owner_host() for trial in trials)


def _reconcile(sweep: Sweep) -> None:
    with unless_away(sweep.study):
        reconcile(sweep.study, sweep.client, sweep.job.experiment_id, stopped_pids=frozenset(sweep.killed))


def _start_worker(sweep: Sweep, number: int, num_workers: int) -> subprocess.Popen[bytes]:
    path = worker_log(sweep, number)
    path.parent.mkdir(parents=True, exist_ok=True)
    environment = worker_environment(num_workers, sweep.client.tracking_uri)
    command = [sys.executable, "-P", "-m", "satx", "worker", "--study", sweep.job.study_name]
    command += ["--parent", str(os.getpid())]
    with path.open("ab") as log:  # new session: Ctrl-C reaches only the driver, which passes it on
        log.write(f"{STARTED} {number} at {time.strftime('%Y-%m-%d %H:%M:%S')}\n".encode())
        log.flush()
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
        )


@contextmanager
def _interrupts_counted(sweep: Sweep) -> Iterator[None]:
    def count(_number: int, _frame: object) -> None:
        sweep.interrupts += 1
        if sweep.interrupts == 1:
            _stop_all(sweep)
        else:
            _kill_all(sweep)

    storage = shared_storage(sweep.study)
    if storage is not None:
        storage.stop = lambda: sweep.interrupts > 0  # otherwise Ctrl-C would wait for a lost database too
    before = {number: signal.signal(number, count) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop_all(sweep: Sweep) -> None:
    for process in list(sweep.workers.values()):
        if process.pid not in sweep.signaled and process.poll() is None:
            sweep.signaled.add(process.pid)
            process.terminate()


def _kill_all(sweep: Sweep) -> None:
    for process in list(sweep.workers.values()):
        if process.poll() is None:
            sweep.killed.add(process.pid)
            process.kill()


def _end_all(sweep: Sweep, grace_seconds: float) -> None:
    _stop_all(sweep)
    deadline = time.monotonic() + grace_seconds
    for process in sweep.workers.values():
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            _kill_all(sweep)
            process.wait()
    sweep.workers.clear()


def _last_error(path: Path) -> str:
    """Return the last error message of the latest worker in this log, or its last line."""
    text = path.read_text(errors="replace") if path.exists() else ""
    lines = text.rpartition(STARTED)[2].splitlines()[1:]
    first = max((number for number, line in enumerate(lines) if line.startswith("Error: ")), default=len(lines) - 1)
    return "\n".join(lines[first:]).removeprefix("Error: ") or "Its log is empty."
