"""Train a configuration in plain Keras: `image_dataset_from_directory` and `model.fit`, as in Keras's guides.

`replay` and `peers` compare satx with this. The head is trained first with everything frozen, then the tail at a lower
rate from the head's best epoch. Batch normalization runs in inference mode; early stopping and plateaus use the
configuration's patience. Tiles are decoded every epoch, as in the guides. Weight decay and rate schedules, which no
shipped sweep draws, are left out.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from satx.catalogue import ALL, BACKBONES, NONE
from satx.config import Configuration, TrainConfig
from satx.evaluation.metrics import log_loss, roc_auc
from satx.models.backbones import build_backbone
from satx.tiles.store import TileStore


@dataclass(frozen=True)
class PlainData:
    """A session's tiles as symbolic links in one folder per split and class, and its labels.

    Attributes:
        folder: Holds `train/`, `valid/` and `test/`, with one folder per class in each.
        classes: Class names, sorted as Keras sorts them.
        positive_index: Index of the class of interest.
        class_weight: Inverse class frequency, with a mean of 1 over the tiles.
    """

    folder: Path
    classes: tuple[str, ...]
    positive_index: int
    class_weight: dict[int, float]

    def files(self, split: str) -> list[Path]:
        """Return a split's tiles in the order in which Keras reads them: class by class."""
        return sorted((self.folder / split).glob("*/*"))


def link_tiles(store: TileStore, folder: Path, positive_class: str) -> PlainData:
    """Link the source tiles of a store in the folder layout that Keras reads."""
    root = Path(store.report.root)
    for number, row in enumerate(store.index.itertuples()):
        target = folder / str(row.split) / str(row.label) / f"{number}{Path(str(row.relative)).suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            target.symlink_to(root / str(row.relative))
    classes = tuple(sorted(store.classes))
    train = pd.Series(store.index.loc[store.index["split"] == "train", "label"])
    counts = train.value_counts()
    weight = {place: len(train) / (len(classes) * counts[name]) for place, name in enumerate(classes)}
    return PlainData(folder, classes, classes.index(positive_class), weight)


def dataset(data: PlainData, split: str, configuration: Configuration, *, shuffle: bool) -> Any:
    """Return batches of decoded, resized tiles with one-hot labels."""
    size = configuration.image_size_px
    found = keras.utils.image_dataset_from_directory(
        data.folder / split,
        label_mode="categorical",
        image_size=(size, size),
        batch_size=configuration.train.batch_size,
        shuffle=shuffle,
        seed=configuration.train.seed,
        verbose=False,
    )
    return found.prefetch(2)


def plain_model(configuration: Configuration, num_classes: int, weights_file: Path) -> tuple[Any, Any]:
    """Build the classifier from Keras's layers; return it and its backbone."""
    size, settings = configuration.image_size_px, configuration.model
    base = build_backbone(settings.backbone, size, weights_file)
    inputs = keras.Input((size, size, 3))
    values = keras.layers.RandomFlip("horizontal_and_vertical", seed=configuration.train.seed)(inputs)
    if not BACKBONES[settings.backbone].scales_inside:
        values = keras.layers.Rescaling(1 / 127.5, offset=-1)(values)
    values = keras.layers.GlobalAveragePooling2D()(Frozen(base)(values))
    if settings.dense_units:
        values = keras.layers.Dense(settings.dense_units, activation=settings.activation)(values)
    values = keras.layers.Dropout(settings.dropout)(values)
    return keras.Model(inputs, keras.layers.Dense(num_classes, activation="softmax")(values)), base


class Frozen(keras.layers.Layer):
    """Call a backbone in inference mode, like the guides' `base(x, training=False)`, which Keras 3.15 overrides."""

    def __init__(self, base: Any) -> None:
        """Store the backbone."""
        super().__init__()
        self.base = base

    def call(self, values: Any) -> Any:
        """Return the last feature map."""
        return self.base(values, training=False)


def unfreeze(base: Any, configuration: Configuration) -> None:
    """Make the layers from the cut on trainable, or none or all of them."""
    settings = configuration.model
    base.trainable = settings.unfreeze != NONE
    if settings.unfreeze in (NONE, ALL):
        return
    first = BACKBONES[settings.backbone].cuts[settings.unfreeze].layer
    names = [layer.name for layer in base.layers]
    for layer in base.layers[: names.index(first)]:
        layer.trainable = False


