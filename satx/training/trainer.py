"""The two-phase trainer: the head on frozen features, then the tail from the chosen cut at a lower learning rate.

Selection uses the validation split only. The best epoch is the one with the highest validation AUC (ties: lowest
validation loss) over both phases, and a training returns its variables. To avoid recomputing frozen layers, the head
reads pooled features and the tail reads maps at its cut from the trunk cache, where that pays.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from satx.catalogue import ALL, BACKBONES, NONE
from satx.config import Configuration, TrainConfig
from satx.errors import Interrupted, TrialFailed
from satx.evaluation.metrics import accuracy, log_loss, roc_auc
from satx.models.backbones import Network, build_network
from satx.models.weights_file import Weights
from satx.training.batch import OptimizerSettings
from satx.training.checkpoint import Epoch, TrainingProgress, load_checkpoint, require_shapes, save_checkpoint
from satx.training.compiled import CompiledSteps, head_steps, workbench
from satx.training.contract import TRAINER_VERSION, OnStage, TrainingData, TrainingResult
from satx.training.devices import out_of_memory_fails_the_trial, precision_policy
from satx.training.head import initial_head
from satx.training.inputs import Inputs
from satx.training.steps import assign, require_finite, schedule_factor, trained_variables
from satx.training.trunk import cache_for

Item = TypeVar("Item")


# after a stop request, the running epoch has this long to finish; otherwise the next attempt starts it again
STOP_SECONDS = 20.0


def train(
    configuration: Configuration,
    data: TrainingData,
    *,
    checkpoint_dir: Path,
    on_epoch: Callable[[Epoch, bool], None] = lambda epoch, new: None,
    on_tail: Callable[[], None] = lambda: None,
    on_cache: Callable[[str], None] = lambda reading: None,
    stop: Callable[[], bool] = lambda: False,
    on_progress: OnStage = lambda what, done, total: None,
    stop_seconds: float = STOP_SECONDS,
) -> TrainingResult:
    """Train one configuration, from its checkpoint if there is one.

    Args:
        configuration: The configuration to train.
        data: Tiles, starting weights and cache of the training.
        checkpoint_dir: The training's own folder. The caller removes it once the result is saved.
        on_epoch: Called with each epoch once it is checkpointed, and True if it is new or False if it was restored from
            the checkpoint on a resume. May raise to end the training.
        on_tail: Called between the head phase and the tail phase. May raise to end the training.
        on_cache: Called at the start of a phase with `read` if it reads the trunk cache, else with the reason why not.
        stop: Polled throughout. True ends the training so that it can be resumed, after the current epoch, or within it
            if that takes longer than `stop_seconds`.
        on_progress: Called with the progress of filling the trunk cache.
        stop_seconds: Time that the current epoch has to finish after a stop request.

    Raises:
        TrialFailed: The loss is not finite, or memory ran out.
        StateMismatch: The checkpoint belongs to another training, or the tail would train another number of parameters
            than the catalogue lists for its cut.
        Interrupted: `stop` returned True.
    """
    with precision_policy(configuration.train.precision):
        run = _Run(configuration, data, checkpoint_dir, on_progress, stop, stop_seconds)
        try:
            for epoch in run.progress.history:
                on_epoch(epoch, False)
            for phase in run.phases():
                if phase != run.progress.phase:
                    on_tail()
                # filling the cache and building steps do not depend on the trial's batch size
                with out_of_memory_fails_the_trial(kind=TrialFailed):
                    run.enter(phase)
                on_cache(run.trunk_cache)
                while not run.phase_is_over():
                    with out_of_memory_fails_the_trial():
                        run.epoch()
                    on_epoch(run.progress.history[-1], True)
                    if stop():
                        raise Interrupted(
                            f"Stopped after epoch {len(run.progress.history)}; the same command continues from there."
                        )
            return run.finish()
        finally:  # a stored exception keeps this frame alive, and with it the inputs in GPU memory
            run.inputs.release()


def network_of(configuration: Configuration, weights: Weights, num_classes: int, values: list[np.ndarray]) -> Network:
    """Build the classifier with a training's values; variables without a value keep those of the weights file."""
    with precision_policy(configuration.train.precision):
        network = build_network(
            configuration.model,
            image_size_px=configuration.image_size_px,
            num_classes=num_classes,
            weights_file=weights.verified_file(),
            from_scratch=weights.source == "random",
        )
    variables = [*trained_variables(network.tail), *trained_variables(network.head)]
    assign(variables[len(variables) - len(values) :], values)
    return network


