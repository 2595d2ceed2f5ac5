"""Tests of requests to a real server that wait: what they hold, and what happens if their client leaves or the server stops."""

from __future__ import annotations

import asyncio
import gc
import gzip
import json
import logging
import threading
import tracemalloc
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from satx.serving import rest
from satx.serving.batcher import Batcher, Limits
from satx.serving.contract import Servable
from satx.serving.json_request import parse_json
from satx.serving.settings import RestSettings
from serving.fake_models import FakeModels
from serving.rest_server import ANSWER, BODY, GOOD, PREDICT, Running, drive, reset, running


def test_a_client_that_leaves_while_it_waits_cancels_no_other_request() -> None:
    async def test(server: Running) -> None:
        server.models.gate.clear()
        stays = asyncio.create_task(server.answer(GOOD))
        _, writer = await server.open()
        writer.write(GOOD)
        while len(server.models.calls) < 2:
            await asyncio.sleep(0.01)
        reset(writer)
        await asyncio.sleep(0.05)
        server.models.gate.set()
        assert await stays == (200, ANSWER)
        await server.settled(2)
        assert sorted(server.statuses) == [200, 499]

    drive(test)


class BatchedModels(FakeModels):
    """Models with a real queue, whose thread waits for the event `may_compute`.

    Attributes:
        computed: The rows of each batch.
    """

    def __init__(self) -> None:
        super().__init__()
        self.may_compute = threading.Event()
        self.computed: list[int] = []
        self.batcher = Batcher(self._compute, Limits())

    async def predict(
        self, servable: Servable, signature_name: str, inputs: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        rows = len(inputs["image_bytes"])
        self.calls.append((signature_name, rows))
        return await self.batcher.run(signature_name, inputs, rows=rows, shares_batches=True)

    def _compute(self, signature_name: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        rows = len(inputs["image_bytes"])
        self.computed.append(rows)
        self.may_compute.wait()
        return {"probabilities": np.tile(np.float32([0.25, 0.75]), (rows, 1))}


def test_rows_of_clients_that_have_gone_are_not_computed() -> None:
    models = BatchedModels()

    async def test(server: Running) -> None:
        stays = asyncio.create_task(server.answer(GOOD))
        while not models.computed:
            await asyncio.sleep(0.01)
        writers = []
        for number in range(5):
            _, writer = await server.open()
            writer.write(GOOD)
            writers.append(writer)
            while len(models.calls) < 2 + number:
                await asyncio.sleep(0.01)
        for writer in writers:
            reset(writer)
        while len(server.server.server_state.connections) > 1:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        models.may_compute.set()
        assert await stays == (200, ANSWER)
        await server.settled(6)
        assert models.computed == [1]
        assert server.statuses == [499] * 5 + [200]

    drive(test, models=models)
    models.batcher.close()


def test_a_request_that_the_server_no_longer_waits_for_is_answered_and_logged_with_503(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)

    async def run() -> None:
        async with running(RestSettings()) as server:
            server.models.gate.clear()
            answer = asyncio.create_task(server.answer(GOOD))
            while not server.models.calls:
                await asyncio.sleep(0.01)
            server.server.should_exit = True
            status, body = await answer
            assert (status, json.loads(body)["error"]) == (
                503,
                "The server stopped before the request was answered. Try again later.",
            )
            await server.settled(1)
            assert server.statuses == [503]

    asyncio.run(run())
    (line,) = (record.getMessage() for record in caplog.records if record.name == "satx.serving.access")
    assert json.loads(line)["status"] == 503
    assert "Traceback" not in caplog.text


LARGE = BODY + b" " * rest.LOOP_BYTES  # text after the request is ignored
LARGE_GOOD = PREDICT + b"Content-Length: %d\r\n\r\n%s" % (len(LARGE), LARGE)
SMALL_GZIP = gzip.compress(LARGE)
GZIP_GOOD = PREDICT + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%s" % (len(SMALL_GZIP), SMALL_GZIP)


@pytest.mark.parametrize("large", [LARGE_GOOD, GZIP_GOOD])
def test_large_bodies_are_read_one_at_a_time_while_small_requests_are_answered(
    monkeypatch: pytest.MonkeyPatch, large: bytes
) -> None:
    may_read = threading.Event()
    reading: list[bool] = []
    all_reading: list[int] = []

    def slow_parse(content: bytes) -> dict[str, Any]:
        if len(content) > rest.LOOP_BYTES:
            reading.append(True)
            all_reading.append(len(reading))
            may_read.wait(5)  # a server that reads in its event loop goes on after a while, and fails
            reading.pop()
        return parse_json(content)

    async def test(server: Running) -> None:
        answers = [asyncio.create_task(server.answer(large)) for _ in range(3)]
        while not all_reading:
            await asyncio.sleep(0.01)
        assert await server.answer(GOOD) == (200, ANSWER)
        assert not may_read.is_set() and reading and not any(answer.done() for answer in answers)
        may_read.set()
        assert await asyncio.gather(*answers) == [(200, ANSWER)] * 3
        assert all_reading == [1, 1, 1]

    monkeypatch.setattr(rest, "parse_json", slow_parse)
    drive(test)


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
def test_of_a_body_only_its_tensors_stay_in_memory_while_they_are_computed(encoding: str) -> None:
    body = BODY + b" " * 20_000_000
    body = gzip.compress(body, compresslevel=1) if encoding == "gzip" else body
    head = PREDICT + b"Content-Encoding: %s\r\nContent-Length: %d\r\n\r\n" % (encoding.encode(), len(body))

    async def test(server: Running) -> None:
        server.models.gate.clear()
        gc.collect()
        tracemalloc.start()
        answer = asyncio.create_task(server.answer(head, body))
        while not server.models.calls:
            await asyncio.sleep(0.01)
        held = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert held < 5_000_000
        server.models.gate.set()
        assert await answer == (200, ANSWER)

    drive(test)
