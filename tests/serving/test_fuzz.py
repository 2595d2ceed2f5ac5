"""Requests that nobody would write, sent to a running server: none is answered with 500, and the server lives on."""

from __future__ import annotations

import errno
import gzip
import json
import socket
import string
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inference.conformance.cases import TEXT, G, columns, named, rows
from inference.conformance.fixtures import shared_models
from inference.conformance.server import Server, running_server
from projects import shared_folder

MODELS = ("school", "floats", "two", "bytes", "pixels")
VALID = {
    "school": (rows(named()), rows(G, G), columns({"image_bytes": [G]}), rows(named(), signature_name="explain")),
    "floats": (rows(0.5, 1.0), columns([1.5])),
    "two": (rows({"x": 1.0}), columns({"x": [1.0]})),
    "bytes": (rows("text", {"b64": "AP8="}),),
    "pixels": (rows([[0, 1], [2, 255]]), columns([[[0, 1], [2, 3]]])),
}
KEYS = st.sampled_from(
    [
        "instances",
        "inputs",
        "signature_name",
        "image_bytes",
        "x",
        "pixels",
        "text",
        "b64",
        "context",
        "examples",
        "",
        "ñ",
    ]
) | st.text(max_size=5)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([2**63, -(2**63) - 1, 2**64, 10**400, 16777217, -1, 256])
    | st.floats()
    | st.sampled_from([G, {"b64": ""}, {"b64": "AA"}, {"b64": "A"}, {"b64": None}, {"b64": TEXT, "more": 1}])
    | st.text(max_size=20)
    | st.sampled_from(["\0", "\ud800", "\U0010ffff", "\u202e", TEXT, "serving_default"])
)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
)
# JSON that Python does not write by itself: numbers out of range, more than one value, wrong escapes
FRAGMENTS = st.sampled_from(
    [
        *rb'1e999999 -1e-999999 1e-400 -0 -0.0 0x10 01 1. .5 - +1 nan -NaN tru "\u12" "\ud800" [1,] {,} /*c*/1 {}{}'.split(),
        *(b'"\xff"', b"'a'", b"\xef\xbb\xbf{}", b"\0", b'{"a":1,"a":2}', b"1" * 10_000, b"1" * 400 + b".5"),
    ]
)
DEEP = st.builds(
    lambda opening, depth, closed: opening * depth + closed * (b"]" if opening == b"[" else b"}") * depth,
    st.sampled_from([b"[", b'{"a":', b'{"instances":', b'{"b64":']),
    st.sampled_from([10, 100, 1000, 5000, 100_000]),
    st.booleans(),
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    models = shared_models(shared_folder(tmp_path_factory.getbasetemp()) / "conformance")
    with running_server(models, tmp_path_factory.mktemp("server")) as running:
        yield running
        assert "Traceback" not in running.log.read_text()


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as opened:
        yield opened


@st.composite
def mutated(draw: st.DrawFn) -> tuple[str, bytes]:
    """Draw a model and a valid request for it with some bytes replaced, removed, doubled or inserted."""
    model = draw(st.sampled_from(MODELS))
    body = bytearray(draw(st.sampled_from(VALID[model])))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(body)))
        end = draw(st.integers(start, min(len(body), start + 30)))
        piece = draw(st.just(b"") | st.just(bytes(body[start:end]) * 2) | st.binary(max_size=5) | FRAGMENTS)
        body[start:end] = piece
    return model, bytes(body)


@st.composite
def shaped(draw: st.DrawFn) -> tuple[str, bytes]:
    """Draw a model and a request that has the outline of a valid one, with anything in it."""
    model, value = draw(st.sampled_from(MODELS)), draw(VALUES)
    key = draw(st.sampled_from(["instances", "inputs", "examples"]) | KEYS)
    whole = draw(st.sampled_from([{key: value}, {key: [value]}, {key: [value, value]}, {key: {"x": value}}, value]))
    if isinstance(whole, dict) and draw(st.booleans()):
        whole = whole | {"signature_name": draw(st.sampled_from(["explain", "images", "serving_default", 1, None, ""]))}
    return model, json.dumps(whole).encode("utf-8", "surrogatepass")


def check_answer(response: httpx.Response) -> None:
    """Check that a request was answered, and if it was refused, with a message."""
    assert response.status_code in (200, 400, 413), (response.status_code, response.text)
    if response.status_code != httpx.codes.OK:
        assert list(response.json()) == ["error"] and response.json()["error"]


def check_alive(client: httpx.Client) -> None:
    response = client.post("/v1/models/school:predict", content=rows(named()))
    assert response.status_code == httpx.codes.OK and len(response.json()["predictions"]) == 1


