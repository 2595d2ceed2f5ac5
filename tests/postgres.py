"""A PostgreSQL server of the tests' own, on loopback, that can be stopped, started and killed."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

BINARIES = (*sorted(Path("/usr/lib/postgresql").glob("*/bin")), Path("/usr/bin"), Path("/usr/local/bin"))


@dataclass(frozen=True)
class Postgres:
    """A cluster in a folder, and the port it listens on."""

    binaries: Path
    folder: Path
    port: int

    def url(self, database: str = "postgres") -> str:
        return f"postgresql+psycopg://satx@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        options = f"-p {self.port} -k {self.folder} -h 127.0.0.1 -c fsync=off"
        self._control("-o", options, "-l", str(self.folder / "log"), "start")

    def stop(self, mode: str = "fast") -> None:
        self._control("-m", mode, "stop")

    def _control(self, *arguments: str) -> None:
        run(self.binaries / "pg_ctl", "-D", self.folder, "-w", *arguments)


def run(*command: object) -> None:
    """As `postgres` where we are root, whom PostgreSQL refuses to serve."""
    user = "postgres" if os.getuid() == 0 else None
    subprocess.run([str(part) for part in command], user=user, check=True, stdout=subprocess.DEVNULL, cwd="/")


@contextmanager
def running_postgres(folder: Path) -> Iterator[Postgres]:
    """A new cluster, running until the block ends."""
    binaries = next((place for place in BINARIES if (place / "initdb").exists()), None)
    if binaries is None:
        pytest.skip("needs PostgreSQL's initdb and pg_ctl (Debian's package `postgresql`)")
    folder.mkdir(parents=True)
    if os.getuid() == 0:
        for parent in (folder, *folder.parents):  # pytest's folders are the caller's alone
            if parent.owner() == "root" and parent != Path("/") and not parent.stat().st_mode & 0o001:
                parent.chmod(0o711)
        shutil.chown(folder, "postgres", pwd.getpwnam("postgres").pw_gid)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    run(binaries / "initdb", "-D", folder, "-U", "satx", "-A", "trust", "--no-sync")
    server = Postgres(binaries, folder, port)
    server.start()
    try:
        yield server
    finally:
        if (folder / "postmaster.pid").exists():
            server.stop("immediate")
