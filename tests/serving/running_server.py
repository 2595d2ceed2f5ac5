"""A server of the test's own process, on free ports, and a client of it."""

import asyncio
import base64
import os
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from satx.inference.serving_files import ServedVersions, write_models_config
from satx.serving import following
from satx.serving.batcher import Limits
from satx.serving.loaded import LoadedExport
from satx.serving.server import Address, Serving, serve
from satx.serving.settings import RestSettings
from serving.small_exports import write_colours, write_numbers


def write_exports(folder: Path) -> Path:
    """Write two versions of a model of numbers, and one of a model of images."""
    for version in (1, 2):
        write_numbers(folder / "numbers", version)
    write_colours(folder / "colours", 7)
    return folder


def write_both(path: Path, exports: Path) -> Path:
    """Write a configuration with both models."""
    numbers = ServedVersions(exports / "numbers", (1,), {"champion": 1})
    write_models_config(path, {"numbers": numbers, "colours": ServedVersions(exports / "colours", (7,), {})})
    return path


class Running:
    """A server of this process, and a client of it."""

    def __init__(self, serving: Serving, task: "asyncio.Task[None]", lines: list[str]) -> None:
        self.serving, self.task, self.lines = serving, task, lines
        self.url = f"http://127.0.0.1:{serving.address.port}"
        self.grpc_address = f"127.0.0.1:{serving.address.grpc_port}"
        self.client = httpx.AsyncClient(base_url=self.url, timeout=120)

    async def predict(self, model: str, *instances: Any) -> Any:
        response = await self.client.post(f"/v1/models/{model}:predict", json={"instances": list(instances)})
        assert response.status_code == 200, response.text
        return response.json()["predictions"]

    async def until(self, text: str) -> None:
        while not any(text in line for line in self.lines):
            assert not self.task.done(), self.lines
            await asyncio.sleep(0.02)


@asynccontextmanager
async def running(
    read: following.Read,
    *,
    limits: Limits | None = None,
    settings: RestSettings | None = None,
    follows: bool = True,
) -> AsyncIterator[Running]:
    """Serve on free ports, and stop with SIGTERM as a service manager does."""
    lines: list[str] = []
    ready: asyncio.Future[Serving] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(
        serve(
            read,
            Address(port=0, grpc_port=0),
            follows=follows,
            report=lines.append,
            on_ready=ready.set_result,
            limits=limits,
            settings=settings,
        )
    )
    await asyncio.wait([task, ready], return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        await task
    server = Running(ready.result(), task, lines)
    async with server.client:
        yield server
    if not task.done():
        os.kill(os.getpid(), signal.SIGTERM)
    await task


def drive(
    read: following.Read,
    test: Callable[[Running], Awaitable[None]],
    *,
    limits: Limits | None = None,
    settings: RestSettings | None = None,
) -> None:
    """Run a test beside a server that looks at its configuration often."""

    async def scenario() -> None:
        async with running(read, limits=limits, settings=settings) as server:
            await test(server)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(following, "POLL_SECONDS", 0.05)
        asyncio.run(scenario())


class Gate:
    """Holds up the batches of servers that are started after it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.computes, self.may_go_on = threading.Event(), threading.Event()
        self.may_go_on.set()
        original = LoadedExport.run

        def run(export: LoadedExport, signature_name: str, inputs: Any) -> Any:
            self.computes.set()
            assert self.may_go_on.wait(60)
            return original(export, signature_name, inputs)

        monkeypatch.setattr(LoadedExport, "run", run)

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Hold up batches until the end, or until `may_go_on` is set."""
        self.computes.clear()
        self.may_go_on.clear()
        try:
            yield
        finally:
            self.may_go_on.set()

    async def reached(self) -> None:
        """Wait until a batch is held up."""
        assert await asyncio.to_thread(self.computes.wait, 60)


def b64(data: bytes) -> dict[str, Any]:
    return {"image_bytes": {"b64": base64.b64encode(data).decode()}}
