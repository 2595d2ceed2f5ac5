"""Tensors from JSON values, with TensorFlow Serving's rules for types, nesting and base64."""

from __future__ import annotations

import binascii
import json
from itertools import chain
from typing import Any

import numpy as np

from satx.serving.contract import ServingError

MAX_RANK = 32
MAX_TEXT_CHARS = 1_000
# NumPy's names of dtypes, and TensorFlow's in error messages where they differ.
TENSORFLOW_NAMES = {"object": "string", "float32": "float", "float64": "double", "float16": "half"}
JSON_TYPES = {
    type(None): "Null",
    dict: "Object",
    list: "Array",
    str: "String",
    int: "Number",
    float: "Number",
}
_PRETTY = json.JSONEncoder(indent=4, ensure_ascii=False)


def read_tensor(value: Any, dtype: np.dtype[np.generic]) -> np.ndarray:
    """Return the tensor that nested lists hold, or a single value.

    Args:
        value: What Python's JSON parser returned. Its first elements give the shape, which all others must have.
        dtype: The tensor's dtype; `object` for strings, whose values become `bytes`.

    Raises:
        ServingError: The lists are ragged, or a value does not have the type (400); JSON cannot express the type (501).
    """
    shape = _shape_of(value)
    values = [value]
    for level, size in enumerate(shape):
        for item in values:
            _require_list(item, level, size, rank=len(shape))
        values = list(chain.from_iterable(values))
    if any(type(leaf) is list for leaf in values):
        raise ServingError(400, f"Encountered list at unexpected level: {len(shape)} expected < {len(shape)}")
    return _convert(values, dtype).reshape(shape)


def _shape_of(value: Any) -> tuple[int, ...]:
    shape = []
    while type(value) is list:
        shape.append(len(value))
        value = value[0] if value else None
    if len(shape) > MAX_RANK:
        raise ServingError(400, f"Expected at most {MAX_RANK} levels of lists, got {len(shape)}.")
    return tuple(shape)


def _require_list(item: Any, level: int, size: int, *, rank: int) -> None:
    if type(item) is not list:
        raise ServingError(
            400,
            f"JSON Value: {json_text(item)} found at incorrect level: {level + 1} in the JSON DOM. Expected at level: {rank}",
        )
    if len(item) != size:
        raise ServingError(
            400, f"Encountered list at unexpected size: {len(item)} at level: {level} expected size: {size}"
        )


def _convert(values: list[Any], dtype: np.dtype[np.generic]) -> np.ndarray:
    """Return values without lists as an array of one axis."""
    if dtype == np.object_:
        strings = np.empty(len(values), np.object_)
        strings[:] = [_bytes_of(value) for value in values]
        return strings
    if dtype == np.bool_:
        return np.array(_of_types(values, dtype, bool), np.bool_)
    if dtype in (np.float32, np.float64):
        return _floats(_of_types(values, dtype, int, float), dtype)
    if dtype.kind in "iu" and dtype != np.uint16:
        return _integers(_of_types(values, dtype, int), dtype)
    text = json_text(values[0]) if values else "[]"
    raise ServingError(501, f"Conversion of JSON Value: {text} to type: {tensorflow_name(dtype)}")


def _of_types(values: list[Any], dtype: np.dtype[np.generic], *types: type) -> list[Any]:
    if not set(map(type, values)).issubset(types):
        raise _type_error(next(value for value in values if type(value) not in types), dtype)
    return values


def _integers(values: list[int], dtype: np.dtype[np.generic]) -> np.ndarray:
    try:
        return np.array(values, dtype)
    except OverflowError:
        # TensorFlow Serving would wrap 300 to the uint8 44 without a word.
        limits = np.iinfo(dtype.name)
        raise _type_error(next(value for value in values if not limits.min <= value <= limits.max), dtype) from None


def _floats(values: list[float], dtype: np.dtype[np.generic]) -> np.ndarray:
    """Return numbers as float32 or float64; integers that the type cannot represent are refused, as too large numbers are."""
    limits = np.finfo(dtype.name)
    largest_integer = 2 ** (limits.nmant + 1) - 1
    try:
        numbers = np.array(values, np.float64)
    except OverflowError:
        raise ServingError(400, "JSON Parse error: Number too big to be stored in double.") from None
    magnitudes = np.abs(numbers)
    is_large = np.isfinite(numbers) & (magnitudes > largest_integer)
    if is_large.any():
        # RapidJSON reads integers of more than 64 bits as doubles.
        is_integer = np.fromiter((type(value) is int and -(2**63) <= value < 2**64 for value in values), np.bool_)
        refused = is_large & (is_integer | (magnitudes > limits.max))
        if refused.any():
            text = json_text(values[int(refused.argmax())])
            raise ServingError(
                400, f"Cannot convert JSON value: {text} to {tensorflow_name(dtype)} without loss of precision."
            )
    return numbers.astype(dtype)


def _bytes_of(value: Any) -> bytes:
    if isinstance(value, str):
        try:
            return value.encode()
        except UnicodeEncodeError:
            raise ServingError(400, "JSON Parse error: The surrogate pair in string is invalid.") from None
    if not isinstance(value, dict):
        raise _type_error(value, np.dtype(np.object_))
    if not is_base64(value):
        raise ServingError(400, f"JSON Value: {json_text(value)} not formatted correctly for base64 data")
    return decode_base64(value["b64"])


def is_base64(value: dict[str, Any]) -> bool:
    """Return whether a JSON object holds bytes as base64: `{"b64": "…"}` and nothing else."""
    return len(value) == 1 and isinstance(value.get("b64"), str)


def decode_base64(text: str) -> bytes:
    """Return the bytes that a base64 text encodes.

    As in Abseil's `Base64Unescape`, white space is skipped, padding may be left out or be `.` instead of `=`, and the
    URL-safe alphabet is refused.

    Raises:
        ServingError: The text is no base64 (400).
    """
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError:  # its text is not ASCII, or binascii.Error: padding is missing, or another character is in it
        pass
    try:
        compact = text.encode("ascii").translate(None, b" \t\n\v\f\r")
        data = compact.rstrip(b"=.")
        missing = -len(data) % 4
        if len(compact) - len(data) in (0, missing) and missing < 3:
            return binascii.a2b_base64(data + b"=" * missing, strict_mode=True)
    except ValueError:
        pass
    raise ServingError(400, "Unable to base64 decode")


def tensorflow_name(dtype: np.dtype[np.generic]) -> str:
    """Return TensorFlow's name of a dtype, as in its error messages."""
    return TENSORFLOW_NAMES.get(dtype.name, dtype.name)


def _type_error(value: Any, dtype: np.dtype[np.generic]) -> ServingError:
    json_type = str(value) if isinstance(value, bool) else JSON_TYPES[type(value)]
    return ServingError(
        400,
        f"JSON Value: {json_text(value)} Type: {json_type} is not of expected type: {tensorflow_name(dtype)}",
    )


def json_text(value: Any) -> str:
    """Return a JSON value as error messages show it: indented, and cut after `MAX_TEXT_CHARS`."""
    text = ""
    for part in _PRETTY.iterencode(value):  # in parts, so that a deeply nested value needs no deep recursion
        text += part
        if len(text) > MAX_TEXT_CHARS:
            return text[:MAX_TEXT_CHARS] + "…"
    return text
