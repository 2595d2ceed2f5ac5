"""Tests of the compiled steps, the same for both backends: `make test` runs this folder a second time under JAX."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from satx.config import ModelConfig
from satx.models.backbones import Network, build_backbone, build_head, calibrate_batch_normalization, split_backbone
from satx.training.batch import ADAM_BETAS, EPSILON, RMSPROP_RHO, Batch, OptimizerSettings
from satx.training.compiled import CompiledSteps, head_steps
from satx.training.head import ACTIVATIONS, dropout_mask, initial_head

PX, B, RATE, DECAY = 32, 6, 1e-2, 0.1


def head_of(
    dense_units: int, activation: str = "relu", *, num_features: int = 10
) -> tuple[ModelConfig, list[np.ndarray]]:
    model = ModelConfig(
        backbone="mobilenetv2", unfreeze="none", dense_units=dense_units, activation=activation, dropout=0.0
    )
    return model, initial_head(num_features, 3, model, seed=5)


def batch_of(inputs: np.ndarray, mask: np.ndarray | None = None) -> Batch:
    draw = np.random.default_rng(1)
    targets = np.eye(3, dtype=np.float32)[[0, 1, 2, 1, 0, 2]] * np.float32(0.85) + np.float32(0.05)
    weights = draw.uniform(0.5, 2, B).astype(np.float32)
    return Batch(inputs, targets, weights, np.ones((1, 1), np.float32) if mask is None else mask)


def features(num_features: int = 10) -> np.ndarray:
    return np.random.default_rng(2).normal(size=(B, num_features)).astype(np.float16)


@pytest.mark.parametrize("dense_units", [0, 8])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_loss_and_probabilities_equal_those_of_the_keras_head(dense_units: int, activation: str) -> None:
    model, head = head_of(dense_units, activation)
    network = build_head(10, 3, model)
    network.set_weights(head)
    steps = head_steps(10, "float16")
    steps.begin(head, None, settings=OptimizerSettings("sgd", 0.0), activation=activation)
    batch = batch_of(features())
    expected = keras.ops.convert_to_numpy(network(batch.inputs.astype(np.float32)))
    assert np.allclose(steps.probabilities(batch.inputs), expected, atol=1e-6)
    loss, accuracy = steps.train_on_batch(batch, RATE)
    assert float(loss) == pytest.approx(
        float(np.mean(-(batch.targets * np.log(expected)).sum(axis=1) * batch.sample_weights)), rel=1e-5
    )
    assert float(accuracy) == pytest.approx(np.mean(expected.argmax(1) == batch.targets.argmax(1)))


def reference(name: str, batch: Batch, head: list[np.ndarray], num_steps: int) -> list[np.ndarray]:
    """Train a softmax regression in plain NumPy; the optimizers are those of their papers and of Keras."""
    values = [value.astype(np.float64) for value in head]
    first, second = ([np.zeros_like(value) for value in values] for _ in range(2))
    for step in range(1, num_steps + 1):
        raw = batch.inputs.astype(np.float64) * batch.mask @ values[0] + values[1]
        answers = np.exp(raw - raw.max(1, keepdims=True))
        above = (answers / answers.sum(1, keepdims=True) - batch.targets) * batch.sample_weights[:, None] / B
        gradients = [(batch.inputs * batch.mask).astype(np.float64).T @ above, above.sum(0)]
        for number, gradient in enumerate(gradients):
            values[number] *= 1 - RATE * DECAY
            if name == "sgd":
                values[number] -= RATE * gradient
            elif name == "rmsprop":
                first[number] = RMSPROP_RHO * first[number] + (1 - RMSPROP_RHO) * gradient**2
                values[number] -= RATE * gradient / np.sqrt(first[number] + EPSILON)
            else:
                beta1, beta2 = ADAM_BETAS
                first[number] = beta1 * first[number] + (1 - beta1) * gradient
                second[number] = beta2 * second[number] + (1 - beta2) * gradient**2
                rate = RATE * np.sqrt(1 - beta2**step) / (1 - beta1**step)
                values[number] -= rate * first[number] / (np.sqrt(second[number]) + EPSILON)
    return values


@pytest.mark.parametrize("name", ["adam", "adamw", "rmsprop", "sgd"])
def test_every_optimizer_equals_the_numpy_reference_and_resumes_from_its_slots(name: str) -> None:
    _, head = head_of(0)
    mask = dropout_mask(np.random.default_rng(3), 0.5, (B, 10))
    batch, settings = batch_of(features(), mask), OptimizerSettings(name, DECAY)
    steps = head_steps(10, "float16")
    steps.begin(head, None, settings=settings, activation="relu")
    steps.train_on_batch(batch, RATE)
    values, slots = steps.trained(), steps.slots()
    steps.begin([value + 1 for value in head], None, settings=settings, activation="relu")  # another trial in between
    steps.train_on_batch(batch, RATE)
    steps.begin(values, slots, settings=settings, activation="relu")
    steps.train_on_batch(batch, RATE)
    steps.train_on_batch(batch, RATE)
    for found, expected in zip(steps.trained(), reference(name, batch, head, 3), strict=True):
        assert np.allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.fixture(scope="module")
def backbone() -> Any:
    keras.utils.set_random_seed(5)
    network = build_backbone("mobilenetv2", PX, None)
    tiles = np.random.default_rng(0).integers(0, 256, (32, PX, PX, 3), dtype=np.uint8)
    calibrate_batch_normalization(network, "mobilenetv2", tiles)
    draw = np.random.default_rng(6)
    # Random betas, since a channel that is constant over the batch would be exactly at the kink of its ReLU, 0, where
    # the last bit decides whether the gradient is zero.
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.beta.assign(draw.normal(0, 0.5, layer.beta.shape))
    return network


@pytest.mark.parametrize("from_scratch", [False, True])
@pytest.mark.parametrize("unfreeze", ["block16", pytest.param("all", marks=pytest.mark.slow)])
def test_training_changes_a_tail_as_keras_train_on_batch_does(backbone: Any, unfreeze: str, from_scratch: bool) -> None:
    tiles = np.random.default_rng(4).integers(0, 256, (B, PX, PX, 3), dtype=np.uint8)
    model, head = head_of(8, num_features=1280)
    start = {variable.path: keras.ops.convert_to_numpy(variable).copy() for variable in backbone.variables}
    trunk, tail = split_backbone(backbone, "mobilenetv2", unfreeze)
    network = Network("mobilenetv2", trunk, tail, None, from_scratch=from_scratch)
    encoded = np.asarray(keras.ops.convert_to_numpy(network.encode(tiles)))
    steps = CompiledSteps(network, encoded.shape[1:], str(encoded.dtype))
    tail_values = [start[variable.path] for variable in tail.variables]
    steps.begin([*tail_values, *head], None, settings=OptimizerSettings("sgd", 0.0), activation="relu")
    batch = batch_of(encoded)
    losses = [float(steps.train_on_batch(batch, 0.01)[0]) for _ in range(2)]
    ours = steps.trained()

    for variable in backbone.variables:
        variable.assign(start[variable.path])
    layers = build_head(1280, 3, model)
    layers.set_weights(head)
    theirs = Network("mobilenetv2", trunk, tail, layers, from_scratch=from_scratch)
    if trunk is not None:
        trunk.trainable = False  # `train_on_batch` of Keras reads this flag
    theirs.compile(optimizer=keras.optimizers.SGD(0.01), loss="categorical_crossentropy", jit_compile=False)
    expected = [
        float(np.ravel(theirs.train_on_batch(tiles, batch.targets, sample_weight=batch.sample_weights))[0])
        for _ in range(2)
    ]
    assert losses == pytest.approx(expected, rel=1e-3)
    if trunk is not None:
        trunk.trainable = True  # the networks of the next test share these layers
    moved = 0
    for found, variable, before in zip(ours, tail.variables, tail_values, strict=False):
        now = keras.ops.convert_to_numpy(variable)
        way = np.linalg.norm(now - before)
        # 53 layers, normalized over few tiles, amplify float32 noise; the error of a wrong step is as large as the step
        assert np.linalg.norm(found - now) <= 0.05 * way + 1e-6, variable.path
        moved += bool(way > 1e-6)
    assert moved > len(tail_values) / 3
    for variable in backbone.variables:
        variable.assign(start[variable.path])


def test_initial_weights_of_a_head_have_the_distribution_of_keras() -> None:
    _, head = head_of(64, num_features=1280)
    limit = np.sqrt(6 / (1280 + 64))
    assert [value.shape for value in head] == [(1280, 64), (64,), (64, 3), (3,)]
    assert 0.99 * limit < np.abs(head[0]).max() <= limit
    assert head[0].std() == pytest.approx(limit / np.sqrt(3), rel=0.02)
    assert not head[1].any()


def test_dropout_keeps_the_mean() -> None:
    mask = dropout_mask(np.random.default_rng(0), 0.25, (200, 500))
    assert mask.mean() == pytest.approx(1.0, abs=0.01)
    assert set(np.unique(mask).tolist()) == {0.0, np.float32(1 / np.float32(0.75)).item()}