@settings(max_examples=80)
@given(request=mutated() | shaped())
def test_a_body_near_a_valid_one_is_answered_and_the_server_lives_on(
    client: httpx.Client, request: tuple[str, bytes]
) -> None:
    model, body = request
    check_answer(client.post(f"/v1/models/{model}:predict", content=body))
    check_alive(client)


@settings(max_examples=50)
@given(model=st.sampled_from(MODELS), body=st.binary(max_size=300) | FRAGMENTS | DEEP)
def test_a_body_that_is_no_request_is_answered_and_the_server_lives_on(
    client: httpx.Client, model: str, body: bytes
) -> None:
    check_answer(client.post(f"/v1/models/{model}:predict", content=body))
    check_answer(client.post(f"/v1/models/{model}:predict", content=b'{"instances": [' + body))
    check_alive(client)


@settings(max_examples=50)
@given(
    body=st.sampled_from(VALID["school"]).map(gzip.compress) | st.binary(max_size=100),
    cut=st.integers(0, 60),
    encoding=st.sampled_from(["gzip", "GZIP", "deflate", "br", "identity", "gzip, gzip", ""]),
    content_type=st.sampled_from(["application/json", "image/jpeg", "multipart/form-data", "a/b; charset=x", ""]),
)
def test_a_compressed_or_mislabelled_body_is_answered_and_the_server_lives_on(
    client: httpx.Client, body: bytes, cut: int, encoding: str, content_type: str
) -> None:
    headers = {"Content-Encoding": encoding, "Content-Type": content_type}
    response = client.post("/v1/models/school:predict", content=body[: len(body) - cut], headers=headers)
    check_answer(response)
    check_alive(client)


WORDS = st.sampled_from(
    [
        *[
            "v1",
            "models",
            "school",
            "school:predict",
            "school:classify",
            "school:regress",
            "versions",
            "labels",
            "metadata",
            "1",
            "001",
            "-1",
        ],
        *[
            "1:predict",
            "champion",
            "champion:predict",
            ".",
            "..",
            "%00",
            "%2e%2e",
            "%zz",
            "school%3Apredict",
            ":",
            "::predict",
        ],
        *["%f0%9f%9b%b0", "*", "school?x=1", "school#x", "monitoring"],
        *("", "9" * 30, "a" * 3000),
    ]
)
PATHS = st.lists(WORDS | st.text(string.printable.strip(), max_size=6), max_size=7).map("/".join)
METHODS = st.sampled_from(["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "get", "X" * 300])


@settings(max_examples=80)
@given(method=METHODS, path=PATHS, body=st.sampled_from([b"", rows(named()), b"\xff"]))
def test_any_method_and_path_is_answered_and_the_server_lives_on(
    server: Server, client: httpx.Client, method: str, path: str, body: bytes
) -> None:
    head = f"{method} /{path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    status, text = exchanged(server.port, head.encode() + body)
    assert 200 <= status < 500, (status, text)
    check_alive(client)


HEADS = st.sampled_from(
    [
        *(b"POST /v1/models/school:predict HTTP/1.1", b"GET / HTTP/9.9", b"Host: x", b"a: \xff", b": :"),
        *(b"Content-Length: -1", b"Content-Length: 9" * 9, b"Content-Length: 3", b"Expect: 100-continue"),
        *(b"Transfer-Encoding: chunked", b"Transfer-Encoding: x", b"Upgrade: websocket", b"Connection: upgrade"),
        b"X: LONG",  # 70,000 bytes in the request; Hypothesis would warn of so long an example
    ]
)


@settings(max_examples=50)
@given(
    head=st.lists(HEADS, max_size=5),
    body=st.binary(max_size=40),
)
def test_bytes_that_are_no_http_are_refused_or_cut_and_the_server_lives_on(
    server: Server, client: httpx.Client, head: list[bytes], body: bytes
) -> None:
    lines = b"\r\n".join(head).replace(b"LONG", b"y" * 70_000)
    status, text = exchanged(server.port, lines + b"\r\n\r\n" + body)
    assert status < 500, (status, text)
    check_alive(client)


CLOSED_BY_SERVER = (errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN)


def exchanged(port: int, request: bytes) -> tuple[int, str]:
    """Send bytes on a new connection, end the sending side, and return status and text of the answer; 0 for none.

    A server may close the connection before it has read everything, which any of the three calls may be told.
    """
    answer: Any = bytearray()
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        try:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(65_536):
                answer += part
        except OSError as error:
            if error.errno not in CLOSED_BY_SERVER:
                raise
    text = answer.decode("latin-1")
    return (int(text.split()[1]) if text.startswith("HTTP/1.1 ") else 0), text
