"""Sweep of a user's own HyperModel: Optuna draws, Keras fits on the session's tiles, MLflow stores the curves.

satx cannot know which parts of a user's model are frozen or can be shared between trials. So each trial is a plain
`HyperModel.fit`, pruned by the median of the others. The study and finished trials survive a stop; an interrupted trial
starts again from the beginning, in the same run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import keras_tuner
import numpy as np
import optuna
from mlflow.entities import Run

from satx.errors import SweepStopped, TrialFailed
from satx.evaluation.metrics import accuracy, log_loss, roc_auc
from satx.search.keras_tuner_space import TrialHyperParameters
from satx.storage import digest_of
from satx.study.outcomes import DONE, MAX_FAILURES_IN_A_ROW, Outcome, num_failures_in_a_row
from satx.study.owner import owner_of_this_process, owner_tag
from satx.tiles.store import TileStore
from satx.tracking.client import MlflowClient
from satx.tracking.curves import direct_curves
from satx.tracking.runs import WAITING, Opening, dataset_fields, open_run
from satx.tracking.writer import DirectWriter
from satx.training.checkpoint import Epoch
from satx.training.devices import device_name, out_of_memory_fails_the_trial

HYPERPARAMETERS = "hyperparameters"  # trial attribute: values by KerasTuner's names, which can differ from Optuna's


class TileBatches(keras.utils.PyDataset):
    """Batches of a split, read from the memory-mapped store: `(B, S, S, 3)` uint8 and class indices `(B,)`."""

    def __init__(self, store: TileStore, split: str, *, batch_size: int, seed: int | None) -> None:
        """Open a split; with a seed, every epoch has a new random order."""
        super().__init__()
        self.pixels, self.rows, self.labels = store.pixels(), store.rows(split), store.labels()
        self.batch_size, self.draw = batch_size, np.random.default_rng(seed) if seed is not None else None
        self.on_epoch_end()

    def __len__(self) -> int:
        """Return the number of batches per epoch."""
        return -(-len(self.rows) // self.batch_size)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return one batch."""
        chosen = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        return np.asarray(self.pixels[chosen]), self.labels[chosen]

    def on_epoch_end(self) -> None:
        """Draw the next epoch's order."""
        self.order = self.rows if self.draw is None else self.draw.permutation(self.rows)


@dataclass(frozen=True)
class Tuning:
    """Everything that the trials of a HyperModel's sweep share.

    Attributes:
        build: The user's class.
        store: The tiles.
        positive_index: Index of the class of interest.
        client: The MLflow client.
        experiment_id: Id of the MLflow experiment.
        parent_run_id: Id of the sweep's parent run.
        tags: Tags of every run.
        session: Name of the experiment, logged with the data set.
        epochs: Epochs per trial.
        batch_size: Tiles per training step.
        seed: Seed of initial weights and tile orders.
    """

    build: Callable[..., keras_tuner.HyperModel]
    store: TileStore
    positive_index: int
    client: MlflowClient
    experiment_id: str
    parent_run_id: str
    tags: dict[str, str]
    session: str
    epochs: int
    batch_size: int
    seed: int


def tune(study: optuna.Study, tuning: Tuning, *, trials: int, on_trial: Callable[[int], None]) -> None:
    """Run trials until `trials` are finished or pruned; a failed trial is recorded, and the study goes on.

    Raises:
        SweepStopped: Five trials failed in a row.
    """
    while (count := len(study.get_trials(deepcopy=False, states=DONE))) < trials:
        on_trial(count)
        num_failures = num_failures_in_a_row(study)
        if num_failures >= MAX_FAILURES_IN_A_ROW:
            said = [trial.user_attrs["reason"] for trial in study.trials if "reason" in trial.user_attrs]
            raise SweepStopped(
                f"{num_failures} trials failed in a row; mend what they share and run the same command. "
                f"{said[-1] if said else 'Their processes died.'}"
            )
        # a seed per draw, so that a later call does not repeat the draws of an earlier one
        seed = int(digest_of([tuning.seed, len(study.trials)])[:8], 16)
        study.sampler = optuna.samplers.TPESampler(seed=seed)
        study.optimize(lambda trial: _recorded(trial, tuning), n_trials=1, catch=(TrialFailed,))
    on_trial(count)


def _recorded(trial: optuna.Trial, tuning: Tuning) -> float:
    trial.set_user_attr("owner", owner_of_this_process())
    if "configuration" not in trial.user_attrs:  # otherwise a retry of an interrupted trial
        trial.set_user_attr("configuration", f"{tuning.tags['study']}-{trial.number}")
    try:
        return _trial(trial, tuning)
    except KeyboardInterrupt:
        trial.set_user_attr("outcome", Outcome.INTERRUPTED)
        raise
    except TrialFailed as failure:
        trial.set_user_attr("outcome", Outcome.FAILED)
        trial.set_user_attr("reason", str(failure))
        raise


