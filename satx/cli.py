"""The command line. Declares the options; each command imports its code when it is called, so `--help` is fast."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from satx import __version__, cli_predict, cli_serve, cli_winner
from satx.cli_checks import check_request
from satx.cli_data import data_app
from satx.cli_fleet import fleet_app
from satx.cli_options import Budget, Data, Json, Session, Size, Weights
from satx.cli_process import load_keras_quietly, retry_nothing_in_mlflow, run_with_exit_code, use_threads_of
from satx.cli_session import session_app
from satx.errors import ConfigError

if TYPE_CHECKING:
    from satx.fleet.watch import Order

app = typer.Typer(
    no_args_is_help=True,
    epilog="Example: `satx sweep --session 2`, then `satx ui`",
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(fleet_app, name="fleet")
app.add_typer(data_app, name="data")
app.add_typer(session_app, name="session")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"satx {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Sweep, compare and ship image classifiers for satellite tiles."""


@app.command(epilog="Example: `satx sweep --session 2 --sweep quick --trials 16 --minutes 30`")
def sweep(
    session: Session = "2",
    data: Data = None,
    weights: Weights = None,
    size: Size = None,
    sweep: Annotated[str | None, typer.Option(help="Name of a file in sweeps/.", show_default=False)] = None,
    trials: Annotated[
        int | None, typer.Option(min=1, help="Total of finished and pruned configurations.", show_default=False)
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(min=0.1, help="Stop after this long; the same command continues.", show_default=False),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Parallel trials on this machine.")] = 1,
    fleet: Annotated[
        int | None,
        typer.Option(min=1, max=256, help="Train on this many EC2 machines; needs --budget-usd.", show_default=False),
    ] = None,
    spot: Annotated[bool, typer.Option("--spot", help="With --fleet: prefer spot machines.")] = False,
    budget_usd: Budget = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
    as_json: Json = False,
) -> None:
    """Search configurations over backbones; resumes where it stopped."""
    check_request(session, data, size, sweep=sweep)
    load_keras_quietly(announced=not as_json)
    from satx.commands.console import quiet_libraries
    from satx.commands.sweep import sweep_command
    from satx.sessions.prepare import SessionRequest

    quiet_libraries()
    request = SessionRequest(session=session, data=data, weights=weights, image_size_px=size)
    sweep_command(
        request,
        sweep_name=sweep,
        trials=trials,
        minutes=minutes,
        workers=workers,
        order=_order(fleet, spot, budget_usd, minutes),
        dry_run=dry_run,
        as_json=as_json,
    )


def _order(fleet: int | None, spot: bool, budget_usd: float | None, minutes: float | None) -> Order | None:
    """Return the fleet that the options request, or None without `--fleet`."""
    from satx.fleet.watch import Order

    if fleet is None:
        return None
    if budget_usd is None:
        raise ConfigError(
            "--fleet: expected --budget-usd too, since machines are launched without asking. Set a budget."
        )
    if minutes is not None:
        raise ConfigError(
            "--minutes: expected none with --fleet, which is limited by --budget-usd. Leave one of them out."
        )
    return Order(fleet, spot, budget_usd)


def _use_its_threads(run_id: str) -> None:
    from satx.tracking.client import open_tracker
    from satx.tracking.runs import get_run

    use_threads_of(get_run(open_tracker(), run_id).data.tags)


@app.command(epilog="Example: `satx train --session 2 --set model.backbone=xception --set train.batch_size=16`")
def train(
    session: Session = "2",
    data: Data = None,
    weights: Weights = None,
    size: Size = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", help="A setting, as name=value; can be repeated.", show_default=False),
    ] = None,
    from_run: Annotated[str | None, typer.Option(help="Repeat this run exactly.", show_default=False)] = None,
) -> None:
    """Train one configuration; an interrupted training continues when the command is repeated."""
    values = check_request(session, data, size, assignments=assignments or [], from_run=from_run is not None)
    if from_run is not None:
        _use_its_threads(from_run)
    load_keras_quietly(announced=True)
    from satx.commands.console import quiet_libraries
    from satx.commands.train import train_command
    from satx.sessions.prepare import SessionRequest

    quiet_libraries()
    request = SessionRequest(session=session, data=data, weights=weights, image_size_px=size)
    train_command(request, values=values, from_run=from_run)


@app.command(epilog="Example: `satx tune sweeps/hypermodel.py --session 2 --trials 20`")
def tune(
    file: Annotated[Path, typer.Argument(help="A Python file with one keras_tuner.HyperModel; it is executed.")],
    session: Session = "2",
    data: Data = None,
    size: Size = None,
    trials: Annotated[int, typer.Option(min=1, help="Total of finished and pruned trials.")] = 20,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of each trial, unless `fit` sets its own.")] = 10,
    batch_size: Annotated[int, typer.Option(min=1, help="Tiles per step, unless `fit` sets its own.")] = 32,
) -> None:
    """Sweep a KerasTuner HyperModel of your own on a session's tiles.

    KerasTuner's engine runs the trials, Optuna draws the values. A `fit(hp, model, x, y, validation_data, ...)` gets arrays in
    memory; `fit(hp, model, data, validation_data, ...)` and `fit(hp, model, *args, **kwargs)` get batches read from disk.
    """
    check_request(session, data, size)
    load_keras_quietly(announced=True)
    from satx.commands.console import quiet_libraries
    from satx.commands.tune import tune_command
    from satx.sessions.prepare import SessionRequest

    quiet_libraries()
    request = SessionRequest(session=session, data=data, weights=None, image_size_px=size)
    tune_command(file, request, trials=trials, epochs=epochs, batch_size=batch_size)


