"""The training loop of KerasTuner's guide on custom training: arrays, logits, an uncompiled model, its own metric."""

from typing import Any

import keras
import keras_tuner
import tensorflow as tf

STEPS: list[int] = []


class OwnLoop(keras_tuner.HyperModel):
    def __init__(self, image_size_px: int, num_classes: int) -> None:
        super().__init__()
        self.shape, self.num_classes = (image_size_px, image_size_px, 3), num_classes

    def build(self, hp: keras_tuner.HyperParameters) -> keras.Model:
        inputs = keras.Input(self.shape)
        values = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(inputs))
        values = keras.layers.Dense(hp.Choice("units", [4, 8]), activation="relu")(values)
        return keras.Model(inputs, keras.layers.Dense(self.num_classes)(values))

    def fit(
        self,
        hp: keras_tuner.HyperParameters,
        model: keras.Model,
        x: Any,
        y: Any,
        validation_data: Any,
        callbacks: Any = None,
        **kwargs: Any,
    ) -> dict[str, float]:
        batch_size = hp.Int("batch_size", 8, 16, step=8)
        train = tf.data.Dataset.from_tensor_slices((x, y)).batch(batch_size)
        valid = tf.data.Dataset.from_tensor_slices(validation_data).batch(batch_size)
        optimizer = keras.optimizers.Adam(hp.Float("learning_rate", 1e-4, 1e-2, sampling="log"))
        loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        mean = keras.metrics.Mean()
        for callback in callbacks:
            callback.set_model(model)
            callback.on_train_begin()
        STEPS.append(0)
        for epoch in range(kwargs["epochs"]):
            for images, labels in train:
                with tf.GradientTape() as tape:
                    loss = loss_of(labels, model(images))
                gradients = tape.gradient(loss, model.trainable_variables)
                optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
                STEPS[-1] += 1
            for images, labels in valid:
                mean.update_state(loss_of(labels, model(images)))
            for callback in callbacks:
                callback.on_epoch_end(epoch, logs={"my_metric": float(mean.result())})
            mean.reset_state()
        return {"my_metric": 1.0, "my metric #2": 2.0}
