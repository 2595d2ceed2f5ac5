"""Responses of TensorFlow Serving's REST interface in JSON."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable, Mapping

import numpy as np

from satx.serving.contract import ServingError, Signature
from satx.serving.json_tensor import tensorflow_name

NOT_FINITE = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}


def format_error(message: str) -> bytes:
    """Return the body of a response with an error."""
    return json.dumps({"error": message}).encode()


def format_predict(outputs: Mapping[str, np.ndarray], *, row_format: bool, signature: Signature) -> bytes:
    """Return the body of a response to `:predict`.

    One output stands for itself; several become objects with a value for each name, in the signature's order.

    Args:
        outputs: The outputs by name.
        row_format: Whether to write `predictions`, a list with an element for each row, or `outputs`, the whole tensors.
        signature: The signature that was called.

    Raises:
        ServingError: The outputs have no rows, or not the same number of them, or a dtype that JSON cannot express (400).
    """
    chosen = {name: outputs[name] for name in signature.outputs if name in outputs}
    if not chosen:
        raise ServingError(400, "Cannot convert empty tensor map to JSON")
    if row_format:
        _require_rows(chosen)
        columns = [_nested(_tokens(name, tensor), tensor.shape, num_axes=1) for name, tensor in chosen.items()]
        rows = columns[0] if len(columns) == 1 else [_object(chosen, row) for row in zip(*columns, strict=True)]
        return f'{{"predictions": [{", ".join(rows)}]}}'.encode()
    tensors = [_nested(_tokens(name, tensor), tensor.shape, num_axes=0)[0] for name, tensor in chosen.items()]
    return f'{{"outputs": {tensors[0] if len(tensors) == 1 else _object(chosen, tensors)}}}'.encode()


def _require_rows(outputs: Mapping[str, np.ndarray]) -> None:
    num_rows = 0
    for name, tensor in outputs.items():
        if tensor.ndim == 0:
            raise ServingError(400, f"Tensor name: {name} has no shape information ")
        if len(tensor) < 1:
            raise ServingError(400, f"Tensor name: {name} has invalid batch size: {len(tensor)}")
        if num_rows not in (0, len(tensor)):
            raise ServingError(
                400, f"Tensor name: {name} has inconsistent batch size: {len(tensor)} expecting: {num_rows}"
            )
        num_rows = len(tensor)


def _tokens(name: str, tensor: np.ndarray) -> list[str]:
    """Return the JSON text of each value of a tensor, in row-major order."""
    flat = tensor.ravel()
    if tensor.dtype == np.object_:
        write = _base64_object if name.endswith("_bytes") else _string
        return [write(value) for value in flat]
    if tensor.dtype == np.bool_:
        return ["true" if value else "false" for value in flat]
    if tensor.dtype.kind in "iu":
        return list(map(str, flat.tolist()))
    if tensor.dtype.kind != "f":
        raise ServingError(400, f"Failed to write JSON value for tensor type: {tensorflow_name(tensor.dtype)}")
    # NumPy writes the shortest text that gives the same number in its own type, and `.0` behind whole numbers.
    numbers = list(map(str, flat))
    return numbers if np.isfinite(flat).all() else [NOT_FINITE.get(number, number) for number in numbers]


def _string(value: bytes) -> str:
    return json.dumps(value.decode(errors="replace"), ensure_ascii=False)


def _base64_object(value: bytes) -> str:
    return f'{{"b64": "{base64.b64encode(value).decode()}"}}'


def _object(names: Iterable[str], values: Iterable[str]) -> str:
    return f"{{{', '.join(f'{json.dumps(name)}: {value}' for name, value in zip(names, values, strict=True))}}}"


def _nested(tokens: list[str], shape: tuple[int, ...], *, num_axes: int) -> list[str]:
    """Return the text of a tensor's lists: of all but its first `num_axes` axes, which the caller writes."""
    for axis in range(len(shape) - 1, num_axes - 1, -1):
        size = shape[axis]
        starts = range(0, math.prod(shape[:axis]) * size, size) if size else [0] * math.prod(shape[:axis])
        tokens = [f"[{', '.join(tokens[start : start + size])}]" for start in starts]
    return tokens