@app.command(epilog="Example: `satx compare --session 1 --session 2`")
def compare(
    session: Annotated[
        list[str] | None,
        typer.Option("--session", "-s", help="Session; give two to compare them. Default: 2.", show_default=False),
    ] = None,
    sample: Annotated[bool, typer.Option("--sample", help="Compare the session's runs on sample tiles.")] = False,
    output: Annotated[Path | None, typer.Option(help="Folder of figure and page. Default: SATX_HOME/reports.")] = None,
    study: Annotated[str | None, typer.Option(help="A study of the session. Default: the newest.")] = None,
    as_json: Json = False,
) -> None:
    """Draw every configuration against time, or compare two sessions' false positives and recall on the same tiles."""
    from satx.commands.compare import compare_command
    from satx.commands.console import quiet_libraries

    quiet_libraries()
    compare_command(session or ["2"], sample=sample, output=output, study=study, as_json=as_json)


app.command(epilog="Example: `satx promote --run-id 0123456789abcdef0123456789abcdef`")(cli_winner.promote)
app.command(epilog="Example: `satx show --json`")(cli_winner.show)
app.command(epilog="Example: `satx rollback --task school --reason 'misses schools in the new imagery'`")(
    cli_winner.rollback
)
app.command(epilog="Example: `satx onnx school.onnx`")(cli_winner.onnx)
app.command(epilog="Example: `satx serve --port 8501`")(cli_serve.serve)
app.command(epilog="Example: `satx predict data/tiles --out predictions`")(cli_predict.predict)
app.command("map", epilog="Example: `satx map predictions`")(cli_predict.show_map)


@app.command(epilog="Example: `satx ui --port 5001 --wait 15`")
def ui(
    port: Annotated[int, typer.Option(min=1024, max=65535, help="Port on 127.0.0.1.")] = 5000,
    wait: Annotated[float, typer.Option(min=0, metavar="MINUTES", help="How long to wait for MLflow to start.")] = 5,
) -> None:
    """Open MLflow on 127.0.0.1, until Ctrl-C."""
    from satx.commands.console import quiet_libraries
    from satx.commands.ui import ui_command

    quiet_libraries()
    ui_command(port, wait_minutes=wait)


@app.command(epilog="Example: `satx gc --dry-run --older-than-days 7`")
def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be removed, and stop.")] = False,
    older_than_days: Annotated[int, typer.Option(min=2, help="Remove caches and logs unused for this many days.")] = 30,
) -> None:
    """Remove checkpoints that no training needs, and old caches and logs; never runs, studies or exports."""
    from satx.commands.console import quiet_libraries
    from satx.commands.gc import gc_command

    quiet_libraries()
    gc_command(dry_run=dry_run, older_than_days=older_than_days)


@app.command(epilog="Example: `satx doctor --fleet`")
def doctor(
    fleet: Annotated[bool, typer.Option("--fleet", help="Also check what a fleet in EC2 needs.")] = False,
    as_json: Json = False,
) -> None:
    """Check what a sweep needs here: Python, disk, tiles, weights, databases, device; each with its remedy."""
    retry_nothing_in_mlflow()
    from satx.commands.console import quiet_libraries
    from satx.commands.doctor import doctor_command

    quiet_libraries()
    doctor_command(fleet=fleet, as_json=as_json)


@app.command(epilog="Example: `satx worker --study session2-quick-1a2b3c4d`")
def worker(
    study: Annotated[str, typer.Option(help="Name of the study, as `satx sweep` and `satx fleet up` print it.")],
    parent: Annotated[
        int | None, typer.Option(hidden=True, help="Stop when this process is no longer the parent.")
    ] = None,
    lease_minutes: Annotated[
        float | None, typer.Option(min=1, help="Terminate the machine after this long without progress.")
    ] = None,
) -> None:
    """Train trials of a study until it is done; started by `satx sweep`, by a machine of a fleet, or by hand elsewhere."""
    retry_nothing_in_mlflow()
    load_keras_quietly()
    from satx.commands.console import quiet_libraries
    from satx.commands.worker import worker_command
    from satx.execution.engine import keras_engine

    quiet_libraries()
    worker_command(study, keras_engine(), parent=parent, lease_minutes=lease_minutes)


def main() -> None:
    """Run a command of `satx`."""
    run_with_exit_code(app)
