"""An unattended fleet: what is missing is launched again until the study is done, the budget spent, or it is of no use."""

from __future__ import annotations

import datetime
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState

from satx.errors import ConfigError, FleetError, Interrupted, SatxError, SweepStopped
from satx.execution.driver import Sweep
from satx.execution.worker_pool import is_exhausted
from satx.fleet.launching import TURN_SECONDS, Launch, launch
from satx.fleet.machines import LIVING, Machine, all_machines_of, end, end_overdue, machines_of, remove_templates
from satx.fleet.plan import Amazon
from satx.fleet.settings import FleetConfig
from satx.fleet.spending import ledger, note_watched, taken_down_at
from satx.study.database import BEAT_SECONDS, PATIENCE_SECONDS, STALE_SECONDS
from satx.study.outcomes import counted, too_many_failures
from satx.study.reconcile import reconcile, reconcile_now_and_then
from satx.study.run_recovery import write_missing_records

logger = logging.getLogger(__name__)

TICK_SECONDS = 5.0
HAND_BACK_SECONDS = 300.0  # from when a machine knows that it is to end until it has
FEWEST_USELESS = 3  # spot machines may be taken back while they start


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
        num_machines: How many there are to be; fewer where less than so many configurations are left.
        on_tick: Called every few seconds, to draw progress.
        sleep: Waits.

    Returns:
        True when every configuration is done or the space has no more of them, False when the budget was spent first.

    Raises:
        SweepStopped: Trials failed one after another.
        FleetError: Machines end one after another without beginning a trial; or they could not be ended.
        Interrupted: `satx fleet down` was called.
    """
    began_at, ask_again_at = time.time(), float("-inf")
    ended: dict[str, Machine] = {}  # EC2 forgets them within the hour
    while True:
        reconcile_now_and_then(sweep.study, sweep.client, sweep.job.experiment_id)
        on_tick(sweep)
        asks = time.monotonic() >= ask_again_at
        try:
            num_there = _look(sweep, amazon, config, ended) if asks else num_machines
            why = _why_not_go_on(sweep, config, list(ended.values()), num_machines, began_at)
            finished = _is_finished(sweep)
            if finished or why or ledger(sweep.study).is_spent:
                break
            num_useful = _num_useful(sweep, num_machines)
            if num_there < num_useful:
                launch(amazon.ec2, config, wanted, num_useful, now=datetime.datetime.now(datetime.UTC))
        except (FleetError, ConfigError) as refused:
            logger.warning("%s", refused)
            ask_again_at = time.monotonic() + TURN_SECONDS
        sleep(TICK_SECONDS)
    seconds = PATIENCE_SECONDS if finished else config.lease_minutes * 60 / 4 + HAND_BACK_SECONDS
    _let_them_end(sweep, amazon, config, ended, seconds=seconds, on_tick=on_tick, sleep=sleep)
    _end_the_rest(sweep, amazon, sleep)
    if why:
        raise why
    return finished


def _look(sweep: Sweep, amazon: Amazon, config: FleetConfig, ended: dict[str, Machine]) -> int:
    """Count what all machines cost, end what is out of hand, note which have ended; how many are there."""
    now = datetime.datetime.now(datetime.UTC)
    machines = all_machines_of(amazon.ec2, sweep.job.study_name)
    note_watched(sweep.study, machines, now=now)
    end_overdue(amazon.ec2, machines, config, now=now)
    ended.update({machine.instance_id: machine for machine in machines if machine.state not in LIVING})
    return sum(machine.state in LIVING for machine in machines)


def _num_useful(sweep: Sweep, num_machines: int) -> int:
    """How many machines there may be; none more where all that is left is being trained: who idles ends itself."""
    num_left = sweep.job.trials - len(counted(sweep.study))
    return min(num_machines, num_left) if num_left > len(_running(sweep)) and not is_exhausted(sweep) else 0


def _running(sweep: Sweep) -> list[FrozenTrial]:
    return sweep.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))


def _is_finished(sweep: Sweep) -> bool:
    """Whether nothing is left to train; where the space has no more, others may be at its last configurations."""
    if len(counted(sweep.study)) >= sweep.job.trials:
        return True
    return is_exhausted(sweep) and not _running(sweep)


def _why_not_go_on(
    sweep: Sweep, config: FleetConfig, ended: list[Machine], num_machines: int, began_at: float
) -> SatxError | None:
    """What makes more machines useless, as the error to end with."""
    failures = too_many_failures(sweep.study)
    if failures is not None:
        return SweepStopped(failures)
    if taken_down_at(sweep.study) > began_at:
        return Interrupted("`satx fleet down` was called. What was done is kept; the same command continues.")
    begun = [
        trial.datetime_start.timestamp() for trial in sweep.study.get_trials(deepcopy=False) if trial.datetime_start
    ]
    last = max(begun, default=0.0)
    useless = [  # EC2 tells when a machine was launched in whole seconds
        machine
        for machine in ended
        if machine.launched_at.timestamp() > last and machine.launched_at.timestamp() >= int(began_at)
    ]
    if len(useless) < max(FEWEST_USELESS, num_machines) or _running(sweep):
        return None
    return FleetError(
        f"Expected machines to begin trials, saw {len(useless)} end one after another without one. Their logs lie in "
        f"{config.bucket}/logs; `aws ec2 get-console-output --instance-id {useless[-1].instance_id}` has the start of the "
        f"last. Mend what they say, and repeat the command."
    )


def _let_them_end(
    sweep: Sweep,
    amazon: Amazon,
    config: FleetConfig,
    ended: dict[str, Machine],
    *,
    seconds: float,
    on_tick: Callable[[Sweep], None],
    sleep: Callable[[float], None],
) -> None:
    """Wait until machines have ended by themselves, for so long.

    They write what waits on their disks, if need be until MLflow is back, and hand back what they train.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        on_tick(sweep)
        try:
            if not _look(sweep, amazon, config, ended):
                return
        except FleetError as refused:
            logger.warning("%s", refused)
        sleep(TICK_SECONDS)


def _end_the_rest(sweep: Sweep, amazon: Amazon, sleep: Callable[[float], None]) -> None:
    """End the machines that did not, and settle what they leave."""
    end(amazon.ec2, machines_of(amazon.ec2, sweep.job.study_name), sleep=sleep)
    remove_templates(amazon.ec2, sweep.job.study_name)
    if _running(sweep):
        sleep(STALE_SECONDS + BEAT_SECONDS)  # until it is known that nobody works on them any more
    reconcile(sweep.study, sweep.client, sweep.job.experiment_id)
    write_missing_records(sweep.study, sweep.client, sweep.job.experiment_id)
