"""An MLflow server of one's own on loopback, that can be started and killed: for rehearsals and tests."""

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
    """MLflow's server over `SATX_HOME/mlflow.db`, which can be taken away."""

    def __init__(self, log: Path) -> None:
        """Choose a port."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.uri, self.log = f"http://127.0.0.1:{self.port}", log
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers.

        Raises:
            TrackerUnavailable: It does not within two minutes.
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
        raise TrackerUnavailable(f"MLflow did not start: {self.log.read_text()[-500:]}")

    def stop(self) -> None:
        """Kill it, with all of its processes."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
