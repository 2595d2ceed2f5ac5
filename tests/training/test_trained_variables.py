"""A step trains the variables after its cut, whatever the process trained before; on both backends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from satx.catalogue import ALL, BACKBONES
from satx.config import ModelConfig
from satx.errors import StateMismatch
from satx.models.backbones import Network, build_backbone, calibrate_batch_normalization, split_backbone
from satx.models.weights_file import Weights
from satx.storage import file_digest
from satx.training import compiled
from satx.training.batch import Batch, OptimizerSettings
from satx.training.compiled import CompiledSteps, Workbench, workbench
from satx.training.devices import device_name
from satx.training.head import initial_head

FAST = ("mobilenetv2", "xception")
EVERY = [name if name in FAST else pytest.param(name, marks=pytest.mark.exhaustive) for name in BACKBONES]
SGD, ADAM, NUM_TILES = OptimizerSettings("sgd", 0.0), OptimizerSettings("adam", 0.0), 4


@pytest.fixture(scope="module")
def bench_of(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return one workbench per backbone; all tests share its layers, so a flag set by one affects the next."""
    folder = tmp_path_factory.mktemp("weights")

    @cache
    def built(name: str, calibrated: bool = True) -> Workbench:
        workbench.cache_clear()
        return workbench(weights_in(folder, name, calibrated), size_px(name), "float32")

    yield built
    workbench.cache_clear()


