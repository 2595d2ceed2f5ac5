"""Cost of a fleet, kept in the study: every machine records its own cost so far, so that no controller is needed.

EC2 stops listing terminated machines within the hour; the study keeps their cost. The cost that a machine records is at
most a quarter of a lease old.
"""

from __future__ import annotations

import datetime
import math
from dataclasses import asdict, dataclass

import optuna
import psutil

from satx.fleet.machines import LIVING, Machine
from satx.fleet.metadata import Identity
from satx.fleet.prices import Price
from satx.study.outcomes import counted

PRICES = "usd_per_hour"  # study attribute: prices by instance type and lifecycle, as the launcher found them
BUDGET = "budget_usd"  # study attribute
SPENT = "spent_usd "  # prefix of the study attribute with the cost that a machine records itself
# Prefix of the study attribute with a machine's cost as recorded by the process that watches the fleet, since the
# machine's worker may hang, or not have started.
WATCHED = "watched_usd "
ENDED = "ended_at_seconds "  # prefix of the study attribute with the time a machine was first seen ended
TAKEN_DOWN_AT = "taken_down_at_seconds"  # study attribute: time of the last `fleet down`, seconds since 1970


@dataclass(frozen=True)
class Ledger:
    """Budget and costs of a study.

    Attributes:
        budget_usd: The budget, or None.
        spent_usd: Cost by instance id, ended machines included.
    """

    budget_usd: float | None
    spent_usd: dict[str, float]

    @property
    def total_usd(self) -> float:
        """Cost of all machines."""
        return sum(self.spent_usd.values())

    @property
    def is_spent(self) -> bool:
        """Whether the budget is spent."""
        return self.budget_usd is not None and self.total_usd >= self.budget_usd


@dataclass(frozen=True)
class Forecast:
    """Forecast of the time that the rest of a study takes, at the pace of the finished part.

    Attributes:
        num_done: Finished configurations that the forecast is based on.
        num_left: Configurations left.
        hours_each: Mean hours of a finished configuration.
    """

    num_done: int
    num_left: int
    hours_each: float

    def hours(self, num_machines: int) -> float:
        """Return the hours until all are done, if each machine trains one configuration at a time."""
        return math.ceil(self.num_left / num_machines) * self.hours_each


def forecast(study: optuna.Study, wanted: int) -> Forecast | None:
    """Forecast from the study's own trials, pruned ones with their actual time; None before the first is done.

    Args:
        study: The study.
        wanted: Configurations wanted in all.
    """
    done = counted(study)
    hours = [trial.duration.total_seconds() / 3600 for trial in done if trial.duration is not None]
    if not hours:
        return None
    left = max(0, wanted - len(done))
    return Forecast(len(done), left, sum(hours) / len(hours))


def ledger(study: optuna.Study) -> Ledger:
    """Return a study's ledger, with each machine's last recorded cost."""
    attributes = study.user_attrs
    spent: dict[str, float] = {}
    for name, usd in attributes.items():
        if name.startswith((WATCHED, SPENT)):
            machine = name.partition(" ")[2]
            spent[machine] = max(spent.get(machine, 0.0), float(usd))
    return Ledger(attributes.get(BUDGET), spent)


def write_prices(study: optuna.Study, prices: dict[str, Price], *, budget_usd: float | None) -> None:
    """Write the machines' prices and their common budget into the study, where new machines read them.

    Args:
        study: The study.
        prices: Prices by `price_key`.
        budget_usd: The budget; None keeps an earlier one.
    """
    before = study.user_attrs.get(PRICES, {})
    study.set_user_attr(PRICES, before | {key: asdict(price) for key, price in prices.items()})
    if budget_usd is not None:
        study.set_user_attr(BUDGET, budget_usd)


def price_key(instance_type: str, *, spot: bool) -> str:
    """Return the key of a price, for example `g6.xlarge spot`."""
    return f"{instance_type} {'spot' if spot else 'on-demand'}"


def price_here(study: optuna.Study, me: Identity) -> float:
    """Return this machine's price per hour; 0 if the launcher did not know it."""
    return _usd_per_hour(study, me.instance_type, spot=me.spot)


def _usd_per_hour(study: optuna.Study, instance_type: str, *, spot: bool) -> float:
    found = study.user_attrs.get(PRICES, {}).get(price_key(instance_type, spot=spot))
    return float(found["usd_per_hour"]) if found else 0.0


def note_spent(study: optuna.Study, me: Identity, *, now: datetime.datetime) -> Ledger:
    """Record what this machine has cost since boot; return the study's updated ledger."""
    hours = (now.timestamp() - psutil.boot_time()) / 3600
    study.set_user_attr(f"{SPENT}{me.instance_id}", round(hours * price_here(study, me), 4))
    return ledger(study)


def note_watched(study: optuna.Study, machines: list[Machine], *, now: datetime.datetime) -> None:
    """Record the cost of machines on behalf of their workers, which may be starting, hang, or have failed to start.

    Args:
        study: The study.
        machines: All machines of the study, ended ones included; these are charged until they are first seen ended.
        now: The current time, UTC.
    """
    attributes = study.user_attrs
    for machine in machines:
        name = f"{WATCHED}{machine.instance_id}"
        usd = round(machine.hours(now) * _usd_per_hour(study, machine.instance_type, spot=machine.spot), 2)
        was_seen = f"{ENDED}{machine.instance_id}" in attributes
        if not was_seen and usd != attributes.get(name):
            study.set_user_attr(name, usd)
        if not was_seen and machine.state not in LIVING:
            study.set_user_attr(f"{ENDED}{machine.instance_id}", now.timestamp())


def note_taken_down(study: optuna.Study, *, now: datetime.datetime) -> None:
    """Record the call of `fleet down`, so that the process that watches the fleet launches no more machines."""
    study.set_user_attr(TAKEN_DOWN_AT, now.timestamp())


def taken_down_at(study: optuna.Study) -> float:
    """Return the time of the last `fleet down`, in seconds since 1970; 0 if there was none."""
    return float(study.user_attrs.get(TAKEN_DOWN_AT, 0.0))
