"""Training of one configuration into one MLflow run, which gets the right status however the training ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import optuna

from satx.config import Configuration
from satx.errors import Interrupted, TrialFailed
from satx.session_config import SessionConfig
from satx.tiles.store import TileStore
from satx.tracking.curves import CurveLogger
from satx.tracking.finish_run import close_run, result_numbers
from satx.tracking.runs import WAITING
from satx.tracking.writer import RunWriter
from satx.training.checkpoint import Epoch
from satx.training.contract import TrainingResult

Numbers = Mapping[str, float]


class TrainInto(Protocol):
    """Signature of `training.trainer.train` with all other arguments bound."""

    def __call__(self, *, on_epoch: Callable[[Epoch, bool], None], on_cache: Callable[[str], None]) -> TrainingResult:
        """Train to the end."""
        ...


@dataclass(frozen=True)
class TrainingRun:
    """A run in training, with the hooks of the caller.

    Attributes:
        configuration: The configuration to train.
        store: The tiles.
        session: The session, which names the class of interest.
        writer: Writes to the run.
        curves: Logs the epochs to the run.
        report: Called with every epoch before it is logged; if it raises, the epoch is not logged.
        on_epoch: Called after an epoch is logged, with the epoch and whether it is new, as `train` calls it.
        on_result: Called with the result while the run is still open, to add files.
        on_interrupt: Called after a resumable error, before anything else is done.
        on_closed: Called with status, tags and numbers after the run is closed.
        extra_numbers: Returns numbers, from the epochs so far, to log when the run is closed.
        resumable: Errors after which the run waits to be resumed, instead of being closed as failed.
        history: The epochs so far, including those before a resume.
    """

    configuration: Configuration
    store: TileStore
    session: SessionConfig
    writer: RunWriter
    curves: CurveLogger
    report: Callable[[Epoch], None] = lambda _epoch: None
    on_epoch: Callable[[Epoch, bool], None] = lambda _epoch, _new: None
    on_result: Callable[[TrainingResult], None] = lambda _result: None
    on_interrupt: Callable[[], None] = lambda: None
    on_closed: Callable[[str, Mapping[str, str], Numbers], None] = lambda _status, _tags, _numbers: None
    extra_numbers: Callable[[Sequence[Epoch]], Numbers] = lambda _history: {}
    resumable: tuple[type[Exception], ...] = (Interrupted,)
    history: list[Epoch] = field(default_factory=list)


def train_into_run(run: TrainingRun, train: TrainInto) -> TrainingResult:
    """Train, log every epoch, and end the run.

    A finished training leaves its run FINISHED with its best numbers, a pruned one KILLED, a failed one FAILED with its
    reason, and one that can be resumed waiting (`SCHEDULED`). After any other error the run stays RUNNING: its process
    has ended or is about to end, and `study.reconcile` closes or resumes the run.

    Args:
        run: The run and the hooks of the caller.
        train: Does the training.

    Raises:
        TrialPruned: `run.on_epoch` or `train` raised it.
        TrialFailed: The configuration cannot be trained.
        Interrupted: The training was stopped.
    """
    tags: dict[str, str] = {}

    def on_epoch(epoch: Epoch, new: bool) -> None:
        run.history.append(epoch)
        run.report(epoch)
        run.curves.add(epoch)
        run.on_epoch(epoch, new)

    try:
        result = train(on_epoch=on_epoch, on_cache=lambda state: tags.update(trunk_cache=state))
    except optuna.TrialPruned:
        _close(run, "KILLED", tags | {"pruned": "true"}, {})
        raise
    except run.resumable:
        run.on_interrupt()
        run.curves.flush()
        run.writer.end(WAITING)
        raise
    except TrialFailed as failure:
        _close(run, "FAILED", tags | {"reason": str(failure)}, {})
        raise
    run.on_result(result)
    tags["best_epoch"] = str(result.best.step)
    _close(run, "FINISHED", tags, result_numbers(result, store=run.store, session=run.session))
    return result


def _close(run: TrainingRun, status: str, tags: Mapping[str, str], numbers: Numbers) -> None:
    numbers = {**numbers, **run.extra_numbers(run.history)}
    close_run(run.writer, run.configuration, run.history, run.curves, status=status, tags=tags, numbers=numbers)
    run.on_closed(status, tags, numbers)
