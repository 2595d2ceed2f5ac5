"""`satx worker`: train a study's trials, as a process of a sweep on this machine, or alone on a machine of a fleet."""

from __future__ import annotations

import datetime
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from satx.commands.console import stop_signal
from satx.environment import environment
from satx.errors import ConfigError
from satx.execution.engine import Engine
from satx.execution.worker import run_worker
from satx.study.database import open_storage, open_study
from satx.study.outages import BREAKS

logger = logging.getLogger(__name__)

START_AGAIN = 75  # exit code, EX_TEMPFAIL of sysexits.h: the service manager starts the worker again


def worker_command(study: str, engine: Engine, *, parent: int | None, lease_minutes: float | None) -> None:
    """Train trials until the study is done, a stop signal arrives, or EC2 interrupts the machine.

    Args:
        study: Name of the study.
        engine: The engine that fills caches and trains.
        parent: Process id of the driver; the worker ends when the driver does. None without a driver.
        lease_minutes: How long the machine may run without progress; None for a machine without a lease.

    Raises:
        ConfigError: A lease was requested on a machine that is not in EC2.
    """
    with stop_signal() as stopped:

        def should_stop() -> bool:
            return stopped() or (parent is not None and os.getppid() != parent)

        with _lease(study, engine, lease_minutes, should_stop) as (stop, engine):
            more = run_worker(study, engine, stop=stop, waits=parent is None)
    if more and parent is None:
        sys.exit(START_AGAIN)


@contextmanager
def _lease(
    study: str, engine: Engine, minutes: float | None, should_stop: Callable[[], bool]
) -> Iterator[tuple[Callable[[], bool], Engine]]:
    """Yield the worker's stop function, and the engine with its machine and the price of the worker's share of it.

    With `minutes`, the machine's lease is renewed meanwhile.
    """
    if minutes is None:
        yield should_stop, engine
        return
    import boto3
    import botocore.config

    from satx.fleet.gpu import gpu_percent, note_gpu_percent
    from satx.fleet.lease import living
    from satx.fleet.metadata import identity
    from satx.fleet.spending import note_spent, price_here

    me, alive = identity(), environment().alive_file
    if me is None or alive is None:
        raise ConfigError(
            "--lease-minutes: expected an EC2 machine set up by infra/user-data.sh, got no answer from the metadata service, or "
            "no SATX_ALIVE. Leave the option out on other machines."
        )
    # The thread that calls EC2 also polls for the interruption notice, which comes two minutes ahead, so its calls must
    # not block for minutes.
    brief = botocore.config.Config(connect_timeout=5, read_timeout=10, retries={"total_max_attempts": 2})
    ec2 = boto3.client("ec2", region_name=me.region, config=brief)
    storage = open_storage(opening_seconds=minutes * 60, stop=should_stop)  # wait as long as the watchdog does
    # Separate connections: those of the trials may wait for the database, and the lease would run out meanwhile.
    books = open_study(storage, study)
    usd_per_hour = price_here(books, me) / environment().num_workers_here
    busy: list[float] = []

    def on_look() -> None:
        percent = gpu_percent()
        busy.extend([] if percent is None else [percent])

    def may_go_on() -> bool:
        try:
            note_gpu_percent(books, me, busy)
            money = note_spent(books, me, now=datetime.datetime.now(datetime.UTC))
        except BREAKS as error:
            logger.warning("cannot record the cost of this machine: %s", error)
            return True
        if money.is_spent:
            logger.warning(
                "the budget of $%.2f is spent ($%.2f); this machine terminates", money.budget_usd, money.total_usd
            )
        return not money.is_spent

    machine = f"{me.instance_id} {me.instance_type}"
    with living(
        me, ec2, alive, lease_minutes=minutes, stopped=should_stop, may_go_on=may_go_on, on_look=on_look
    ) as stop:
        yield stop, replace(engine, machine=machine, usd_per_hour=usd_per_hour)
