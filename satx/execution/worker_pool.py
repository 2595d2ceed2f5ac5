"""A sweep's worker processes: started, looked after, replaced when they die, and told to stop.

They are processes of their own so that one killed by the kernel, or by hand, costs one epoch and no more.
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

from satx.errors import ConfigError, Interrupted, SweepStopped
from satx.execution.driver import Sweep
from satx.execution.worker import MAX_DUPLICATES_IN_A_ROW
from satx.storage import satx_home
from satx.study.database import shared_storage
from satx.study.outcomes import MAX_FAILURES_IN_A_ROW, counted, num_duplicates_in_a_row
from satx.study.owner import owner_host
from satx.study.reconcile import reconcile, unless_away
from satx.tracking.client import tracking_uri

TICK_SECONDS = 1.0
STARTED = "=== worker"  # begins what one process says in its log
GRACE_SECONDS = 120.0  # for a worker to finish its epoch after the first stop signal


def run_workers(sweep: Sweep, *, num_workers: int, ends_at: float, on_tick: Callable[[Sweep], None]) -> bool:
    """Run worker processes until the study is done; restart those that die; pass on the stop signal.

    Args:
        sweep: What `open_sweep` returned.
        num_workers: Processes at a time.
        ends_at: When to stop, on `time.monotonic`'s clock.
        on_tick: Called every second, to draw progress.

    Returns:
        True when every configuration is done or the space has no more of them, False when time ran out first.

    Raises:
        Interrupted: `Ctrl-C`; everything is checkpointed.
        SweepStopped: A worker stopped for a reason that a restart would not mend.
    """
    timed_out, kill_at = False, float("inf")
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
                if timed_out:  # nobody may be there to press Ctrl-C for a worker that hangs
                    kill_at = min(kill_at, time.monotonic() + GRACE_SECONDS)
                    if time.monotonic() > kill_at:
                        _kill_all(sweep)
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


def worker_log(sweep: Sweep, number: int) -> Path:
    """Where a worker's output goes."""
    return satx_home() / "logs" / sweep.job.study_name / f"worker-{number}.log"


def worker_environment(num_workers: int) -> dict[str, str]:
    """What a worker process finds in its environment; the processors are shared out evenly.

    Args:
        num_workers: Processes at a time. It decides how many threads each has, and so the last bits of what it computes.
    """
    threads = str(max(1, (os.cpu_count() or 1) // num_workers))
    return os.environ | {
        "SATX_HOME": str(satx_home()),
        "MLFLOW_TRACKING_URI": tracking_uri(),
        "TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "2"),
        "TF_NUM_INTRAOP_THREADS": threads,
        "OMP_NUM_THREADS": threads,
        # The arrays of a step are large and short-lived. In huge pages the kernel has fewer to hand out: a step
        # of the whole of MobileNetV2, batch 32, 160 px, was 1.18 times as fast (medians of three pairs, two AMD cores).
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
            raise kind(f"A worker stopped. {_last_words(path)}\nIts log: {path}")
    running = len(sweep.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))
    busy = max(running, len(sweep.workers))  # a worker that has just been started has no trial yet
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
    with unless_away(sweep.study):
        reconcile(sweep.study, sweep.client, sweep.job.experiment_id, stopped_pids=frozenset(sweep.killed))


def _start_worker(sweep: Sweep, number: int, num_workers: int) -> subprocess.Popen[bytes]:
    path = worker_log(sweep, number)
    path.parent.mkdir(parents=True, exist_ok=True)
    environment = worker_environment(num_workers)
    command = [sys.executable, "-m", "satx", "worker", "--study", sweep.job.study_name, "--parent", str(os.getpid())]
    with path.open("ab") as log:  # a session of its own: Ctrl-C reaches the driver alone, which passes it on
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
            _tell_all_to_stop(sweep)
        else:
            _kill_all(sweep)

    storage = shared_storage(sweep.study)
    if storage is not None:
        storage.stop = lambda: sweep.interrupts > 0  # or Ctrl-C would wait for a lost database too
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
    text = path.read_text(errors="replace") if path.exists() else ""
    lines = text.rpartition(STARTED)[2].splitlines()[1:]
    said = max((number for number, line in enumerate(lines) if line.startswith("Error: ")), default=len(lines) - 1)
    return "\n".join(lines[said:]).removeprefix("Error: ") or "Its log is empty."
