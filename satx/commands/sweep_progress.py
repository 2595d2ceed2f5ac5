"""Progress of a sweep: trials done, running and pruned, the best so far of each backbone, and the time left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from optuna.trial import FrozenTrial, TrialState
from rich.live import Live
from rich.table import Table

from satx.commands.console import SILENCE_SECONDS, lasting, out
from satx.execution.driver import Sweep
from satx.execution.worker import FILLED_SECONDS, FILLING
from satx.planning.plan import Plan
from satx.planning.time_left import kind_of, sweep_seconds_left
from satx.search.space import BACKBONE
from satx.study.outcomes import ATTEMPTS_FAILED, counted_of


@contextmanager
def sweep_progress(
    sweep: Sweep, plan: Plan, *, silence_seconds: float = SILENCE_SECONDS
) -> Iterator[Callable[[Sweep], None]]:
    """Yield a callback that draws a sweep's progress.

    On a terminal it updates a live table. Elsewhere it prints a line for each trial, and one after `silence_seconds`
    without output.

    Args:
        sweep: The sweep.
        plan: Planned durations, used until the sweep's trials give better estimates.
        silence_seconds: Without a terminal, the longest time without output.
    """
    if not out.is_terminal:
        yield _line_by_line(plan, silence_seconds)
        return
    started = time.monotonic()
    with Live(console=out, refresh_per_second=2) as live:
        yield lambda current: live.update(_board(current, plan, started))


def _line_by_line(plan: Plan, silence_seconds: float) -> Callable[[Sweep], None]:
    printed: set[int] = set()
    filling: set[int] = set()

    def say(line: str) -> None:
        out.print(line, highlight=False, soft_wrap=True)

    def on_tick(current: Sweep) -> None:
        trials = current.study.get_trials(deepcopy=False)
        for trial in trials:
            if FILLING in trial.user_attrs and trial.number not in filling:
                filling.add(trial.number)
                say(f"filling the {trial.user_attrs[FILLING].rpartition(' ')[0]} (once for all of its trials)")
            if trial.state.is_finished() and trial.number not in printed:
                printed.add(trial.number)
                num_done = sum(other.number in printed for other in counted_of(trials))
                left = sweep_seconds_left(current, plan, trials)
                say(f"{_line(current, trial, num_done)} · about {lasting(left)} left")
        if out.silent_seconds() >= silence_seconds:
            say(_still(current, plan, trials))

    return on_tick


def _still(sweep: Sweep, plan: Plan, trials: list[FrozenTrial]) -> str:
    """Return a line about the running trials, to print while no trial ends."""
    running = [trial for trial in trials if trial.state == TrialState.RUNNING]
    doing = ", ".join(f"trial {trial.number} {_trial_name(trial)} {_where(sweep, plan, trial)}" for trial in running)
    left = lasting(sweep_seconds_left(sweep, plan, trials))
    return f"[{len(counted_of(trials))}/{sweep.job.trials}] {doing or 'a worker is starting'} · about {left} left"


def _line(sweep: Sweep, trial: FrozenTrial, num_done: int) -> str:
    name = _trial_name(trial)
    value = f"validation AUC {trial.value:.4f}" if trial.value is not None else ""
    outcome = trial.user_attrs.get("outcome", "") if trial.state == TrialState.FAIL else trial.state.name.lower()
    return f"[{num_done}/{sweep.job.trials}] trial {trial.number} {name}: {outcome} {value}".rstrip()


def _trial_name(trial: FrozenTrial) -> str:
    backbone = trial.params.get(BACKBONE, "")
    unfreeze = next((value for key, value in trial.params.items() if key.startswith("model.unfreeze")), "")
    return f"{backbone} {unfreeze}".strip()


def _where(sweep: Sweep, plan: Plan, trial: FrozenTrial) -> str:
    if trial.last_step is None and FILLING in trial.user_attrs and FILLED_SECONDS not in trial.user_attrs:
        return f"waits for the {trial.user_attrs[FILLING]}"
    kind = kind_of(sweep.job.sweep, trial)
    longest = [len(one.epochs) for one in plan.trainings if (one.backbone, one.unfreeze) == kind]
    return f"epoch {trial.last_step or 0}" + (f" of at most {longest[0]}" if longest else "")


def _board(sweep: Sweep, plan: Plan, started: float) -> Table:
    """Return a table of trials done, running and pruned, the best so far per backbone, and the time left."""
    trials = sweep.study.get_trials(deepcopy=False)
    done = counted_of(trials)
    running = [trial for trial in trials if trial.state == TrialState.RUNNING]
    pruned = sum(trial.state == TrialState.PRUNED for trial in done)
    failed = sum(trial.user_attrs.get("outcome") in ATTEMPTS_FAILED for trial in trials)
    counts = f"{len(done)}/{sweep.job.trials} done ({pruned} pruned), {len(running)} running, {failed} failed"
    elapsed, left = lasting(time.monotonic() - started), lasting(sweep_seconds_left(sweep, plan, trials))
    title = f"{counts} · {elapsed} · about {left} left"
    board = Table(title=title, title_justify="left")
    for column in ("backbone", "done", "best validation AUC", "trial", "running"):
        board.add_column(column)
    for backbone in sweep.job.sweep.backbones:
        mine = [trial for trial in done if trial.params.get(BACKBONE, backbone) == backbone]
        finished = [trial for trial in mine if trial.state == TrialState.COMPLETE]
        best = max(finished, key=lambda trial: trial.value or 0.0, default=None)
        now = [
            f"{_trial_name(trial)} {_where(sweep, plan, trial)}"
            for trial in running
            if trial.params.get(BACKBONE, backbone) == backbone
        ]
        value = f"{best.value:.4f}" if best is not None else "-"
        board.add_row(backbone, str(len(mine)), value, _trial_name(best) if best else "-", ", ".join(now) or "-")
    return board
