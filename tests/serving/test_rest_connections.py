"""Tests of the REST interface over sockets: large, slow, broken and malicious requests to a real server."""

from __future__ import annotations

import asyncio
import gc
import gzip
import json
import tracemalloc

import pytest

from satx.serving import request_body
from satx.serving.settings import RestSettings
from serving.rest_server import ANSWER, BODY, CHUNKED, GOOD, PREDICT, Running, drive, read_response, reset

SMALL = RestSettings(max_body_bytes=1_000, body_seconds=0.2, min_bytes_per_second=1_000_000)


async def drip(writer: asyncio.StreamWriter, piece: bytes) -> None:
    while True:
        writer.write(piece)
        await asyncio.sleep(0.01)


def test_a_body_arrives_whole_in_chunks_or_parts_and_connections_are_kept() -> None:
    async def test(server: Running) -> None:
        chunks = [b"%x\r\n%s\r\n" % (len(part), part) for part in (BODY[:10], BODY[10:])]
        assert await server.answer(CHUNKED, *chunks, b"0\r\n\r\n") == (200, ANSWER)
        reader, writer = await server.open()
        for _ in range(3):
            writer.write(GOOD)
            assert await read_response(reader) == (200, ANSWER)
        writer.close()
        await server.settled(4)

    drive(test)


def test_a_body_that_is_declared_too_large_is_refused_without_being_read() -> None:
    async def test(server: Running) -> None:
        status, body = await server.answer(PREDICT + b"Content-Length: 1001\r\nExpect: 100-continue\r\n\r\n")
        assert status == 413
        assert json.loads(body)["error"] == (
            "Expected a body of at most 1,000 bytes, got 1,001. Send fewer rows a request."
        )

    drive(test, SMALL)


def test_a_chunked_body_is_refused_as_soon_as_it_is_too_large_and_the_client_reads_why() -> None:
    async def test(server: Running) -> None:
        chunk = b"%x\r\n%s\r\n" % (2**16, b"x" * 2**16)
        tracemalloc.start()
        status, body = await server.answer(CHUNKED, *[chunk] * 1_600, b"0\r\n\r\n")  # 100 MB
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert status == 413
        assert "at most 1,000,000 bytes, got more" in json.loads(body)["error"]
        assert peak < 10_000_000
        await server.settled(1)

    drive(test, RestSettings(max_body_bytes=1_000_000))


def test_a_connection_is_closed_after_a_refusal_in_mid_body(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(server: Running) -> None:
        reader, writer = await server.open()
        writer.write(PREDICT + b"Content-Length: 1001\r\n\r\n")
        assert (await read_response(reader))[0] == 413
        assert await reader.read() == b""
        writer.close()
        await server.settled(1)

    monkeypatch.setattr(request_body, "LINGER_IDLE_SECONDS", 0.1)
    drive(test, SMALL)


@pytest.mark.parametrize("sent", [b"", b"{"])
def test_a_body_that_does_not_arrive_in_time_is_refused(sent: bytes) -> None:
    async def test(server: Running) -> None:
        status, body = await server.answer(PREDICT + b"Content-Length: 500\r\n\r\n" + sent)
        assert status == 408
        assert f"got {len(sent)} bytes. Send it faster." in json.loads(body)["error"]
        await server.settled(1)

    drive(test, SMALL)


def test_a_body_that_drips_is_refused_however_short_its_pauses_are() -> None:
    async def test(server: Running) -> None:
        reader, writer = await server.open()
        writer.write(CHUNKED)
        dripping = asyncio.create_task(drip(writer, b"1\r\n \r\n"))
        status, _ = await read_response(reader)
        assert status == 408
        dripping.cancel()
        writer.close()

    drive(test, SMALL)


@pytest.mark.parametrize("before", [b"", GOOD])
def test_a_head_that_drips_is_refused(before: bytes) -> None:
    async def test(server: Running) -> None:
        reader, writer = await server.open()
        if before:
            writer.write(before)
            assert (await read_response(reader))[0] == 200
        writer.write(PREDICT)
        dripping = asyncio.create_task(drip(writer, b"X: x\r\n"))
        status, body = await read_response(reader)
        assert status == 408
        assert b"head of a request" in body
        dripping.cancel()
        writer.close()

    drive(test, head_seconds=0.2)


def test_a_connection_that_sends_nothing_is_closed() -> None:
    async def test(server: Running) -> None:
        reader, writer = await server.open()
        assert b"408" in await reader.read()
        writer.close()

    drive(test, head_seconds=0.1)


def test_a_slow_prediction_is_not_cut_by_the_limit_on_heads() -> None:
    async def test(server: Running) -> None:
        server.models.gate.clear()
        answer = asyncio.create_task(server.answer(GOOD))
        await asyncio.sleep(0.3)
        server.models.gate.set()
        assert await answer == (200, ANSWER)

    drive(test, head_seconds=0.1)


def test_a_client_that_resets_in_mid_body_leaves_nothing_behind() -> None:
    async def test(server: Running) -> None:
        for _ in range(20):
            _, writer = await server.open()
            writer.write(PREDICT + b"Content-Length: 1000000\r\n\r\n" + b"x" * 100_000)
            await writer.drain()
            reset(writer)
        await server.settled(20)
        assert server.statuses == [499] * 20
        assert not server.models.calls

    drive(test)


def test_bodies_of_all_requests_together_are_limited() -> None:
    async def test(server: Running) -> None:
        _, writer = await server.open()
        writer.write(PREDICT + b"Content-Length: 900\r\n\r\n" + b" " * 899)
        while server.memory.held_bytes < 899:
            await asyncio.sleep(0.01)
        reader, second = await server.open()
        second.write(PREDICT + b"Content-Length: 500\r\n\r\n" + b" " * 500)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503")
        assert b"retry-after: 1\r\n" in head
        second.close()
        writer.close()
        await server.settled(2)

    drive(test, RestSettings(max_held_bytes=1_000, body_seconds=5))


def test_a_body_counts_as_held_until_its_request_is_answered() -> None:
    async def test(server: Running) -> None:
        server.models.gate.clear()
        answer = asyncio.create_task(server.answer(GOOD))
        while not server.models.calls:
            await asyncio.sleep(0.01)
        assert server.memory.held_bytes == len(BODY)
        server.models.gate.set()
        assert await answer == (200, ANSWER)
        await server.settled(1)

    drive(test)


def test_a_gzip_bomb_takes_no_more_memory_than_an_inflated_body_may() -> None:
    async def test(server: Running) -> None:
        bomb = gzip.compress(b" " * 200_000_000, compresslevel=1)
        head = PREDICT + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb)
        gc.collect()
        tracemalloc.start()
        status, body = await server.answer(head + bomb)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert (status, json.loads(body)["error"]) == (400, "JSON Parse error: The document is empty")
        assert peak < 45_000_000
        await server.settled(1)

    drive(test, RestSettings(max_inflated_bytes=20_000_000))


def test_of_ten_requests_at_once_one_without_an_image_fails_alone() -> None:
    async def test(server: Running) -> None:
        bad = json.dumps({"instances": [{"b64": "AAAA"}]}).encode()
        requests = [GOOD] * 9 + [PREDICT + b"Content-Length: %d\r\n\r\n%s" % (len(bad), bad)]
        answers = await asyncio.gather(*(server.answer(request) for request in requests))
        assert [status for status, _ in answers] == [200] * 9 + [400]

    drive(test)
