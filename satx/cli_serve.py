"""The command `satx serve`. It needs neither Optuna nor MLflow, and does not import them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from satx.cli_process import load_keras_quietly


def serve(
    export: Annotated[
        Path | None, typer.Option(help="Serve only this export. Default: the champions.", show_default=False)
    ] = None,
    models_config: Annotated[
        Path | None,
        typer.Option(help="Serve what this models.config of TensorFlow Serving lists.", show_default=False),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; there is no authentication.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the REST interface; 0 for a free one.")] = 8501,
    grpc_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Also answer gRPC on this port.", show_default=False)
    ] = None,
    access_log: Annotated[
        bool, typer.Option("--access-log", help="Print a line of JSON for each request on standard error.")
    ] = False,
) -> None:
    """Answer TensorFlow Serving's requests with the champions, and follow promotions; until Ctrl-C."""
    load_keras_quietly(announced=True)
    from satx.commands.console import quiet_libraries
    from satx.commands.serve import serve_command
    from satx.serving.server import Address

    quiet_libraries()
    serve_command(
        export=export,
        models_config=models_config,
        address=Address(host, port, grpc_port),
        access_log=access_log,
    )
