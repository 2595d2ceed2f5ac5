"""Whether the inputs of a request fit the shapes of a signature, and how many rows they have."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from satx.inference.serving_files import MAX_REQUEST_ROWS
from satx.serving.contract import ServingError, Signature, TensorSpec


def check_shapes(signature: Signature, inputs: Mapping[str, np.ndarray]) -> int:
    """Check the shapes of a request's inputs, because TensorFlow would refuse others with a message of an inner operation.

    Args:
        signature: The signature that is called.
        inputs: All its inputs.

    Returns:
        The number of rows: the size of the first axis of the inputs that the signature gives no size for; 1 if it gives all.

    Raises:
        ServingError: An input does not have the signature's shape, or not as many rows as another (400).
    """
    rows = None
    for name, spec in signature.inputs.items():
        shape = inputs[name].shape
        if not _fits(shape, spec):
            expected = [-1 if size is None else size for size in spec.shape or ()]
            raise ServingError(400, f"Input {name}: expected shape {expected}, got {list(shape)}")
        if not has_rows(spec):
            continue
        if rows not in (None, shape[0]):
            message = "Batching input tensors supplied in a given feed must have equal 0th-dimension size"
            raise ServingError(400, f"{message}; expected {rows} for {name}, got {shape[0]}")
        rows = shape[0]
    return 1 if rows is None else rows


def has_rows(spec: TensorSpec) -> bool:
    """Return whether the first axis of an input is the request's rows: it has an unknown size."""
    return spec.shape is not None and spec.shape[:1] == (None,)


def check_row_limit(rows: int, *, largest: int = MAX_REQUEST_ROWS) -> None:
    """Refuse a request with too many rows.

    Raises:
        ServingError: There are more than `largest` rows (400).
    """
    if rows > largest:
        raise ServingError(400, f"Task size {rows} is larger than maximum input batch size {largest}")


def _fits(shape: tuple[int, ...], spec: TensorSpec) -> bool:
    return spec.shape is None or (
        len(shape) == len(spec.shape)
        and all(expected in (None, size) for expected, size in zip(spec.shape, shape, strict=True))
    )
