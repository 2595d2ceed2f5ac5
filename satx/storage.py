"""Paths of satx's state, file locks, and atomic writes to a temporary name that is then renamed.

`SATX_HOME` holds the databases of MLflow and Optuna, caches and exports. From satx it imports only
`environment`, `errors` and `moved_home`.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import sqlite3
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import platformdirs

from satx.environment import environment
from satx.errors import ConfigError
from satx.moved_home import rewrite_places, rewritten_models_config

HOME_FORMAT = 1
WRITER = ".writer"  # name of the lock in a temporary folder


def project_root(start: Path | None = None) -> Path | None:
    """Return the nearest folder at or above `start` whose pyproject.toml is satx's own, or None."""
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        pyproject = folder / "pyproject.toml"
        if pyproject.is_file():
            try:
                project = tomllib.loads(pyproject.read_text()).get("project")
            except (OSError, ValueError):  # an invalid pyproject.toml, of another project
                continue
            if isinstance(project, dict) and project.get("name") == "satx":
                return folder
    return None


def shipped_file(relative_path: str) -> Path:
    """Return the path of a file that ships with satx (`sweeps/quick.yaml`), in the current project or in the package.

    Raises:
        ConfigError: There is no such file in either place.
    """
    package = Path(__file__).resolve().parent
    roots = [project_root(), package.parent, package / "_project"]
    for root in roots:
        if root is not None and (root / relative_path).is_file():
            return root / relative_path
    folder = Path(relative_path).parent
    names = {path.stem for root in roots if root for path in (root / folder).glob("*.yaml")}
    raise ConfigError(
        f"No file {relative_path}: expected one of {', '.join(sorted(names)) or 'none found'} in {folder}/. "
        f"Give one of these names, or run satx from its project folder."
    )


def sqlite_uri(path: Path) -> str:
    """Return the URI of an SQLite database, as SQLAlchemy and MLflow read it, whatever characters its path has."""
    from sqlalchemy.engine import URL  # here, because the import is slow

    return URL.create("sqlite", database=str(path)).render_as_string(hide_password=False)


def sqlite_path(uri: str) -> Path | None:
    """Return the path of an SQLite database from its URI; None if the URI is another."""
    if not uri.startswith("sqlite:///"):
        return None
    from sqlalchemy.engine import make_url

    return Path(make_url(uri).database or "")


def satx_home() -> Path:
    """Return the folder of all local state, and create it if it is missing.

    It is `SATX_HOME` if set, else `.satx/` beside the current project's pyproject.toml, else the user's data folder. A home
    that was moved or copied since it was last opened is adapted to its new path.

    Raises:
        ConfigError: The folder has another format than this version of satx reads, cannot be written, or was moved and is in
            use under its earlier path.
    """
    named = environment().home
    root = None if named else project_root()
    home = named if named else root / ".satx" if root else Path(platformdirs.user_data_dir("satx"))
    home = home.resolve()
    version_file = home / "format.json"
    try:
        home.mkdir(parents=True, exist_ok=True)
        if not version_file.exists():
            _record(home)
    except OSError as error:
        raise ConfigError(
            f"SATX_HOME {home} cannot be written ({error.strerror}). Set SATX_HOME to a writable folder."
        ) from error
    try:
        content = json.loads(version_file.read_text())
        found, path = content["format"], content.get("path")
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ConfigError(
            f"{version_file}: expected the format of this SATX_HOME as JSON, got unreadable content. "
            f"Remove the file if the folder is satx's, or set SATX_HOME to another folder."
        ) from error
    if found != HOME_FORMAT:
        raise ConfigError(
            f"SATX_HOME {home}: expected format {HOME_FORMAT}, got {found!r}. Set SATX_HOME to another folder."
        )
    if path != str(home):
        _adapt(home, path)
    return home


def in_this_home(recorded: Path) -> Path:
    """Return where a file that a home's cache or sample contained is now: where it was recorded, else in the present home."""
    if os.access(recorded, os.R_OK):  # unlike Path.exists, False for a path in a folder of another user
        return recorded
    for folder in recorded.parents:
        if folder.name in ("cache", "sample"):
            here = satx_home() / folder.name / recorded.relative_to(folder)
            return here if here.exists() else recorded
    return recorded


@contextmanager
def home_in_use(command: str) -> Iterator[None]:
    """Keep the home from being adapted to another path while the block runs."""
    path = satx_home() / "locks" / "commands" / f"{command}-{os.getpid()}"
    with locked(path):
        try:
            yield
        finally:
            path.with_name(f"{path.name}.lock").unlink(missing_ok=True)


def _adapt(home: Path, path: object) -> None:
    """Adapt a home to its present path, unless a process uses it under another one, as in a container that mounts it."""
    before = Path(path) if isinstance(path, str) and path.startswith("/") else None
    try:
        with locked(home / "mlflow.db"):
            if json.loads((home / "format.json").read_text()).get("path") == str(home):
                return  # another process has adapted it meanwhile
            users = [file.stem for file in (home / "locks").rglob("*.lock") if is_held(file)]
            if before and users:
                raise ConfigError(
                    f"SATX_HOME {home}: expected no running command of satx in a folder that was moved or is mounted at another "
                    f"path, got {', '.join(users)}, started in {before}. Wait for it, or set SATX_HOME={before}."
                )
            rewrite_places(home / "mlflow.db", before, home)
            served = home / "exports" / "models.config"
            if before and served.is_file():
                write_text(served, rewritten_models_config(served.read_text(), before, home))
            _record(home)
    except (OSError, sqlite3.Error) as error:
        raise ConfigError(
            f"SATX_HOME {home} was moved from {before or 'another path'}, and its mlflow.db or exports/models.config cannot be "
            f"adapted ({error}). Give this user permission to write them, end the processes that use them, and repeat this."
        ) from error


def _record(home: Path) -> None:
    write_json(home / "format.json", {"format": HOME_FORMAT, "path": str(home)})


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it is renamed to `path` on success and removed on failure.

    Works for files and folders. A reader sees either the old or the new content, never a part of it. The writer holds a
    lock in the temporary folder, by which `satx gc` tells a living writer from one that was killed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    holder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    temporary = holder / path.name
    try:
        with locked(holder / WRITER):
            yield temporary
            if temporary.is_dir() and path.is_dir():
                path.replace(holder / "replaced")
            temporary.replace(path)
    finally:
        shutil.rmtree(holder, ignore_errors=True)


def is_abandoned(holder: Path) -> bool | None:
    """Return whether the writer of a temporary folder of `replacing` has ended; None if the folder has no writer's lock."""
    lock_file = holder / f"{WRITER}.lock"
    return not is_held(lock_file) if lock_file.is_file() else None


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write `text`, atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text)


def digest_of(value: Any) -> str:
    """Return the SHA-256 hex digest of a JSON-able value, keys sorted: the identity of configurations and studies."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Return the SHA-256 hex digest of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold an exclusive lock on `path` + `.lock`; the kernel releases it when the process ends, even if it is killed.

    Yields True, or without `wait` False if another process holds the lock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(path.name + ".lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True


def is_held(lock_file: Path) -> bool:
    """Return whether a process holds the lock of this file; changes neither the file nor its times."""
    try:
        with lock_file.open("r+") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except (BlockingIOError, PermissionError):  # of another user: perhaps
        return True
    return False
