"""`satx fleet up`: print the plan and the price of a fleet and, once confirmed, launch its machines."""

from __future__ import annotations

import datetime
from dataclasses import dataclass

import optuna
import typer

from satx.commands.console import banner, git_commit, next_commands, out, table
from satx.commands.progress import progress_bars
from satx.config import validated
from satx.errors import ConfigError, Interrupted
from satx.execution.driver import Sweep, close_sweep, name_of_study, only_driver, open_sweep
from satx.fleet.launching import Launch, launch
from satx.fleet.machines import end_overdue, machines_of
from satx.fleet.plan import Amazon, FleetPlan, clients_of, plan_fleet
from satx.fleet.settings import FleetConfig, databases_of_machines, load_fleet, shared_databases
from satx.fleet.spending import forecast, ledger, write_prices
from satx.fleet.user_data import FirstStart, user_data
from satx.fleet.watch import Order
from satx.fleet.wheel import Wheel, send_wheel
from satx.search.space import SweepConfig
from satx.sessions.prepare import SessionRequest, prepare, sweep_for
from satx.study.database import open_storage, open_study
from satx.study.outcomes import counted


@dataclass(frozen=True)
class Fleet:
    """A planned fleet.

    Attributes:
        config: Settings of the machines.
        amazon: AWS clients.
        order: The user's order.
        plan: Which machines exist, how many are missing, and what they cost.
    """

    config: FleetConfig
    amazon: Amazon
    order: Order
    plan: FleetPlan


def fleet_up_command(
    request: SessionRequest, order: Order, *, sweep_name: str | None, trials: int | None, dry_run: bool, yes: bool
) -> None:
    """Print the plan and the price of a fleet, ask for confirmation, open the study and launch the missing machines."""
    config = load_fleet()
    shared_databases()
    settings = sweep_for(request, sweep_name)
    if trials is not None:
        settings = validated(SweepConfig, settings.model_dump() | {"trials": trials}, source="TRIALS")
    with progress_bars() as on_progress:
        prepared = prepare(request, settings.backbones, on_progress=on_progress)
    name, _ = name_of_study(prepared, settings)
    fleet = planned_fleet(config, order, name, settings.trials)
    if dry_run:
        return
    if not yes and fleet.plan.num_missing > 0 and not typer.confirm("Launch them?"):
        raise Interrupted("Nothing was launched.")
    with only_driver(name):
        sweep = open_sweep(prepared, settings, settings.trials, git_commit=git_commit(), bucket=config.bucket)
        wanted, now = ordered(fleet, sweep), datetime.datetime.now(datetime.UTC)
        end_overdue(fleet.amazon.ec2, machines_of(fleet.amazon.ec2, name), config, now=now)
        new = launch(fleet.amazon.ec2, config, wanted, order.num_machines, now=now)
        close_sweep(sweep, "SCHEDULED")
    out.print(f"{len(new)} machines launched, {len(fleet.plan.there)} already running.", highlight=False)
    next_commands(
        {
            f"satx fleet status --study {name}": "machines, trials, cost",
            f"satx sweep --session {request.session}": "when they are done: baselines, test scores, the winner",
            f"satx fleet down --study {name}": "terminate the machines",
        }
    )


def planned_fleet(config: FleetConfig, order: Order, study: str, trials: int) -> Fleet:
    """Plan a fleet; print the plan, the price and a forecast from the study's own trials. Launch nothing."""
    amazon, now = clients_of(config), datetime.datetime.now(datetime.UTC)
    plan = plan_fleet(amazon, config, study, order.num_machines, spot=order.spot, now=now)
    for warning in plan.warnings:
        banner(warning)
    _print_plan(study, config, plan, order, _forecast_text(study, trials, order, plan))
    if order.budget_usd is not None and plan.unpriced():
        raise ConfigError(
            f"--budget-usd: expected a known price for every machine type, found none for {', '.join(plan.unpriced())}, so the "
            f"spending cannot be computed. Allow yourself pricing:GetProducts and ec2:DescribeSpotPriceHistory "
            f"(infra/iam/launcher.json), or choose other `instance_types`."
        )
    return Fleet(config, amazon, order, plan)


def ordered(fleet: Fleet, sweep: Sweep) -> Launch:
    """Write prices and budget into the study, upload satx's wheel to the bucket, and return the launch request."""
    write_prices(sweep.study, fleet.plan.prices, budget_usd=fleet.order.budget_usd)
    money = ledger(sweep.study)
    if money.is_spent and len(counted(sweep.study)) < sweep.job.trials:
        raise ConfigError(
            f"--budget-usd: expected more than the ${money.total_usd:.2f} that this study has already cost, got "
            f"${money.budget_usd:.2f}. Machines would terminate as soon as they start; set a higher budget."
        )
    wheel = send_wheel(fleet.amazon.s3, fleet.config.bucket)
    script = user_data(_first_start(sweep.job.study_name, fleet.config, wheel))
    return Launch(sweep.job.study_name, fleet.plan.image_id, fleet.plan.places, script, fleet.order.spot)


def _first_start(study: str, config: FleetConfig, wheel: Wheel) -> FirstStart:
    study_url, tracking_uri = databases_of_machines(config)
    return FirstStart(
        study=study,
        study_url=study_url,
        tracking_uri=tracking_uri,
        bucket=config.bucket,
        region=config.region,
        wheel_uri=wheel.uri,
        wheel_name=wheel.name,
        wheel_sha256=wheel.sha256,
        lock_uri=wheel.lock_uri,
        lock_sha256=wheel.lock_sha256,
        secret_prefix=config.secrets,
        lease_minutes=config.lease_minutes,
        lease_seconds=config.lease_minutes * 60,
        max_seconds=int(config.max_hours * 3600),
    )


def _forecast_text(name: str, trials: int, order: Order, plan: FleetPlan) -> str:
    storage = open_storage()
    found = None
    if name in optuna.get_all_study_names(storage=storage):
        found = forecast(open_study(storage, name), trials)
    if found is None:
        return "none: no trial of this study is done yet"
    hours, hourly = found.hours(order.num_machines), plan.usd_per_hour()
    dollars = f", ${hours * hourly:.2f}" if hourly is not None else ""
    return f"{hours:.1f} hours{dollars} for the other {found.num_left} trials, at the pace of the {found.num_done} done"


def _print_plan(study: str, config: FleetConfig, plan: FleetPlan, order: Order, forecast_text: str) -> None:
    hourly = plan.usd_per_hour()
    kinds = dict.fromkeys(kind for kind, _ in plan.places)
    zones = len({subnet for _, subnet in plan.places})
    rows = [
        ["study", study],
        ["machines", f"{max(0, plan.num_missing)} to launch, {len(plan.there)} already running"],
        ["types", f"{', '.join(kinds)} in {zones} subnets of {config.region}, {'spot' if plan.spot else 'on demand'}"],
        ["image", plan.image_id],
        *([f"${price.usd_per_hour:.4f}/hour", f"{key} ({price.source})"] for key, price in plan.prices.items()),
        ["price", f"at most ${hourly:.2f} an hour" if hourly is not None else "unknown"],
        ["forecast", forecast_text],
        [
            "budget",
            "none: machines end when the study is done" if order.budget_usd is None else f"${order.budget_usd:.2f}",
        ],
        ["maximum lifetime", f"{config.max_hours:g} hours, or {config.lease_minutes} minutes without progress"],
    ]
    table("Fleet", ["", ""], rows)
