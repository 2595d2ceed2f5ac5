"""Make a session of a folder that exists: list its pictures in a manifest, and leave the folder as it is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from satx.config import read_yaml
from satx.errors import ConfigError, DataError, nearest_name
from satx.session_config import SessionConfig
from satx.sessions.lineage import open_manifest
from satx.sessions.manifest import Manifest, Row, sorted_rows
from satx.sessions.pictures import Picture, find_pictures
from satx.sessions.session_file import (
    check_session_name,
    manifest_of,
    new_text,
    parsed_session,
    present_time,
    project,
    relative_to_project,
    session_text,
    with_manifest,
    write_session,
)
from satx.storage import shipped_file
from satx.tiles.check import OnProgress, no_progress
from satx.tiles.layout import CSV_NAME, TileFolder, read_layout
from satx.tiles.listing import read_columns
from satx.tiles.report import Problem

TASK, POSITIVE_CLASS, SWEEP = "school", "school", "seed200"


@dataclass(frozen=True)
class Imported:
    """A session that was written.

    Attributes:
        name: Name of the session.
        manifest: Its manifest.
        parent: The parent's manifest, if it has one.
        yaml: Path of its YAML.
        num_copies: Files that show the same as an earlier one.
        broken: Why other files are no pictures.
    """

    name: str
    manifest: Manifest
    parent: Manifest | None
    yaml: Path
    num_copies: int
    broken: tuple[Problem, ...]


def import_session(
    name: str,
    folder: Path,
    *,
    parent: str | None,
    task: str | None,
    positive_class: str | None,
    author: str,
    on_progress: OnProgress = no_progress,
) -> Imported:
    """Write the manifest of a folder, and the session's YAML; a YAML that exists keeps all that it says.

    Args:
        name: Name of the session.
        folder: The tiles; they stay where they are.
        parent: The session from which somebody made this one; pictures that it has too keep its reason.
        task: The classification task; None for that of the YAML, the parent, or `TASK`.
        positive_class: The class of interest; likewise.
        author: Who imports.
        on_progress: Called with (done, total).

    Raises:
        ConfigError: The session has a manifest already, the parent has none, or the YAML is about another folder.
        DataError: The folder cannot be used, or a picture is there with two classes, splits or slices.
    """
    check_session_name(name)
    before = _parent_manifest(name, parent)
    text = _text(name, folder, parent, task, positive_class)
    session = parsed_session(name, text)
    _check_options(name, session, task, positive_class)
    tiles = read_layout(folder)
    if session.positive_class not in tiles.classes:
        raise DataError(
            f"{folder}: expected the positive class {session.positive_class!r}, got {', '.join(tiles.classes)}. "
            f"{nearest_name(session.positive_class, tiles.classes)} Pass it with --positive-class."
        )
    found = find_pictures(folder, tiles.files, on_progress)
    rows = sorted_rows(_rows(tiles, found.pictures, before, author))
    manifest = Manifest(rows)
    if before is not None:
        opens = manifest.test_tiles() != before.test_tiles()
        manifest = Manifest(rows, parent, before.digest, before.test_version + opens)
    written = with_manifest(name, text, manifest_of(name, manifest), data_dir=relative_to_project(folder))
    yaml = write_session(name, written, manifest)
    return Imported(name, manifest, before, yaml, found.num_copies, found.broken)


def _text(name: str, folder: Path, parent: str | None, task: str | None, positive_class: str | None) -> str:
    """Return the YAML to which the manifest is added: the session's own, else a copy of the parent's, else a new one."""
    text = session_text(name)
    if text is not None:
        _check_own(name, parsed_session(name, text), folder)
        return text
    values = {"session": name, "task": task or TASK, "positive_class": positive_class or POSITIVE_CLASS}
    values |= {"data_dir": relative_to_project(folder), "sweep": SWEEP}
    if parent is not None:
        inherited = read_yaml(shipped_file(f"experiments/session{parent}.yaml"))
        named = {"task": task, "positive_class": positive_class}
        values |= {key: value for key, value in inherited.items() if key not in ("session", "data_dir", "manifest")}
        values |= {key: value for key, value in named.items() if value is not None}
    return new_text(values, f"Session {name}: imported from {relative_to_project(folder)}.")


def _check_own(name: str, session: SessionConfig, folder: Path) -> None:
    """Raise a ConfigError if a session that exists has a manifest, or has its tiles elsewhere."""
    if session.manifest is not None:
        raise ConfigError(
            f"Session {name} has a manifest already, {session.manifest.file}. A changed tile is a new session: "
            f"`satx session new N --from {name} --add DIR`, or import the folder as session N with --from {name}."
        )
    own = project() / session.data_dir
    if own.exists() and own.resolve() != folder.resolve():
        raise ConfigError(
            f"experiments/session{name}.yaml: expected the folder of its tiles, {session.data_dir}, got {folder}. Import that "
            f"folder, or change `data_dir`."
        )


def _check_options(name: str, session: SessionConfig, task: str | None, positive_class: str | None) -> None:
    options = (("--task", task, session.task), ("--positive-class", positive_class, session.positive_class))
    for option, given, own in options:
        if given is not None and given != own:
            raise ConfigError(
                f"{option}: expected {own!r}, which experiments/session{name}.yaml has, got {given!r}. Leave the option out."
            )


def _parent_manifest(name: str, parent: str | None) -> Manifest | None:
    if parent is None:
        return None
    if parent == name:
        raise ConfigError(f"--from: expected an earlier session, got session {name} itself. Name another.")
    return open_manifest(parent)[1]


def _rows(tiles: TileFolder, pictures: tuple[Picture, ...], before: Manifest | None, author: str) -> list[Row]:
    sources, folder, time = sources_of(tiles.root), tiles.root.resolve().name, present_time()
    known = {} if before is None else before.by_picture
    rows = []
    for picture in pictures:
        source = sources.get(picture.file.relative) or folder
        row = row_of(picture, source=source, reason=f"imported from {folder}", author=author, decided_at=time)
        earlier = known.get(row.pixel_sha256)
        if earlier and (earlier.label, earlier.slice, earlier.split) == (row.label, row.slice, row.split):
            why = {name: getattr(earlier, name) for name in ("source", "reason", "author", "decided_at")}
            row = replace(row, **why)
        rows.append(row)
    return rows


def sources_of(root: Path) -> dict[str, str]:
    """Return where the tiles of a folder are from, by relative path, as far as its `tiles.csv` says."""
    table = root / CSV_NAME
    if not table.is_file():
        return {}
    return {relative: cells["source"] for relative, (_, cells) in read_columns(table, ["source"]).items()}


def row_of(picture: Picture, *, source: str, reason: str, author: str, decided_at: str) -> Row:
    """Return the row of a picture."""
    file = picture.file
    return Row(
        pixel_sha256=picture.pixel_sha256,
        label=file.label,
        slice=file.slice,
        split=file.split,
        path=file.relative,
        file_sha256=picture.file_sha256,
        source=source,
        reason=reason,
        author=author,
        decided_at=decided_at,
    )
