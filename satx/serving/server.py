"""Run the servers: bind, load, answer and follow until a stop signal, then finish what has begun."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn

from satx.errors import ConfigError, Interrupted, WeightsError
from satx.serving.batcher import Limits
from satx.serving.following import Read, follow
from satx.serving.http_protocol import BoundedProtocol
from satx.serving.metrics import Metrics
from satx.serving.models import ServedModels
from satx.serving.request_body import Memory
from satx.serving.rest import create_app
from satx.serving.settings import RestSettings

KEEP_ALIVE_SECONDS = 5  # short: a connection that the client has reset keeps its last request in memory for as long
MAX_CONNECTIONS = 1000  # more get 503
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Stop = Callable[[float | None], Coroutine[Any, Any, None]]  # within so many seconds; None for at once


@dataclass(frozen=True)
class Address:
    """Where to listen.

    Attributes:
        host: Name or address of an interface.
        port: Port of the REST interface; 0 for any free one.
        grpc_port: Port of the gRPC interface; 0 for any free one, None for no gRPC.
    """

    host: str = "127.0.0.1"
    port: int = 8501
    grpc_port: int | None = None


@dataclass(frozen=True)
class Serving:
    """A server that answers.

    Attributes:
        address: Where it listens, with the ports that it got.
        versions: The versions that answer, by model; the first is the one that requests without a version get.
    """

    address: Address
    versions: dict[str, list[int]] = field(default_factory=dict)


class _Server(uvicorn.Server):
    """A server whose stop signals are handled by `serve`."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Change no handler."""
        yield


async def serve(
    read: Read,
    address: Address,
    *,
    follows: bool,
    report: Callable[[str], None],
    on_ready: Callable[[Serving], None],
    limits: Limits | None = None,
    settings: RestSettings | None = None,
) -> None:
    """Serve models until SIGINT, SIGTERM or SIGHUP; then refuse new connections, answer the running requests and return.

    Args:
        read: Returns what to serve.
        address: Where to listen.
        follows: Whether to read it every second, and to load and unload what changes.
        report: Receives lines for the user.
        on_ready: Called once requests are answered.
        limits: When to refuse a request.
        settings: What a client may send.

    Raises:
        ConfigError: A port cannot be bound, or there is nothing to serve.
        WeightsError: No version could be loaded.
        Interrupted: A second stop signal; the running requests were not waited for.
    """
    limits, settings = limits or Limits(), settings or RestSettings()
    metrics = Metrics()
    memory = Memory(settings.max_held_bytes)
    models = ServedModels(limits, metrics, report=report)
    with contextlib.closing(_bound(address.host, address.port)) as listening, contextlib.closing(models):
        await models.update(await asyncio.to_thread(read))
        if models.is_empty():
            raise WeightsError(" ".join(models.problems()) or "Expected at least one model to serve, got none.")
        app = create_app(
            models, observe=metrics.observe, metrics_page=models.metrics_page, settings=settings, memory=memory
        )
        server = _Server(_uvicorn_config(app, limits))
        async with contextlib.AsyncExitStack() as stack:
            stop_grpc, grpc_port = await _start_grpc(models, address, metrics, memory)
            if follows:
                following = asyncio.create_task(follow(read, models, report=report))
                stack.callback(following.cancel)
            grace_seconds = limits.deadline_seconds
            stack.enter_context(_stopping(server, stop_grpc, grace_seconds, report))
            stack.push_async_callback(lambda: stop_grpc(None if server.force_exit else grace_seconds))
            ready = Address(address.host, listening.getsockname()[1], grpc_port)
            answering = asyncio.create_task(server.serve([listening]))
            while not server.started and not answering.done():
                await asyncio.sleep(0.01)
            if server.started:
                on_ready(Serving(ready, models.available()))
            await answering
        if server.force_exit:
            raise Interrupted("Stopped. Requests that were running have no answer.")


def _uvicorn_config(app: object, limits: Limits) -> uvicorn.Config:
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        http=BoundedProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=int(limits.deadline_seconds),
    )


def _bound(host: str, port: int) -> socket.socket:
    """Bind before anything is loaded, so that a busy port is known at once."""
    try:
        family, kind, protocol, _, name = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with contextlib.ExitStack() as on_error:
            bound = on_error.enter_context(socket.socket(family, kind, protocol))
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(name)
            on_error.pop_all()
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"Expected a free port on {host}, got {port}: {error}. Stop the program that uses it, or choose another --port."
        ) from error
    return bound


async def _start_grpc(
    models: ServedModels, address: Address, metrics: Metrics, memory: Memory
) -> tuple[Stop, int | None]:
    """Start gRPC if there is a port for it; return how to stop it, and its port."""
    if address.grpc_port is None:
        return _nothing_to_stop, None
    from satx.serving.grpc_server import start_grpc  # imports TensorFlow's protobufs

    host = f"[{address.host}]" if ":" in address.host else address.host
    try:
        server, port = await start_grpc(models, f"{host}:{address.grpc_port}", observe=metrics.observe, memory=memory)
    except RuntimeError as error:
        raise ConfigError(
            f"Expected a free port on {address.host} for gRPC, got {address.grpc_port}: {error}. Choose another --grpc-port."
        ) from error
    return server.stop, port


async def _nothing_to_stop(_grace_seconds: float | None) -> None:
    """Stop no gRPC server."""


@contextmanager
def _stopping(
    server: uvicorn.Server, stop_grpc: Stop, grace_seconds: float, report: Callable[[str], None]
) -> Iterator[None]:
    """Stop both servers with the first stop signal, and at once with the second.

    A signal that is ignored stays ignored: `nohup satx serve` survives its terminal.
    """
    stops = []

    def stop() -> None:
        if server.should_exit:
            server.force_exit = True
        else:
            report("Stopping: waiting for the running requests …")
        server.should_exit = True
        stops.append(loop.create_task(stop_grpc(None if server.force_exit else grace_seconds)))

    loop = asyncio.get_running_loop()
    numbers = [number for number in STOP_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    for number in numbers:
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
