"""A KerasTuner HyperModel of one's own, swept by satx on a session's tiles: a small network from scratch.

    satx tune sweeps/hypermodel.py --session 2 --trials 20

Any class derived from `keras_tuner.HyperModel` will do if it takes `image_size_px` and `num_classes` and maps tiles
`(B, S, S, 3)` of 0..255 to class probabilities or logits. KerasTuner's own engine runs it; Optuna answers `hp.Choice`, `Int`,
`Float` and `Boolean`, in `build` and in `fit`.

`fit(hp, model, ...)` may be overridden. Its signature decides how it gets the tiles:

- `fit(hp, model, x, y, validation_data, ...)` gets arrays, read into memory: uint8 images in random order, and labels.
- `fit(hp, model, data, validation_data, ...)` and `fit(hp, model, *args, **kwargs)` get `keras.utils.PyDataset`s, which read
  each batch from disk and shuffle every epoch. `model.fit(data, batch_size=...)` changes the size of their batches.

It also gets `callbacks`, which must reach `model.fit` or be called by a training loop, and what it takes of `epochs`,
`batch_size` and `verbose`. If it sets one of these itself, its own value counts. Labels are class indices, or one-hot for a model
that is compiled with a `categorical_...` loss. A dictionary that it returns is logged as metrics `fit.NAME`.
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
