"""What a fleet costs: kept in the study, where every machine writes what it has cost so far, so that no controller is needed.

EC2 forgets ended machines within the hour; the study does not. A machine's own figure is at most a quarter of a lease old.
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

PRICES = "usd_per_hour"  # attribute of the study: by instance type and lifecycle, as the launcher found them
BUDGET = "budget_usd"  # attribute of the study
SPENT = "spent_usd "  # begins a machine's attribute
WATCHED = (
    "watched_usd "  # begins that of a machine as whoever watches it counts: its worker may hang, or not have begun
)
ENDED = "ended_at_seconds "  # begins that of a machine, by whoever saw first that it has
TAKEN_DOWN_AT = "taken_down_at_seconds"  # attribute of the study: when `fleet down` was called last, seconds since 1970


@dataclass(frozen=True)
class Ledger:
    """A study's money.

    Attributes:
        budget_usd: What may be spent, or None.
        spent_usd: By machine, the ended ones included.
    """

    budget_usd: float | None
    spent_usd: dict[str, float]

    @property
    def total_usd(self) -> float:
        """Of all machines."""
        return sum(self.spent_usd.values())

    @property
    def is_spent(self) -> bool:
        """Whether the budget is."""
        return self.budget_usd is not None and self.total_usd >= self.budget_usd


@dataclass(frozen=True)
class Forecast:
    """What the rest of a study will take, at the pace of what is done.

    Attributes:
        num_done: Configurations that it is drawn from.
        num_left: Configurations left.
        hours_each: Mean time of those done.
    """

    num_done: int
    num_left: int
    hours_each: float

    def hours(self, num_machines: int) -> float:
        """Until all are done, where each machine trains one at a time."""
        return math.ceil(self.num_left / num_machines) * self.hours_each


def forecast(study: optuna.Study, wanted: int) -> Forecast | None:
    """From the study's own trials, pruned ones as they came; None before the first is done.

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
    """A study's money, as its machines wrote it down last."""
    attributes = study.user_attrs
    spent: dict[str, float] = {}
    for name, usd in attributes.items():
        if name.startswith((WATCHED, SPENT)):
            machine = name.partition(" ")[2]
            spent[machine] = max(spent.get(machine, 0.0), float(usd))
    return Ledger(attributes.get(BUDGET), spent)


def write_prices(study: optuna.Study, prices: dict[str, Price], *, budget_usd: float | None) -> None:
    """Tell the machines to come what they cost, and all of them together may.

    Args:
        study: The study.
        prices: By `price_key`.
        budget_usd: None leaves an earlier budget as it is.
    """
    before = study.user_attrs.get(PRICES, {})
    study.set_user_attr(PRICES, before | {key: asdict(price) for key, price in prices.items()})
    if budget_usd is not None:
        study.set_user_attr(BUDGET, budget_usd)


def price_key(instance_type: str, *, spot: bool) -> str:
    """As `g6.xlarge spot`."""
    return f"{instance_type} {'spot' if spot else 'on-demand'}"


def price_here(study: optuna.Study, me: Identity) -> float:
    """What this machine costs an hour; 0 if whoever launched it did not know."""
    return _usd_per_hour(study, me.instance_type, spot=me.spot)


def _usd_per_hour(study: optuna.Study, instance_type: str, *, spot: bool) -> float:
    found = study.user_attrs.get(PRICES, {}).get(price_key(instance_type, spot=spot))
    return float(found["usd_per_hour"]) if found else 0.0


def note_spent(study: optuna.Study, me: Identity, *, now: datetime.datetime) -> Ledger:
    """Write down what this machine has cost since it started; returns the study's money then."""
    hours = (now.timestamp() - psutil.boot_time()) / 3600
    study.set_user_attr(f"{SPENT}{me.instance_id}", round(hours * price_here(study, me), 4))
    return ledger(study)


def note_watched(study: optuna.Study, machines: list[Machine], *, now: datetime.datetime) -> None:
    """Write down what machines have cost whose workers may not do so: they start, hang, or never got so far.

    Args:
        study: The study.
        machines: All of it, those that have ended included; these are charged until they are first seen ended.
        now: UTC.
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
    """Tell whoever watches the fleet to launch no more."""
    study.set_user_attr(TAKEN_DOWN_AT, now.timestamp())


def taken_down_at(study: optuna.Study) -> float:
    """When that was told last, seconds since 1970; 0 for never."""
    return float(study.user_attrs.get(TAKEN_DOWN_AT, 0.0))
