"""A server of the REST interface over models in memory, for tests over sockets."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import uvicorn

from satx.serving import http_protocol
from satx.serving.request_body import Memory
from satx.serving.rest import create_app
from satx.serving.settings import RestSettings
from serving.fake_models import TILE, FakeModels

BODY = json.dumps({"instances": [{"b64": base64.b64encode(TILE).decode()}]}).encode()
ANSWER = b'{"predictions": [[0.25, 0.75]]}'
PREDICT = b"POST /v1/models/school:predict HTTP/1.1\r\nHost: satx\r\n"
GOOD = PREDICT + b"Content-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
CHUNKED = PREDICT + b"Transfer-Encoding: chunked\r\n\r\n"


@dataclass
class Running:
    """A server, and the models and memory behind it."""

    port: int
    models: FakeModels
    memory: Memory
    statuses: list[int]
    server: uvicorn.Server

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def answer(self, *parts: bytes) -> tuple[int, bytes]:
        """Send the parts of a request on a connection of its own, and return status and body of the response."""
        reader, writer = await self.open()
        try:
            for part in parts:
                writer.write(part)
                await writer.drain()
            return await read_response(reader)
        finally:
            writer.close()

    async def settled(self, num_requests: int) -> None:
        """Wait until as many requests have ended, and see that nothing of them is left."""
        while len(self.statuses) < num_requests or self.server.server_state.tasks:
            await asyncio.sleep(0.01)
        assert self.memory.held_bytes == 0


async def read_response(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
    )
    return int(head.split()[1]), await reader.readexactly(length)


@asynccontextmanager
async def running(settings: RestSettings, models: FakeModels | None = None) -> AsyncIterator[Running]:
    models = models or FakeModels()
    statuses: list[int] = []
    app = create_app(models, observe=lambda model, status, seconds: statuses.append(status), settings=settings)
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        ws="none",
        http=http_protocol.BoundedProtocol,
        timeout_keep_alive=1_000,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(server._serve([listener]))
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield Running(listener.getsockname()[1], models, app.router.default.memory, statuses, server)
    finally:
        server.should_exit = True
        await task
        listener.close()


def drive(
    test: Callable[[Running], Awaitable[Any]],
    settings: RestSettings | None = None,
    *,
    models: FakeModels | None = None,
    head_seconds: float = 10.0,
) -> None:
    async def run() -> None:
        async with running(settings or RestSettings(), models) as server:
            await test(server)
            assert await server.answer(GOOD) == (200, ANSWER)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(http_protocol, "HEAD_SECONDS", head_seconds)
        asyncio.run(run())


def reset(writer: asyncio.StreamWriter) -> None:
    """Close a connection with an RST."""
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
