"""One machine's worker in `chaos`: `satx worker` with an engine that trains nothing, under its own host name."""

from __future__ import annotations

import os
import sys

from satx.cli_process import retry_nothing_in_mlflow
from satx.commands.console import quiet_libraries
from satx.commands.worker import worker_command
from satx.study import owner
from satx.testing.rehearsal import rehearsal_engine


def main() -> None:
    """Run the worker until its study is done: `chaos_worker.py STUDY SECONDS_PER_EPOCH LEASE_MINUTES`."""
    name, seconds_per_epoch, lease_minutes = sys.argv[1:]
    machine = os.environ["CHAOS_MACHINE"]
    owner.owner_host = lambda: machine  # on a common host, the others would detect its death by its process id
    quiet_libraries()
    retry_nothing_in_mlflow()
    engine = rehearsal_engine(float(seconds_per_epoch))
    worker_command(name, engine, parent=None, lease_minutes=float(lease_minutes))


if __name__ == "__main__":
    from satx.cli_process import run_with_exit_code

    run_with_exit_code(main)