class Score(keras.callbacks.Callback):
    """Record validation AUC and seconds of every epoch.

    Ends a phase early after the configuration's patience. `stop` is called after every epoch and may raise to end the
    training.
    """

    def __init__(self, data: PlainData, configuration: Configuration, stop: Callable[[Score], None]) -> None:
        """Open the validation tiles and their labels."""
        super().__init__()
        self.data, self.patience, self.stop = data, configuration.train.early_stopping_patience_epochs, stop
        self.valid = dataset(data, "valid", configuration, shuffle=False)
        self.truth = np.array([data.classes.index(path.parent.name) for path in data.files("valid")])
        self.aucs: list[float] = []
        self.seconds: list[float] = []
        self.best: list[np.ndarray] | None = None

    def on_train_begin(self, logs: Any = None) -> None:
        """Reset the patience at the start of a phase."""
        self.waited = 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Start the clock."""
        self.started = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Score the epoch, and keep its weights if it is the best."""
        probabilities = self.model.predict(self.valid, verbose=0)
        logs["val_loss"] = log_loss(self.truth, probabilities)  # for the callbacks that come after this one
        self.aucs.append(roc_auc(self.truth, probabilities, positive_index=self.data.positive_index))
        if len(self.aucs) == 1 or self.aucs[-1] > max(self.aucs[:-1]):
            self.best, self.waited = self.model.get_weights(), 0
        else:
            self.waited += 1
        self.model.stop_training = self.waited >= self.patience
        self.seconds.append(time.perf_counter() - self.started)
        self.stop(self)


def fit_plainly(
    configuration: Configuration,
    data: PlainData,
    weights_file: Path,
    *,
    first_epoch: int = 0,
    last_epoch: int | None = None,
    start: list[np.ndarray] | None = None,
    stop: Callable[[Score], None] = lambda score: None,
) -> tuple[Any, Score]:
    """Train both phases of a configuration, or the epochs from `first_epoch` up to, but not including, `last_epoch`.

    Epochs are counted from 0 across both phases.

    Args:
        configuration: The configuration to train.
        data: The tiles.
        weights_file: Weights of the backbone.
        first_epoch: The first epoch to train.
        last_epoch: The epoch to end before; None trains to the configuration's end.
        start: The model's weights before the first epoch, if training continues.
        stop: Called after every epoch; may raise.

    Returns:
        The model with its best epoch's weights, and its scores.
    """
    keras.utils.clear_session()
    keras.utils.set_random_seed(configuration.train.seed)
    settings = configuration.train
    train, score = dataset(data, "train", configuration, shuffle=True), Score(data, configuration, stop)
    model, base = plain_model(configuration, len(data.classes), weights_file)
    if start is not None:
        model.set_weights(start)
    end_of_head = settings.head_epochs
    end = end_of_head + settings.finetune_epochs * (configuration.model.unfreeze != NONE)
    phases = [
        (NONE, 0, end_of_head, settings.head_learning_rate),
        (configuration.model.unfreeze, end_of_head, end, settings.finetune_learning_rate),
    ]
    for cut, begins, ends, rate in phases:
        first, last = max(first_epoch, begins), min(ends, last_epoch or end)
        if first < last:
            if score.best is not None:
                model.set_weights(score.best)
            unfreeze(base, configuration.with_values({"model.unfreeze": cut}, source="phase"))
            _compile(model, configuration, rate)
            weights = data.class_weight if settings.class_weight == "balanced" else None
            callbacks = [score, _plateau(settings)]
            model.fit(train, epochs=last - first, class_weight=weights, callbacks=callbacks, verbose=0)
    if score.best is not None:
        model.set_weights(score.best)
    return model, score


def _compile(model: Any, configuration: Configuration, rate: float) -> None:
    names = {"adam": "Adam", "adamw": "AdamW", "rmsprop": "RMSprop", "sgd": "SGD"}
    optimizer = getattr(keras.optimizers, names[configuration.train.optimizer])(rate)
    loss = keras.losses.CategoricalCrossentropy(label_smoothing=configuration.train.label_smoothing)
    model.compile(optimizer=optimizer, loss=loss, metrics=["accuracy"], jit_compile=False)


def _plateau(settings: TrainConfig) -> Any:
    return keras.callbacks.ReduceLROnPlateau(
        factor=settings.plateau_factor, patience=settings.plateau_patience_epochs, min_delta=0.0
    )
