"""A convolution with one sigmoid output for two classes, and an accuracy under another name."""

import keras
import keras_tuner


class Convolution(keras_tuner.HyperModel):
    def __init__(self, image_size_px: int, num_classes: int) -> None:
        super().__init__()
        self.shape = (image_size_px, image_size_px, 3)

    def declare_hyperparameters(self, hp: keras_tuner.HyperParameters) -> None:
        hp.Choice("filters", [2, 4])

    def build(self, hp: keras_tuner.HyperParameters) -> keras.Model:
        inputs = keras.Input(self.shape)
        values = keras.layers.Rescaling(1 / 255)(inputs)
        values = keras.layers.Conv2D(hp.get("filters"), 3, strides=2, activation="relu")(values)
        values = keras.layers.GlobalAveragePooling2D()(values)
        model = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(values))
        model.compile("adam", "binary_crossentropy", metrics=["acc"])
        return model
