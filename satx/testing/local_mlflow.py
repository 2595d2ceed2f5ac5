"""A local MLflow server on loopback that can be started and killed, for rehearsals and tests."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import httpx

from satx.errors import TrackerUnavailable
from satx.tracking.server import server_command, server_environment


class LocalMlflow:
    """An MLflow server on `SATX_HOME/mlflow.db` that can be started and killed."""

    def __init__(self, log: Path) -> None:
        """Choose a free port."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.uri, self.log = f"http://127.0.0.1:{self.port}", log
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server and wait until it answers.

        Raises:
            TrackerUnavailable: The server does not answer within two minutes.
        """
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                server_command(self.port), env=server_environment(), stdout=log, stderr=log, start_new_session=True
            )
        for _ in range(600):
            try:
                if httpx.get(f"{self.uri}/health", timeout=2).status_code == httpx.codes.OK:
                    return
            except httpx.HTTPError:
                time.sleep(0.2)
        raise TrackerUnavailable(f"MLflow did not answer at {self.uri}. End of its log: {self.log.read_text()[-500:]}")

    def stop(self) -> None:
        """Kill the server with all of its processes."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
