"""Choices that depend on an earlier one, by KerasTuner's scopes and by Python's `if`; one draw fails on purpose."""

import keras
import keras_tuner


class Conditional(keras_tuner.HyperModel):
    def __init__(self, image_size_px: int, num_classes: int) -> None:
        super().__init__()
        self.shape, self.num_classes = (image_size_px, image_size_px, 3), num_classes

    def build(self, hp: keras_tuner.HyperParameters) -> keras.Model:
        kind = hp.Choice("kind", ["dense", "pooled"])
        inputs = keras.Input(self.shape)
        values = keras.layers.Rescaling(1 / 255)(inputs)
        if kind == "dense":
            values = keras.layers.Flatten()(values)
            units = hp.Choice("units", [2, 4])
        else:
            values = keras.layers.GlobalAveragePooling2D()(values)
            units = hp.Choice("units", [16, 32])  # the same name with other values
        with hp.conditional_scope("kind", ["dense"]):
            dropout = hp.Choice("dropout, if any", [0.0, 0.1])
        if units == 32:
            raise keras_tuner.errors.FailedTrialError("32 units are too many")
        values = keras.layers.Dense(units, activation="relu")(values)
        values = keras.layers.Dropout(dropout or 0.0)(values)
        model = keras.Model(inputs, keras.layers.Dense(self.num_classes, activation="softmax")(values))
        model.compile("adam", "sparse_categorical_crossentropy")
        return model
