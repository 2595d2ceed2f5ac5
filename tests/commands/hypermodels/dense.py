"""A dense network, built as in KerasTuner's first guide; labels are one-hot, since its loss is `categorical_…`."""

import keras
import keras_tuner


class Dense(keras_tuner.HyperModel):
    def __init__(self, image_size_px: int, num_classes: int) -> None:
        super().__init__()
        self.shape, self.num_classes = (image_size_px, image_size_px, 3), num_classes

    def build(self, hp: keras_tuner.HyperParameters) -> keras.Model:
        model = keras.Sequential([keras.Input(self.shape), keras.layers.Flatten(), keras.layers.Rescaling(1 / 255)])
        for layer in range(hp.Int("num_layers", 1, 3)):
            units = hp.Int(f"units[{layer}]", min_value=8, max_value=30, step=8)
            model.add(keras.layers.Dense(units, activation=hp.Choice("activation", ["relu", "tanh"])))
        if hp.Boolean("dropout"):
            model.add(keras.layers.Dropout(rate=0.25))
        model.add(keras.layers.Dense(self.num_classes, activation="softmax"))
        learning_rate = hp.Float("lr", min_value=1e-4, max_value=1e-2, sampling="log")
        model.compile(keras.optimizers.Adam(learning_rate), "categorical_crossentropy", metrics=["accuracy"])
        return model