class _Run:
    """One training in progress: its compiled steps, inputs and state."""

    def __init__(
        self,
        configuration: Configuration,
        data: TrainingData,
        checkpoint_dir: Path,
        on_progress: OnStage,
        stop: Callable[[], bool],
        stop_seconds: float,
    ) -> None:
        self.config, self.data, self.folder, self.on_progress = configuration, data, checkpoint_dir, on_progress
        self.stop, self.stop_seconds, self.stopped_at = stop, stop_seconds, float("inf")
        self.settings: TrainConfig = configuration.train
        self.inputs = Inputs(configuration, data.store, data.weights, data.cache_dir)
        self.optimizer = OptimizerSettings(self.settings.optimizer, self.settings.weight_decay)
        self.trunk_cache = ""
        num_features = BACKBONES[configuration.model.backbone].num_features
        self.head = initial_head(num_features, len(data.store.classes), configuration.model, seed=self.settings.seed)
        self.progress, self.current, self.slots = TrainingProgress(), self.head, None
        self.best: list[np.ndarray] = []
        self.best_probabilities = np.zeros(0, np.float32)
        self.made_by = {"configuration": configuration.digest(), "trainer": str(TRAINER_VERSION)}
        found = load_checkpoint(checkpoint_dir, made_by=self.made_by)
        if found is not None:
            self.progress, arrays = found
            self.current, self.slots = arrays["current"], arrays["optimizer"]
            self.best_probabilities, *self.best = arrays["best"]
        self.steps: CompiledSteps | None = None

    def phases(self) -> list[str]:
        """Return the phases still to run, including the current one."""
        wanted = (
            ["head"] if self.config.model.unfreeze == NONE or not self.settings.finetune_epochs else ["head", "tail"]
        )
        return wanted[wanted.index(self.progress.phase) :]

    def enter(self, phase: str) -> None:
        """Prepare the inputs and steps of a phase; a new phase starts from the best epoch of the one before."""
        if self.progress.phase != phase:
            history, best_step = self.progress.history, self.progress.best_step
            self.progress = TrainingProgress(phase=phase, best_step=best_step, history=history)
            self.current, self.slots = self.best, None
        cut = NONE if phase == "head" else self.config.model.unfreeze
        reason = "the whole backbone is trained" if cut == ALL else self._cache(cut)
        self.trunk_cache = reason or "read"
        self.inputs.start_at(cut, cached=reason is None)
        if phase == "head":
            self.steps = head_steps(self.inputs.shape[0], self.inputs.dtype)
        else:
            bench = workbench(self.data.weights, self.config.image_size_px, self.settings.precision)
            self.steps = bench.steps(cut, self.inputs.shape, self.inputs.dtype)
            if len(self.current) == len(self.head):
                self.current = [*bench.tail_values(self.steps), *self.current]
        self.begin(self.steps)

    def begin(self, steps: CompiledSteps) -> None:
        """Load this training's state into the steps, after checking its shapes."""
        activation = self.config.model.activation
        expected = [*steps.tail_variables, *self.head]
        require_shapes(self.folder, "trained variables", self.current, expected)
        steps.begin(self.current, None, settings=self.optimizer, activation=activation)
        if self.slots is not None:
            require_shapes(self.folder, "the optimizer", self.slots, steps.slots())
            steps.begin(self.current, self.slots, settings=self.optimizer, activation=activation)

    def _cache(self, cut: str) -> str | None:
        """Fill the trunk cache for a cut. Returns None if it can be read, else the reason why not."""

        def on_progress(done: int, total: int) -> None:
            self.on_progress(f"{cut} cache", done, total)
            if self.stop():
                raise Interrupted("Stopped while filling the trunk cache; the same command continues from there.")

        tail = self.config.model.unfreeze
        # a sweep chooses what its trials keep, and prunes many before their tail
        is_read_later = cut == NONE and "tail" in self.phases() and tail != ALL and not self.data.kept
        later = tail if is_read_later else None
        return cache_for(
            self.inputs.source, cut, self.config, kept=self.data.kept, later=later, on_progress=on_progress
        )

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
        """Train on every training tile, score the validation tiles, update the best epoch, write the checkpoint."""
        started = time.perf_counter()
        at, steps = self.progress, self._steps()
        step = len(at.history) + 1
        schedule = schedule_factor(self.settings.schedule, at.phase_epoch, self.num_epochs())
        rate = self.base_rate() * at.rate_factor * schedule
        batches = self.in_time(self.inputs.train_batches(step, len(self.head[-2])))
        measured = [steps.train_on_batch(batch, rate) for batch in batches]
        # converted only after the last batch is dispatched, so that the device never waits
        values = [(float(loss), float(accuracy)) for loss, accuracy in self.in_time(measured)]
        loss, train_accuracy = (float(np.mean(column)) for column in zip(*values, strict=True))
        require_finite(loss, rate, what=f"loss of epoch {step} ({at.phase})")
        probabilities = self.probabilities()
        require_finite(
            float(probabilities.sum()), rate, what=f"sum of validation probabilities after epoch {step} ({at.phase})"
        )
        truth, positive = self.inputs.labels["valid"], self.data.positive_index
        at.history.append(
            Epoch(
                step=step,
                phase=at.phase,
                accuracy=round(train_accuracy, 6),
                loss=round(loss, 6),
                val_accuracy=accuracy(truth, probabilities),
                val_loss=log_loss(truth, probabilities),
                val_auc=roc_auc(truth, probabilities, positive_index=positive),
                learning_rate=rate,
                epoch_seconds=time.perf_counter() - started,
            )
        )
        at.phase_epoch += 1
        self.current = steps.trained()
        self.decide(at.history[-1], probabilities)
        best = [self.best_probabilities, *self.best]
        arrays = {"current": self.current, "optimizer": steps.slots(), "best": best}
        save_checkpoint(self.folder, at, arrays, made_by=self.made_by)

    def in_time(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield the items; raise `Interrupted` if a stop was requested more than `stop_seconds` ago.

        A machine that is being reclaimed has little time.
        """
        for item in items:
            yield item
            self.stopped_at = min(self.stopped_at, time.monotonic()) if self.stop() else float("inf")
            if time.monotonic() - self.stopped_at > self.stop_seconds:
                raise Interrupted(
                    f"Stopped in epoch {len(self.progress.history) + 1}; the same command repeats this epoch."
                )

    def probabilities(self) -> np.ndarray:
        """Predict the validation tiles with the current variables. Returns `(n, num_classes)` float32."""
        steps = self._steps()
        parts = [steps.probabilities(batch) for batch in self.in_time(self.inputs.valid_batches())]
        return np.concatenate(parts)[: len(self.inputs.rows["valid"])]

    def decide(self, epoch: Epoch, probabilities: np.ndarray) -> None:
        """Update the best epoch and early stopping, and reduce the learning rate if the loss has stopped falling."""
        at = self.progress
        best = at.best
        if best is None or (epoch.val_auc, -epoch.val_loss) > (best.val_auc, -best.val_loss):
            at.best_step, at.epochs_without_gain = epoch.step, 0
            self.best, self.best_probabilities = self.current, probabilities
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
        """Return the result: the best epoch, and how to build its network."""
        best = self.progress.best
        if best is None:
            raise TrialFailed("Expected at least one epoch, got none; set train.head_epochs to 1 or more.")
        build = partial(network_of, self.config, self.data.weights, len(self.data.store.classes), self.best)
        history = tuple(self.progress.history)
        return TrainingResult(history, best, self.best_probabilities, self.trunk_cache, self.best, build)

    def _steps(self) -> CompiledSteps:
        if self.steps is None:
            raise RuntimeError("Expected enter() to be called before epoch(), got no compiled steps.")
        return self.steps
