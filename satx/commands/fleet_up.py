"""`satx fleet up`: the plan and the price, and when they are agreed to the machines."""

from __future__ import annotations

import datetime
import os

import typer

from satx.commands.console import banner, git_commit, next_commands, out, progress_bars, table
from satx.config import validated
from satx.errors import Interrupted
from satx.fleet.machines import Launch, launch
from satx.fleet.money import write_prices
from satx.fleet.plan import Plan, clients_of, plan_fleet
from satx.fleet.settings import FleetConfig, load_fleet, shared_databases
from satx.fleet.user_data import FirstStart, user_data
from satx.fleet.wheel import Wheel, send_wheel
from satx.search.driver import close_sweep, name_of_study, only_driver, open_sweep
from satx.search.prepare import Request, plan_sweep, prepare, sweep_for
from satx.search.space import SweepConfig


def fleet_up_command(
    request: Request,
    *,
    sweep_name: str | None,
    trials: int | None,
    workers: int,
    spot: bool,
    budget_usd: float | None,
    dry_run: bool,
    yes: bool,
) -> None:
    """Print the plan and the price of a fleet, ask, open the study and launch what is missing."""
    config, now = load_fleet(), datetime.datetime.now(datetime.UTC)
    shared_databases()
    os.environ["SATX_BUCKET"] = config.bucket
    settings = sweep_for(request, sweep_name)
    if trials is not None:
        settings = validated(SweepConfig, settings.model_dump() | {"trials": trials}, source="TRIALS")
    with progress_bars() as notify:
        ready = prepare(request, settings.backbones, notify=notify)
    name, _ = name_of_study(ready, settings)
    amazon = clients_of(config)
    plan = plan_fleet(amazon, config, name, workers, spot=spot, now=now)
    for warning in plan.warnings:
        banner(warning)
    _print_plan(name, config, plan, plan_sweep(ready, settings, settings.trials).num_configurations, budget_usd)
    if dry_run:
        return
    if not yes and plan.num_missing > 0 and not typer.confirm("Launch them?"):
        raise Interrupted("Nothing was launched.")
    with only_driver(name):
        sweep = open_sweep(ready, settings, settings.trials, git_commit=git_commit())
        write_prices(sweep.study, plan.prices, budget_usd=budget_usd)
        wheel = send_wheel(amazon.s3, config.bucket)
        first_start = _first_start(name, config, wheel)
        wanted = Launch(name, plan.image_id, plan.places, user_data(first_start), spot)
        new = launch(amazon.ec2, config, wanted, workers, now=now)
        close_sweep(sweep, "SCHEDULED")
    out.print(f"{len(new)} machines launched, {len(plan.there)} were there.", highlight=False)
    next_commands(
        {
            f"satx fleet status --study {name}": "machines, trials, dollars",
            f"satx sweep --session {request.session}": "when they are done: baselines, test scores, the winner",
            f"satx fleet down --study {name}": "end all of it",
        }
    )


def _first_start(study: str, config: FleetConfig, wheel: Wheel) -> FirstStart:
    study_url, tracking_uri = shared_databases()
    return FirstStart(
        study=study,
        study_url=study_url,
        tracking_uri=tracking_uri,
        bucket=config.bucket,
        region=config.region,
        wheel_uri=wheel.uri,
        wheel_name=wheel.name,
        wheel_sha256=wheel.sha256,
        constraints_uri=wheel.constraints_uri,
        constraints_sha256=wheel.constraints_sha256,
        secret_prefix=config.secrets,
        lease_minutes=config.lease_minutes,
        lease_seconds=config.lease_minutes * 60,
        max_seconds=int(config.max_hours * 3600),
    )


def _print_plan(name: str, config: FleetConfig, plan: Plan, num_configurations: int, budget_usd: float | None) -> None:
    hourly = plan.usd_per_hour()
    kinds = dict.fromkeys(kind for kind, _ in plan.places)
    zones = len({subnet for _, subnet in plan.places})
    rows = [
        ["study", f"{name}, {num_configurations} configurations"],
        ["machines", f"{max(0, plan.num_missing)} to launch, {len(plan.there)} are there"],
        ["types", f"{', '.join(kinds)} in {zones} subnets of {config.region}, {'spot' if plan.spot else 'on demand'}"],
        ["image", plan.image_id],
        *([f"${price.usd_per_hour:.4f}/hour", f"{key} ({price.source})"] for key, price in plan.prices.items()),
        ["price", f"at most ${hourly:.2f} an hour" if hourly is not None else "unknown"],
        ["budget", f"${budget_usd:.2f}" if budget_usd is not None else "none: machines end when the study is done"],
        ["end of life", f"{config.max_hours:g} hours, or {config.lease_minutes} minutes without progress"],
    ]
    table("Plan", ["", ""], rows)