def _trial(trial: optuna.Trial, tuning: Tuning) -> float:
    keras.utils.clear_session()
    keras.utils.set_random_seed(tuning.seed)
    hyperparameters = TrialHyperParameters(trial)
    model_class = tuning.build(image_size_px=tuning.store.image_size_px, num_classes=len(tuning.store.classes))
    with out_of_memory_fails_the_trial():
        model = model_class.build(hyperparameters)
        run = _open_run(trial, tuning, hyperparameters.values | _num_parameters(model))
        report = _Report(trial, tuning, run)
        status, said = "FAILED", dict[str, str]()
        try:
            train = TileBatches(tuning.store, "train", batch_size=tuning.batch_size, seed=tuning.seed)
            model_class.fit(hyperparameters, model, train, epochs=tuning.epochs, callbacks=[report], verbose=0)
            status = "FINISHED" if report.history else "FAILED"
        except optuna.TrialPruned:
            status, said = "KILLED", {"pruned": "true"}
            raise
        except KeyboardInterrupt:
            status = WAITING
            raise
        finally:
            trial.set_user_attr(HYPERPARAMETERS, hyperparameters.values)
            report.curves.flush(report.numbers(), tags=said)
            DirectWriter(tuning.client, run).end(status)
    if not report.history:
        raise TrialFailed(
            "Expected HyperModel.fit to train at least one epoch with the callbacks it is given, got none."
        )
    return max(epoch.val_auc for epoch in report.history)


def _open_run(trial: optuna.Trial, tuning: Tuning, params: dict[str, Any]) -> Run:
    """Open the trial's run, or resume that of its earlier attempt."""
    opening = Opening(
        identity={"study": tuning.tags["study"], "configuration": trial.user_attrs["configuration"]},
        name=f"{tuning.tags['backbone']}-{trial.number}",
        tags=tuning.tags,
        params=params,
        parent=tuning.parent_run_id,
        dataset=dataset_fields(tuning.store, tuning.session),
        trial_number=trial.number,
        attempt_tags={"device": device_name(), **owner_tag()},
    )
    return open_run(tuning.client, tuning.experiment_id, opening)[0]


def _num_parameters(model: Any) -> dict[str, int]:
    """Return the network's numbers of trainable and total parameters; empty if it is built only when fitted."""
    if not model.built:
        return {}
    trainable = sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)
    return {"trainable_parameters": trainable, "total_parameters": model.count_params()}


class _Report(keras.callbacks.Callback):
    """Scores the validation tiles after every epoch, reports to Optuna and MLflow, and prunes."""

    def __init__(self, trial: optuna.Trial, tuning: Tuning, run: Run) -> None:
        super().__init__()
        self.trial, self.tuning, self.history = trial, tuning, list[Epoch]()
        self.curves = direct_curves(tuning.client, run)
        self.valid = TileBatches(tuning.store, "valid", batch_size=32, seed=None)
        self.truth = tuning.store.labels()[tuning.store.rows("valid")]

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.started = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        logs = logs or {}
        probabilities = np.concatenate(
            [np.asarray(self.model.predict_on_batch(self.valid[i][0])) for i in range(len(self.valid))]
        )
        if not np.isfinite(probabilities).all():
            raise TrialFailed(f"Expected finite probabilities after epoch {epoch + 1}, got others: training diverged.")
        found = Epoch(
            step=epoch + 1,
            phase="whole",
            accuracy=float(logs.get("accuracy", float("nan"))),
            loss=float(logs.get("loss", float("nan"))),
            val_accuracy=accuracy(self.truth, probabilities),
            val_loss=log_loss(self.truth, probabilities),
            val_auc=roc_auc(self.truth, probabilities, positive_index=self.tuning.positive_index),
            learning_rate=float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)),
            epoch_seconds=time.perf_counter() - self.started,
        )
        self.history.append(found)
        self.curves.add(found)
        self.trial.report(found.val_auc, step=found.step)
        if self.trial.should_prune():
            raise optuna.TrialPruned(f"after epoch {found.step}")

    def numbers(self) -> dict[str, float]:
        """Return the best epoch's scores and the seconds of all epochs."""
        seconds = {"compute_seconds": sum(epoch.epoch_seconds for epoch in self.history)}
        if not self.history:
            return seconds
        best = max(self.history, key=lambda epoch: (epoch.val_auc, -epoch.val_loss))
        scores = {"auc": best.val_auc, "accuracy": best.val_accuracy, "loss": best.val_loss}
        return seconds | {f"best_val_{name}": value for name, value in scores.items()} | {"best_step": float(best.step)}
