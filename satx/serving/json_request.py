"""Requests to `:predict` in JSON, read as TensorFlow Serving reads them.

The messages of errors are TensorFlow Serving's (`util/json_tensor.cc`), because clients match on them.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from satx.inference.serving_files import MAX_REQUEST_ROWS
from satx.serving.contract import DEFAULT_SIGNATURE, Servable, ServingError, TensorSpec, signature_of
from satx.serving.json_tensor import is_base64, json_text, read_tensor
from satx.serving.shapes import check_row_limit, check_shapes, has_rows

# Python's parser answers nothing else while it reads a document: half a second for as many values. They are 14 tiles of 160 px
# as lists, in which each pixel is four values: a list and three numbers. Larger requests belong into base64 or gRPC.
MAX_JSON_VALUES = 1_500_000
WHITESPACE = " \t\n\r"
STATUS_NAMES = {400: "INVALID_ARGUMENT", 501: "UNIMPLEMENTED"}
# Messages of Python's parser that have a counterpart in RapidJSON, which TensorFlow Serving uses.
RAPIDJSON_MESSAGES = {
    "Expecting value": "Invalid value.",
    "Expecting property name enclosed in double quotes": "Missing a name for object member.",
    "Expecting ':' delimiter": "Missing a colon after a name of object member.",
    "Expecting ',' delimiter": "Missing a comma or a closing bracket.",
    "Unterminated string starting at": "Missing a closing quotation mark in string.",
    "Invalid control character at": "Invalid encoding in string.",
    "Invalid \\escape": "Invalid escape character in string.",
    "Invalid \\uXXXX escape": "Incorrect hex digit after \\u escape in string.",
}
_DECODER = json.JSONDecoder()


@dataclass(frozen=True)
class PredictRequest:
    """A request to `:predict`.

    Attributes:
        signature_name: The signature that is called.
        inputs: All its inputs by name, with its dtypes and shapes.
        rows: The number of its rows.
        row_format: Whether the request has `instances`, and so its response `predictions`; else `inputs` and `outputs`.
    """

    signature_name: str
    inputs: dict[str, np.ndarray]
    rows: int
    row_format: bool


def parse_json(body: bytes, *, max_values: int = MAX_JSON_VALUES) -> dict[str, Any]:
    """Return the JSON object at the beginning of a request's body. Text after it is ignored.

    `NaN` and `Infinity` are numbers, as in TensorFlow Serving.

    Raises:
        ServingError: The body is no JSON object, or has more values than `max_values` (400).
    """
    if not body:
        raise ServingError(400, "JSON Parse error: The document is empty")
    num_values = sum(map(body.count, (b",", b"[", b"{"))) if len(body) > max_values else 0
    if num_values > max_values:
        raise ServingError(
            400,
            f"JSON Parse error: expected at most {max_values:,} values, got {num_values:,}. Send images as base64 in "
            f"'image_bytes', or fewer rows a request.",
        )
    try:
        text = body.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError as error:
        raise _parse_error("Invalid encoding in string.", error.start) from None
    start = len(text) - len(text.lstrip(WHITESPACE))
    if start == len(text):
        raise _parse_error("The document is empty.", start)
    document = _first_value(text, start)
    if not isinstance(document, dict):
        raise ServingError(400, f"JSON Value: {json_text(document)} Is not object")
    return document


def _first_value(text: str, start: int) -> Any:
    try:
        return _DECODER.raw_decode(text, start)[0]
    except json.JSONDecodeError as error:
        message = RAPIDJSON_MESSAGES.get(error.msg.removesuffix(": "), error.msg)
        raise _parse_error(message, len(text[: error.pos].encode())) from None
    except RecursionError:
        raise ServingError(
            400, "JSON Parse error: expected at most some hundred levels of lists and objects, got more"
        ) from None
    except ValueError:  # Python converts at most 4,300 digits to an integer
        raise _parse_error("Number too big to be stored in double.", start) from None


def _parse_error(message: str, offset: int) -> ServingError:
    return ServingError(400, f"JSON Parse error: {message} at offset: {offset}")


def signature_name_of(document: Mapping[str, Any]) -> str:
    """Return the name of the signature that a request calls.

    Raises:
        ServingError: The name is no string (400).
    """
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise ServingError(
            400,
            f"JSON Value: {json_text(document)} not formatted correctly. 'signature_name' key must be a string value.",
        )
    return name or DEFAULT_SIGNATURE


def parse_predict(body: bytes, servable: Servable) -> PredictRequest:
    """Return the request that a body of `:predict` holds.

    Raises:
        ServingError: The body is no request to this model (400), or an input has a type that JSON cannot express (501).
    """
    return read_predict(parse_json(body), servable)


def read_predict(document: Mapping[str, Any], servable: Servable) -> PredictRequest:
    """Return the request that a parsed body of `:predict` holds; see `parse_predict`."""
    name = signature_name_of(document)
    signature = signature_of(servable, name)
    if not signature.inputs:
        raise ServingError(400, f"Failed to get input map for signature: {name}")
    row_format = "instances" in document
    if row_format:
        inputs = _read_instances(document, signature.inputs)
    elif "inputs" in document:
        inputs = _read_inputs(document["inputs"], signature.inputs)
    else:
        raise ServingError(400, "Missing 'inputs' or 'instances' key")
    return PredictRequest(name, inputs, check_shapes(signature, inputs), row_format)


def _read_instances(document: Mapping[str, Any], specs: Mapping[str, TensorSpec]) -> dict[str, np.ndarray]:
    """Return the inputs of a request whose list `instances` has an element for each row."""
    instances = document["instances"]
    problem = (
        "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist"
        if "inputs" in document
        else "Expecting 'instances' to be an list/array"
        if not isinstance(instances, list)
        else "No values in 'instances' array"
        if not instances
        else None
    )
    if problem:
        raise ServingError(400, f"JSON Value: {json_text(document)} {problem}")
    known_sizes = (spec.shape[0] or 0 for spec in specs.values() if spec.shape)
    check_row_limit(len(instances), largest=max(MAX_REQUEST_ROWS, *known_sizes))  # before each row becomes a tensor
    if len(specs) > 1 and not isinstance(instances[0], dict):
        raise ServingError(
            400,
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
            "tensorinfo_map",
        )
    rows: dict[str, list[np.ndarray]] = {name: [] for name in specs}
    for element, name, value in _named_values(instances, specs):
        try:
            _add_row(name, value, specs, rows)
        except ServingError as error:
            raise ServingError(
                400,
                f"Failed to process {element} of 'instances' list. Error: {STATUS_NAMES[error.status]}: {error.message}",
            ) from None
    return {name: np.stack(rows[name]) for name in specs}


def _named_values(instances: list[Any], specs: Mapping[str, TensorSpec]) -> Iterator[tuple[str, str, Any]]:
    """Yield each value of `instances`: its place as error messages name it, the name of its input, and the value."""
    only = next(iter(specs))
    named = isinstance(instances[0], dict) and not is_base64(instances[0])
    for index, element in enumerate(instances):
        if named != (isinstance(element, dict) and not is_base64(element)):
            problem = "object but got list" if named else "value/list but got object"
            raise ServingError(400, f"Expecting {problem} at item {index} of input list")
        if not named:
            yield f"element: {index}", only, element
            continue
        for name, value in element.items():
            yield f"element: {index} key: {name}", name, value
        if element.keys() != specs.keys():
            raise ServingError(
                400,
                f"Failed to process element: {index} of 'instances' list. JSON object: {json_text(element)} keys must be "
                f"equal to: {','.join(sorted(specs))}",
            )


def _add_row(name: str, value: Any, specs: Mapping[str, TensorSpec], rows: Mapping[str, list[np.ndarray]]) -> None:
    if name not in specs:
        raise ServingError(400, f"JSON object: does not have named input: {name}")
    row = read_tensor(value, specs[name].dtype)
    expected = rows[name][0] if rows[name] else row
    if row.size != expected.size:
        raise ServingError(400, f"Expecting tensor size: {expected.size} but got: {row.size}")
    if row.shape != expected.shape:
        raise ServingError(400, f"Expecting shape {_shape_text(expected.shape)} but got: {_shape_text(row.shape)}")
    rows[name].append(row)


def _read_inputs(value: Any, specs: Mapping[str, TensorSpec]) -> dict[str, np.ndarray]:
    """Return the inputs of a request whose `inputs` are whole tensors: one value, or an object with one for each name."""
    if not isinstance(value, dict) or is_base64(value):
        if len(specs) > 1:
            raise ServingError(
                400,
                "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
                "tensorinfo_map",
            )
        value = {next(iter(specs)): value}
    for name, spec in specs.items():
        if name not in value:
            raise ServingError(400, f"Missing named input: {name} in 'inputs' object.")
        if has_rows(spec) and isinstance(value[name], list):
            check_row_limit(len(value[name]))
    return {name: read_tensor(value[name], spec.dtype) for name, spec in specs.items()}


def _shape_text(shape: tuple[int, ...]) -> str:
    return f"[{','.join(map(str, shape))}]"
