"""The rows of requests and of a batch: joined along the first axis before it is computed, and cut along it afterwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from satx.serving.contract import ServingError

Tensors = Mapping[str, np.ndarray]


def shapes(inputs: Tensors) -> tuple[object, ...]:
    """Return what inputs must have in common to be joined: their names, dtypes, and shapes without the first axis."""
    return tuple((name, values.dtype, values.shape[1:]) for name, values in sorted(inputs.items()))


def joined(parts: Sequence[Tensors]) -> dict[str, np.ndarray]:
    """Return the rows of all parts, one part after the other.

    Raises:
        ServingError: The rows of a part have another shape than those of the first (400).
    """
    if len(parts) == 1:
        return dict(parts[0])
    for part in parts:
        for name, values in part.items():
            expected, got = list(parts[0][name].shape[1:]), list(values.shape[1:])
            if got != expected:
                raise ServingError(
                    400, f"Tensor {name}: expected all rows in shape {expected}, as in the first batch, got {got}"
                )
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def rows_of(tensors: Tensors, start: int, stop: int) -> dict[str, np.ndarray]:
    """Return some rows of each tensor."""
    return {name: values[start:stop] for name, values in tensors.items()}


def cut(outputs: Tensors, sizes: Sequence[int]) -> list[dict[str, np.ndarray]]:
    """Return the rows of each request of a batch.

    Args:
        outputs: Outputs of the batch.
        sizes: Number of rows of each request.

    Raises:
        ServingError: An output has another number of rows than the batch (400).
    """
    rows = sum(sizes)
    for name, values in outputs.items():
        if values.shape[:1] != (rows,):
            raise ServingError(
                400, f"Output {name}: expected {rows} rows for a batch of {rows}, got shape {list(values.shape)}"
            )
    ends = np.cumsum(sizes)
    return [rows_of(outputs, int(end) - size, int(end)) for size, end in zip(sizes, ends, strict=True)]
