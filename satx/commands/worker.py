"""`satx worker`: train a study's trials, as a process of a sweep on this machine, or all by itself on one of a fleet."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from satx.commands.console import stop_signal
from satx.errors import ConfigError
from satx.search.engine import Engine
from satx.search.worker import run_worker

START_AGAIN = 75  # the exit code, EX_TEMPFAIL of sysexits.h: what keeps a worker running starts another process


def worker_command(study: str, engine: Engine, *, parent: int | None, lease_minutes: float | None) -> None:
    """Train trials until the study is done, a stop signal comes, or EC2 takes the machine back.

    Args:
        study: Its name.
        engine: What trains.
        parent: The driver; without it the worker ends. None where nobody drives.
        lease_minutes: How long the machine may stay without progress; None where that is nobody's business.

    Raises:
        ConfigError: A lease was asked for on what is no machine of EC2.
    """
    with stop_signal() as stopped:

        def told() -> bool:
            return stopped() or (parent is not None and os.getppid() != parent)

        with _lease(lease_minutes, told) as stop:
            more = run_worker(study, engine, stop=stop, waits=parent is None)
    if more and parent is None:
        sys.exit(START_AGAIN)


@contextmanager
def _lease(minutes: float | None, told: Callable[[], bool]) -> Iterator[Callable[[], bool]]:
    if minutes is None:
        yield told
        return
    import boto3

    from satx.fleet.life import living
    from satx.fleet.metadata import identity

    me, alive = identity(), os.environ.get("SATX_ALIVE")
    if me is None or alive is None:
        raise ConfigError(
            "--lease-minutes: expected a machine of EC2 that infra/user-data.sh has set up, got no answer from its metadata "
            "service, or no SATX_ALIVE. Leave the option out elsewhere."
        )
    ec2 = boto3.client("ec2", region_name=me.region)
    with living(me, ec2, Path(alive), lease_minutes=minutes, stopped=told) as stop:
        yield stop
