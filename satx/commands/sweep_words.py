"""What a sweep is doing, in words: what runs and how far it is, how trials ended, and what a stop waits for."""

from __future__ import annotations

import datetime
from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState

from satx.catalogue import NONE, part_label
from satx.execution.driver import Sweep
from satx.execution.worker import FILLED_SECONDS, FILLING
from satx.planning.time_left import kind_of, views_filled
from satx.search.space import HEAD_EPOCHS, settings_of, value_of
from satx.study.outcomes import ATTEMPTS_FAILED, counted_of
from satx.training.trainer import STOP_SECONDS

TAIL_EPOCHS = "train.finetune_epochs"


@dataclass(frozen=True)
class View:
    """What the driver saw last.

    Attributes:
        sweep: The sweep.
        trials: All trials of its study.
        num_before: Trials that had ended when this call began.
        seconds_left: Estimate of the time to the end of the sweep.
        on_fleet: Whether machines train its trials, and not workers of this process.
    """

    sweep: Sweep
    trials: list[FrozenTrial]
    num_before: int
    seconds_left: float
    on_fleet: bool = False

    @property
    def done(self) -> list[FrozenTrial]:
        """The trials that count towards `TRIALS`."""
        return counted_of(self.trials)

    @property
    def running(self) -> list[FrozenTrial]:
        """The trials that are being trained."""
        return [trial for trial in self.trials if trial.state == TrialState.RUNNING]

    @property
    def ended(self) -> list[FrozenTrial]:
        """The trials that have a result or failed, in the order in which they ended."""
        told = [*self.done, *(trial for trial in self.trials if trial.user_attrs.get("outcome") in ATTEMPTS_FAILED)]
        return sorted(told, key=lambda trial: trial.datetime_complete or datetime.datetime.min)


def name_of(sweep: Sweep, trial: FrozenTrial) -> str:
    """Return a trial's backbone and the trained part of it; empty before it has drawn both."""
    backbone, unfreeze = kind_of(sweep.job.sweep, trial)
    return "" if "None" in (backbone, unfreeze) else f"{backbone} {part_label(unfreeze)}"


def doing(view: View) -> list[str]:
    """Return a line for each running trial, with its epoch; if none is running, what the sweep waits for, if anything."""
    lines = [f"trial {trial.number}: {_progress_of(view.sweep, trial)}" for trial in view.running]
    return lines or _awaited(view)


def _progress_of(sweep: Sweep, trial: FrozenTrial) -> str:
    name = name_of(sweep, trial)
    return f"{name}, {where(sweep, trial)}" if name else "drawing its configuration"


def where(sweep: Sweep, trial: FrozenTrial) -> str:
    """Return how far a running trial is: the cache that it waits for, or the epoch in progress."""
    step = trial.last_step or 0
    num_head = _num_epochs(sweep, trial, HEAD_EPOCHS)
    num_tail = 0 if kind_of(sweep.job.sweep, trial)[1] == NONE else _num_epochs(sweep, trial, TAIL_EPOCHS)
    if not step and FILLED_SECONDS not in trial.user_attrs:
        if FILLING not in trial.user_attrs:
            return "starting, or in its first epoch"
        done, total = views_filled(trial)
        return f"filling the trunk cache: {done:,} of {total:,} tile views"
    if step < num_head:
        return f"head epoch {step + 1} of {num_head}"
    if step < num_head + num_tail:
        return f"tail epoch {step - num_head + 1} of {num_tail}"
    return "writing its results"


def _num_epochs(sweep: Sweep, trial: FrozenTrial, name: str) -> int:
    """Return the trial's number of epochs in a phase, at most: what it drew, the sweep fixes, or the session sets."""
    value = value_of(sweep.job.sweep, trial, name)
    return int(settings_of(sweep.job.sweep, sweep.job.defaults).flat()[name] if value is None else value)


def _awaited(view: View) -> list[str]:
    """Return what the sweep waits for while no trial is running; empty if it ends."""
    if len(view.done) >= view.sweep.job.trials or stop_stage(view.sweep):
        return ["the workers write what is left, and end"] * bool(view.sweep.workers)
    if len([trial for trial in view.trials if trial.state.is_finished()]) > view.num_before:
        return ["the next configuration is drawn"]
    if view.on_fleet:
        return ["the machines are starting"]
    num = len(view.sweep.workers) or 1
    return [f"starting {num} worker{'s' * (num > 1)}: loading Keras, opening the study"]


def how_ended(sweep: Sweep, trial: FrozenTrial) -> str:
    """Return a trial's name and result."""
    words = {TrialState.COMPLETE: "finished", TrialState.PRUNED: "pruned"}
    outcome = words.get(trial.state) or trial.user_attrs.get("outcome", "lost")
    score = "" if trial.value is None else f"val AUC {trial.value:.4f}"
    return f"trial {trial.number}: {', '.join(filter(None, (name_of(sweep, trial), outcome, score)))}"


def stop_stage(sweep: Sweep) -> int:
    """Return 0 before a stop, 1 after the time limit, 2 after the first stop signal, 3 after the second."""
    return 1 + min(sweep.interrupts, 2) if sweep.interrupts else int(sweep.timed_out)


def stopping(view: View) -> str:
    """Return what a stop waits for; empty if the sweep is not stopping, or has stopped."""
    stage = stop_stage(view.sweep)
    if not stage or not (view.running or view.sweep.workers):
        return ""
    if stage == 3:
        return "Stopping at once. Epochs in progress are repeated when the sweep continues."
    filling = [
        trial for trial in view.running if FILLING in trial.user_attrs and FILLED_SECONDS not in trial.user_attrs
    ]
    num_training = len(view.running) - len(filling)
    waits = [f"{_trials(num_training)} to finish the epoch, {STOP_SECONDS:.0f} s at most"] * (num_training > 0)
    waits += [f"{_trials(len(filling))} to leave the trunk cache"] * bool(filling)
    waits = waits or ["the workers to end"]
    if stage == 1:
        return f"Time limit reached: waiting for {' and '.join(waits)}."
    return f"Stopping: waiting for {' and '.join(waits)}. Ctrl-C again stops at once."


def _trials(num: int) -> str:
    return f"{num} trial{'s' * (num != 1)}"
