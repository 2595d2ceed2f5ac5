"""The progress of a sweep: done, running, pruned, the best so far of each backbone, and the time left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from optuna.trial import FrozenTrial, TrialState
from rich.live import Live
from rich.table import Table

from satx.commands.console import out
from satx.search.driver import Sweep
from satx.search.failures import ATTEMPTS_FAILED
from satx.search.space import BACKBONE
from satx.search.study import counted, counted_of
from satx.search.worker import FILLING


@contextmanager
def sweep_progress(sweep: Sweep) -> Iterator[Callable[[Sweep], None]]:
    """Yields what draws a sweep's progress: a live table on a terminal, a line a trial elsewhere."""
    started, done_before = time.monotonic(), len(counted(sweep.study))
    if not out.is_terminal:
        printed: set[int] = set()
        filling: set[int] = set()

        def line_by_line(current: Sweep) -> None:
            trials = current.study.get_trials(deepcopy=False)
            for trial in trials:
                if FILLING in trial.user_attrs and trial.number not in filling:
                    filling.add(trial.number)
                    what = trial.user_attrs[FILLING].rpartition(" ")[0]
                    out.print(f"filling the {what} (once for all of its trials)", highlight=False, markup=False)
                if trial.state.is_finished() and trial.number not in printed:
                    printed.add(trial.number)
                    num_done = sum(other.number in printed for other in counted_of(trials))
                    out.print(_line(current, trial, num_done), highlight=False, markup=False, soft_wrap=True)

        yield line_by_line
        return
    with Live(console=out, refresh_per_second=2) as live:
        yield lambda current: live.update(_board(current, started, done_before))


def _line(sweep: Sweep, trial: FrozenTrial, num_done: int) -> str:
    name = _trial_name(trial)
    value = f"validation AUC {trial.value:.4f}" if trial.value is not None else ""
    outcome = trial.user_attrs.get("outcome", "") if trial.state == TrialState.FAIL else trial.state.name.lower()
    return f"[{num_done}/{sweep.job.trials}] trial {trial.number} {name}: {outcome} {value}".rstrip()


def _trial_name(trial: FrozenTrial) -> str:
    backbone = trial.params.get(BACKBONE, "")
    unfreeze = next((value for key, value in trial.params.items() if key.startswith("model.unfreeze")), "")
    return f"{backbone} {unfreeze}".strip()


def _where(trial: FrozenTrial) -> str:
    if trial.last_step is None and FILLING in trial.user_attrs:
        return f"waits for the {trial.user_attrs[FILLING]}"
    return f"epoch {trial.last_step or 0}"


def _board(sweep: Sweep, started: float, done_before: int) -> Table:
    """What is done, running and pruned, the best so far per backbone, and the time left."""
    trials = sweep.study.get_trials(deepcopy=False)
    done = counted(sweep.study)
    running = [trial for trial in trials if trial.state == TrialState.RUNNING]
    pruned = sum(trial.state == TrialState.PRUNED for trial in done)
    failed = sum(trial.user_attrs.get("outcome") in ATTEMPTS_FAILED for trial in trials)
    elapsed = time.monotonic() - started
    num_new = len(done) - done_before
    left = f"{elapsed / num_new * (sweep.job.trials - len(done)) / 60:.0f} min" if num_new else "after the first trial"
    counts = f"{len(done)}/{sweep.job.trials} done ({pruned} pruned), {len(running)} running, {failed} failed"
    title = f"{counts} · {elapsed / 60:.1f} min · left: {left}"
    board = Table(title=title, title_justify="left")
    for column in ("backbone", "done", "best validation AUC", "of", "running now"):
        board.add_column(column)
    for backbone in sweep.job.sweep.backbones:
        mine = [trial for trial in done if trial.params.get(BACKBONE, backbone) == backbone]
        finished = [trial for trial in mine if trial.state == TrialState.COMPLETE]
        best = max(finished, key=lambda trial: trial.value or 0.0, default=None)
        now = [
            f"{_trial_name(trial)} {_where(trial)}"
            for trial in running
            if trial.params.get(BACKBONE, backbone) == backbone
        ]
        value = f"{best.value:.4f}" if best is not None else "-"
        board.add_row(backbone, str(len(mine)), value, _trial_name(best) if best else "-", ", ".join(now) or "-")
    return board
