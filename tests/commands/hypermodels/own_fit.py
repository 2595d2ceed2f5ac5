"""A `fit` that draws hyperparameters and adds callbacks, as in KerasTuner's guide; it counts what Keras trains."""

from typing import Any

import keras
import keras_tuner

COUNTED: list[dict[str, int]] = []


class Counter(keras.callbacks.Callback):
    def on_train_begin(self, logs: Any = None) -> None:
        COUNTED.append({"steps": 0, "epochs": 0, "reductions": 0})

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        COUNTED[-1]["steps"] += 1

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        COUNTED[-1]["epochs"] += 1
        COUNTED[-1]["reductions"] += bool(self.model.optimizer.learning_rate < 0.9e-3)


class OwnFit(keras_tuner.HyperModel):
    def __init__(self, image_size_px: int, num_classes: int) -> None:
        super().__init__()
        self.shape, self.num_classes = (image_size_px, image_size_px, 3), num_classes

    def build(self, hp: keras_tuner.HyperParameters) -> keras.Model:
        layers = [keras.Input(self.shape), keras.layers.Rescaling(1 / 255), keras.layers.Flatten()]
        model = keras.Sequential([*layers, keras.layers.Dense(self.num_classes, activation="softmax")])
        metrics = ["sparse_categorical_accuracy"]
        model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy", metrics=metrics)
        return model

    def fit(self, hp: keras_tuner.HyperParameters, model: keras.Model, *args: Any, **kwargs: Any) -> Any:
        plateau = keras.callbacks.ReduceLROnPlateau(monitor="val_loss", min_delta=1e9, patience=1, factor=0.5)
        stopping = keras.callbacks.EarlyStopping(monitor="val_loss", min_delta=1e9, patience=3)
        kwargs["callbacks"] = [*kwargs["callbacks"], plateau, stopping, Counter()]
        return model.fit(
            *args, epochs=hp.Int("epochs", 6, 7), batch_size=hp.Choice("batch_size", [8, 16]), verbose=0, **kwargs
        )
