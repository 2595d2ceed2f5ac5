"""Simulated EC2 for `chaos`: moto stores the instances, each is a local worker process, with one metadata server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from satx.commands.worker import START_AGAIN
from satx.fleet.machines import machines_of

HERE = Path(__file__).parent
REGION = "us-east-1"


class Metadata(ThreadingHTTPServer):
    """IMDSv2 for all machines; `http://127.0.0.1:PORT/<instance id>` replaces a machine's 169.254.169.254."""

    daemon_threads = True

    def __init__(self) -> None:
        """Listen on loopback."""
        super().__init__(("127.0.0.1", 0), _Answers)
        self.noticed: set[str] = set()


class _Answers(BaseHTTPRequestHandler):
    server: Metadata

    def do_PUT(self) -> None:
        self._answer(200, "a-token")

    def do_GET(self) -> None:
        machine, _, path = self.path.strip("/").partition("/")
        found = {
            "latest/dynamic/instance-identity/document": json.dumps(
                {"instanceId": machine, "instanceType": "g6.xlarge", "region": REGION}
            ),
            "latest/meta-data/instance-life-cycle": "spot",
        }
        if machine in self.server.noticed:
            found["latest/meta-data/spot/instance-action"] = json.dumps({"action": "terminate"})
        self._answer(200 if path in found else 404, found.get(path, ""))

    def _answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        """Suppress the request log."""


@dataclass
class Machines:
    """Local processes that stand in for a study's instances.

    Attributes:
        ec2: Client of the simulated EC2.
        study: Name of the study.
        folder: Holds one folder per machine, with its home and log.
        metadata: Metadata server of the machines.
        arguments: Arguments of `chaos_worker.py` after the study.
        processes: Worker processes by instance id.
        starts: Number of processes started.
    """

    ec2: Any
    study: str
    folder: Path
    metadata: Metadata
    arguments: tuple[str, ...]
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    starts: int = 0

    def tick(self) -> None:
        """Act once as EC2 and systemd: start launched machines, restart crashed workers, end finished machines."""
        there = {machine.instance_id for machine in machines_of(self.ec2, self.study)}
        for name in there - set(self.processes):
            self._start(name)
        for name, process in list(self.processes.items()):
            code = process.poll()
            if name not in there:  # EC2 has terminated the machine
                process.kill()
                process.wait()
                del self.processes[name]
            elif code is not None and (code < 0 or code == START_AGAIN or code == 1):
                self._start(name)
            elif code is not None:
                self.ec2.terminate_instances(InstanceIds=[name])
                del self.processes[name]

    def _start(self, name: str) -> None:
        home = self.folder / name
        home.mkdir(exist_ok=True)
        environment = os.environ | {
            "CHAOS_MACHINE": name,
            "SATX_HOME": str(home / "home"),
            "SATX_ALIVE": str(home / "alive"),
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": f"http://127.0.0.1:{self.metadata.server_port}/{name}",
        }
        command = [sys.executable, str(HERE / "chaos_worker.py"), self.study, *self.arguments]
        with (home / "log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self.starts += 1

    def end(self) -> None:
        """Kill the remaining processes."""
        for process in self.processes.values():
            process.kill()
            process.wait()


@contextmanager
def metadata_server() -> Iterator[Metadata]:
    """Run a metadata server until the block ends."""
    with Metadata() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()
