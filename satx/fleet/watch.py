"""An unattended fleet: what is missing is launched again until the study is done or the budget spent."""

from __future__ import annotations

import datetime
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from satx.errors import ConfigError, FleetError
from satx.fleet.launching import TURN_SECONDS, Launch, launch
from satx.fleet.machines import end, machines_of, remove_templates
from satx.fleet.money import ledger
from satx.fleet.plan import Amazon
from satx.fleet.settings import FleetConfig
from satx.search.crew import is_exhausted
from satx.search.driver import Sweep
from satx.search.reconcile import reconcile, reconcile_now_and_then
from satx.search.records import write_missing_records
from satx.search.study import counted

logger = logging.getLogger(__name__)

TICK_SECONDS = 5.0
HAND_BACK_SECONDS = 600.0


@dataclass(frozen=True)
class Order:
    """What a user wants of a fleet.

    Attributes:
        num_machines: How many there are to be.
        spot: Whether to ask for spot machines first.
        budget_usd: What may be spent, or None.
    """

    num_machines: int
    spot: bool
    budget_usd: float | None


def watch_fleet(
    sweep: Sweep,
    amazon: Amazon,
    config: FleetConfig,
    wanted: Launch,
    num_machines: int,
    *,
    on_tick: Callable[[Sweep], None],
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Keep a fleet at its size while there is work, and end it when there is none.

    A refusal of EC2 is told and tried again when EC2 has forgotten it; what runs goes on. Ctrl-C leaves the machines at work.

    Args:
        sweep: What they work at.
        amazon: Clients.
        config: What machines are made of.
        wanted: What to ask for.
        num_machines: How many there are to be.
        on_tick: Called every few seconds, to draw progress.
        sleep: Waits.

    Returns:
        True when every configuration is done or the space has no more of them, False when the budget was spent first.

    Raises:
        FleetError: The machines could not be ended.
    """
    launch_at = float("-inf")
    while True:
        reconcile_now_and_then(sweep.study, sweep.client, sweep.job.experiment_id)
        on_tick(sweep)
        finished = len(counted(sweep.study)) >= sweep.job.trials or is_exhausted(sweep)
        if finished or ledger(sweep.study).is_spent:
            break
        if time.monotonic() >= launch_at:
            try:
                launch(amazon.ec2, config, wanted, num_machines, now=datetime.datetime.now(datetime.UTC))
            except (FleetError, ConfigError) as refused:
                logger.warning("%s", refused)
                launch_at = time.monotonic() + TURN_SECONDS
        sleep(TICK_SECONDS)
    if not finished:
        _wait_for_handing_back(amazon, wanted.study, sleep)
    end(amazon.ec2, machines_of(amazon.ec2, wanted.study), sleep=sleep)
    remove_templates(amazon.ec2, wanted.study)
    reconcile(sweep.study, sweep.client, sweep.job.experiment_id)
    write_missing_records(sweep.study, sweep.client, sweep.job.experiment_id)
    return finished


def _wait_for_handing_back(amazon: Amazon, study: str, sleep: Callable[[float], None]) -> None:
    """Machines that find the budget spent checkpoint and end by themselves, within a quarter of a lease."""
    for _ in range(int(HAND_BACK_SECONDS / TICK_SECONDS)):
        if not machines_of(amazon.ec2, study):
            return
        sleep(TICK_SECONDS)
