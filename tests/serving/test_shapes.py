"""Tests of the shapes of requests: which fit a signature, and how many rows they have."""

from __future__ import annotations

import numpy as np
import pytest

from satx.serving.contract import ServingError, Signature, TensorSpec
from satx.serving.shapes import check_row_limit, check_shapes
from serving.fake_models import spec

ANY_RANK = TensorSpec("tensor:0", np.dtype(np.float32), None)


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


def rows(inputs: dict[str, np.ndarray], **specs: TensorSpec) -> int:
    return check_shapes(Signature(specs, {}, ""), inputs)


@pytest.mark.parametrize("names", ["ab", "ba"])
def test_rows_are_those_of_the_inputs_whose_first_axis_is_unknown_whatever_their_names(names: str) -> None:
    fixed, batch = names
    specs = {fixed: spec(np.float32, 7, 2), batch: spec(np.float32, None, 2)}
    ordered = dict(sorted(specs.items()))
    assert rows({fixed: zeros(7, 2), batch: zeros(3, 2)}, **ordered) == 3
    assert rows({fixed: zeros(7, 2), batch: zeros(0, 2)}, **ordered) == 0


def test_inputs_without_an_unknown_first_axis_are_one_row() -> None:
    assert rows({"a": zeros(7)}, a=spec(np.float32, 7)) == 1
    assert rows({"a": zeros()}, a=spec(np.float32)) == 1
    assert rows({"a": zeros(5, 5)}, a=ANY_RANK) == 1
    assert rows({"a": zeros(5), "b": zeros(2)}, a=ANY_RANK, b=spec(np.float32, None)) == 2


def test_inputs_with_different_numbers_of_rows_are_refused() -> None:
    with pytest.raises(ServingError, match="must have equal 0th-dimension size; expected 2 for b, got 3") as error:
        rows({"a": zeros(2), "b": zeros(3)}, a=spec(np.float32, None), b=spec(np.float32, None))
    assert error.value.status == 400


@pytest.mark.parametrize("shape", [(), (2,), (2, 3, 1), (2, 4)])
def test_another_shape_than_the_signatures_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ServingError) as error:
        rows({"a": zeros(*shape)}, a=spec(np.float32, None, 3))
    assert (error.value.status, error.value.message) == (400, f"Input a: expected shape [-1, 3], got {list(shape)}")


def test_as_many_rows_as_the_limit_are_accepted() -> None:
    check_row_limit(128)
    check_row_limit(5, largest=5)
    with pytest.raises(ServingError, match="Task size 6 is larger than maximum input batch size 5"):
        check_row_limit(6, largest=5)
