"""The paths of TensorFlow Serving's REST interface."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, cast
from urllib.parse import unquote

from satx.serving.contract import ServingError

PREFIX = re.compile(r"/v1/.*", re.IGNORECASE | re.DOTALL)
_VERSION = r"(?:/versions/(?P<version>[0-9]+)|/labels/(?P<label>[^/:]+))?"
_POST = re.compile(rf"/v1/models/(?P<model>[^/:]+){_VERSION}:(?P<verb>classify|regress|predict)", re.IGNORECASE)
_GET = re.compile(rf"/v1/models(?:/(?P<model>[^/:]+))?{_VERSION}(?:/(?P<verb>metadata))?", re.IGNORECASE)
LARGEST_VERSION = 2**63 - 1

Verb = Literal["predict", "classify", "regress", "status", "metadata"]


@dataclass(frozen=True)
class Call:
    """What a request asks for.

    Attributes:
        verb: The method after the colon of a POST; `status` or `metadata` for GET.
        model: Name of the model.
        version: The version in the path, if any.
        label: The label in the path, if any.
    """

    verb: Verb
    model: str
    version: int | None
    label: str | None


def parse_route(method: str, target: str) -> Call:
    """Return what a request asks for.

    Args:
        method: The HTTP method.
        target: Path and query as the client sent them, with percent escapes. A query belongs to the path: TensorFlow Serving
            knows no parameters.

    Raises:
        ServingError: There is no such path for the method, or the version is no 64-bit integer (400).
    """
    pattern = {"POST": _POST, "GET": _GET}.get(method)
    match = pattern.fullmatch(target) if pattern else None
    if match is None:
        raise ServingError(400, f"Malformed request: {method} {target}")
    version, label, verb = match["version"], match["label"], match["verb"]
    if version is not None and (len(version.lstrip("0")) > 19 or int(version) > LARGEST_VERSION):
        raise ServingError(400, f"Failed to convert version: {version} to numeric.")
    if method == "POST" and verb not in ("predict", "classify", "regress"):  # in capitals: found, but not known
        raise ServingError(400, f"Malformed request: {method} {target}")
    if not match["model"]:
        raise ServingError(400, "Missing model name in request.")
    return Call(
        verb=cast(Verb, verb) if method == "POST" else "metadata" if verb == "metadata" else "status",
        model=unquote(match["model"]),
        version=int(version) if version is not None else None,
        label=unquote(label) if label is not None else None,
    )
