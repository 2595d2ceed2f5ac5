"""`satx serve` as a process of its own: as a user starts it, or with limits so short that a test can wait for them."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx
import psutil
from projects import ROOT, command, environment

SHORT_HEAD_SECONDS = 2.0
SHORT_BODY_SECONDS = 2.0
SHORT_QUEUE_SECONDS = 1.0
SHORT_DEADLINE_SECONDS = 4.0
FEW_WAITING_ROWS = 16


@dataclass(frozen=True)
class Server:
    """A server that answers.

    Attributes:
        url: Its base URL.
        port: Its port on 127.0.0.1.
        pid: Id of its process.
        log: What it has printed.
    """

    url: str
    port: int
    pid: int
    log: Path

    def forget_peak(self) -> float:
        """Start to measure the peak of its resident size anew, and return the present size in MB."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")
        return self._status_mb("VmRSS")

    def peak_mb(self) -> float:
        """Return the largest resident size since `forget_peak`, in MB."""
        return self._status_mb("VmHWM")

    def num_connections(self) -> int:
        """Return the number of open connections of clients."""
        connections = psutil.Process(self.pid).net_connections("tcp4")
        return sum(1 for one in connections if one.status != psutil.CONN_LISTEN and one.laddr.port == self.port)

    def _status_mb(self, name: str) -> float:
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        (line,) = (line for line in lines if line.startswith(f"{name}:"))
        return int(line.split()[1]) / 1000


@contextmanager
def running_server(config: Path, folder: Path) -> Iterator[Server]:
    """Run `satx serve --models-config CONFIG` until the block ends.

    Args:
        config: The `models.config`.
        folder: Folder for the log and an empty `SATX_HOME`.
    """
    port = free_port()
    with _running(command("serve", "--models-config", str(config), "--port", str(port)), port, folder) as server:
        yield server


@contextmanager
def impatient_server(config: Path, folder: Path) -> Iterator[Server]:
    """Run the same server with a short queue and short times until the block ends."""
    port = free_port()
    arguments = [sys.executable, "-P", "-m", "inference.conformance.server", str(config), str(port)]
    with _running(arguments, port, folder) as server:
        yield server


def serve_impatiently() -> None:
    """Serve the `models.config` of the first argument on the port of the second, until SIGTERM."""
    from satx.inference.serving_files import read_models_config
    from satx.serving import http_protocol
    from satx.serving import server as serving
    from satx.serving.batcher import Limits
    from satx.serving.settings import RestSettings

    http_protocol.HEAD_SECONDS = SHORT_HEAD_SECONDS
    limits = Limits(
        waiting_rows=FEW_WAITING_ROWS, queue_seconds=SHORT_QUEUE_SECONDS, deadline_seconds=SHORT_DEADLINE_SECONDS
    )
    read = partial(read_models_config, Path(sys.argv[1]))
    address = serving.Address(port=int(sys.argv[2]))
    served = serving.serve(
        read,
        address,
        follows=False,
        report=lambda _line: None,
        on_ready=lambda _serving: None,
        limits=limits,
        settings=RestSettings(body_seconds=SHORT_BODY_SECONDS),
    )
    asyncio.run(served)


@contextmanager
def _running(arguments: list[str], port: int, folder: Path) -> Iterator[Server]:
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "serve.log"
    surroundings = environment(folder / "home", PYTHONUNBUFFERED="1", PYTHONPATH=f"{ROOT}:{ROOT / 'tests'}")
    with log.open("w") as stream:
        process = subprocess.Popen(arguments, cwd=folder, env=surroundings, stdout=stream, stderr=stream)
    server = Server(f"http://127.0.0.1:{port}", port, process.pid, log)
    try:
        _wait_until_it_answers(server, process)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(60)
        finally:
            process.kill()


def free_port() -> int:
    """Return a port of 127.0.0.1 that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_it_answers(server: Server, process: subprocess.Popen[bytes]) -> None:
    ends_at = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < ends_at:
        try:
            if httpx.get(f"{server.url}/v1/models/school", timeout=10).status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise AssertionError(f"satx serve did not answer at {server.url}. Its log: {server.log.read_text()[-2000:]}")


if __name__ == "__main__":
    serve_impatiently()
