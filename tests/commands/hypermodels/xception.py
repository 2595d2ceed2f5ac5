"""KerasTuner's own application, as a class that takes the size of the tiles and the number of classes."""

import keras
import keras_tuner


class Xception(keras_tuner.applications.HyperXception):
    def __init__(self, image_size_px: int, num_classes: int) -> None:
        super().__init__(input_shape=(image_size_px, image_size_px, 3), classes=num_classes)

    def declare_hyperparameters(self, hp: keras_tuner.HyperParameters) -> None:
        hp.Fixed("num_residual_blocks", 2)
        hp.Fixed("sep_num_filters", 128)

    def build(self, hp: keras_tuner.HyperParameters) -> keras.Model:
        return super().build(hp)
