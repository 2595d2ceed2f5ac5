"""What a response must hold: functions that return a check of a response, for the table of cases."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

import httpx
import numpy as np
import pytest

Check = Callable[[httpx.Response], None]


def body_is(expected: Any) -> Check:
    """Check for this JSON, and nothing else."""

    def check(response: httpx.Response) -> None:
        assert response.headers["content-type"].startswith("application/json")
        assert response.json() == expected

    return check


def error(*parts: str) -> Check:
    """Check for an error in JSON whose message has these parts, in this order."""

    def check(response: httpx.Response) -> None:
        assert response.headers["content-type"].startswith("application/json")
        body = response.json()
        assert list(body) == ["error"]
        assert re.search(".*".join(map(re.escape, parts)), body["error"], re.DOTALL), body["error"]

    return check


def probabilities(key: str, num_rows: int) -> Check:
    """Check for rows of two probabilities under `predictions` or `outputs`; all rows are of one image, so they agree."""

    def check(response: httpx.Response) -> None:
        body = response.json()
        assert list(body) == [key]
        rows = np.asarray(body[key])
        assert rows.shape == (num_rows, 2)
        assert rows.sum(axis=1) == pytest.approx(np.ones(num_rows), abs=1e-5)
        assert np.ptp(rows, axis=0).max() < 1e-4

    return check


def tokens_are(*expected: str) -> Check:
    """Check for these numbers as they are spelled, in an array of `predictions`."""

    def check(response: httpx.Response) -> None:
        assert _tokens(response.text) == list(expected)

    return check


def shortest_float32(values: Sequence[float]) -> Check:
    """Check that each number reads back as the same float32, with as few digits as that takes."""

    def check(response: httpx.Response) -> None:
        tokens, numbers = _tokens(response.text), np.asarray(values, np.float32)
        assert np.array_equal(np.asarray([float(token) for token in tokens], np.float32), numbers)
        fewest = [_digits(np.format_float_scientific(number, unique=True)) for number in numbers]
        assert [_digits(token) for token in tokens] == fewest

    return check


def html_not_found(response: httpx.Response) -> None:
    """Check for a page in HTML that says that there is nothing."""
    assert response.headers["content-type"].startswith("text/html")
    assert "<TITLE>404 Not Found</TITLE>" in response.text


def empty(response: httpx.Response) -> None:
    """Check for no body."""
    assert response.content == b""


def described_as(name: str, version: str, inputs: dict[str, Any], outputs: dict[str, Any]) -> Check:
    """Check the metadata of a model: its name, version and the tensors of `serving_default`."""

    def check(response: httpx.Response) -> None:
        body = response.json()
        assert body["model_spec"] == {"name": name, "signature_name": "", "version": version}
        signature = body["metadata"]["signature_def"]["signature_def"]["serving_default"]
        assert signature["method_name"] == "tensorflow/serving/predict"
        for found, expected in ((signature["inputs"], inputs), (signature["outputs"], outputs)):
            assert {key: value["dtype"] for key, value in found.items()} == {
                key: value["dtype"] for key, value in expected.items()
            }
            assert {key: value["tensor_shape"] for key, value in found.items()} == {
                key: value["tensor_shape"] for key, value in expected.items()
            }
            assert all(value["name"] for value in found.values())

    return check


def tensor(dtype: str, *sizes: int) -> dict[str, Any]:
    """Return how metadata describe a tensor; -1 stands for an unknown size."""
    dimensions = [{"size": str(size), "name": ""} for size in sizes]
    return {"dtype": dtype, "tensor_shape": {"dim": dimensions, "unknown_rank": False}}


def _tokens(text: str) -> list[str]:
    array = re.search(r'"predictions":\s*\[(.*)\]', text, re.DOTALL)
    assert array is not None, text
    assert isinstance(json.loads(text), dict)
    return [token.strip() for token in array[1].split(",")]


def _digits(number: str) -> int:
    mantissa = re.split("[eE]", number)[0]
    return len(mantissa.replace("-", "").replace(".", "").strip("0"))
