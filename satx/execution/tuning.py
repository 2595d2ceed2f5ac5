"""Sweep of a user's own HyperModel: KerasTuner's engine runs the trials, Optuna draws, MLflow stores the curves.

satx cannot know which parts of a user's model are frozen or can be shared between trials. So each trial is KerasTuner's
own `run_trial`, pruned by the median of the others. The study and finished trials survive a stop; an interrupted trial
starts again from the beginning, in the same run.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import logging
import shutil
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import keras_tuner
import keras_tuner.src.config
import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages._heartbeat import get_heartbeat_thread

from satx.errors import SweepStopped, TrialFailed
from satx.search.hypermodel import TileHyperModel, reason_of
from satx.search.keras_tuner_oracle import OBJECTIVE, KnownDraw, StudyOracle
from satx.search.keras_tuner_space import Outage, outages_are_fatal
from satx.sessions.prepare import PreparedSession
from satx.storage import satx_home
from satx.study.outages import BREAKS, says_full
from satx.tracking.client import MlflowClient
from satx.tracking.naming import COLOR, run_color
from satx.tracking.runs import WAITING, Opening, dataset_fields
from satx.tracking.trial_run import TrialRun, returned_numbers
from satx.training.devices import device_name, is_out_of_memory
from satx.training.scores import num_parameters, score_epoch
from satx.training.tile_batches import TileBatches

logger = logging.getLogger(__name__)

keras_tuner.src.config.DEBUG = False  # else KerasTuner prints the traceback of every failed trial

SCORED_AT_ONCE = 32  # validation tiles
TUNER_VERSION = 2  # part of a study's identity; increment when the same HyperModel would get other scores


@dataclass(frozen=True)
class Tuning:
    """Everything that the trials of a HyperModel's sweep share.

    Attributes:
        path: The user's file.
        hypermodel: The user's HyperModel, with the tiles.
        prepared: The session and its tiles.
        client: The MLflow client.
        experiment_id: Id of the MLflow experiment.
        parent_run_id: Id of the sweep's parent run.
        tags: Tags of every run.
        epochs: Epochs per trial, unless `fit` sets its own.
    """

    path: Path
    hypermodel: TileHyperModel
    prepared: PreparedSession
    client: MlflowClient
    experiment_id: str
    parent_run_id: str
    tags: dict[str, str]
    epochs: int


def tune(study: optuna.Study, tuning: Tuning, *, trials: int, on_trial: Callable[[], None]) -> None:
    """Run trials until `trials` are finished or pruned, or the space has no more; failed trials are recorded.

    Args:
        study: The study.
        tuning: What the trials share.
        trials: Finished and pruned trials in all, without those that drew the values of another.
        on_trial: Called before each trial, and at the end.

    Raises:
        SweepStopped: Three trials failed in a row, or the user's code raised a `keras_tuner.errors.FatalError`.
    """
    oracle = StudyOracle(study, trials=trials, seed=tuning.hypermodel.seed)
    try:
        _search(oracle, tuning, on_trial)
    except Outage as outage:
        raise outage.error from None
    except keras_tuner.errors.FatalError as error:
        raise SweepStopped(f"The HyperModel ended the sweep. {reason_of(error, tuning.path)}") from error


def _search(oracle: StudyOracle, tuning: Tuning, on_trial: Callable[[], None]) -> None:
    """Run KerasTuner's search; hand back a trial that it leaves open."""
    folder = satx_home() / "cache" / "tune" / oracle.study.study_name
    gc.freeze()  # Keras and KerasTuner collect garbage before every build: a second each with all the libraries' objects
    try:
        StudyTuner(oracle, tuning, folder, on_trial).search(epochs=tuning.epochs, verbose=0)
    except BaseException:
        with contextlib.suppress(*BREAKS, UpdateFinishedTrialError):  # out of reach, or ended by another process
            oracle.give_back()
        raise
    finally:
        gc.unfreeze()
        shutil.rmtree(folder, ignore_errors=True)


