"""Console output: tables, prominent banners, next commands, stop signals, and JSON for programs."""

from __future__ import annotations

import json
import logging
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from rich.cells import cell_len
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from satx.storage import project_root

PROGRAMS = ("satx", "sat_xception")


class Speaker(Console):
    """A console that records when it last printed something."""

    said_at = time.monotonic()

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as `Console` does, and record the time."""
        super().print(*objects, **options)
        self.said_at = time.monotonic()

    def silent_seconds(self) -> float:
        """Return the seconds since something was last printed."""
        return time.monotonic() - self.said_at


# Without markup: names of files, runs and slices are printed as they are, whatever brackets they contain.
out = Speaker(width=None if sys.stdout.isatty() else 120, soft_wrap=False, markup=False)
err = Console(stderr=True, markup=False)


def banner(text: str, *, title: str = "Please note") -> None:
    """Print a text in a prominent panel."""
    out.print(Panel(Text(text), title=title, border_style="yellow", expand=False))


def banners(texts: Iterable[str]) -> None:
    """Print each text in a panel of its own."""
    for text in texts:
        banner(text)


def next_commands(commands: dict[str, str]) -> None:
    """Print the exact next commands and what each does, as plain lines that can be copied."""
    out.print("\nNext", style="bold")
    commands = {_as_typed_here(command): purpose for command, purpose in commands.items()}
    width = max(len(command) for command in commands)
    lines = {command: f"  {command.ljust(width)}   # {purpose}" for command, purpose in commands.items()}
    if out.is_terminal and max(map(len, lines.values())) > out.width:
        lines = {command: f"  # {purpose}\n  {command}" for command, purpose in commands.items()}
    for line in lines.values():
        out.print(line, highlight=False, soft_wrap=True)


def this_command() -> str:
    """Return the command line of this process, as it can be typed again in the current folder."""
    name = Path(sys.argv[0]).stem
    return _as_typed_here(shlex.join([name if name in PROGRAMS else PROGRAMS[0], *sys.argv[1:]]))


def _as_typed_here(command: str) -> str:
    """Return a command as it can be typed in the current folder.

    Outside the project's folder `satx …` replaces `make …`. If the program is not on the PATH, its path replaces it.
    """
    if command.startswith("make ") and project_root() != Path.cwd():
        command = command.replace("make ui", "satx ui").replace("make sweep SESSION=", "satx sweep --session ")
    name = command.partition(" ")[0]
    program = Path(sys.executable).with_name(name)
    if name not in PROGRAMS or shutil.which(name) or not program.is_file():
        return command
    written = program.relative_to(Path.cwd()) if program.is_relative_to(Path.cwd()) else program
    return shlex.quote(str(written)) + command.removeprefix(name)


def talk_on_stderr() -> None:
    """Print messages on stderr, so that standard output holds only the JSON document."""
    out.stderr = True


def table(
    title: str, columns: list[str], rows: list[list[Any]], *, right: tuple[int, ...] = (), whole: tuple[int, ...] = ()
) -> None:
    """Print a table; if it is too narrow for whole words, print a paragraph for each row instead.

    Args:
        title: Its title.
        columns: Headers of the columns.
        rows: One list of cells for each row.
        right: Indices of the right-aligned columns.
        whole: Indices of the columns whose cells are never broken into lines, such as ids that a user copies.
    """
    cells = [[name, *(str(row[number]) for row in rows)] for number, name in enumerate(columns)]
    widths = _widths(cells, whole)
    if widths is None and any(columns):
        out.print(title, style="italic")
        for row in rows:
            named = [f"{name} {cell}" for name, cell in zip(columns[1:], row[1:], strict=True)]
            out.print(f"  {row[0]}: {', '.join(named)}", highlight=False)
        return
    drawn = Table(title=Text(title), title_justify="left", header_style="bold", show_header=any(columns))
    for number, name in enumerate(columns):
        justify: Literal["left", "right"] = "right" if number in right else "left"
        width = widths[number] if widths else None
        drawn.add_column(Text(name), justify=justify, overflow="fold", no_wrap=number in whole, width=width)
    for row in rows:
        drawn.add_row(*(Text(str(cell)) for cell in row))
    out.print(drawn)


def _widths(cells: list[list[str]], whole: tuple[int, ...]) -> list[int] | None:
    """Return the widths of a table's columns in which no word is broken; None if the console is too narrow for that."""
    widths = [max(map(cell_len, column)) for column in cells]
    least = [
        widths[number] if number in whole else max(cell_len(word) for cell in column for word in [*cell.split(), ""])
        for number, column in enumerate(cells)
    ]
    excess = sum(widths) + 3 * len(widths) + 1 - out.width
    while excess > 0 and widths != least:
        wide = [width if width > fewest else 0 for width, fewest in zip(widths, least, strict=True)]
        widths[wide.index(max(wide))] -= 1
        excess -= 1
    return widths if excess <= 0 else None


def print_json(value: Any) -> None:
    """Print one JSON document on standard output."""
    print(json.dumps(value, indent=2, default=str))


def lasting(seconds: float) -> str:
    """Format a duration: seconds below 90 s, minutes below 90 min, then hours."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} hours"


@contextmanager
def _handled(numbers: Iterable[signal.Signals], handler: Callable[[int, object], None]) -> Iterator[None]:
    """Handle signals, except those that are ignored: `nohup` makes a command survive its terminal in this way."""
    before = {number: found for number in numbers if (found := signal.getsignal(number)) is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, handler_before in before.items():
            signal.signal(number, handler_before)


@contextmanager
def stop_signals_raise() -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGTERM and on SIGHUP (the terminal was closed), as on Ctrl-C."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    with _handled((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), interrupt):
        yield


@contextmanager
def stop_signal() -> Iterator[Callable[[], bool]]:
    """Yield `stop()`, which is True after the first Ctrl-C or SIGTERM; a second one ends the process at once."""
    received = threading.Event()

    def note(_number: int, _frame: object) -> None:
        if received.is_set():
            sys.exit(130)
        received.set()
        out.print("Finishing this epoch, then stopping (Ctrl-C again stops at once).")  # above a progress bar

    with _handled((signal.SIGINT, signal.SIGTERM), note):
        yield received.is_set


def git_commit() -> str:
    """Return the project's commit, with `+` if there are uncommitted changes; `unknown` outside a checkout."""
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
    """Show satx's own warnings, and silence those of noisy libraries."""
    # unlike others, this handler writes to the `sys.stderr` of the moment, so a board puts its lines above itself
    handlers = [logging.lastResort] if logging.lastResort else None
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", handlers=handlers)
    for name in ("tensorflow", "absl", "alembic", "h5py", "matplotlib", "urllib3"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("mlflow").setLevel(logging.CRITICAL)  # MLflow logs the errors that it raises, with tracebacks
