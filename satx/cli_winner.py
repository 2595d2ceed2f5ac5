"""Commands about the winner of a sweep: `promote`, `show`, `rollback` and `onnx`; `cli` adds them to `satx`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from satx.cli_checks import check_run
from satx.cli_options import Json
from satx.cli_process import load_keras_quietly


def promote(
    run_id: Annotated[str, typer.Option("--run-id", help="A finished run whose model was kept.")],
    gate: Annotated[
        Path | None,
        typer.Option(help="YAML with the rules to pass. Default: experiments/gate.yaml.", show_default=False),
    ] = None,
    force: Annotated[
        str | None,
        typer.Option(
            "--force",
            metavar="REASON",
            help="Promote even if the gate refuses; reason, user and time are recorded.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Evaluate a run on the test tiles, ask the gate, export it, and make it the champion."""
    check_run(run_id)
    load_keras_quietly(announced=not as_json)
    from satx.commands.console import quiet_libraries
    from satx.commands.promote import promote_command

    quiet_libraries()
    promote_command(run_id, gate=gate, force=force, as_json=as_json)


def show(as_json: Json = False) -> None:
    """Print the champion of each task, its model card, export and history."""
    from satx.commands.console import quiet_libraries
    from satx.commands.show import show_command

    quiet_libraries()
    show_command(as_json=as_json)


def rollback(
    task: Annotated[
        str | None, typer.Option(help="Name of the model. Needed if there are several.", show_default=False)
    ] = None,
    reason: Annotated[str, typer.Option(help="Why; recorded in the history.", show_default=False)] = "",
    as_json: Json = False,
) -> None:
    """Go back to the previous champion; a second rollback undoes this."""
    from satx.commands.console import quiet_libraries
    from satx.commands.rollback import rollback_command

    quiet_libraries()
    rollback_command(task=task, reason=reason, as_json=as_json)


def onnx(
    file: Annotated[Path, typer.Argument(help="File to write.")],
    task: Annotated[
        str | None, typer.Option(help="Name of the model. Needed if there are several.", show_default=False)
    ] = None,
) -> None:
    """Write the champion as an ONNX model that takes decoded tiles. Needs `satx[onnx]`."""
    load_keras_quietly(announced=True)
    from satx.commands.console import quiet_libraries
    from satx.commands.onnx import onnx_command

    quiet_libraries()
    onnx_command(file, task=task)