class StudyTuner(keras_tuner.Tuner):
    """KerasTuner's tuner, with the session's tiles, that reports every epoch to the study and to MLflow."""

    oracle: StudyOracle
    hypermodel: TileHyperModel

    def __init__(self, oracle: StudyOracle, tuning: Tuning, folder: Path, on_trial: Callable[[], None]) -> None:
        """Keep KerasTuner's files in `folder`, which is emptied."""
        project = {"directory": folder.parent, "project_name": folder.name, "overwrite": True}
        super().__init__(oracle=oracle, hypermodel=tuning.hypermodel, **project)
        self.tuning, self.on_trial = tuning, on_trial
        store, session = tuning.prepared.store, tuning.prepared.session
        self.valid = TileBatches(store, "valid", batch_size=SCORED_AT_ONCE, seed=None)
        self.positive_index = store.classes.index(session.positive_class)
        self.run: TrialRun
        self.started_at = 0.0

    def pre_create_trial(self) -> None:
        """Tell the progress."""
        self.on_trial()

    def _populate_initial_space(self) -> None:
        """Do nothing: Optuna needs no space in advance, and building it would run the user's code outside of a trial."""

    def _configure_tensorboard_dir(self, callbacks: list[Any], trial: Any, execution: int = 0) -> None:
        """Do nothing: it imports tensorboard, for callbacks passed to `search`, of which there are none."""

    def run_trial(self, trial: Any, *args: Any, **kwargs: Any) -> float:
        """Run a trial as KerasTuner does; return the best validation AUC of its epochs.

        Raises:
            FailedTrialError: The user's code raised an error, or trained nothing.
            Outage: The environment failed; the trial is to be started again.
        """
        self.run = self._new_run()
        self.started_at = time.perf_counter()
        try:
            with outages_are_fatal(), get_heartbeat_thread(self.oracle.asked._trial_id, self.oracle.study._storage):
                return self._ended(trial, *args, **kwargs)
        except (KeyboardInterrupt, Outage):
            if self.run.is_open and self.oracle.is_open:
                with contextlib.suppress(*BREAKS):
                    self.run.end(WAITING, self._params(trial))
            raise
        finally:
            self.hypermodel.model = self.hypermodel.returned = None  # a History keeps its network in memory

    def _ended(self, trial: Any, *args: Any, **kwargs: Any) -> float:
        """Run a trial, and end its run according to how the training ended."""
        status, said = "FINISHED", dict[str, str]()
        try:
            super().run_trial(trial, *args, **kwargs)
        except KnownDraw as draw:
            return self._known(trial, draw)
        except optuna.TrialPruned:
            self.oracle.was_pruned = True
            status, said = "KILLED", {"pruned": "true"}
        except (Outage, UpdateFinishedTrialError):  # the latter: another process has taken over the trial
            raise
        except (Exception, SystemExit) as error:  # the user's code may raise anything
            self._fail(trial, error)
        if not self.run.history:
            none = TrialFailed("Expected HyperModel.fit to train an epoch with the callbacks it is given, got none.")
            self._fail(trial, none)
        self.oracle.record_values(trial.hyperparameters.values)
        self.run.end(status, self._params(trial), numbers=returned_numbers(self.hypermodel.returned), tags=said)
        value = max(epoch.val_auc for epoch in self.run.history)
        self._tell(value)
        return value

    def _known(self, trial: Any, draw: KnownDraw) -> float:
        """Return the value of an earlier trial with the same values; this trial has no run."""
        value = 0.0
        try:
            value = self.oracle.known_result(draw, trial.hyperparameters.values)
        except optuna.TrialPruned:
            self.oracle.was_pruned = True
        self._tell(value)
        return value

    def _tell(self, value: float) -> None:
        if self.oracle.was_pruned:
            self.oracle.tell(state=optuna.trial.TrialState.PRUNED)
        else:
            self.oracle.tell(value)

    def _fail(self, trial: Any, error: BaseException) -> NoReturn:
        """Record the failure with its reason and traceback, and raise it in the way that KerasTuner expects."""
        if says_full(error):
            raise Outage(OSError(errno.ENOSPC, str(error))) from error
        reason = str(error) if isinstance(error, TrialFailed) else reason_of(error, self.tuning.path)
        if isinstance(error, Exception) and is_out_of_memory(error):
            reason = (
                f"Memory ran out, of the machine or its device; a smaller --batch-size or network needs less. {reason}"
            )
        logger.warning("trial %d failed: %s", self.oracle.asked.number, reason)
        self.oracle.record_failure(reason)
        # refused values and trained ones are not tried again; an error before training may pass
        if self.run.is_open or isinstance(error, keras_tuner.errors.FailedTrialError):
            self.oracle.record_values(trial.hyperparameters.values)
        said = "".join(traceback.format_exception(error))
        files = {"traceback.txt": lambda path: path.write_text(said)}
        self.run.end("FAILED", self._params(trial), tags={"reason": reason}, files=files)
        if isinstance(error, keras_tuner.errors.FatalError):  # KerasTuner ends the search, and not only this trial
            self.oracle.tell(state=optuna.trial.TrialState.FAIL)
            raise error
        raise keras_tuner.errors.FailedTrialError(reason) from error

    def on_epoch_begin(self, trial: Any, model: Any, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Open the trial's run before the first epoch."""
        with outages_are_fatal():
            self._begin(trial)
        self.started_at = time.perf_counter()

    def on_epoch_end(self, trial: Any, model: Any, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Score the validation tiles, and report to MLflow and to the study.

        Raises:
            TrialPruned: The trial is worse than the median of the others.
        """
        logs = {} if logs is None else logs
        found = score_epoch(
            model,
            self.valid,
            logs,
            step=len(self.run.history) + 1,  # `fit` may train in several phases, each from epoch 0
            positive_index=self.positive_index,
            seconds=time.perf_counter() - self.started_at,
        )
        logs[OBJECTIVE] = found.val_auc  # by which KerasTuner's next callback keeps the best epoch
        with outages_are_fatal():
            self._begin(trial)
            self.run.add(found, self._params(trial))
        self.oracle.report(found.val_auc, found.step)
        self.started_at = time.perf_counter()

    def save(self) -> None:
        """Do nothing: the study is what is kept."""

    def on_trial_end(self, trial: Any) -> None:
        """Tell the study, and remove the trial's weights: no run of `satx tune` keeps a model."""
        super().on_trial_end(trial)
        shutil.rmtree(self.get_trial_dir(trial.trial_id), ignore_errors=True)

    def _begin(self, trial: Any) -> None:
        if not self.run.is_open:
            self.oracle.record_values(trial.hyperparameters.values)
            self.run.open(self._params(trial))

    def _params(self, trial: Any) -> dict[str, Any]:
        return dict(trial.hyperparameters.values) | num_parameters(self.hypermodel.model)

    def _new_run(self) -> TrialRun:
        """Return the run of the trial under way, which is created or resumed when training begins."""
        tuning, trial = self.tuning, self.oracle.asked
        opening = Opening(
            identity={"study": tuning.tags["study"], "configuration": trial.user_attrs["configuration"]},
            name=f"{tuning.tags['backbone']} #{trial.number}",
            tags=tuning.tags | {COLOR: run_color(tuning.tags["backbone"], trial.number)},
            params={},
            parent=tuning.parent_run_id,
            dataset=dataset_fields(tuning.prepared.store, tuning.prepared.session.experiment_name),
            trial_number=trial.number,
            attempt_tags={"device": device_name()},
        )
        return TrialRun(tuning.client, tuning.experiment_id, opening)
