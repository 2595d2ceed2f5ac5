"""Clients that break off, dawdle or send bombs to a running server: each gets a 4xx or is cut off, and others are answered."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

import httpx
import pytest
from inference.conformance.cases import GOOD, b64, named, rows
from inference.conformance.fixtures import shared_models
from inference.conformance.server import FEW_WAITING_ROWS, SHORT_DEADLINE_SECONDS, Server, impatient_server
from projects import shared_folder

PREDICT = "/v1/models/school:predict"
PATIENCE_SECONDS = 120.0  # after which a server does not do what it should; far longer than its own limits
MEMORY_MB = 400  # more than the largest body and its inflated form, far less than what the bombs would take


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    models = shared_models(shared_folder(tmp_path_factory.getbasetemp()) / "conformance")
    with impatient_server(models, tmp_path_factory.mktemp("server")) as running:
        yield running
        assert "Traceback" not in running.log.read_text()


@pytest.fixture(autouse=True)
def _nothing_stays(server: Server) -> Iterator[None]:
    """Check after each test that the server answers, and that no connection of the test is left."""
    yield
    response = httpx.post(server.url + PREDICT, content=rows(named()), timeout=60)
    assert response.status_code == httpx.codes.OK, response.text
    wait_until(lambda: server.num_connections() == 0)


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    ends_at = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < ends_at
        time.sleep(0.05)


def post(
    server: Server, *bodies: bytes, path: str = PREDICT, apart_seconds: float = 0.0, **headers: str
) -> list[httpx.Response]:
    """Post bodies at the same time, each on a connection of its own, and return the responses in their order."""

    async def all_of_them() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=server.url, timeout=60, headers=headers) as client:
            requests = []
            for body in bodies:
                requests.append(asyncio.create_task(client.post(path, content=body)))
                await asyncio.sleep(apart_seconds)
            return await asyncio.gather(*requests)

    return asyncio.run(all_of_them())


def test_of_ten_concurrent_requests_the_one_with_a_bad_image_is_refused_alone(server: Server) -> None:
    for bad in (b"<html>", GOOD[:-200], b"", GOOD[:300] + bytes(100) + GOOD[400:]):
        bodies = [rows(named())] * 10
        bodies[4] = rows(named(b64(bad)))
        responses = post(server, *bodies)
        assert [response.status_code for response in responses] == [200] * 4 + [400] + [200] * 5
        assert all(len(response.json()["predictions"]) == 1 for response in responses if response.status_code == 200)
        assert "mage" in responses[4].json()["error"]


def test_a_wrong_key_is_refused_with_a_message_however_many_send_it(server: Server) -> None:
    for response in post(server, *[rows({"image": {"b64": "AAAA"}})] * 20):
        assert response.status_code == 400 and "does not have named input: image" in response.json()["error"]


def test_a_head_that_arrives_slowly_is_cut_off_with_a_message(server: Server) -> None:
    head = b"POST /v1/models/school:predict HTTP/1.1\r\nHost: x\r\n"
    for response in dripped(server, first=head, drip=b"X-Slow: 1\r\n", num_connections=20):
        assert b" 408 " in response.split(b"\r\n")[0] and b'{"error"' in response


def test_a_body_that_arrives_slowly_is_cut_off_with_a_message(server: Server) -> None:
    head = b"POST /v1/models/school:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n{"
    for response in dripped(server, first=head, drip=b" ", num_connections=20):
        assert b" 408 " in response.split(b"\r\n")[0] and b'{"error"' in response


def test_a_connection_that_says_nothing_is_cut_off(server: Server) -> None:
    for response in dripped(server, first=b"", drip=b"", num_connections=20):
        assert response == b"" or b" 408 " in response.split(b"\r\n")[0]


def dripped(server: Server, *, first: bytes, drip: bytes, num_connections: int) -> list[bytes]:
    """Send a beginning on some connections, then a few bytes at a time; return what each received.

    A connection is done with once it has received an error, or is closed.
    """
    received = [b""] * num_connections
    with ExitStack() as opened:
        connections = {
            number: opened.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=60))
            for number in range(num_connections)
        }
        for connection in connections.values():
            connection.sendall(first)
            connection.settimeout(0.02)
        ends_at = time.monotonic() + PATIENCE_SECONDS
        while connections:
            assert time.monotonic() < ends_at, f"{len(connections)} connections are still open"
            for number, connection in list(connections.items()):
                part = dripped_once(connection, drip)
                received[number] += part or b""
                if part == b"" or received[number].endswith(b"}"):
                    del connections[number]
    return received


def dripped_once(connection: socket.socket, drip: bytes) -> bytes | None:
    """Send a few bytes; return what has arrived, nothing if the connection is closed, None if it is open and silent."""
    with suppress(ConnectionError):  # what arrived before the connection was reset can still be read
        connection.sendall(drip)
    try:
        return connection.recv(65_536)
    except TimeoutError:
        return None
    except ConnectionError:
        return b""


def test_connections_that_are_reset_in_mid_body_leave_nothing_behind(server: Server) -> None:
    before_mb = server.forget_peak()
    for _ in range(60):
        connection = socket.create_connection(("127.0.0.1", server.port), timeout=60)
        connection.sendall(b"POST /v1/models/school:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 30000000\r\n\r\n")
        connection.sendall(bytes(1_000_000))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close sends a reset
        connection.close()
    wait_until(lambda: server.num_connections() == 0)
    assert server.peak_mb() - before_mb < MEMORY_MB


def test_a_client_that_leaves_before_its_answer_does_not_disturb_the_next(server: Server) -> None:
    body = rows(0.2)
    head = f"POST /v1/models/slow:predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    for _ in range(8):
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
            connection.sendall(head + body)
    (response,) = post(server, rows(0.0), path="/v1/models/slow:predict")
    assert response.json() == {"predictions": [0.0]}


def test_a_chunked_body_of_100_mb_is_refused_while_it_arrives(server: Server) -> None:
    before_mb = server.forget_peak()
    chunk = b"%x\r\n" % 1_000_000 + b" " * 1_000_000 + b"\r\n"
    head = b"POST /v1/models/school:predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    status, message = sent_in_parts(server, head, *[chunk] * 100, b"0\r\n\r\n")
    assert status == 413 and "bytes" in message
    assert server.peak_mb() - before_mb < MEMORY_MB


def test_a_body_that_is_announced_too_large_is_refused_before_it_arrives(server: Server) -> None:
    head = b"POST /v1/models/school:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n"
    status, message = sent_in_parts(server, head)
    assert status == 413 and "100,000,000" in message


def sent_in_parts(server: Server, *parts: bytes) -> tuple[int, str]:
    """Send parts for as long as the server takes them; return the status and the error message of the response."""
    received = bytearray()
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        try:
            for part in parts:
                connection.sendall(part)
        except ConnectionError:
            pass  # the response has been sent before the connection was closed
        while b"\r\n\r\n" not in received or not received.rstrip().endswith((b"}", b"0")):
            part = connection.recv(65_536)
            assert part, f"closed after {bytes(received)!r}"
            received += part
    text = received.decode()
    return int(text.split()[1]), json.loads(text[text.index("{") : text.rindex("}") + 1])["error"]


def test_a_compressed_bomb_is_refused_within_bounded_memory(server: Server) -> None:
    bomb = gzip.compress(b'{"instances": [' + b" " * 300_000_000, compresslevel=1)
    before_mb = server.forget_peak()
    for response in post(server, *[bomb] * 4, **{"Content-Encoding": "gzip"}):
        assert response.status_code == 400 and "The document is empty" in response.json()["error"]
    assert server.peak_mb() - before_mb < MEMORY_MB


def test_an_image_of_50_000_by_50_000_pixels_is_refused_within_bounded_memory(server: Server) -> None:
    bomb, before_mb = png_of_zeros(50_000), server.forget_peak()
    for response in post(server, *[rows(named(b64(bomb)))] * 4):
        assert response.status_code == 400 and "50000" in response.json()["error"].replace(",", "")
    assert server.peak_mb() - before_mb < MEMORY_MB


def png_of_zeros(edge_px: int) -> bytes:
    """Return a black PNG of one bit a pixel, which is small as a file."""
    deflate, line = zlib.compressobj(1), bytes(1 + (edge_px + 7) // 8)
    pixels = b"".join([*(deflate.compress(line * 1000) for _ in range(edge_px // 1000)), deflate.flush()])
    header = struct.pack(">IIBBBBB", edge_px, edge_px, 1, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


def test_json_that_would_take_gigabytes_as_objects_is_refused_within_bounded_memory(server: Server) -> None:
    before_mb = server.forget_peak()
    for body in (b'{"instances":[' + b"[]," * 10_000_000 + b"1]}", b'{"instances":[' + b"1," * 15_000_000 + b"1]}"):
        (response,) = post(server, body)
        assert response.status_code == 400 and "JSON" in response.json()["error"]
    assert server.peak_mb() - before_mb < MEMORY_MB


@pytest.mark.parametrize("key", [b"instances", b"inputs"])
@pytest.mark.parametrize(
    ("num_rows", "message"),
    [
        (1_400_000, "Task size 1400000 is larger than maximum input batch size 128"),
        (3_900_000, "at most 1,500,000 values"),
    ],
)
def test_millions_of_rows_in_a_small_body_are_refused_while_other_requests_are_answered(
    server: Server, key: bytes, num_rows: int, message: str
) -> None:
    bomb = gzip.compress(b'{"%s":[' % key + b'"",' * (num_rows - 1) + b'""]}')

    async def both() -> tuple[httpx.Response, httpx.Response]:
        async with httpx.AsyncClient(base_url=server.url, timeout=10) as client:
            refused = asyncio.create_task(client.post(PREDICT, content=bomb, headers={"Content-Encoding": "gzip"}))
            await asyncio.sleep(0.1)
            return await client.get("/v1/models/school"), await refused

    status, refused = asyncio.run(both())
    assert status.status_code == httpx.codes.OK
    assert refused.status_code == 400 and message in refused.json()["error"]


@pytest.fixture
def idle(server: Server) -> None:
    """Wait until the model `slow` computes nothing."""
    wait_until(lambda: post(server, rows(0.0), path="/v1/models/slow:predict")[0].status_code == 200)


@pytest.mark.usefixtures("idle")
def test_a_full_queue_is_answered_with_503_and_when_to_try_again(server: Server) -> None:
    responses = post(server, *[rows(*[0.5] * (FEW_WAITING_ROWS // 4))] * 12, path="/v1/models/slow:predict")
    refused = [response for response in responses if response.status_code == 503]
    assert refused and any(response.status_code == 200 for response in responses)
    for response in refused:
        assert "The batch scheduling queue to which this task was submitted is full" in response.json()["error"]
        assert int(response.headers["Retry-After"]) >= 1


@pytest.mark.usefixtures("idle")
def test_a_request_that_waits_too_long_in_the_queue_is_answered_with_429(server: Server) -> None:
    for _ in range(5):  # if the second arrives before the first has started, they share a batch
        responses = post(server, rows(2.5), rows(2.5), path="/v1/models/slow:predict", apart_seconds=0.3)
        if {response.status_code for response in responses} != {200}:
            break
    assert sorted(response.status_code for response in responses) == [200, 429]
    (refused,) = (response for response in responses if response.status_code == 429)
    assert "Run() timeout exceeded while waiting in batching queue" in refused.json()["error"]


@pytest.mark.usefixtures("idle")
def test_a_request_that_is_computed_beyond_its_deadline_is_answered_with_504(server: Server) -> None:
    (response,) = post(server, rows(SHORT_DEADLINE_SECONDS + 2), path="/v1/models/slow:predict")
    assert response.status_code == 504 and response.json()["error"]
