"""How satx talks: progress with time left, tables for people, banners that cannot be missed, JSON for machines."""

from __future__ import annotations

import json
import logging
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from satx.storage import project_root

out = Console(width=None if sys.stdout.isatty() else 120, soft_wrap=False)
err = Console(stderr=True)


def banner(text: str, *, title: str = "Please note") -> None:
    """Something that must not be overlooked."""
    out.print(Panel(escape(text), title=title, border_style="yellow", expand=False))


def next_commands(commands: dict[str, str]) -> None:
    """The exact next commands, each with what it does; plain lines, so that they can be copied."""
    out.print("\n[bold]Next[/bold]")
    commands = {_as_typed_here(command): purpose for command, purpose in commands.items()}
    width = max(len(command) for command in commands)
    for command, purpose in commands.items():
        out.print(f"  {command.ljust(width)}   # {purpose}", highlight=False, markup=False, soft_wrap=True)


def _as_typed_here(command: str) -> str:
    """`satx …` where that is on the PATH, else the program's own path; `make …` in the project's folder only."""
    program = Path(sys.executable).with_name("satx")
    if command.startswith("make ") and project_root() != Path.cwd():
        command = command.replace("make ui", "satx ui").replace("make sweep SESSION=", "satx sweep --session ")
    if not command.startswith("satx ") or shutil.which("satx") or not program.is_file():
        return command
    written = program.relative_to(Path.cwd()) if program.is_relative_to(Path.cwd()) else program
    return shlex.quote(str(written)) + command.removeprefix("satx")


def talk_on_stderr() -> None:
    """Keep standard output for the JSON document."""
    out.stderr = True


def table(title: str, columns: list[str], rows: list[list[Any]], *, right: tuple[int, ...] = ()) -> None:
    """A table for people; `right` numbers the columns to align right."""
    drawn = Table(title=escape(title), title_justify="left", header_style="bold", show_header=any(columns))
    for number, name in enumerate(columns):
        drawn.add_column(escape(name), justify="right" if number in right else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*(escape(str(cell)) for cell in row))
    out.print(drawn)


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    print(json.dumps(value, indent=2, default=str))


@contextmanager
def progress_bars() -> Iterator[Callable[[str, int, int], None]]:
    """Bars with time left; yields `notify(what, done, total)`, a bar for each `what`."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    tasks: dict[str, Any] = {}
    lock = threading.Lock()
    with Progress(*columns, console=out, disable=not out.is_terminal) as progress:

        def notify(what: str, done: int, total: int) -> None:
            with lock:
                if what not in tasks:
                    tasks[what] = progress.add_task(what, total=total)
                    if not out.is_terminal:
                        out.print(f"{what} ({total})", highlight=False, markup=False)
                progress.update(tasks[what], completed=done, total=total)

        yield notify


@contextmanager
def stop_signals_raise() -> Iterator[None]:
    """SIGTERM, or closing the terminal, ends what runs in the foreground as Ctrl-C does."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def stop_signal() -> Iterator[Callable[[], bool]]:
    """Yields `stop()`: True after the first Ctrl-C or SIGTERM; a second one ends the process at once."""
    received = threading.Event()

    def note(_number: int, _frame: object) -> None:
        if received.is_set():
            sys.exit(130)
        received.set()
        err.print("\nFinishing this epoch, then stopping (again to stop at once).")

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def git_commit() -> str:
    """The project's commit, with `+` when there are changes; `unknown` outside a checkout."""
    root = project_root() or Path(__file__).resolve().parent
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True)
        changes = subprocess.run(
            ["git", "status", "--porcelain", "-uno"], cwd=root, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit.stdout.strip() + ("+" if changes.stdout.strip() else "")


def quiet_libraries() -> None:
    """Leave warnings of ours, silence the chatter of theirs."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    for name in ("tensorflow", "absl", "alembic", "h5py", "matplotlib", "urllib3"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("mlflow").setLevel(logging.CRITICAL)  # it logs what it raises, with a traceback
