from __future__ import annotations

from functools import cache
from typing import Any

import keras
import numpy as np
import pytest

from satx.catalogue import ALL, BACKBONES, NONE
from satx.config import ModelConfig
from satx.models.backbones import (
    Network,
    build_backbone,
    build_head,
    calibrate_batch_normalization,
    learnable,
    split_backbone,
)

QUICK = ("mobilenetv2", "efficientnetv2b0")  # the second one contains dropout and stochastic depth
EVERY = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in BACKBONES]
SIZES_PX = {"xception": 71}  # its minimum; the minimum of the others is 32


@cache
def backbone(name: str) -> Any:
    """Return a backbone with statistics that fit the tiles; vanishing features would make any two networks equal."""
    keras.utils.set_random_seed(7)
    whole = build_backbone(name, size_px(name), None)
    calibrate_batch_normalization(whole, name, tiles(name, 32).astype(np.uint8))
    return whole


def size_px(name: str) -> int:
    return SIZES_PX.get(name, 32)


def tiles(name: str, num_tiles: int = 4) -> np.ndarray:
    size = size_px(name)
    return np.random.default_rng(3).integers(0, 256, (num_tiles, size, size, 3)).astype(np.float32)


def values(part: Any) -> list[np.ndarray]:
    return [keras.ops.convert_to_numpy(variable).copy() for variable in part.variables]


def equal(left: list[np.ndarray], right: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(left, right, strict=True))


def network_cut_at(name: str, unfreeze: str, head: Any = None) -> Network:
    trunk, tail = split_backbone(backbone(name), name, unfreeze)
    return Network(name, trunk, tail, head)


def num_parameters(part: Any) -> int:
    return 0 if part is None else part.count_params()


@pytest.mark.parametrize(
    "name", [name if name == "mobilenetv2" else pytest.param(name, marks=pytest.mark.slow) for name in BACKBONES]
)
def test_trunk_and_tail_of_every_cut_equal_the_whole_network_exactly(name: str) -> None:
    whole = backbone(name)
    pixels = tiles(name)
    expected = keras.ops.convert_to_numpy(whole(pixels, training=False))
    assert expected.std() > 0.01
    for cut in BACKBONES[name].cuts:
        trunk, tail = split_backbone(whole, name, cut)
        assert trunk is not None
        assert tail is not None
        found = keras.ops.convert_to_numpy(tail(trunk(pixels, training=False), training=False))
        assert np.array_equal(found, expected), cut


@pytest.mark.parametrize("name", EVERY)
def test_cuts_are_listed_from_shallow_to_deep_and_divide_the_parameters(name: str) -> None:
    whole = num_parameters(backbone(name))
    of_trunks, of_tails, trained = [], [], []
    for unfreeze in (ALL, *BACKBONES[name].cuts, NONE):
        trunk, tail = split_backbone(backbone(name), name, unfreeze)
        of_trunks.append(num_parameters(trunk))
        of_tails.append(num_parameters(tail))
        trained.append(len(learnable(tail)))
    assert of_trunks == sorted(set(of_trunks))
    assert [trunk + tail for trunk, tail in zip(of_trunks, of_tails, strict=True)] == [whole] * len(of_trunks)
    assert trained == sorted(set(trained), reverse=True)
    assert trained[-1] == 0


def test_nothing_unfrozen_has_no_tail_and_everything_unfrozen_no_trunk() -> None:
    whole = backbone("mobilenetv2")
    assert split_backbone(whole, "mobilenetv2", NONE) == (whole, None)
    assert split_backbone(whole, "mobilenetv2", ALL) == (None, whole)


@pytest.mark.parametrize("name", EVERY)
def test_a_frozen_network_is_a_pure_function_at_every_cut(name: str) -> None:
    pixels = tiles(name)
    for unfreeze in BACKBONES[name].unfreeze_names:
        network = network_cut_at(name, unfreeze)
        before = values(network)
        calls = [keras.ops.convert_to_numpy(network(pixels, training=training)) for training in (False, True)]
        assert np.array_equal(*calls), unfreeze
        assert equal(values(network), before), unfreeze


def test_a_network_with_batch_statistics_and_dropout_is_not_a_pure_function() -> None:
    pixels = tiles("efficientnetv2b0")
    whole = keras.applications.EfficientNetV2B0(weights=None, include_top=False, input_shape=pixels.shape[1:])
    calls = [keras.ops.convert_to_numpy(whole(pixels, training=training)) for training in (False, True, True)]
    assert not np.array_equal(calls[0], calls[1])
    assert not np.array_equal(calls[1], calls[2])


def test_a_backbones_own_dropout_is_off_even_where_it_is_trained_from_random_weights() -> None:
    whole = backbone("efficientnetv2b0")
    rates = [layer.rate for layer in whole.layers if isinstance(layer, keras.layers.Dropout)]
    assert rates and set(rates) == {0.0}


