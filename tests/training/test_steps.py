from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from satx.errors import OutOfMemory, TrialFailed
from satx.training.devices import out_of_memory_fails_the_trial
from satx.training.steps import class_weights, require_finite, schedule_factor


@given(st.integers(1, 200))
def test_a_cosine_schedule_decreases_from_one_towards_zero(num_epochs: int) -> None:
    factors = [schedule_factor("cosine", epoch, num_epochs) for epoch in range(num_epochs)]
    assert factors[0] == 1.0
    assert all(later < earlier for earlier, later in pairwise(factors))
    assert factors[-1] > 0
    for epoch, factor in enumerate(factors):
        mirrored = schedule_factor("cosine", num_epochs - epoch, num_epochs)
        assert factor + mirrored == pytest.approx(1.0)
    assert schedule_factor("cosine", num_epochs, num_epochs) == pytest.approx(0.0, abs=1e-12)


@given(st.integers(0, 100), st.integers(1, 100))
def test_a_constant_schedule_changes_nothing(epoch: int, num_epochs: int) -> None:
    assert schedule_factor("constant", epoch, num_epochs) == 1.0


@given(st.lists(st.integers(1, 500), min_size=2, max_size=6))
def test_balanced_class_weights_give_every_class_the_same_total_weight(counts: list[int]) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    weights = class_weights(labels, len(counts), "balanced")
    assert weights.dtype == np.float32
    assert weights[labels].mean() == pytest.approx(1.0, rel=1e-5)
    assert weights * counts == pytest.approx(np.full(len(counts), len(labels) / len(counts)), rel=1e-5)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=50))
def test_without_class_weights_every_class_has_weight_one(labels: list[int]) -> None:
    assert class_weights(np.array(labels), 4, "none").tolist() == [1.0] * 4


def test_an_absent_class_causes_no_division_by_zero() -> None:
    assert np.isfinite(class_weights(np.array([0, 0, 2]), 3, "balanced")).all()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_fails_the_trial_with_a_remedy(value: float) -> None:
    with pytest.raises(TrialFailed, match=rf"{value}.*\b0\.5\b"):
        require_finite(value, 0.5, what="loss")
    require_finite(1.0, 0.5, what="loss")


def tensorflow_runs_out() -> Exception:
    from tensorflow.errors import ResourceExhaustedError

    return ResourceExhaustedError(None, None, "failed to allocate memory")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        tensorflow_runs_out(),
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1 bytes"),
        RuntimeError("CUDA_ERROR_OUT_OF_MEMORY: out of memory"),
        ValueError("OOM when allocating tensor with shape[1]"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_running_out_of_memory_fails_the_trial(error: Exception) -> None:
    with pytest.raises(OutOfMemory) as caught, out_of_memory_fails_the_trial():
        raise error
    assert "train.batch_size" in str(caught.value)
    assert caught.value.__cause__ is error


@pytest.mark.parametrize(
    "error", [ValueError("wrong shape"), KeyboardInterrupt(), OSError(28, "No space left on device")]
)
def test_every_other_error_passes_unchanged(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, out_of_memory_fails_the_trial():
        raise error
    assert caught.value is error
