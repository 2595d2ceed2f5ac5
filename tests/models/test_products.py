"""Networks whose 1x1 convolutions are matrix products: the same function, the same variables, the same gradients."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from satx.catalogue import BACKBONES
from satx.models.backbones import build_backbone, calibrate_batch_normalisation
from satx.models.products import _Pointwise, _Separable, with_products


def values(part: Any) -> list[np.ndarray]:
    return [keras.ops.convert_to_numpy(variable) for variable in part.weights]  # no states of random generators


@pytest.mark.parametrize(
    "name", [name if name == "mobilenetv2" else pytest.param(name, marks=pytest.mark.slow) for name in BACKBONES]
)
def test_every_backbone_gives_the_same_maps_and_has_the_same_variables_in_the_same_order(name: str) -> None:
    size_px = BACKBONES[name].min_size_px
    network = build_backbone(name, size_px, None)
    tiles = np.random.default_rng(3).integers(0, 256, (16, size_px, size_px, 3)).astype(np.uint8)
    calibrate_batch_normalisation(network, name, tiles)
    copy = with_products(network)
    for mine, other in zip(values(copy), values(network), strict=True):
        assert np.array_equal(mine, other)
    pixels = tiles[:2].astype(np.float32)
    expected, found = (keras.ops.convert_to_numpy(one(pixels, training=False)) for one in (network, copy))
    assert expected.std() > 0.01
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    replaced = [layer for layer in copy.layers if isinstance(layer, (_Pointwise, _Separable))]
    assert replaced or name == "convnexttiny", "that one has dense layers for its products"


@pytest.mark.parametrize("use_bias", [False, True])
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("size_px", [5, 6])
def test_strides_padding_and_bias_are_those_of_the_convolution(use_bias: bool, padding: str, size_px: int) -> None:
    keras.utils.set_random_seed(1)
    options = {"use_bias": use_bias, "padding": padding, "bias_initializer": "random_normal"}
    inputs = keras.Input((size_px, size_px, 3))
    hidden = keras.layers.Conv2D(4, 1, strides=2, **options)(inputs)
    hidden = keras.layers.Conv2D(6, 1, activation="relu", **options)(hidden)
    network = keras.Model(inputs, keras.layers.SeparableConv2D(5, 2, activation="elu", **options)(hidden))
    copy = with_products(network)
    assert [type(layer) for layer in copy.layers[1:]] == [_Pointwise, _Pointwise, _Separable]
    given = np.random.default_rng(0).normal(size=(3, size_px, size_px, 3)).astype(np.float32)
    expected, found = (keras.ops.convert_to_numpy(one(given)) for one in (network, copy))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_one_training_step_is_that_of_the_convolutions() -> None:
    keras.utils.set_random_seed(1)
    inputs = keras.Input((8, 8, 6))
    hidden = keras.layers.SeparableConv2D(8, 3, padding="same", activation="relu")(inputs)
    network = keras.Model(inputs, keras.layers.Conv2D(2, 1, strides=2)(hidden))
    copy = with_products(network)
    draw = np.random.default_rng(0)
    given, wanted = draw.normal(size=(4, 8, 8, 6)), draw.normal(size=(4, 4, 4, 2))
    for one in (network, copy):
        one.compile(optimizer=keras.optimizers.SGD(0.1), loss="mse")
        one.train_on_batch(given, wanted)
    for mine, other in zip(values(copy), values(network), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-6)
