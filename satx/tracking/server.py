"""MLflow's own server on loopback, for browsing runs and for several workers to write through."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from satx.errors import ConfigError, TrackerUnavailable
from satx.storage import satx_home, sqlite_uri
from satx.tracking.client import open_tracker

START_SECONDS = 300  # imports take long beside a sweep that uses all processors
STOP_SECONDS = 20


def server_command(port: int) -> list[str]:
    """Return the command of a server over `SATX_HOME/mlflow.db` on 127.0.0.1; one worker, since several are slower."""
    home = satx_home()
    return [
        sys.executable, "-P", "-m", "mlflow", "server",
        "--backend-store-uri", sqlite_uri(home / "mlflow.db"),
        "--default-artifact-root", (home / "mlartifacts").as_uri(),
        "--no-serve-artifacts",  # clients write files directly; the proxy would write for every user of this machine
        "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
    ]  # fmt: skip


def server_environment() -> dict[str, str]:
    """Return the environment of the server: no telemetry, no job runner, no imports from the current folder."""
    quiet = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "PYTHONSAFEPATH": "1",  # for the processes that MLflow starts
    }
    return {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"} | quiet


def refuse_busy_port(port: int) -> None:
    """Raise an error if the port is in use.

    MLflow itself would take seconds to find out, and print a traceback.

    Raises:
        ConfigError: The port is in use.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ConfigError(
                f"Port {port} on 127.0.0.1 is in use: expected a free one. Try `make ui PORT={port + 1}`."
            ) from error


@contextmanager
def running_server(
    port: int,
    log: Path,
    *,
    wait_seconds: float = START_SECONDS,
    on_wait: Callable[[float], None] = lambda seconds: None,
    remedy: str = "Repeat the command when the machine has less to do.",
) -> Iterator[subprocess.Popen[bytes]]:
    """Run the server while the block runs; yield its process once it answers.

    The server has its own session, so Ctrl-C does not reach it directly; this process terminates it at the end of the
    block. If this process dies, `tracking/guard.py` terminates the server.

    Args:
        port: Its port on 127.0.0.1.
        log: The file that its output is appended to.
        wait_seconds: How long to wait for its first answer.
        on_wait: Called several times a second with the seconds waited so far.
        remedy: What to do if it does not answer in time.

    Raises:
        TrackerUnavailable: The server exited, or did not answer in time.
    """
    open_tracker(sqlite_uri(satx_home() / "mlflow.db"))  # creates the tables before processes race to do so
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-P", "-m", "satx.tracking.guard", str(os.getpid()), *server_command(port)]
    with log.open("ab") as stream:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            env=server_environment(),
            cwd=satx_home(),  # uvicorn puts the current folder first on its path, whatever PYTHONSAFEPATH says
            start_new_session=True,
        )
    try:
        _wait_until_healthy(port, process, log, wait_seconds=wait_seconds, on_wait=on_wait, remedy=remedy)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def local_server() -> Iterator[str]:
    """Run a server on a free port while the block runs; yield its URI.

    Raises:
        TrackerUnavailable: The server did not start.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with running_server(port, satx_home() / "logs" / "mlflow-server.log"):
        yield f"http://127.0.0.1:{port}"


def _wait_until_healthy(
    port: int,
    process: subprocess.Popen[bytes],
    log: Path,
    *,
    wait_seconds: float,
    on_wait: Callable[[float], None],
    remedy: str,
) -> None:
    began_at = time.monotonic()
    while (waited := time.monotonic() - began_at) < wait_seconds and process.poll() is None:
        on_wait(waited)
        try:
            if httpx.get(f"http://127.0.0.1:{port}/health", timeout=2).status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    if process.poll() is not None:
        raise TrackerUnavailable(
            f"Expected MLflow's server to answer, but it exited with code {process.returncode}. Its output is in {log}."
        )
    raise TrackerUnavailable(
        f"Expected MLflow's server to answer within {wait_seconds / 60:g} minutes, but it did not. {remedy} Its output is "
        f"in {log}."
    )
