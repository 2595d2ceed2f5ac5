"""A PostgreSQL of one's own on loopback, that can be stopped, started and killed: for rehearsals and tests."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from satx.errors import ConfigError

BINARIES = (*sorted(Path("/usr/lib/postgresql").glob("*/bin")), Path("/usr/bin"), Path("/usr/local/bin"))


@dataclass(frozen=True)
class Postgres:
    """A cluster in a folder.

    Attributes:
        binaries: Where its programs lie.
        folder: Of its data.
        port: On 127.0.0.1.
    """

    binaries: Path
    folder: Path
    port: int

    def url(self, database: str = "postgres") -> str:
        """Of one of its databases."""
        return f"postgresql+psycopg://satx@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = f"-p {self.port} -k {self.folder} -h 127.0.0.1 -c fsync=off -c max_connections=300"
        _control(self, "-o", options, "-l", str(self.folder / "log"), "start")

    def stop(self, mode: str = "fast") -> None:
        """Stop it: `fast` cuts its clients off, `immediate` is a crash."""
        _control(self, "-m", mode, "stop")


def _control(server: Postgres, *arguments: str) -> None:
    _run(server.binaries / "pg_ctl", "-D", server.folder, "-w", *arguments)


def _run(*command: object) -> None:
    """As `postgres` where we are root, whom PostgreSQL refuses to serve."""
    user = "postgres" if os.getuid() == 0 else None
    subprocess.run([str(part) for part in command], user=user, check=True, stdout=subprocess.DEVNULL, cwd="/")


@contextmanager
def running_postgres(folder: Path, password: str = "") -> Iterator[Postgres]:
    """A new cluster, running until the block ends.

    Args:
        folder: Of its data; made here.
        password: Of its user `satx`; without one, whoever comes is let in.

    Raises:
        ConfigError: PostgreSQL is not installed.
    """
    binaries = next((place for place in BINARIES if (place / "initdb").exists()), None)
    if binaries is None:
        raise ConfigError(
            "Expected PostgreSQL's initdb and pg_ctl, found none. Install them (Debian's package `postgresql`)."
        )
    folder.mkdir(parents=True)
    if os.getuid() == 0:
        for parent in folder.parents:  # temporary folders are often the caller's alone
            if parent.owner() == "root" and not parent.stat().st_mode & 0o001:
                parent.chmod(0o711)
        shutil.chown(folder, "postgres", "postgres")
    _make_cluster(binaries, folder, password)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = Postgres(binaries, folder, port)
    server.start()
    try:
        yield server
    finally:
        if (folder / "postmaster.pid").exists():
            server.stop("immediate")


def _make_cluster(binaries: Path, folder: Path, password: str) -> None:
    """The password goes through a file, as command lines are for all to see."""
    command = (binaries / "initdb", "-D", folder, "-U", "satx", "--no-sync", "-A")
    if not password:
        _run(*command, "trust")
        return
    with tempfile.NamedTemporaryFile("w", dir=folder.parent) as file:
        file.write(password)
        file.flush()
        if os.getuid() == 0:
            shutil.chown(file.name, "postgres", "postgres")
        _run(*command, "scram-sha-256", "--pwfile", file.name)
