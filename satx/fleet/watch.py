"""Watch a fleet: replace missing machines until the study is done, the budget is spent, or launches are useless."""

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
from satx.study.outages import BREAKS
from satx.study.outcomes import counted, too_many_failures
from satx.study.reconcile import reconcile, reconcile_now_and_then, unless_away
from satx.study.run_recovery import write_missing_records

logger = logging.getLogger(__name__)

TICK_SECONDS = 5.0
HAND_BACK_SECONDS = 300.0
FEWEST_USELESS = 3  # spot machines may be interrupted while they start


@dataclass(frozen=True)
class Order:
    """A user's order for a fleet.

    Attributes:
        num_machines: The wanted number of machines.
        spot: Whether to request spot machines first.
        budget_usd: The budget, or None.
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
    retry_seconds: float = TURN_SECONDS,
    hand_back_seconds: float = HAND_BACK_SECONDS,
) -> bool:
    """Keep a fleet at its size while there is work, and terminate it afterwards.

    If EC2 rejects a launch, the error is logged, and the launch is tried again when EC2 no longer remembers the
    request; running machines continue. Ctrl-C leaves the machines running.

    Args:
        sweep: The sweep whose trials the machines train.
        amazon: AWS clients.
        config: Settings of the machines.
        wanted: The launch request.
        num_machines: The wanted number of machines; fewer are launched if fewer configurations are left.
        on_tick: Called every few seconds, to draw progress.
        sleep: Waits for a number of seconds.
        retry_seconds: Time after a rejected request, until EC2 is called again.
        hand_back_seconds: Time for machines to hand back their trials and shut down, once they know that they must.

    Returns:
        True if every configuration is done or the space is exhausted, False if the budget was spent first.

    Raises:
        SweepStopped: Too many trials failed in a row.
        FleetError: Machines end one after another without starting a trial, or cannot be terminated.
        Interrupted: `satx fleet down` was called.
    """
    began_at, ask_again_at = time.time(), float("-inf")
    ended: dict[str, Machine] = {}  # kept here: EC2 stops listing them within the hour
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
        except (FleetError, ConfigError) as error:
            logger.warning("%s", error)
            ask_again_at = time.monotonic() + retry_seconds
        sleep(TICK_SECONDS)
    seconds = PATIENCE_SECONDS if finished else config.lease_minutes * 60 / 4 + hand_back_seconds
    _let_them_end(sweep, amazon, config, ended, seconds=seconds, on_tick=on_tick, sleep=sleep)
    _end_the_rest(sweep, amazon, sleep)
    if why:
        raise why
    return finished


def _look(sweep: Sweep, amazon: Amazon, config: FleetConfig, ended: dict[str, Machine]) -> int:
    """Record the cost of all machines, terminate overdue ones, and add ended ones to `ended`.

    Returns:
        The number of machines that have not ended.
    """
    now = datetime.datetime.now(datetime.UTC)
    machines = all_machines_of(amazon.ec2, sweep.job.study_name)
    note_watched(sweep.study, machines, now=now)
    end_overdue(amazon.ec2, machines, config, now=now)
    ended.update({machine.instance_id: machine for machine in machines if machine.state not in LIVING})
    return sum(machine.state in LIVING for machine in machines)


def _num_useful(sweep: Sweep, num_machines: int) -> int:
    """Return how many machines are useful; 0 if the space is exhausted or all that is left is being trained.

    Nothing is launched then, and machines without work end themselves.
    """
    num_left = sweep.job.trials - len(counted(sweep.study))
    return min(num_machines, num_left) if num_left > len(_running(sweep)) and not is_exhausted(sweep) else 0


def _running(sweep: Sweep) -> list[FrozenTrial]:
    return sweep.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))


def _is_finished(sweep: Sweep) -> bool:
    """Return whether nothing is left to train.

    If the space is exhausted, other workers may still be training its last configurations.
    """
    if len(counted(sweep.study)) >= sweep.job.trials:
        return True
    return is_exhausted(sweep) and not _running(sweep)


def _why_not_go_on(
    sweep: Sweep, config: FleetConfig, ended: list[Machine], num_machines: int, began_at: float
) -> SatxError | None:
    """Return the error to end with if more machines would be useless, else None."""
    failures = too_many_failures(sweep.study)
    if failures is not None:
        return SweepStopped(failures)
    if taken_down_at(sweep.study) > began_at:
        return Interrupted(
            "`satx fleet down` was called. Finished trials are kept; the same command continues the sweep."
        )
    begun = [
        trial.datetime_start.timestamp() for trial in sweep.study.get_trials(deepcopy=False) if trial.datetime_start
    ]
    last = max(begun, default=0.0)
    useless = [  # EC2 reports launch times in whole seconds
        machine
        for machine in ended
        if machine.launched_at.timestamp() > last and machine.launched_at.timestamp() >= int(began_at)
    ]
    if len(useless) < max(FEWEST_USELESS, num_machines) or _running(sweep):
        return None
    return FleetError(
        f"Expected machines to start trials, but {len(useless)} in a row terminated without starting one. Their logs are in "
        f"{config.bucket}/logs; `aws ec2 get-console-output --instance-id {useless[-1].instance_id}` prints the boot messages "
        f"of the last one. Fix the cause, and repeat the command."
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
    """Wait until the machines have terminated by themselves, for at most `seconds`.

    Before that, they perform their spooled writes to MLflow, waiting if it is unavailable, and hand back their trials.
    Errors of AWS, MLflow and the study's database are logged, since the machines must be terminated whatever happens.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            on_tick(sweep)
            if not _look(sweep, amazon, config, ended):
                return
        except (FleetError, *BREAKS) as error:
            logger.warning("%s", error)
        sleep(TICK_SECONDS)


def _end_the_rest(sweep: Sweep, amazon: Amazon, sleep: Callable[[float], None]) -> None:
    """Terminate the machines that did not shut down by themselves, and reconcile their trials and runs.

    If MLflow or the study's database is down, the next call of the sweep reconciles them.
    """
    end(amazon.ec2, machines_of(amazon.ec2, sweep.job.study_name), sleep=sleep)
    remove_templates(amazon.ec2, sweep.job.study_name)
    with unless_away(sweep.study):
        if _running(sweep):
            sleep(STALE_SECONDS + BEAT_SECONDS)  # until missing heartbeats show that no process works on these trials
        reconcile(sweep.study, sweep.client, sweep.job.experiment_id)
        write_missing_records(sweep.study, sweep.client, sweep.job.experiment_id)
