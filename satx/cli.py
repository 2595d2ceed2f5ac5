"""The command line. Declares options; what a command does is imported when it is called, so `--help` answers at once."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import click
import typer

from satx.errors import SatxError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Sweep, compare and ship image classifiers for satellite tiles.",
)
data_app = typer.Typer(no_args_is_help=True, help="Look at tiles, or render a sample of them.")
app.add_typer(data_app, name="data")

Session = Annotated[str, typer.Option("--session", "-s", help="Session, as in experiments/session<N>.yaml.")]
Data = Annotated[
    Path | None, typer.Option(help="Folder of tiles; the session's own when left out.", show_default=False)
]
Weights = Annotated[
    str | None,
    typer.Option(help="Folder of <backbone>_notop.weights.h5, or `none` for random weights.", show_default=False),
]
Size = Annotated[int | None, typer.Option(help="Edge of the tiles in pixels; overrides the YAML.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


@app.command(epilog="Example: `satx sweep --session 2 --sweep quick --trials 16 --minutes 30`")
def sweep(
    session: Session = "2",
    data: Data = None,
    weights: Weights = None,
    size: Size = None,
    sweep: Annotated[str | None, typer.Option(help="Name of a file in sweeps/.", show_default=False)] = None,
    trials: Annotated[
        int | None, typer.Option(min=1, help="Finished and pruned configurations in all.", show_default=False)
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(min=0.1, help="Stop after this long; the same command continues.", show_default=False),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Trials at a time on this machine.")] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
    as_json: Json = False,
) -> None:
    """Search configurations over backbones; resumes where it stopped."""
    _load_keras_quietly()
    from satx.commands.sweep import sweep_command
    from satx.search.prepare import Request

    request = Request(session=session, data=data, weights=weights, image_size_px=size)
    sweep_command(
        request, sweep_name=sweep, trials=trials, minutes=minutes, workers=workers, dry_run=dry_run, as_json=as_json
    )


@app.command(hidden=True)
def worker(
    study: Annotated[str, typer.Option(help="Name of the study.")],
    parent: Annotated[int | None, typer.Option(help="Stop when this process is no longer the parent.")] = None,
) -> None:
    """Train trials of a study until it is done; started by `satx sweep`."""
    _load_keras_quietly()
    from satx.commands.console import quiet_libraries, stop_signal
    from satx.search.worker import run_worker

    quiet_libraries()
    with stop_signal() as stopped:
        run_worker(study, stop=lambda: stopped() or (parent is not None and os.getppid() != parent))


def _load_keras_quietly() -> None:
    """Import Keras without the lines that TensorFlow's C++ side prints before anyone can configure it."""
    kept = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            import keras

            keras.distribution.list_devices()
        except BaseException:
            said.seek(0)
            os.write(kept, said.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def main() -> None:
    """Run a command; errors of ours become one message and the exit code that belongs to them."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        code = app(standalone_mode=False)
    except click.exceptions.Exit as stop:
        code = stop.exit_code
    except click.ClickException as error:
        error.show()
        code = 2
    except (click.Abort, KeyboardInterrupt):
        print("Stopped.", file=sys.stderr)
        code = 130
    except SatxError as error:
        print(f"{'Stopped' if error.exit_code == 130 else 'Error'}: {error}", file=sys.stderr)
        code = error.exit_code
    sys.exit(code or 0)
