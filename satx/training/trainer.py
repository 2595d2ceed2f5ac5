"""The two-phase trainer: the head on frozen features, then the tail from the chosen cut at a lower rate.

Selection uses the validation split only; the best epoch is the one of highest validation AUC (ties: lowest validation
loss) over both phases, and its variables are what a training returns. Speaks Keras's backend-neutral API.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import keras
import numpy as np

from satx.catalogue import NONE
from satx.config import Configuration, TrainConfig
from satx.errors import Interrupted, TrialFailed
from satx.evaluation.metrics import accuracy, log_loss, roc_auc
from satx.models.backbones import Network, build_network
from satx.models.weights import Weights
from satx.tiles.store import TileStore
from satx.training.augmentation import random_views, views
from satx.training.checkpoint import Epoch, Progress, load_checkpoint, save_checkpoint
from satx.training.devices import out_of_memory_fails_the_trial, precision_policy
from satx.training.features import FeatureSource, feature_source
from satx.training.steps import assign, build_metrics, class_weights, predict, require_finite, schedule_factor

TRAINER_VERSION = 3  # part of a study's identity: raise it when the same configuration would train differently
OPTIMIZERS = {"adam": "Adam", "adamw": "AdamW", "rmsprop": "RMSprop", "sgd": "SGD"}


@dataclass(frozen=True)
class TrainingData:
    """What a training reads.

    Attributes:
        store: The tiles.
        weights: The backbone's starting weights.
        positive_index: Index of the class of interest.
        cache_dir: `SATX_HOME/cache`.
    """

    store: TileStore
    weights: Weights
    positive_index: int
    cache_dir: Path


@dataclass(frozen=True)
class TrainingResult:
    """What a training returns.

    Attributes:
        network: With the best epoch's variables.
        history: Every epoch.
        best: The best of them.
        val_probabilities: Of the returned network on the validation tiles, `(n, num_classes)` float32.
    """

    network: Network
    history: tuple[Epoch, ...]
    best: Epoch
    val_probabilities: np.ndarray


def train(
    configuration: Configuration,
    data: TrainingData,
    *,
    checkpoint_dir: Path,
    on_epoch: Callable[[Epoch, bool], None] = lambda epoch, new: None,
    stop: Callable[[], bool] = lambda: False,
) -> TrainingResult:
    """Train one configuration, from its checkpoint if there is one.

    Args:
        configuration: What to train.
        data: What to read.
        checkpoint_dir: The training's own folder; the caller removes it when the result is safe.
        on_epoch: Told of every epoch once it is checkpointed, and whether it is new or, on a resume, an earlier one;
            may raise to end the training.
        stop: Asked after every epoch; True ends the training resumably.

    Raises:
        TrialFailed: The loss is not finite, or memory ran out.
        Interrupted: `stop` said so.
    """
    keras.utils.clear_session()  # first: it forgets the precision policy too
    with out_of_memory_fails_the_trial(), precision_policy(configuration.train.precision):
        keras.utils.set_random_seed(configuration.train.seed)
        run = _Run(configuration, data, checkpoint_dir)
        run.restore()
        for epoch in run.progress.history:
            on_epoch(epoch, False)
        for phase in run.phases():
            run.enter(phase)
            while not run.phase_is_over():
                run.epoch()
                on_epoch(run.progress.history[-1], True)
                if stop():
                    raise Interrupted(
                        f"Stopped after epoch {len(run.progress.history)}; the same command continues from there."
                    )
        return run.finish()


class _Run:
    """One training in progress: its network, its optimizer and where it stands."""

    def __init__(self, configuration: Configuration, data: TrainingData, checkpoint_dir: Path) -> None:
        self.config, self.data, self.folder = configuration, data, checkpoint_dir
        self.settings: TrainConfig = configuration.train
        self.progress = Progress()
        self.network = build_network(
            configuration.model,
            image_size_px=configuration.image_size_px,
            num_classes=len(data.store.classes),
            weights_file=data.weights.verified_file(),
            from_scratch=data.weights.source == "random",
        )
        self.best: list[np.ndarray] = self.trained_values()
        self.rows = {split: data.store.rows(split) for split in ("train", "valid")}
        labels = data.store.labels()
        self.labels = {split: labels[rows] for split, rows in self.rows.items()}
        self.class_weights = class_weights(self.labels["train"], len(data.store.classes), self.settings.class_weight)
        self.model: Any = None
        self._optimizer_values: list[np.ndarray] | None = None

    @cached_property
    def trained(self) -> list[Any]:
        """Variables of tail and head, the state of the head's dropout included."""
        parts = [part for part in (self.network.tail, self.network.head) if part is not None]
        return [variable for part in parts for variable in part.variables]

    def trained_values(self) -> list[np.ndarray]:
        return [np.array(variable) for variable in self.trained]

    def restore(self) -> None:
        """Take up the checkpoint, if there is one."""
        found = load_checkpoint(self.folder)
        if found is not None:
            self.progress, arrays = found
            assign(self.trained, arrays["current"])
            self.best, self._optimizer_values = arrays["best"], arrays["optimizer"]

    def phases(self) -> list[str]:
        """The phases still to run."""
        wanted = (
            ["head"] if self.config.model.unfreeze == NONE or not self.settings.finetune_epochs else ["head", "tail"]
        )
        return wanted[wanted.index(self.progress.phase) :]

    def enter(self, phase: str) -> None:
        """Compile what this phase trains; a new phase starts from the best epoch of the one before."""
        if self.progress.phase != phase:
            history, best_step = self.progress.history, self.progress.best_step
            self.progress = Progress(phase=phase, best_step=best_step, history=history)
            assign(self.trained, self.best)
        if self.network.tail is not None:
            self.network.tail.trainable = phase == "tail"
        self.pooled = phase == "head" and self.config.augmentation.mode == "views"
        self.model = self.network.head if self.pooled else self.network
        build = getattr(keras.optimizers, OPTIMIZERS[self.settings.optimizer])
        optimizer = build(learning_rate=self.base_rate(), weight_decay=self.settings.weight_decay)
        loss = keras.losses.CategoricalCrossentropy(label_smoothing=self.settings.label_smoothing)
        # XLA costs more to compile on a processor than these short trainings last
        compiled = "auto" if keras.backend.backend() == "jax" else False
        self.model.compile(optimizer=optimizer, loss=loss, metrics=["accuracy"], jit_compile=compiled)
        self.model.optimizer.build(self.model.trainable_variables)
        build_metrics(self.model, len(self.data.store.classes))
        if self._optimizer_values is not None:
            assign(self.model.optimizer.variables, self._optimizer_values)
            self._optimizer_values = None

    def base_rate(self) -> float:
        return (
            self.settings.head_learning_rate if self.progress.phase == "head" else self.settings.finetune_learning_rate
        )

    def num_epochs(self) -> int:
        return self.settings.head_epochs if self.progress.phase == "head" else self.settings.finetune_epochs

    def phase_is_over(self) -> bool:
        at = self.progress
        return (
            at.phase_epoch >= self.num_epochs()
            or at.epochs_without_gain >= self.settings.early_stopping_patience_epochs
        )

    def epoch(self) -> None:
        """Train on every training tile, score the validation tiles, decide, checkpoint."""
        started = time.perf_counter()
        at = self.progress
        step = len(at.history) + 1
        rate = (
            self.base_rate()
            * at.rate_factor
            * schedule_factor(self.settings.schedule, at.phase_epoch, self.num_epochs())
        )
        self.model.optimizer.learning_rate.assign(rate)
        batches = self.batches(step)
        sums = np.zeros(2)  # of accuracy and loss over the batches; Keras measures one at a time
        targets = np.eye(len(self.data.store.classes), dtype=np.float32)
        for places in batches:  # (B,) int64, within the training split
            labels = self.labels["train"][places]
            measured = self.model.train_on_batch(
                self.inputs(places, step), targets[labels], sample_weight=self.class_weights[labels], return_dict=True
            )
            require_finite(float(measured["loss"]), rate, what=f"loss of epoch {step} ({at.phase})")
            sums += np.array([measured["accuracy"], measured["loss"]], np.float64)
        probabilities = self.validation_probabilities()
        require_finite(float(probabilities.sum()), rate, what=f"validation after epoch {step} ({at.phase})")
        truth, positive = self.labels["valid"], self.data.positive_index
        train_accuracy, train_loss = (sums / len(batches)).tolist()
        at.history.append(
            Epoch(
                step=step,
                phase=at.phase,
                accuracy=round(train_accuracy, 6),
                loss=round(train_loss, 6),
                val_accuracy=accuracy(truth, probabilities),
                val_loss=log_loss(truth, probabilities),
                val_auc=roc_auc(truth, probabilities, positive_index=positive),
                learning_rate=rate,
                epoch_seconds=time.perf_counter() - started,
            )
        )
        at.phase_epoch += 1
        self.decide(at.history[-1])
        arrays = {
            "current": self.trained_values(),
            "optimizer": [np.array(variable) for variable in self.model.optimizer.variables],
            "best": self.best,
        }
        save_checkpoint(self.folder, at, arrays)

    def batches(self, step: int) -> np.ndarray:
        """The training tiles in this epoch's order, cut into batches, `(num_batches, B)` int64.

        The last batch is filled up from the start of the order: a shorter one would be compiled anew, which takes longer
        than an epoch of many a training.
        """
        num_tiles, size = len(self.rows["train"]), self.settings.batch_size
        order = np.random.default_rng([self.settings.seed, step]).permutation(num_tiles)
        return np.resize(order, (-(-num_tiles // size), size))

    def chosen_views(self, step: int) -> np.ndarray:
        """The view of every training tile in this epoch, by (configuration seed, epoch, tile)."""
        draw = np.random.default_rng([self.settings.seed, step, 1])
        return draw.integers(self.config.augmentation.num_views, size=len(self.rows["train"]))

    def inputs(self, places: np.ndarray, step: int) -> np.ndarray:
        """One batch: pooled features `(B, channels)` float32 in the head phase, else tiles `(B, S, S, 3)` uint8."""
        recipe, seed = self.config.augmentation, self.settings.seed
        rows = self.rows["train"][places]
        if recipe.mode == "random":
            return random_views(self.data.store.pixels(), rows, config=recipe, seed=seed, step=step)
        chosen = self.chosen_views(step)[places]
        if self.pooled:
            pairs = zip(chosen.tolist(), places.tolist(), strict=True)
            return np.stack([self.features("train", view)[place] for view, place in pairs]).astype(np.float32)
        return views(self.data.store.pixels(), rows, chosen, config=recipe, seed=seed)

    def features(self, split: str, view: int) -> np.ndarray:
        """Pooled features of one view, opened once."""
        key = (split, view)
        if key not in self._features:
            self._features[key] = self._source.split(split, view)
        return self._features[key]

    @cached_property
    def _features(self) -> dict[tuple[str, int], np.ndarray]:
        return {}

    @cached_property
    def _source(self) -> FeatureSource:
        return feature_source(self.config, self.data.store, self.data.weights, self.data.cache_dir)

    def validation_probabilities(self) -> np.ndarray:
        """Of what is being trained, `(n, num_classes)` float32."""
        if self.pooled:
            features = np.asarray(self.features("valid", 0), np.float32)
            return np.asarray(self.model.predict_on_batch(features), np.float32)
        return predict(self.network, self.data.store, "valid")

    def decide(self, epoch: Epoch) -> None:
        """Is this the best epoch; has the loss stopped falling?"""
        at = self.progress
        best = at.best
        if best is None or (epoch.val_auc, -epoch.val_loss) > (best.val_auc, -best.val_loss):
            at.best_step, at.epochs_without_gain = epoch.step, 0
            self.best = self.trained_values()
        else:
            at.epochs_without_gain += 1
        if epoch.val_loss < at.plateau_loss:
            at.plateau_loss, at.plateau_epochs = epoch.val_loss, 0
        else:
            at.plateau_epochs += 1
            if at.plateau_epochs >= self.settings.plateau_patience_epochs:
                at.rate_factor *= self.settings.plateau_factor
                at.plateau_epochs = 0

    def finish(self) -> TrainingResult:
        """The best epoch's network, scored once more on the validation tiles."""
        assign(self.trained, self.best)
        best = self.progress.best
        if best is None:
            raise TrialFailed("Expected at least one epoch, got none; set train.head_epochs to 1 or more.")
        models: list[Any] = [self.network, self.network.head]
        for model in models:
            model.optimizer = None  # Keras would save its slots with the weights, three times their size
        return TrainingResult(self.network, tuple(self.progress.history), best, self.validation_probabilities())
