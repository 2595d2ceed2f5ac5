"""Subcommands of `satx fleet`; `cli` declares the other commands."""

from __future__ import annotations

from typing import Annotated

import typer

from satx.cli_options import Budget, Data, Json, Session, Size, Weights
from satx.cli_process import load_keras_quietly
from satx.errors import ConfigError

fleet_app = typer.Typer(
    no_args_is_help=True,
    help="EC2 machines that train a sweep's trials.",
    epilog="Example: `satx fleet up --session 2 --workers 8 --dry-run`",
)

StudyName = Annotated[
    str | None,
    typer.Option(help="Name of the study; optional if only one study has machines.", show_default=False),
]


@fleet_app.command("up", epilog="Example: `satx fleet up --session 2 --workers 8 --spot --budget-usd 60`")
def fleet_up(
    session: Session = "2",
    data: Data = None,
    weights: Weights = None,
    size: Size = None,
    sweep: Annotated[str | None, typer.Option(help="Name of a file in sweeps/.", show_default=False)] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="Overrides the YAML.", show_default=False)] = None,
    workers: Annotated[int, typer.Option(min=1, max=256, help="Machines that the sweep should have.")] = 2,
    spot: Annotated[bool, typer.Option("--spot", help="Prefer spot machines.")] = False,
    budget_usd: Budget = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and the price, and stop.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Launch without asking; needs --budget-usd.")] = False,
) -> None:
    """Launch the machines that a sweep still lacks; repeating the call launches no more."""
    if yes and budget_usd is None:
        raise ConfigError("--yes: expected --budget-usd too, since machines are launched without asking. Set a budget.")
    load_keras_quietly()
    from satx.commands.console import quiet_libraries
    from satx.commands.fleet_up import fleet_up_command
    from satx.fleet.watch import Order
    from satx.sessions.prepare import SessionRequest

    quiet_libraries()
    request = SessionRequest(session=session, data=data, weights=weights, image_size_px=size)
    order = Order(workers, spot, budget_usd)
    fleet_up_command(request, order, sweep_name=sweep, trials=trials, dry_run=dry_run, yes=yes)


@fleet_app.command("status", epilog="Example: `satx fleet status --json`")
def fleet_status(study: StudyName = None, as_json: Json = False) -> None:
    """Print a sweep's machines, trials and cost."""
    from satx.commands.console import quiet_libraries
    from satx.commands.fleet import fleet_status_command

    quiet_libraries()
    fleet_status_command(study, as_json=as_json)


@fleet_app.command("down", epilog="Example: `satx fleet down --keep 2`")
def fleet_down(
    study: StudyName = None, keep: Annotated[int, typer.Option(min=0, help="Keep this many of the oldest.")] = 0
) -> None:
    """Terminate a sweep's machines."""
    from satx.commands.console import quiet_libraries
    from satx.commands.fleet import fleet_down_command

    quiet_libraries()
    fleet_down_command(study, keep=keep)
