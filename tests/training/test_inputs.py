"""Batches are the same from memory-mapped files and from GPU memory, and follow from seed and epoch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from satx.catalogue import ALL, NONE
from satx.config import Configuration
from satx.training import inputs as inputs_module
from satx.training.contract import TrainingData
from satx.training.inputs import VALID_BATCH_SIZE, Inputs

Short = Callable[..., Configuration]


def inputs_at(cut: str, configuration: Configuration, data: TrainingData, **options: float) -> Inputs:
    inputs = Inputs(configuration, data.store, data.weights, data.cache_dir, **options)
    inputs.start_at(cut, cached=cut != ALL)
    return inputs


@pytest.mark.parametrize("cut", [NONE, "block16", ALL])
def test_inputs_in_gpu_memory_give_the_same_batches(
    cut: str, short: Short, training_data: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    configuration = short(train__batch_size=16)
    mapped = inputs_at(cut, configuration, training_data)
    monkeypatch.setattr(inputs_module, "device_name", lambda: "gpu")
    resident = inputs_at(cut, configuration, training_data)
    assert mapped._resident is None and resident._resident is not None
    for step in (1, 2):
        pairs = zip(mapped.train_batches(step, 16), resident.train_batches(step, 16), strict=True)
        for one, other in pairs:
            assert np.array_equal(one.inputs, np.asarray(other.inputs)) and np.array_equal(one.targets, other.targets)
            assert one.inputs.dtype == np.asarray(other.inputs).dtype
    for one, other in zip(mapped.valid_batches(), resident.valid_batches(), strict=True):
        assert np.array_equal(one, np.asarray(other)) and len(one) == VALID_BATCH_SIZE


def test_inputs_that_cannot_be_kept_in_gpu_memory_stay_memory_mapped(
    short: Short, training_data: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs_module, "device_name", lambda: "gpu")
    assert inputs_at(ALL, short(), training_data, resident_gb=1e-9)._resident is None
    random_views = short(augmentation__mode="random")
    assert inputs_at(ALL, random_views, training_data)._resident is None, "random views cannot be enumerated"


def test_the_last_validation_batch_is_filled_up_with_its_last_tile(short: Short, training_data: TrainingData) -> None:
    inputs = inputs_at(ALL, short(), training_data)
    rows = training_data.store.rows("valid")
    found = np.concatenate(list(inputs.valid_batches()))
    pixels = training_data.store.pixels()
    assert np.array_equal(found[: len(rows)], pixels[rows])
    assert len(found) % VALID_BATCH_SIZE == 0 and (found[len(rows) :] == pixels[rows[-1]]).all()


def test_order_views_and_dropout_depend_on_seed_and_epoch(short: Short, training_data: TrainingData) -> None:
    made: dict[str, dict[bytes, tuple[int, int]]] = {"order": {}, "views": {}, "dropout": {}, "tiles": {}}
    moments = [(seed, step) for seed in (20, 21) for step in (1, 2)]
    for again in range(2):
        for seed, step in moments:
            configuration = short(train__seed=seed, train__batch_size=16, model__dropout=0.5, augmentation__num_flips=8)
            inputs = inputs_at(ALL, configuration, training_data)
            batches = list(inputs.train_batches(step, 16))
            drawn = {
                "order": inputs.order(step),
                "views": inputs.chosen_views(step),
                "dropout": np.stack([np.asarray(batch.mask) for batch in batches]),
                "tiles": np.concatenate([batch.inputs for batch in batches]),
            }
            for what, values in drawn.items():
                found = made[what].setdefault(values.tobytes(), (seed, step))
                assert found == (seed, step), f"{what} of {found} and {(seed, step)} are the same"
        assert {what: len(values) for what, values in made.items()} == dict.fromkeys(made, 4), f"call {again}"


def test_dropout_differs_from_batch_to_batch(short: Short, training_data: TrainingData) -> None:
    inputs = inputs_at(ALL, short(train__batch_size=16, model__dropout=0.5), training_data)
    masks = {np.asarray(batch.mask).tobytes() for batch in inputs.train_batches(1, 16)}
    assert len(masks) == len(inputs.order(1))


def test_random_augmentations_depend_on_seed_and_epoch(short: Short, training_data: TrainingData) -> None:
    rows = np.arange(8)
    found = {
        inputs_at(ALL, short(train__seed=seed, augmentation__mode="random"), training_data)
        ._read("train", rows, np.zeros(8, np.int64), step)
        .tobytes()
        for seed in (20, 21)
        for step in (1, 2)
    }
    assert len(found) == 4
