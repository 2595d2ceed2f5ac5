"""Many workers on one PostgreSQL server: trials per second, share of active connections waiting for locks, and errors.

    make bench NAME=database

The objective does nothing and nothing is written to MLflow, so that only the database is measured. A worker asks for a
trial, draws three hyperparameters, reports eight epochs and the value, through the storage that sweeps use, with
its heartbeats and its two connections. Every `--every` seconds `pg_stat_activity` is sampled: among the active (not
idle) connections, the share that waited for a lock of any kind is reported. All processes share this machine's cores
with the server, which limits trials per second here; a fleet's workers have cores of their own. Writes database.json;
exits with 1 on any error.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import optuna
import psycopg
from optuna.trial import TrialState
from report import publish

from satx.study.database import CONNECTIONS, open_storage
from satx.testing.changed_environment import changed_environment
from satx.testing.local_postgres import Postgres, running_postgres

WORKERS = (2, 8, 16, 64)
NUM_EPOCHS = 8
GO = "go"  # study attribute that starts all workers together


def main() -> None:
    """Measure each number of workers on a separate study, or run as one worker."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=30.0, help="for each number of workers")
    parser.add_argument("--every", type=float, default=0.1, help="seconds between samples of the database")
    parser.add_argument("--workers", type=int, nargs="*", default=WORKERS)
    parser.add_argument("--work-at", help="run as one worker of this study")
    options = parser.parse_args()
    if options.work_at:
        work(options.work_at, options.seconds)
        return
    with (
        tempfile.TemporaryDirectory(prefix="satx-database-") as folder,
        running_postgres(Path(folder) / "pg") as server,
        changed_environment(SATX_STUDY_URL=server.url()),
    ):
        rows = [measured(server, number, options) for number in options.workers]
    publish("database", rows, seconds=options.seconds, cores=os.cpu_count(), connections_each=sum_of(CONNECTIONS))
    if any(row["errors"] for row in rows):
        sys.exit(f"Expected no errors, got {[row['errors'] for row in rows]}.")


def sum_of(pool: dict[str, Any]) -> int:
    """Return the maximum number of connections that a worker opens."""
    return int(pool["pool_size"] + pool["max_overflow"])


def work(name: str, seconds: float) -> None:
    """Run trials for `seconds`, starting when the study's `go` attribute is set."""
    storage = open_storage(patience_seconds=60.0)
    study = optuna.load_study(study_name=name, storage=storage, sampler=optuna.samplers.RandomSampler())
    study.set_user_attr(f"ready {os.getpid()}", True)
    while not study.user_attrs.get(GO):
        time.sleep(0.2)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        study.optimize(objective, n_trials=1)


def objective(trial: optuna.Trial) -> float:
    """Write what a sweep's trial writes, without training."""
    rate = trial.suggest_float("train.head_learning_rate", 1e-4, 1e-2, log=True)
    trial.suggest_categorical("model.unfreeze", ["none", "block14", "all"])
    trial.suggest_int("train.batch_size", 8, 64)
    for step in range(NUM_EPOCHS):
        trial.report(rate * step, step)
    return rate


def measured(server: Postgres, number: int, options: Any) -> dict[str, Any]:
    """Start `number` workers, let them begin together, and sample the database."""
    name = f"workers-{number}"
    study = optuna.create_study(study_name=name, storage=open_storage(), direction="maximize")
    command = [sys.executable, __file__, "--work-at", name, "--seconds", str(options.seconds)]
    with tempfile.TemporaryFile() as said:
        processes = [subprocess.Popen(command, stdout=said, stderr=said) for _ in range(number)]
        while sum(key.startswith("ready ") for key in study.user_attrs) < number:
            if any(process.poll() for process in processes):
                break
            time.sleep(0.5)
        study.set_user_attr(GO, True)
        seen, most = sampled(server, processes, options.every)
        codes = [process.wait() for process in processes]
        said.seek(0)
        if any(codes):
            print(said.read().decode(errors="replace")[-4000:])
    trials = study.get_trials(deepcopy=False)
    finished = sum(trial.state == TrialState.COMPLETE for trial in trials)
    at_work = sum(seen.values())
    return {
        "workers": number,
        "trials": finished,
        "trials a second": finished / options.seconds,
        "waiting for a lock": (seen["Lock"] + seen["LWLock"]) / at_work if at_work else 0.0,
        "of a row or table": seen["Lock"] / at_work if at_work else 0.0,
        "waiting for the disk": seen["IO"] / at_work if at_work else 0.0,
        "most connections": most,
        "errors": sum(code != 0 for code in codes) + len(trials) - finished,
    }


def sampled(
    server: Postgres, processes: list[subprocess.Popen[bytes]], every_seconds: float
) -> tuple[Counter[str], int]:
    """Count what active connections were waiting for (`""`: nothing), and return the maximum number of connections."""
    seen, most = Counter[str](), 0
    url = server.url().replace("+psycopg", "")
    query = (
        "select state, coalesce(wait_event_type, '') from pg_stat_activity "
        "where backend_type = 'client backend' and pid <> pg_backend_pid()"
    )
    with psycopg.connect(url, autocommit=True) as connection:
        while any(process.poll() is None for process in processes):
            rows = connection.execute(query).fetchall()
            most = max(most, len(rows))
            # A connection idle in a transaction waits for its client: this is neither a lock nor work of the server.
            seen.update(waits for state, waits in rows if state == "active")
            time.sleep(every_seconds)
    return seen, most


if __name__ == "__main__":
    main()
