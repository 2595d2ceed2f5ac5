"""Servers that require passwords, as `infra/control/` starts them."""

from __future__ import annotations

import configparser
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from satx.storage import shipped_file
from satx.testing.local_postgres import Postgres
from satx.tracking.server import server_environment


@dataclass(frozen=True)
class Servers:
    """PostgreSQL for studies and MLflow for runs.

    Attributes:
        postgres: The PostgreSQL server, which requires a password.
        folder: Folder of the password file and of MLflow's log and artifacts.
        uri: URL of MLflow.
    """

    postgres: Postgres
    folder: Path
    uri: str = ""

    def run(self, program: str, *arguments: str) -> bytes:
        """Run one of PostgreSQL's client programs and return its output."""
        where = ("--host=127.0.0.1", f"--port={self.postgres.port}", "--username=postgres", "--no-password")
        return subprocess.check_output([self.postgres.binaries / program, *where, *arguments])


def password_file(path: Path, password: str) -> Path:
    """Write a password file that PostgreSQL's clients accept, readable only by its owner."""
    path.touch(mode=0o600)
    path.write_text(f"127.0.0.1:*:*:*:{password}\n")
    return path


def make_roles(postgres: Postgres, password: str) -> None:
    """Make the roles and databases of `infra/control/` in a cluster, with one password for all of them."""
    variables = {
        "PATH": f"{postgres.binaries}:{os.environ['PATH']}",
        "PGHOST": "127.0.0.1",
        "PGPORT": str(postgres.port),
        "POSTGRES_USER": "postgres",
        "STUDIES_PASSWORD": password,
        "MLFLOW_DATABASE_PASSWORD": password,
    }
    subprocess.run([shipped_file("infra/control/roles.sh")], env=os.environ | variables, check=True)


@contextmanager
def guarded_mlflow(folder: Path, password: str, url_of: Callable[[str], str]) -> Iterator[str]:
    """Run MLflow with the settings of `infra/control/`, but with its data in `folder`; yield its URL.

    Args:
        folder: Folder for the server's `log` and `artifacts`.
        password: Password of the server's user `satx`.
        url_of: Returns the URL of a database, given its name: `mlflow` or `mlflow_auth`.
    """
    settings = configparser.ConfigParser()
    settings.read(shipped_file("infra/control/auth.ini"))
    settings["mlflow"]["database_uri"] = url_of("mlflow_auth")
    with (folder / "auth.ini").open("w") as stream:
        settings.write(stream)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = server_environment() | {
        "MLFLOW_AUTH_ADMIN_PASSWORD": password,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "a key of this test",
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"),
    }
    command = [
        sys.executable, "-m", "mlflow", "server", "--app-name=basic-auth", "--host=127.0.0.1", f"--port={port}",
        "--workers=1", f"--backend-store-uri={url_of('mlflow')}", f"--artifacts-destination={folder / 'artifacts'}",
    ]  # fmt: skip
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        _wait_for(f"http://127.0.0.1:{port}/health", process, folder / "log")
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def make_worker(uri: str, administrator_password: str, worker_password: str) -> None:
    """Make MLflow's user of the workers, as the service `mlflow-users` of `infra/control/` does."""
    variables = {
        "MLFLOW_TRACKING_URI": uri,
        "MLFLOW_TRACKING_USERNAME": "satx",
        "MLFLOW_TRACKING_PASSWORD": administrator_password,
        "MLFLOW_WORKER_PASSWORD": worker_password,
    }
    command = [sys.executable, shipped_file("infra/control/mlflow_users.py")]
    subprocess.run(command, env=os.environ | variables, check=True)


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        try:
            if httpx.get(url, timeout=2).status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass
        assert process.poll() is None, log.read_text()[-2000:]
        time.sleep(0.2)
    pytest.fail(log.read_text()[-2000:])
