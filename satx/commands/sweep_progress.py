"""Progress of a sweep: a bar, the best configuration of each backbone, what is running, and the time left."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from optuna.trial import TrialState
from rich.console import RenderableType
from rich.constrain import Constrain
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from satx.commands.console import lasting, out
from satx.commands.progress import SILENCE_SECONDS
from satx.commands.sweep_words import View, doing, how_ended, name_of, stop_stage, stopping
from satx.execution.driver import Sweep
from satx.execution.worker import FILLING
from satx.planning.plan import Plan
from satx.planning.time_left import kind_of, sweep_seconds_left
from satx.study.outcomes import FAILED_FOR_GOOD, Outcome

LOOK_SECONDS = 0.25  # between two looks at stop signals, which are answered at once
MAX_ROWS = 6  # of running trials, so that the board fits into 24 lines
MAX_WIDTH = 100
CTRL_C = "^C^C"  # room for what a terminal writes at the end of the last line; the next drawing would start too low


@contextmanager
def sweep_progress(
    sweep: Sweep, plan: Plan, *, on_fleet: bool = False, silence_seconds: float = SILENCE_SECONDS
) -> Iterator[Callable[[Sweep], None]]:
    """Show a sweep's progress; yields a callback that reads the study.

    On a terminal a board is drawn again and again. Elsewhere a line is printed for each trial, and one after
    `silence_seconds` without output. A thread does both, so that a stop signal is answered, and nothing seems to hang,
    while the driver waits for a server.

    Args:
        sweep: The sweep.
        plan: Planned durations, used until the sweep's trials give better estimates.
        on_fleet: Whether machines train its trials, and not workers of this process.
        silence_seconds: Without a terminal, the longest time without output.
    """
    num_before = sum(trial.state.is_finished() for trial in sweep.study.get_trials(deepcopy=False))

    def look() -> View:
        trials = sweep.study.get_trials(deepcopy=False)
        return View(sweep, trials, num_before, sweep_seconds_left(sweep, plan, trials), on_fleet)

    latest, started = [look()], time.monotonic()
    on_news = _news(latest[0])

    def on_tick(_: Sweep) -> None:
        latest[0] = look()
        if not out.is_terminal:
            on_news(latest[0])

    if out.is_terminal:
        with Live(console=out, get_renderable=lambda: board(latest[0], time.monotonic() - started)):
            yield on_tick
    else:
        _say(_still(latest[0]))
        with _watched(latest, silence_seconds):
            yield on_tick


def _say(line: str) -> None:
    out.print(line, highlight=False, soft_wrap=True)


def _still(view: View) -> str:
    """Return a line about the running trials."""
    left = lasting(view.seconds_left)
    return (
        f"[{len(view.done)}/{view.sweep.job.trials}] {'; '.join(doing(view)) or 'closing the runs'} · about {left} left"
    )


def _news(first: View) -> Callable[[View], None]:
    """Return a function that prints a line for each trial that has ended, or begun to fill a cache, since `first`."""
    printed = {trial.number for trial in first.trials if trial.state.is_finished()}
    filling = {trial.number for trial in first.trials if FILLING in trial.user_attrs}

    def on_news(view: View) -> None:
        for trial in view.trials:
            if FILLING in trial.user_attrs and trial.number not in filling:
                filling.add(trial.number)
                _say(f"filling the {trial.user_attrs[FILLING].rpartition(' ')[0]} (once for all of its trials)")
            if trial.state.is_finished() and trial.number not in printed:
                printed.add(trial.number)
                num_done = sum(other.number in printed for other in view.done)
                ended, left = how_ended(view.sweep, trial), lasting(view.seconds_left)
                _say(f"[{num_done}/{view.sweep.job.trials}] {ended} · about {left} left")

    return on_news


@contextmanager
def _watched(latest: list[View], silence_seconds: float) -> Iterator[None]:
    """Answer stop signals, and end long silences, with lines that a thread prints."""
    over = threading.Event()

    def watch() -> None:
        answered = 0
        while not over.wait(LOOK_SECONDS):
            stage = stop_stage(latest[0].sweep)
            if stage > answered or out.silent_seconds() >= silence_seconds:
                _say(stopping(latest[0]) or _still(latest[0]))
            answered = stage

    watcher = threading.Thread(target=watch, name="satx-sweep", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def board(view: View, elapsed_seconds: float) -> RenderableType:
    """Return the board of a terminal; its lines are broken between words only, at any width from 60 columns."""
    wanted, done = view.sweep.job.trials, view.done
    pruned = sum(trial.state == TrialState.PRUNED for trial in done)
    outcomes = [trial.user_attrs.get("outcome") for trial in view.trials]
    failed = sum(outcome in FAILED_FOR_GOOD for outcome in outcomes)
    lost = sum(outcome in (Outcome.LOST, Outcome.STARVED) for outcome in outcomes)
    counts = [f"{len(done)} of {wanted} configurations done"]
    counts += [f"{pruned} pruned"] * bool(pruned) + [f"{failed} failed"] * bool(failed)
    counts += [f"{lost} lost"] * bool(lost)
    left = "" if stop_stage(view.sweep) else f", about {lasting(view.seconds_left)} left"
    lines = Table.grid()
    lines.add_row(ProgressBar(total=wanted, completed=min(len(done), wanted)))
    lines.add_row(Text(f"{', '.join(counts)} · {lasting(elapsed_seconds)}{left}"))
    if stop := stopping(view):
        lines.add_row(Text(stop, style="yellow"))
    lines.add_row(_details(view))
    return Constrain(lines, min(out.width - len(CTRL_C), MAX_WIDTH))


def _details(view: View) -> Table:
    """Return the best configuration of each backbone, what is running, and what ended last."""
    details = Table.grid(padding=(0, 2))
    details.add_column(style="bold", no_wrap=True)
    details.add_column(overflow="fold")
    for number, backbone in enumerate(view.sweep.job.sweep.backbones):
        details.add_row("best" if not number else "", Text(_best(view, backbone)))
    rows = doing(view)
    shown = rows if len(rows) <= MAX_ROWS else [*rows[: MAX_ROWS - 1], f"and {len(rows) - MAX_ROWS + 1} more"]
    for number, row in enumerate(shown):
        details.add_row("" if number else "now", Text(row))
    if view.ended:
        details.add_row("last", Text(how_ended(view.sweep, view.ended[-1])))
    return details


def _best(view: View, backbone: str) -> str:
    """Return the best configuration of a backbone so far."""
    config = view.sweep.job.sweep
    mine = [trial for trial in view.done if kind_of(config, trial)[0] == backbone]
    finished = [trial for trial in mine if trial.state == TrialState.COMPLETE and trial.value is not None]
    if not finished:
        return f"{backbone}: none finished yet"
    best = max(finished, key=lambda trial: trial.value or 0.0)
    return f"{name_of(view.sweep, best)}: val AUC {best.value:.4f} (trial {best.number}; {len(mine)} done)"
