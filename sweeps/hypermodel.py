"""A KerasTuner HyperModel of one's own, swept by satx on a session's tiles: a small network from scratch.

    satx tune sweeps/hypermodel.py --session 2 --trials 20

Any class derived from `keras_tuner.HyperModel` will do if it takes `image_size_px` and `num_classes`, maps tiles
`(B, S, S, 3)` of 0..255 to class probabilities, and is compiled for class indices. `hp.Choice`, `Int`, `Float` and `Boolean` are answered by
Optuna, conditional scopes included; `fit(hp, model, ...)` may be overridden, as KerasTuner has it.
Cost: minutes for 20 trials at 96 px on two cores. Expect: far less than transfer learning; it is an example.
"""

import keras
import keras_tuner


class TileModel(keras_tuner.HyperModel):
    """Convolutions, a pooling, a classifier."""

    def __init__(self, image_size_px: int, num_classes: int) -> None:
        """Fit the tiles."""
        super().__init__()
        self.image_size_px, self.num_classes = image_size_px, num_classes

    def build(self, hp: keras_tuner.HyperParameters) -> keras.Model:
        """Draw and compile a network."""
        size = self.image_size_px
        inputs = keras.Input((size, size, 3))
        values = keras.layers.Rescaling(1 / 255)(inputs)
        for block in range(hp.Int("num_blocks", 2, 4)):
            filters = hp.Choice(f"filters_{block}", [16, 32, 64])
            values = keras.layers.Conv2D(filters, 3, strides=2, padding="same", activation="relu")(values)
        values = keras.layers.GlobalAveragePooling2D()(values)
        if hp.Boolean("has_hidden_layer"):
            with hp.conditional_scope("has_hidden_layer", [True]):
                values = keras.layers.Dense(hp.Int("dense_units", 16, 128, sampling="log"), activation="relu")(values)
        values = keras.layers.Dropout(hp.Float("dropout", 0.0, 0.5, step=0.1))(values)
        model = keras.Model(inputs, keras.layers.Dense(self.num_classes, activation="softmax")(values))
        model.compile(
            optimizer=keras.optimizers.Adam(hp.Float("learning_rate", 1e-4, 1e-2, sampling="log")),
            loss="sparse_categorical_crossentropy",
            metrics=["accuracy"],
        )
        return model

    def fit(self, hp: keras_tuner.HyperParameters, model: keras.Model, *args: object, **kwargs: object) -> object:
        """Train; this is the default, shown because overriding it is the place for class weights and the like."""
        return model.fit(*args, **kwargs)