@pytest.fixture(scope="module")
def plain_weights(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    """Return weights of MobileNetV2 with which no step is run."""
    return weights_in(tmp_path_factory.mktemp("plain"), "mobilenetv2", calibrated=False)


def weights_in(folder: Path, name: str, calibrated: bool = True) -> Weights:
    """Write weights whose batch statistics fit a few tiles if they are calibrated; they are trained like pretrained ones."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(8)
    network, size = build_backbone(name, size_px(name), None), size_px(name)
    tiles = np.random.default_rng(0).integers(0, 256, (32, size, size, 3), dtype=np.uint8)
    if calibrated:
        calibrate_batch_normalization(network, name, tiles)
    path = folder / f"{name}.weights.h5"
    network.save_weights(path)
    return Weights(name, str(path), file_digest(path), "file")


def size_px(name: str) -> int:
    return BACKBONES[name].min_size_px


def tails(name: str) -> list[str]:
    return [*BACKBONES[name].cuts, ALL]


def another(bench: Workbench) -> Workbench:
    """Return a workbench with the same layers and no compiled steps."""
    return replace(bench, _steps={})


def steps_of(bench: Workbench, cut: str) -> CompiledSteps:
    if cut == ALL:
        return bench.steps(cut, (size_px(bench.weights.backbone),) * 2 + (3,), "uint8")
    cut_tensor = bench.backbone.get_layer(BACKBONES[bench.weights.backbone].cuts[cut].layer).input
    return bench.steps(cut, tuple(cut_tensor.shape[1:]), "float16")


def expected_paths(bench: Workbench, cut: str) -> list[str]:
    """Return the paths of the variables after the cut, from the graph alone; batch statistics are excluded."""
    _, tail = split_backbone(bench.backbone, bench.weights.backbone, cut)
    return [variable.path for variable in tail.variables if "moving_" not in variable.path]


def start_of(bench: Workbench, steps: CompiledSteps) -> list[np.ndarray]:
    name = bench.weights.backbone
    model = ModelConfig(backbone=name, unfreeze="none", dense_units=0)
    return [*bench.tail_values(steps), *initial_head(BACKBONES[name].num_features, 2, model, seed=1)]


def after_one_step(bench: Workbench, cut: str, batch: Batch) -> tuple[float, list[np.ndarray]]:
    """Return the loss and all variables of tail and head after one step at a high rate."""
    steps = steps_of(bench, cut)
    steps.begin(start_of(bench, steps), None, settings=SGD, activation="relu")
    loss, _ = steps.train_on_batch(batch, 0.1)
    return float(loss), steps.trained()


def batch_for(bench: Workbench, cut: str) -> Batch:
    name = bench.weights.backbone
    tiles = np.random.default_rng(1).integers(0, 256, (NUM_TILES, size_px(name), size_px(name), 3), dtype=np.uint8)
    network = Network(name, *split_backbone(bench.backbone, name, cut), None)
    inputs = np.asarray(keras.ops.convert_to_numpy(network.encode(tiles)))
    targets, ones = np.eye(2, dtype=np.float32)[[0, 1, 0, 1]], np.ones(NUM_TILES, np.float32)
    return Batch(inputs, targets, ones, np.ones((1, 1), np.float32))


@pytest.mark.parametrize("name", EVERY)
def test_cuts_in_any_order_train_the_variables_of_their_tails(name: str, bench_of: Any) -> None:
    # No step is run, so only the workbench that the other tests use is calibrated.
    whole = bench_of(name) if name == "mobilenetv2" else bench_of(name, calibrated=False)
    expected = {cut: expected_paths(whole, cut) for cut in tails(name)}

    @settings(max_examples=4, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(st.permutations(tails(name)))
    def check(order: list[str]) -> None:
        bench = another(whole)
        for cut in order:
            steps = steps_of(bench, cut)
            assert [variable.path for variable in steps.learnable] == expected[cut], order
            steps.begin(start_of(bench, steps), None, settings=ADAM, activation="relu")
            assert len(steps.slots()) == 1 + 2 * (len(expected[cut]) + 2), order

    check()


# a flag on shared layers is detected in either order
ORDERS = [("block16", ALL), (ALL, "block16")]


@pytest.mark.parametrize(
    ("name", "orders"),
    [
        ("mobilenetv2", ORDERS),
        *(pytest.param(name, [tails(name), tails(name)[::-1]], marks=pytest.mark.exhaustive) for name in BACKBONES),
    ],
)
def test_one_step_changes_the_trained_variables_and_no_others_in_any_order(
    name: str, orders: list[Sequence[str]], bench_of: Any
) -> None:
    """`test_training_changes_a_tail_as_keras_train_on_batch_does` checks that the step itself is right."""
    first = bench_of(name)
    batches, found = {cut: batch_for(first, cut) for cut in orders[0]}, dict[str, list[Any]]()
    for order in orders:
        bench = another(first)
        for cut in order:
            before = {
                variable.path: keras.ops.convert_to_numpy(variable).copy() for variable in bench.backbone.variables
            }
            loss, after = after_one_step(bench, cut, batches[cut])
            found.setdefault(cut, []).append([np.array(loss), *after])
            steps = steps_of(bench, cut)
            trained, tail = set(expected_paths(bench, cut)), {variable.path for variable in steps.tail_variables}
            pairs = zip(steps.tail_variables, after, strict=False)
            moved = {
                variable.path for variable, value in pairs if not np.array_equal(value, bench.original[variable.path])
            }
            assert moved <= trained, (order, cut)
            # A channel that is zero for all four tiles has no gradient, and with ConvNeXt's scales of 1e-6 some changes
            # are too small for float32.
            assert len(moved) > 0.85 * len(trained), (order, cut)
            for variable in bench.backbone.variables:
                if variable.path not in tail:
                    assert np.array_equal(keras.ops.convert_to_numpy(variable), before[variable.path]), (order, cut)
    for cut, results in found.items():
        for result in results[1:]:
            assert all(np.array_equal(*pair) for pair in zip(result, results[0], strict=True)), cut


def test_a_tail_with_a_frozen_layer_is_refused(bench_of: Any) -> None:
    bench = bench_of("mobilenetv2")
    layer = bench.backbone.layers[-2]
    layer.trainable = False
    try:
        with pytest.raises(RuntimeError, match=layer.name):
            steps_of(another(bench), ALL)
    finally:
        layer.trainable = True


def test_a_tail_whose_size_differs_from_the_catalogue_is_refused(
    bench_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = BACKBONES["mobilenetv2"]
    short = replace(entry, cuts=dict(entry.cuts) | {"block16": replace(entry.cuts["block16"], trainable_parameters=1)})
    monkeypatch.setattr(compiled, "BACKBONES", {"mobilenetv2": short})
    with pytest.raises(StateMismatch, match=r"\b1\b.*\b886,080\b"):
        steps_of(another(bench_of("mobilenetv2")), "block16")


def test_the_catalogue_lists_a_tail_size_for_every_cut() -> None:
    for name, entry in BACKBONES.items():
        sizes = [entry.tail_parameters(cut) for cut in tails(name)]
        assert sizes[:-1] == sorted(sizes[:-1], reverse=True)
        assert entry.trainable_parameters == sizes[-1] >= sizes[0]


@pytest.mark.parametrize(
    ("precision", "source", "folds"),
    [
        ("auto", "file", device_name() == "cpu"),  # the default of a configuration
        ("float32", "file", True),
        ("mixed_bfloat16", "file", False),
        ("float32", "random", False),  # its statistics are trained
    ],
)
def test_normalization_is_folded_where_its_statistics_are_fixed(
    precision: str, source: str, folds: bool, plain_weights: Weights
) -> None:
    workbench.cache_clear()
    weights = replace(plain_weights, source=source)
    layers = workbench(weights, size_px("mobilenetv2"), precision).backbone.layers
    kinds = {type(layer).__name__ for layer in layers if isinstance(layer, keras.layers.BatchNormalization)}
    assert kinds == {"_Shift" if folds else "BatchNormalization"}
    workbench.cache_clear()
