"""A local PostgreSQL server on loopback that can be stopped, started and killed, for rehearsals and tests."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from satx.errors import ConfigError
from satx.testing.changed_environment import changed_environment

BINARIES = (*sorted(Path("/usr/lib/postgresql").glob("*/bin")), Path("/usr/bin"), Path("/usr/local/bin"))


@dataclass(frozen=True)
class Postgres:
    """A PostgreSQL cluster in a folder.

    Attributes:
        binaries: Folder of PostgreSQL's programs.
        folder: Folder of the cluster's data.
        port: Port on 127.0.0.1.
    """

    binaries: Path
    folder: Path
    port: int

    def url(self, database: str = "postgres", *, user: str = "satx") -> str:
        """Return the URL of one of its databases."""
        return f"postgresql+psycopg://{user}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start the server and wait until it answers."""
        options = f"-p {self.port} -k {self.folder} -h 127.0.0.1 -c fsync=off -c max_connections=300"
        _control(self, "-o", options, "-l", str(self.folder / "log"), "start")

    def stop(self, mode: str = "fast") -> None:
        """Stop the server: `fast` disconnects its clients, `immediate` is equivalent to a crash."""
        _control(self, "-m", mode, "stop")


def _control(server: Postgres, *arguments: str) -> None:
    _run(server.binaries / "pg_ctl", "-D", server.folder, "-w", *arguments)


def _run(*command: object) -> None:
    """Run a command, as user `postgres` if this process is root, since PostgreSQL refuses to run as root."""
    user = "postgres" if os.getuid() == 0 else None
    subprocess.run([str(part) for part in command], user=user, check=True, stdout=subprocess.DEVNULL, cwd="/")


@contextmanager
def running_postgres(folder: Path, password: str = "", *, superuser: str = "satx") -> Iterator[Postgres]:
    """Create a cluster and run it until the block ends.

    Clients need a password over TCP. Over the socket, they must be the operating system's user of the same name.

    Args:
        folder: Folder of its data, which is created.
        password: Password of its superuser, which the caller gives to clients. By default it is a random one; while the
            block runs, clients of this process and of its children find it in the file that `PGPASSFILE` names.
        superuser: Name of that user.

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
        for parent in folder.parents:  # temporary folders are often accessible only to their owner
            if parent.owner() == "root" and not parent.stat().st_mode & 0o001:
                parent.chmod(0o711)
        shutil.chown(folder, "postgres", "postgres")
    random_password = "" if password else secrets.token_urlsafe()
    _make_cluster(binaries, folder, password or random_password, superuser)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = Postgres(binaries, folder, port)
    with ExitStack() as held:
        if random_password:
            held.enter_context(_clients_know(folder, f"127.0.0.1:{port}:*:{superuser}:{random_password}\n"))
        server.start()
        try:
            yield server
        finally:
            if (folder / "postmaster.pid").exists():
                server.stop("immediate")


@contextmanager
def _clients_know(folder: Path, line: str) -> Iterator[None]:
    """Name a password file of one line in the environment of PostgreSQL's clients, while the block runs."""
    with tempfile.NamedTemporaryFile("w", dir=folder.parent) as file:  # only its owner can read it
        file.write(line)
        file.flush()
        # a password in the environment would be used instead of the file's
        with changed_environment(PGPASSFILE=file.name, PGPASSWORD=None):
            yield


def _make_cluster(binaries: Path, folder: Path, password: str, superuser: str) -> None:
    """Create a cluster; the password is passed in a file, since every user can read command lines."""
    with tempfile.NamedTemporaryFile("w", dir=folder.parent) as file:
        file.write(password)
        file.flush()
        if os.getuid() == 0:
            shutil.chown(file.name, "postgres", "postgres")
        _run(
            *(binaries / "initdb", "-D", folder, "-U", superuser, "--no-sync"),
            *("--auth-local=peer", "--auth-host=scram-sha-256", "--pwfile", file.name),
        )
