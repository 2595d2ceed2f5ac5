"""Networks converted by `faster` have the same outputs, variables and gradients, whole and at every cut."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from satx.catalogue import BACKBONES
from satx.models.backbones import build_backbone, calibrate_batch_normalization, split_backbone
from satx.models.faster import _Convolution, _Depthwise, _Separable, _Shift, faster


def values(part: Any) -> list[np.ndarray]:
    return [keras.ops.convert_to_numpy(variable) for variable in part.weights]  # without random generators' states


@pytest.mark.parametrize(
    "name", [name if name == "mobilenetv2" else pytest.param(name, marks=pytest.mark.slow) for name in BACKBONES]
)
def test_every_backbone_gives_the_same_maps_and_has_the_same_variables_in_the_same_order(name: str) -> None:
    size_px = BACKBONES[name].min_size_px
    network = build_backbone(name, size_px, None)
    tiles = np.random.default_rng(3).integers(0, 256, (16, size_px, size_px, 3)).astype(np.uint8)
    calibrate_batch_normalization(network, name, tiles)
    copy = faster(network, fold=True)
    for mine, other in zip(values(copy), values(network), strict=True):
        assert np.array_equal(mine, other)
    pixels = tiles[:2].astype(np.float32)
    expected, found = (keras.ops.convert_to_numpy(one(pixels, training=False)) for one in (network, copy))
    assert expected.std() > 0.01
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-4 * np.abs(expected).max())
    normalizations = [layer for layer in copy.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert all(type(layer) is _Shift for layer in normalizations)
    assert normalizations or name == "convnexttiny", "only ConvNeXt has no batch normalization"
    for cut in BACKBONES[name].cuts:
        maps = split_backbone(network, name, cut)[0](pixels, training=False)
        expected, found = (
            keras.ops.convert_to_numpy(split_backbone(one, name, cut)[1](maps, training=False))
            for one in (network, copy)
        )
        np.testing.assert_allclose(found, expected, rtol=0, atol=5e-4 * np.abs(expected).max(), err_msg=cut)


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
    copy = faster(network, fold=False)
    assert [type(layer) for layer in copy.layers[1:]] == [_Convolution, _Convolution, _Separable]
    given = np.random.default_rng(0).normal(size=(3, size_px, size_px, 3)).astype(np.float32)
    expected, found = (keras.ops.convert_to_numpy(one(given)) for one in (network, copy))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_one_training_step_equals_that_of_the_original_convolutions() -> None:
    keras.utils.set_random_seed(1)
    inputs = keras.Input((8, 8, 6))
    hidden = keras.layers.SeparableConv2D(8, 3, padding="same", activation="relu")(inputs)
    network = keras.Model(inputs, keras.layers.Conv2D(2, 1, strides=2)(hidden))
    assert_one_step_is_the_same(network, faster(network, fold=False))


@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("center", [False, True])
def test_one_training_step_equals_that_of_normalization_with_fixed_statistics(scale: bool, center: bool) -> None:
    """Cover every kind of convolution that is folded, and what gamma, beta and the kernel each get."""
    keras.utils.set_random_seed(1)
    draw = np.random.default_rng(2)
    hidden = inputs = keras.Input((8, 8, 6))
    convolutions = [
        keras.layers.Conv2D(5, 3, strides=2, use_bias=False),
        keras.layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same", use_bias=False),
        keras.layers.SeparableConv2D(7, 3, padding="same", use_bias=False),
        keras.layers.Conv2D(2, 1, use_bias=False),
    ]
    for convolution in convolutions:
        hidden = keras.layers.BatchNormalization(scale=scale, center=center)(convolution(hidden))
    network = keras.Model(inputs, hidden)
    network.set_weights([np.abs(draw.normal(1.0, 0.3, value.shape)) for value in network.get_weights()])
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_mean.assign(draw.normal(size=layer.moving_mean.shape))
    copy = faster(network, fold=True)
    assert [type(layer) for layer in copy.layers[1:]] == [
        kind for name in (_Convolution, _Depthwise, _Separable, _Convolution) for kind in (name, _Shift)
    ]
    assert_one_step_is_the_same(network, copy)


def test_layers_that_cannot_be_folded_are_left_unchanged() -> None:
    inputs = keras.Input((8, 8, 4))
    biased = keras.layers.Conv2D(4, 1)(inputs)
    read_twice = keras.layers.Conv2D(4, 1, use_bias=False)(keras.layers.BatchNormalization()(biased))
    hidden = keras.layers.Add()([keras.layers.BatchNormalization()(read_twice), read_twice])
    hidden = keras.layers.Conv2D(4, 1, use_bias=False, activation="relu")(hidden)
    hidden = keras.layers.Conv2D(4, 1, use_bias=False, groups=2)(keras.layers.BatchNormalization()(hidden))
    network = keras.Model(inputs, keras.layers.BatchNormalization()(hidden))
    copy = faster(network, fold=True)
    assert not [layer for layer in copy.layers if isinstance(layer, _Shift)]
    given = np.random.default_rng(0).normal(size=(3, 8, 8, 4)).astype(np.float32)
    expected, found = (keras.ops.convert_to_numpy(one(given)) for one in (network, copy))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def assert_one_step_is_the_same(network: Any, copy: Any) -> None:
    """Assert that one training step gives the same variables, with fixed statistics as in a pretrained tail."""
    draw = np.random.default_rng(0)
    given, wanted = draw.normal(size=(4, *network.input.shape[1:])), draw.normal(size=(4, *network.output.shape[1:]))
    for one in (network, copy):
        fixed = Fixed(one)
        fixed.compile(optimizer=keras.optimizers.SGD(0.1), loss="mse")
        fixed.train_on_batch(given, wanted)
    for mine, other in zip(values(copy), values(network), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-6)


class Fixed(keras.Model):
    """A network whose statistics stay fixed in training."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def call(self, inputs: Any, training: bool = False) -> Any:
        return self.network(inputs, training=False)
