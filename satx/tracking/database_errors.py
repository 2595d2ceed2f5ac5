"""Why a database cannot be used: a lock, missing permission, a full disk, another schema, a file of another kind.

MLflow and Optuna report some of these as invalid data or as a server that does not respond, and MLflow tries to open a
folder in place of a file for a minute and a half.
"""

from __future__ import annotations

import errno
import os
import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import psutil

from satx.errors import ConfigError, SatxError, TrackerUnavailable

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FULL_DATABASE = ("database or disk is full", "disk I/O error", "No space left on device", "File too large")
LOCKED = ("database is locked", "database table is locked")
NOT_WRITABLE = ("readonly database", "unable to open database file")
DAMAGED = ("file is not a database", "database disk image is malformed")
OTHER_SCHEMA = re.compile(r"found version (\w+), but expected (\w+)|table schema \(set up by optuna (\S+)\)")
SHOWN_CHARACTERS = 300
COMPANIONS = ("", "-wal", "-shm", "-journal", ".lock")  # files beside a database; the last one is satx's


def check_database_file(file: Path) -> None:
    """Raise an error if an SQLite database cannot be opened for writing, which libraries find out late or never.

    Raises:
        ConfigError: The path is a folder, or this user may not write the file or its folder.
    """
    if file.is_dir():
        raise ConfigError(f"{file}: expected an SQLite database, got a folder. Move it away, or set SATX_HOME.")
    for path in (file.parent, *(file.with_name(file.name + ending) for ending in COMPANIONS)):
        if path.exists() and not os.access(path, os.R_OK | os.W_OK):
            raise ConfigError(
                f"{file}: expected permission to write the database and its folder, got none for {path}. Change its "
                f"permissions or owner, or set SATX_HOME to another folder; the same command then continues."
            )


def database_problem(error: BaseException, files: Sequence[Path], *, home: Path) -> SatxError | None:
    """Return what prevents the use of a database, or None if the error says something else.

    Args:
        error: What was raised.
        files: The SQLite databases that it may be about; empty if the databases are on servers.
        home: `SATX_HOME`, for the message about a full disk.
    """
    said = " ".join(str(part) for part in _chain(error))
    if says_full(error):
        return ConfigError(
            f"The disk of SATX_HOME {home}, or of the folder written to, is full ({brief(error)}). Free some space, or "
            f"run `satx gc`; the same command then continues."
        )
    if found := OTHER_SCHEMA.search(said):
        return _other_schema(said, found, files)
    if not files:
        return None
    if any(words in said for words in NOT_WRITABLE):
        for file in files:
            try:
                check_database_file(file)
            except ConfigError as problem:
                return problem
    names = " or ".join(str(file) for file in files if _complaint(file)) or " or ".join(map(str, files))
    if any(words in said for words in LOCKED):
        return TrackerUnavailable(
            f"{names}: expected the database to be free, got a lock that another process holds{_users_of(files)}. Wait for that "
            f"process or stop it; the same command then continues."
        )
    if any(words in said for words in DAMAGED):
        return ConfigError(
            f"{names}: expected an SQLite database, got a file of another kind or a damaged one. Restore it from a copy, or "
            f"move it away: satx then creates an empty one."
        )
    return None


def says_full(error: BaseException) -> bool:
    """Return whether an error, or one that led to it, says that a disk is full."""
    return any(
        (isinstance(part, OSError) and part.errno in FULL) or any(words in str(part) for words in FULL_DATABASE)
        for part in _chain(error)
    )


def brief(error: BaseException) -> str:
    """Return the first line of the first cause: what the database or the network said, not what a library made of it."""
    return first_line(list(_chain(error))[-1])


def first_line(error: BaseException) -> str:
    """Return the first line of an error, cut: an answer of a server may be a page of HTML."""
    return (str(error).splitlines() or [type(error).__name__])[0][:SHOWN_CHARACTERS].rstrip(".")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _other_schema(said: str, found: re.Match[str], files: Sequence[Path]) -> ConfigError:
    is_mlflow = found[1] is not None
    library = "MLflow" if is_mlflow else "Optuna"
    where = " or ".join(str(file) for file in files) or f"{library}'s database"
    if (is_mlflow and not _knows_revision(found[1])) or "try updating optuna" in said:
        return ConfigError(
            f"{where}: expected tables of this version of {library}, got those of a newer one. Use the version of satx that "
            f"wrote them, or set SATX_HOME to another folder."
        )
    command = "mlflow db upgrade" if is_mlflow else "optuna storage upgrade --storage"
    return ConfigError(
        f"{where}: expected tables of this version of {library}, got those of an older one. Copy the file first; then run "
        f"`{command} URL` with the database's URL (sqlite:///FILE)."
    )


def _knows_revision(revision: str) -> bool:
    """Return whether the installed MLflow has a migration to this revision of its tables."""
    import mlflow.store

    folder = Path(mlflow.store.__path__[0]) / "db_migrations" / "versions"
    return any(folder.glob(f"{revision}_*.py"))


def _complaint(file: Path) -> str:
    """Return what SQLite says now about writing a database, "" if it can be written."""
    try:
        with closing(sqlite3.connect(f"file:{quote(str(file))}?mode=rw", uri=True, timeout=0)) as database:
            database.execute("PRAGMA schema_version")
            database.execute("BEGIN IMMEDIATE")
    except sqlite3.Error as error:
        return str(error)
    return ""


def _users_of(files: Sequence[Path]) -> str:
    """Return the living processes of this user, other than this one, that have one of these databases open, as text."""
    wanted = {str(file.resolve()) for file in files}
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and any(file.path in wanted for file in process.open_files()):
                found.append(f"{process.pid} ({' '.join(process.cmdline())[:60]})")
        except psutil.Error:  # it has ended, or belongs to another user
            continue
    return f"; it is open in process {', '.join(found)}" if found else ""
