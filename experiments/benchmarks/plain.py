"""The plain way to train the same configuration: `image_dataset_from_directory` and `model.fit`, as Keras's guides have it.

Head first with everything frozen, then the tail at a lower rate, batch normalisation in inference mode; what satx's
trainings are held against by `replay` and `peers`.
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
from satx.config import Configuration
from satx.evaluation.metrics import roc_auc
from satx.models.backbones import build_backbone
from satx.tiles.store import TileStore


@dataclass(frozen=True)
class PlainData:
    """A session's tiles as a folder a class and split, made of links, and its labels.

    Attributes:
        folder: Holds `train/`, `valid/` and `test/`, a folder a class in each.
        classes: Their names, sorted as Keras sorts them.
        positive_index: The class of interest.
        class_weight: Inverse frequency, mean 1.
    """

    folder: Path
    classes: tuple[str, ...]
    positive_index: int
    class_weight: dict[int, float]


def link_tiles(store: TileStore, folder: Path, positive_class: str) -> PlainData:
    """Lay out a store's own tiles the way Keras reads them."""
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
    """Batches of decoded, resized tiles, one-hot labels."""
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
    """The classifier and the backbone in it, from Keras's layers."""
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
    """Calls a backbone in inference mode, as the guides do with `base(x, training=False)`; Keras 3.15 overrides that."""

    def __init__(self, base: Any) -> None:
        """Take the backbone."""
        super().__init__()
        self.base = base

    def call(self, values: Any) -> Any:
        """The last feature map."""
        return self.base(values, training=False)


def unfreeze(base: Any, configuration: Configuration) -> None:
    """Make the layers from the cut on trainable, none or all."""
    settings = configuration.model
    base.trainable = settings.unfreeze != NONE
    if settings.unfreeze in (NONE, ALL):
        return
    first = BACKBONES[settings.backbone].cuts[settings.unfreeze].layer
    names = [layer.name for layer in base.layers]
    for layer in base.layers[: names.index(first)]:
        layer.trainable = False


class Score(keras.callbacks.Callback):
    """Validation AUC and seconds of every epoch; `stop` may end the training."""

    def __init__(self, valid: Any, data: PlainData, stop: Callable[[Score], None]) -> None:
        """Score these batches."""
        super().__init__()
        self.valid, self.data, self.stop = valid, data, stop
        self.aucs: list[float] = []
        self.seconds: list[float] = []
        self.best: np.ndarray | None = None

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Start the clock."""
        self.started = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Score, and keep the best epoch's weights."""
        truth = np.concatenate([np.asarray(labels).argmax(1) for _, labels in self.valid])
        probabilities = self.model.predict(self.valid, verbose=0)
        self.aucs.append(roc_auc(truth, probabilities, positive_index=self.data.positive_index))
        if self.aucs[-1] == max(self.aucs):
            self.best = self.model.get_weights()
        self.seconds.append(time.perf_counter() - self.started)
        self.stop(self)


def fit_plainly(
    configuration: Configuration,
    data: PlainData,
    weights_file: Path,
    *,
    epochs: tuple[int, int] | None = None,
    stop: Callable[[Score], None] = lambda score: None,
) -> tuple[Any, Score]:
    """Both phases of a configuration.

    Args:
        configuration: What to train.
        data: The tiles.
        weights_file: Of the backbone.
        epochs: Of head and tail, instead of the configuration's.
        stop: Told of every epoch; may raise.

    Returns:
        The model with its best epoch's weights, and its scores.
    """
    keras.utils.clear_session()
    keras.utils.set_random_seed(configuration.train.seed)
    settings = configuration.train
    train = dataset(data, "train", configuration, shuffle=True)
    score = Score(dataset(data, "valid", configuration, shuffle=False), data, stop)
    model, base = plain_model(configuration, len(data.classes), weights_file)
    head_epochs, tail_epochs = epochs or (settings.head_epochs, settings.finetune_epochs)
    phases = [(NONE, head_epochs, settings.head_learning_rate)]
    if configuration.model.unfreeze != NONE:
        phases.append((configuration.model.unfreeze, tail_epochs, settings.finetune_learning_rate))
    optimizers = {"adam": keras.optimizers.Adam, "rmsprop": keras.optimizers.RMSprop, "sgd": keras.optimizers.SGD}
    for cut, num_epochs, rate in phases:
        unfreeze(base, configuration.with_values({"model.unfreeze": cut}, source="phase"))
        loss = keras.losses.CategoricalCrossentropy(label_smoothing=settings.label_smoothing)
        model.compile(
            optimizer=optimizers[settings.optimizer](rate), loss=loss, metrics=["accuracy"], jit_compile=False
        )
        model.fit(train, epochs=num_epochs, class_weight=data.class_weight, callbacks=[score], verbose=0)
    if score.best is not None:
        model.set_weights(score.best)
    return model, score
