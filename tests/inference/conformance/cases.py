"""The table of cases: what TensorFlow Serving answers to a request, by the number of the case.

The numbers are those of the table of its REST contract that satx keeps to. `DIFFERENCES` names the cases in which
`satx serve` answers otherwise, with the reason; such a case holds both answers.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from inference.conformance.checks import (
    Check,
    body_is,
    described_as,
    empty,
    error,
    html_not_found,
    probabilities,
    shortest_float32,
    tensor,
    tokens_are,
)

DIFFERENCES = {
    32: "satx decodes an image before it reaches the graph, and its message names what is wrong with the file",
}
SCHOOL = "/v1/models/school"
MAX_BATCH_SIZE = 128  # of `satx serve`, and of the batching.conf beside the models


@dataclass(frozen=True)
class Case:
    """One request and its answer.

    Attributes:
        number: Number of the case.
        title: What is special about the request.
        body: Body of the request.
        status: Expected HTTP status.
        check: What the response must hold.
        path: Path of the request; by default the one for predictions of the model `school`.
        method: HTTP method.
        headers: Headers of the request.
        satx: What the response of `satx serve` must hold instead, in a case of `DIFFERENCES`.
    """

    number: int
    title: str
    body: bytes
    status: int
    check: Check
    path: str = f"{SCHOOL}:predict"
    method: str = "POST"
    headers: Mapping[str, str] = field(default_factory=dict)
    satx: Check | None = None


def good_image() -> bytes:
    """Return a JPEG whose base64 ends in padding and has characters that URL-safe base64 spells otherwise."""
    for quality in range(80, 96):
        pixels = np.random.default_rng(quality).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "JPEG", quality=quality)
        text = base64.b64encode(stream.getvalue())
        if text.endswith(b"==") and b"+" in text and b"/" in text:
            return stream.getvalue()
    raise AssertionError("no such image")


GOOD = good_image()
TEXT = base64.b64encode(GOOD).decode()
G = {"b64": TEXT}


def b64(data: bytes) -> dict[str, str]:
    """Return bytes as JSON requests carry them."""
    return {"b64": base64.b64encode(data).decode()}


def rows(*instances: Any, **more: Any) -> bytes:
    """Return the body of a request in row format."""
    return json.dumps({"instances": list(instances), **more}).encode()


def columns(inputs: Any, **more: Any) -> bytes:
    """Return the body of a request in column format."""
    return json.dumps({"inputs": inputs, **more}).encode()


def named(image: Any = G) -> dict[str, Any]:
    """Return one instance with its name."""
    return {"image_bytes": image}


NUMBERS = (0.1, 1.0, 1 / 3, 123456.789, 1e-7, 3.4e38, -2.5, 16777216.0, 1.17549435e-38)

VALID = [
    Case(1, "a named image", rows(named()), 200, probabilities("predictions", 1)),
    Case(2, "two unnamed images", rows(G, G), 200, probabilities("predictions", 2)),
    Case(3, "columns with names", columns({"image_bytes": [G]}), 200, probabilities("outputs", 1)),
    Case(4, "columns without names", columns([G]), 200, probabilities("outputs", 1)),
    Case(5, "a column too many", columns({"image_bytes": [G], "x": 1}), 200, probabilities("outputs", 1)),
    Case(
        6, "a signature's name", rows(named(), signature_name="serving_default"), 200, probabilities("predictions", 1)
    ),
    Case(7, "no content type", rows(named()), 200, probabilities("predictions", 1)),
    Case(
        7,
        "a form's content type",
        rows(named()),
        200,
        probabilities("predictions", 1),
        headers={"Content-Type": "application/x-www-form-urlencoded"},
    ),
    Case(7, "plain text", rows(named()), 200, probabilities("predictions", 1), headers={"Content-Type": "text/plain"}),
    Case(
        8,
        "two outputs in rows",
        rows(1.0, 2.5),
        200,
        body_is({"predictions": [{"doubled": 2.0, "increased": 2.0}, {"doubled": 5.0, "increased": 3.5}]}),
        path="/v1/models/two:predict",
    ),
    Case(
        9,
        "two outputs in columns",
        columns([1.0, 2.5]),
        200,
        body_is({"outputs": {"doubled": [2.0, 5.0], "increased": [2.0, 3.5]}}),
        path="/v1/models/two:predict",
    ),
    Case(
        10,
        "an output of bytes",
        rows("ab", {"b64": "AP8="}),
        200,
        body_is({"predictions": [{"b64": "YWI="}, {"b64": "AP8="}]}),
        path="/v1/models/bytes:predict",
    ),
    Case(11, "base64 without padding", rows(named({"b64": TEXT.rstrip("=")})), 200, probabilities("predictions", 1)),
    Case(
        11,
        "base64 padded with dots",
        rows(named({"b64": TEXT.replace("=", ".")})),
        200,
        probabilities("predictions", 1),
    ),
    Case(29, "text after the JSON", rows(named()) + b' {"more":', 200, probabilities("predictions", 1)),
    Case(
        30,
        "no numbers",
        b'{"instances": [NaN, Infinity, -Infinity]}',
        200,
        tokens_are("NaN", "Infinity", "-Infinity"),
        path="/v1/models/floats/versions/1:predict",
    ),
    Case(
        35,
        "zeros before the version",
        rows(named()),
        200,
        probabilities("predictions", 1),
        path=f"{SCHOOL}/versions/001:predict",
    ),
    Case(
        37,
        "a label",
        rows(1.5),
        200,
        body_is({"predictions": [1.5]}),
        path="/v1/models/floats/labels/previous:predict",
    ),
    Case(
        37,
        "the champion's label",
        rows(1.5),
        200,
        body_is({"predictions": [3.0]}),
        path="/v1/models/floats/labels/champion:predict",
    ),
    Case(
        46,
        "a compressed body",
        gzip.compress(rows(named())),
        200,
        probabilities("predictions", 1),
        headers={"Content-Encoding": "gzip"},
    ),
    Case(
        47,
        "as many rows as a batch may have",
        rows(*[1.0] * MAX_BATCH_SIZE),
        200,
        body_is({"predictions": [2.0] * MAX_BATCH_SIZE}),
        path="/v1/models/floats:predict",
    ),
    Case(
        50,
        "spelling of numbers",
        rows(0.1, 1.0, 1 / 3, -2.5, 100.0, 0.0),
        200,
        tokens_are("0.1", "1.0", "0.33333334", "-2.5", "100.0", "0.0"),
        path="/v1/models/floats/versions/1:predict",
    ),
    Case(
        50,
        "shortest numbers",
        rows(*NUMBERS),
        200,
        shortest_float32(NUMBERS),
        path="/v1/models/floats/versions/1:predict",
    ),
]

REFUSED_BODIES = [
    Case(
        12,
        "URL-safe base64",
        rows(named({"b64": TEXT.replace("+", "-").replace("/", "_")})),
        400,
        error("Unable to base64 decode"),
    ),
    Case(13, "a number as base64", rows(named({"b64": 1})), 400, error("not formatted correctly for base64 data")),
    Case(14, "a number as image", rows(named(7)), 400, error("not of expected type: string")),
    Case(
        15,
        "an unknown name",
        rows({"img": G}),
        400,
        error(
            "Failed to process element: 0 key: img of 'instances' list. Error: INVALID_ARGUMENT: JSON object: does not have "
            "named input: img"
        ),
    ),
    Case(16, "an empty instance", rows({}), 400, error("keys must be equal to: image_bytes")),
    Case(
        17,
        "an object, then a value",
        rows(named(), TEXT),
        400,
        error("Expecting object but got list at item 1 of input list"),
    ),
    Case(
        18,
        "a value, then an object",
        rows(TEXT, named()),
        400,
        error("Expecting value/list but got object at item 1"),
    ),
    Case(19, "no instances", rows(), 400, error("No values in 'instances' array")),
    Case(20, "an object of instances", b'{"instances": {}}', 400, error("Expecting 'instances' to be an list/array")),
    Case(
        21,
        "both keys",
        rows(named(), inputs={"image_bytes": [G]}),
        400,
        error("expecting only one of 'inputs' or 'instances' keys to exist"),
    ),
    Case(22, "neither key", b"{}", 400, error("Missing 'inputs' or 'instances' key")),
    Case(23, "no columns", columns({}), 400, error("Missing named input: image_bytes in 'inputs' object.")),
    Case(24, "an empty body", b"", 400, error("JSON Parse error: The document is empty")),
    Case(25, "no JSON", b"instances=[1]", 400, error("JSON Parse error: Invalid value. at offset: 0")),
    Case(26, "an array as body", b"[1]", 400, error("Is not object")),
    Case(
        27,
        "a number as signature's name",
        rows(named(), signature_name=100),
        400,
        error("'signature_name' key must be a string value."),
    ),
    Case(
        28,
        "an unknown signature",
        rows(named(), signature_name="x"),
        400,
        error('Serving signature name: "x" not found in signature def'),
    ),
    Case(
        31,
        "a ragged list",
        rows([[1, 2], [3]]),
        400,
        error("Encountered list at unexpected size"),
        path="/v1/models/pixels:predict",
    ),
    Case(
        32,
        "a web page as image",
        rows(named(b64(b"<html><body>502 Bad Gateway</body></html>"))),
        400,
        error("Unknown image file format"),
        satx=error("image"),
    ),
    Case(32, "a truncated image", rows(named(b64(GOOD[:-200]))), 400, error("Invalid JPEG data"), satx=error("JPEG")),
    Case(32, "no bytes", rows(named(b64(b""))), 400, error("mage"), satx=error("empty")),
    Case(
        46,
        "a compressed body that is too large",
        gzip.compress(b" " * 101_000_000),
        400,
        error("JSON Parse error: The document is empty"),
        headers={"Content-Encoding": "gzip"},
    ),
    Case(
        47,
        "more rows than a batch may have",
        rows(*[1.0] * (MAX_BATCH_SIZE + 1)),
        400,
        error(f"Task size {MAX_BATCH_SIZE + 1} is larger than maximum input batch size {MAX_BATCH_SIZE}"),
        path="/v1/models/floats:predict",
    ),
    Case(
        49,
        "a classification without examples",
        rows(named()),
        400,
        error("'examples' is expected"),
        path=f"{SCHOOL}:classify",
    ),
]

AVAILABLE = {"state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
OTHER_PATHS = [
    Case(
        33,
        "an unknown model",
        rows(named()),
        404,
        error("Servable not found for request: Latest(half)"),
        path="/v1/models/half:predict",
    ),
    Case(
        34,
        "an unknown version",
        rows(named()),
        404,
        error("Servable not found for request: Specific(school, 99)"),
        path=f"{SCHOOL}/versions/99:predict",
    ),
    Case(
        36,
        "a version over 64 bits",
        rows(named()),
        400,
        error("Failed to convert version: 99999999999999999999"),
        path=f"{SCHOOL}/versions/99999999999999999999:predict",
    ),
    Case(
        37,
        "an unknown label",
        rows(named()),
        400,
        error("Unrecognized servable version label: x"),
        path=f"{SCHOOL}/labels/x:predict",
    ),
    *(
        Case(38, f"{method} {path}", rows(named()), 400, error(f"Malformed request: {method} {path}"), path, method)
        for method, path in (
            ("POST", f"{SCHOOL}/versions/1/labels/a:predict"),
            ("POST", f"{SCHOOL}/version/1:predict"),
            ("GET", f"{SCHOOL}:predict"),
            ("POST", "/v1/foo"),
            ("POST", f"{SCHOOL}:predict?x=1"),
            ("PUT", f"{SCHOOL}:predict"),
        )
    ),
    Case(
        39,
        "a model's state",
        b"",
        200,
        body_is({"model_version_status": [{"version": "1", **AVAILABLE}]}),
        path=SCHOOL,
        method="GET",
    ),
    Case(
        39,
        "states of two versions",
        b"",
        200,
        body_is({"model_version_status": [{"version": version, **AVAILABLE} for version in ("2", "1")]}),
        path="/v1/models/floats",
        method="GET",
    ),
    Case(
        40,
        "an unknown model's state",
        b"",
        404,
        error("Could not find any versions of model half"),
        path="/v1/models/half",
        method="GET",
    ),
    Case(
        41,
        "an unknown version's state",
        b"",
        404,
        error("Could not find version 9 of model school"),
        path=f"{SCHOOL}/versions/9",
        method="GET",
    ),
    Case(42, "no model", b"", 400, error("Missing model name in request."), path="/v1/models", method="GET"),
    Case(
        43,
        "metadata of images",
        b"",
        200,
        described_as(
            "school",
            "1",
            {"image_bytes": tensor("DT_STRING", -1)},
            {"probabilities": tensor("DT_FLOAT", -1, 2)},
        ),
        path=f"{SCHOOL}/metadata",
        method="GET",
    ),
    Case(
        43,
        "metadata of numbers",
        b"",
        200,
        described_as("pixels", "1", {"pixels": tensor("DT_UINT8", -1, 2, 2)}, {"mean": tensor("DT_FLOAT", -1)}),
        path="/v1/models/pixels/metadata",
        method="GET",
    ),
    Case(44, "the root", b"", 404, html_not_found, path="/", method="GET"),
    Case(45, "options with an origin", b"", 200, empty, method="OPTIONS", headers={"Origin": "http://example.com"}),
    Case(45, "options without an origin", b"", 400, empty, method="OPTIONS"),
]
CASES = sorted([*VALID, *REFUSED_BODIES, *OTHER_PATHS], key=lambda case: case.number)