@pytest.mark.parametrize(
    ("name", "unfreeze"),
    [
        pytest.param("mobilenetv2", NONE, marks=pytest.mark.slow),
        pytest.param("mobilenetv2", "block16", marks=pytest.mark.slow),
        pytest.param("mobilenetv2", ALL, marks=pytest.mark.slow),
        pytest.param("xception", "block14", marks=pytest.mark.slow),
        pytest.param("efficientnetv2b0", "block6", marks=pytest.mark.slow),
        pytest.param("convnexttiny", "stage3_block2", marks=pytest.mark.slow),
    ],
)
def test_training_changes_tail_and_head_but_no_statistics_and_nothing_of_the_trunk(name: str, unfreeze: str) -> None:
    keras.utils.set_random_seed(5)
    whole = build_backbone(name, size_px(name), None)
    calibrate_batch_normalization(whole, name, tiles(name, 32).astype(np.uint8))
    trunk, tail = split_backbone(whole, name, unfreeze)
    if trunk is not None:
        trunk.trainable = False  # `train_on_batch` of Keras reads this flag
    head = build_head(whole.output_shape[-1], 2, ModelConfig(backbone=name, unfreeze=unfreeze, dense_units=8))
    network = Network(name, trunk, tail, head)
    pixels, targets = tiles(name, 6), np.eye(2, dtype=np.float32)[[0, 1] * 3]
    statistics = [variable for variable in whole.variables if "moving" in variable.path]
    assert statistics or name == "convnexttiny"
    trunk_before = values(trunk) if trunk is not None else []
    tail_before = [keras.ops.convert_to_numpy(v).copy() for v in tail.trainable_variables] if tail is not None else []
    statistics_before = [keras.ops.convert_to_numpy(variable).copy() for variable in statistics]
    head_before = values(head)
    network.compile(optimizer=keras.optimizers.Adam(1e-2), loss="categorical_crossentropy", jit_compile=False)
    for _ in range(3):
        network.train_on_batch(pixels, targets)

    assert equal([keras.ops.convert_to_numpy(variable) for variable in statistics], statistics_before)
    if trunk is not None:
        assert equal(values(trunk), trunk_before)
    if tail is not None:
        moved = [
            not np.array_equal(keras.ops.convert_to_numpy(variable), value)
            for variable, value in zip(tail.trainable_variables, tail_before, strict=True)
        ]
        assert np.mean(moved) > 0.9
    assert not equal(values(head), head_before)


@pytest.mark.parametrize("num_classes", [2, 5])
@pytest.mark.parametrize("dense_units", [0, 16])
def test_a_network_returns_probabilities_in_float32(num_classes: int, dense_units: int) -> None:
    head = build_head(1280, num_classes, ModelConfig(backbone="mobilenetv2", unfreeze=NONE, dense_units=dense_units))
    found = keras.ops.convert_to_numpy(network_cut_at("mobilenetv2", NONE, head)(tiles("mobilenetv2")))
    assert found.shape == (4, num_classes)
    assert found.dtype == np.float32
    assert found.min() >= 0
    assert np.allclose(found.sum(axis=1), 1, atol=1e-6)


def test_only_the_head_has_dropout_in_training() -> None:
    head = build_head(1280, 2, ModelConfig(backbone="mobilenetv2", unfreeze=NONE, dropout=0.5))
    network = network_cut_at("mobilenetv2", NONE, head)
    pixels = tiles("mobilenetv2")
    calls = [keras.ops.convert_to_numpy(network(pixels, training=training)) for training in (False, False, True, True)]
    assert np.array_equal(calls[0], calls[1])
    assert not np.array_equal(calls[2], calls[3])


@pytest.mark.parametrize("name", QUICK)
def test_uint8_and_float32_pixels_give_the_same_features(name: str) -> None:
    network = network_cut_at(name, NONE)
    pixels = tiles(name)
    found = [keras.ops.convert_to_numpy(network(values)) for values in (pixels, pixels.astype(np.uint8))]
    assert np.array_equal(*found)


def test_pixels_are_scaled_once() -> None:
    """MobileNetV2 was trained on pixels in -1..1; EfficientNetV2 scales them itself."""
    for name, scaled in (("mobilenetv2", tiles("mobilenetv2") / 127.5 - 1.0), ("efficientnetv2b0", None)):
        pixels = tiles(name)
        expected = keras.ops.convert_to_numpy(
            backbone(name)(pixels if scaled is None else scaled, training=False)
        ).mean(axis=(1, 2))
        found = keras.ops.convert_to_numpy(network_cut_at(name, NONE)(pixels))
        assert np.allclose(found, expected, rtol=1e-3, atol=1e-6)  # rounded to float16


def test_the_scaling_of_every_backbone_is_that_of_keras() -> None:
    pixels = tiles("mobilenetv2")
    for name, entry in BACKBONES.items():
        family = {"xception": "xception", "mobilenetv2": "mobilenet_v2", "convnexttiny": "convnext"}.get(
            name, "efficientnet_v2"
        )
        preprocessed = getattr(keras.applications, family).preprocess_input(pixels.copy())
        expected = pixels if entry.scales_inside else pixels / 127.5 - 1.0
        assert np.allclose(preprocessed, expected, atol=1e-6), name


def test_the_initial_weights_of_a_head_depend_on_the_seed() -> None:
    heads = []
    for seed in (1, 1, 2):
        keras.utils.set_random_seed(seed)
        heads.append(values(build_head(8, 3, ModelConfig(backbone="mobilenetv2", unfreeze=NONE, dense_units=4))))
    assert equal(heads[0], heads[1])
    assert not equal(heads[0], heads[2])


def test_the_catalogue_lists_the_minimum_image_size_of_every_backbone() -> None:
    for name, entry in BACKBONES.items():
        with pytest.raises(ValueError, match=f"{entry.min_size_px}x{entry.min_size_px}"):
            build_backbone(name, entry.min_size_px - 1, None)
        assert SIZES_PX.get(name, 32) == entry.min_size_px


@pytest.mark.parametrize("unfreeze", [NONE, "block16"])
def test_the_trunks_output_is_float16_and_the_rest_of_the_network_reads_it(unfreeze: str) -> None:
    keras.utils.set_random_seed(5)
    network = network_cut_at("mobilenetv2", unfreeze, build_head(1280, 2, ModelConfig(backbone="mobilenetv2")))
    given = tiles("mobilenetv2")
    encoded = keras.ops.convert_to_numpy(network.encode(given))
    assert encoded.dtype == np.float16
    answers = keras.ops.convert_to_numpy(network(given))
    assert np.array_equal(answers, network.head(network.features(encoded)))
