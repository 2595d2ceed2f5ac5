"""Write `experiments/session<N>.yaml` with its manifest beside it: the table first, the YAML last, each of them at once."""

from __future__ import annotations

import getpass
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from satx.config import parse_yaml, validated
from satx.errors import ConfigError
from satx.session_config import ManifestConfig, Name, SessionConfig
from satx.sessions.manifest import Manifest, manifest_text
from satx.storage import is_abandoned, project_root, shipped_file, write_text

_NOTE = "# Written by `satx session`. A changed tile is a new session, so the table and its digest stay as they are.\n"


def project() -> Path:
    """Return the folder of the project, in which sessions are written.

    Raises:
        ConfigError: The current folder is in no project.
    """
    root = project_root()
    if root is None:
        raise ConfigError(
            "Expected the folder of a satx project, in which experiments/ has the sessions, got another. Change to it first."
        )
    return root


def check_session_name(name: str) -> None:
    """Raise a ConfigError if a session cannot have this name."""
    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError as error:
        raise ConfigError(
            f"Expected the name of a session, up to 41 of the characters a-z, 0-9 and -, got {name[:80]!r}. Pass another."
        ) from error


def session_text(name: str) -> str | None:
    """Return the YAML of a session as it is; None if there is no such session."""
    try:
        return shipped_file(f"experiments/session{name}.yaml").read_text(encoding="utf-8")
    except ConfigError:
        return None


def parsed_session(name: str, text: str) -> SessionConfig:
    """Return the session that a YAML text describes."""
    source = f"session{name}.yaml"
    return validated(SessionConfig, parse_yaml(text, source=source), source=source)


def manifest_of(name: str, manifest: Manifest, *, decisions_sha256: str | None = None) -> ManifestConfig:
    """Return what the YAML of a session says of its manifest."""
    return ManifestConfig(
        file=f"experiments/session{name}.csv",
        digest=manifest.digest,
        parent=manifest.parent,
        parent_digest=manifest.parent_digest,
        test_version=manifest.test_version,
        decisions_sha256=decisions_sha256,
    )


def new_text(values: Mapping[str, Any], comment: str) -> str:
    """Return the YAML of a new session with these values, below a comment."""
    return f"# {comment}\n" + yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)


def with_manifest(name: str, text: str, config: ManifestConfig, *, data_dir: str) -> str:
    """Return the YAML of a session with its manifest and folder; everything else stays, comments included.

    Raises:
        ConfigError: The YAML is written so that nothing can be added to it.
    """
    line = yaml.safe_dump({"data_dir": data_dir}, allow_unicode=True)
    if parsed_session(name, text).data_dir != data_dir:
        text = re.sub(r"(?m)^data_dir:.*\n?", lambda _: line, text, count=1)
    section = yaml.safe_dump({"manifest": config.model_dump(exclude_none=True)}, sort_keys=False)
    written = text.rstrip("\n") + "\n" + _NOTE + section
    expected = parse_yaml(text, source=name) | {"data_dir": data_dir, "manifest": config.model_dump(exclude_none=True)}
    try:
        found = parse_yaml(written, source=name)
    except ConfigError:
        found = None
    if found != expected:
        raise ConfigError(
            f"experiments/session{name}.yaml: expected a name and a value on each line, to which a section can be added. Write "
            f"it so, then repeat this."
        )
    return written


def write_session(name: str, text: str, manifest: Manifest, *, decisions: str | None = None) -> Path:
    """Write a session: decisions and manifest, then the YAML, with which the session exists.

    Args:
        name: Name of the session.
        text: Its YAML.
        manifest: Its manifest.
        decisions: The decisions that were applied, as a CSV.

    Returns:
        Path of the YAML.
    """
    folder = project() / "experiments"
    for pattern in (f".session{name}.*/", f".session{name}-decisions.*/"):
        remove_leftovers(folder, pattern)
    if decisions is not None:
        write_text(folder / f"session{name}-decisions.csv", decisions)
    write_text(folder / f"session{name}.csv", manifest_text(manifest))
    write_text(folder / f"session{name}.yaml", text)
    return folder / f"session{name}.yaml"


def remove_leftovers(folder: Path, pattern: str) -> None:
    """Remove the temporary folders of writers that were killed."""
    for leftover in folder.glob(pattern):
        if is_abandoned(leftover):
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            with suppress(OSError):  # one that was killed before it held its lock left an empty folder
                leftover.rmdir()


def relative_to_project(folder: Path) -> str:
    """Return a folder as `data_dir` names it: relative to the project if it lies in it, else absolute."""
    absolute, root = folder.absolute(), project()
    for path in (absolute, absolute.resolve()):
        if path.is_relative_to(root) and ".." not in path.parts:
            return path.relative_to(root).as_posix()
    return str(absolute.resolve())


def present_author() -> str:
    """Return the name of the present user."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return "unknown"


def present_time() -> str:
    """Return the present time, as `2026-01-31T12:00:00+00:00`."""
    return datetime.now(UTC).isoformat(timespec="seconds")
