"""Progress with speed and time left: bars in a terminal, lines elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from satx.commands.console import lasting, out

SILENCE_SECONDS = 30.0  # without a terminal, print something at least this often


class _Speed(ProgressColumn):
    """The number of items per second, from one per second on."""

    def render(self, task: Task) -> Text:
        """Return the speed over the last moments."""
        return Text(_speed(task.finished_speed or task.speed or 0))


def _speed(per_second: float) -> str:
    return f"{per_second:,.0f}/s" if per_second >= 1 else ""


@contextmanager
def progress_bars(*, silence_seconds: float = SILENCE_SECONDS) -> Iterator[Callable[[str, int, int], None]]:
    """Show progress bars with time left; yields `notify(what, done, total)`, which updates the bar of `what`.

    Without a terminal, print a line for each `what`, and the progress of the latest one whenever nothing has been
    printed for `silence_seconds`.
    """
    if not out.is_terminal:
        with _lines(silence_seconds) as on_progress:
            yield on_progress
        return
    columns = (  # in a narrow terminal the description is broken between words, and the numbers are whole
        TextColumn("{task.description}", table_column=Column()),
        BarColumn(max(10, min(40, out.width - 60))),
        MofNCompleteColumn(table_column=Column(no_wrap=True)),
        _Speed(table_column=Column(no_wrap=True)),
        TimeElapsedColumn(table_column=Column(no_wrap=True)),
        TextColumn("left", table_column=Column(no_wrap=True)),
        TimeRemainingColumn(table_column=Column(no_wrap=True)),
    )
    tasks: dict[str, Any] = {}
    lock = threading.Lock()
    with Progress(*columns, console=out) as progress:

        def show(what: str, done: int, total: int) -> None:
            with lock:
                if what not in tasks:
                    tasks[what] = progress.add_task(what, total=total)
                progress.update(tasks[what], completed=done, total=total)

        yield show


@dataclass
class _Stage:
    """A stage of the work: its name, start time and progress."""

    what: str
    began_at: float
    done: int
    total: int

    def line(self) -> str:
        """Return its progress, and the time left at the pace so far."""
        seconds = time.monotonic() - self.began_at
        left = f", about {lasting(seconds / self.done * (self.total - self.done))} left" if self.done else ""
        speed = f" ({text})" if (text := _speed(self.done / seconds if seconds else 0)) else ""
        return f"{self.what}: {self.done} of {self.total} after {lasting(seconds)}{speed}{left}"


@contextmanager
def _lines(silence_seconds: float) -> Iterator[Callable[[str, int, int], None]]:
    """Print progress as lines, for `progress_bars` without a terminal.

    A thread checks for silence, since a stage may report nothing for a long time.
    """
    stages: dict[str, _Stage] = {}
    latest: list[_Stage] = []
    lock, over = threading.Lock(), threading.Event()

    def on_progress(what: str, done: int, total: int) -> None:
        with lock:
            if what not in stages:
                stages[what] = _Stage(what, time.monotonic(), done, total)
                out.print(f"{what} ({total})", highlight=False)
            stages[what].done, stages[what].total = done, total
            latest[:] = [stages[what]]

    def look() -> None:
        while not over.wait(min(1.0, silence_seconds / 4)):
            with lock:
                if out.silent_seconds() >= silence_seconds and latest and latest[0].done < latest[0].total:
                    out.print(latest[0].line(), highlight=False)

    watcher = threading.Thread(target=look, name="satx-progress", daemon=True)
    watcher.start()
    try:
        yield on_progress
    finally:
        over.set()
        watcher.join()
