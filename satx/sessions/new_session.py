"""Make a session from its parent: more tiles, and decisions about tiles; written completely or not at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from satx.config import read_yaml
from satx.errors import ConfigError, DataError
from satx.session_config import SessionConfig
from satx.sessions.combine import additions, check_classes, check_test_split, combined
from satx.sessions.decisions import Decision, decided, decisions_text, read_decisions, text_sha256
from satx.sessions.import_session import row_of, sources_of
from satx.sessions.lineage import open_manifest
from satx.sessions.linked import LinkedTile, link_tiles, make_way, placed
from satx.sessions.manifest import Manifest, Row
from satx.sessions.pictures import Picture, Pictures, find_pictures
from satx.sessions.session_file import (
    check_session_name,
    manifest_of,
    new_text,
    parsed_session,
    present_time,
    project,
    session_text,
    with_manifest,
    write_session,
)
from satx.sessions.verified import Tile, verified_files
from satx.storage import locked, satx_home, shipped_file
from satx.tiles.layout import CSV_NAME, SAMPLE_MARKER, TileFile, TileFolder, read_layout
from satx.tiles.listing import read_columns
from satx.tiles.unsplit import read_unsplit
from satx.tiles.walk import first_few

OnStage = Callable[[str, int, int], None]  # stage, number done, total


@dataclass(frozen=True)
class NewSession:
    """The session that the caller asks for.

    Attributes:
        name: Its name.
        parent: Name of the session that it is made from.
        add: Folder of tiles to add, each with a class and a split.
        decisions: Table of decisions about pictures of the parent and of `add`.
        new_test_version: Whether the test split may change.
        reason: Why the tiles of `add` are added.
        author: Who makes the session.
        replaces: Whether a session of this name may be replaced, unless a run has used it.
    """

    name: str
    parent: str
    add: Path | None
    decisions: Path | None
    new_test_version: bool
    reason: str | None
    author: str
    replaces: bool


@dataclass(frozen=True)
class Made:
    """A session that was written.

    Attributes:
        name: Its name.
        manifest: Its manifest.
        parent: The parent's manifest.
        yaml: Path of its YAML.
        folder: Its tiles.
        left_out: Number of tiles of the added folder that are not in it, by reason.
        set_aside: Where the tiles of a replaced session are now.
    """

    name: str
    manifest: Manifest
    parent: Manifest
    yaml: Path
    folder: Path
    left_out: dict[str, int]
    set_aside: Path | None


@dataclass(frozen=True)
class _Additions:
    """The tiles of the folder to add, and how many of its files are left out for which reason."""

    root: Path
    pictures: tuple[Picture, ...]
    rows: tuple[Row, ...]
    left_out: dict[str, int]


def new_session(request: NewSession, *, on_progress: OnStage) -> Made:
    """Make a session; killed at any moment, it does not exist yet, and the same call makes it.

    Args:
        request: What to make.
        on_progress: Called with the stage and (done, total).

    Raises:
        ConfigError: The session exists, the parent has no manifest, or the test split would change.
        DataError: Tiles or decisions cannot be used.
    """
    check_session_name(request.name)
    with locked(satx_home() / "locks" / f"session-{request.name}"):
        existing = _replaceable(request)
        session, parent = open_manifest(request.parent)
        tiles = read_layout(_folder_of(request.parent, session))
        added = _read_additions(request, tiles, on_progress)
        decisions = _read_decisions(request, parent)
        manifest, left_out = _manifest(request, parent, added, decisions)
        linked = _linked(request.name, tiles, added, parent, manifest, on_progress)
        placed_rows = (
            replace(row, path=linked[row.pixel_sha256].relative, file_sha256=linked[row.pixel_sha256].file_sha256)
            for row in manifest.rows
        )
        manifest = replace(manifest, rows=tuple(placed_rows))
        folder = project() / "data" / f"session{request.name}"
        in_order = [linked[row.pixel_sha256] for row in manifest.rows]
        set_aside = make_way(folder, in_order, tiles.marker, may_move=existing)
        link_tiles(folder, in_order, tiles.marker, lambda done, total: on_progress("linking tiles", done, total))
        yaml = _write(request, session, manifest, [*decisions.values()])
    return Made(request.name, manifest, parent, yaml, folder, left_out, set_aside)


def _replaceable(request: NewSession) -> bool:
    """Return whether a session of this name exists and may be replaced; raise a ConfigError if it may not."""
    if request.name == request.parent:
        raise ConfigError(f"--from: expected an earlier session, got session {request.name} itself. Name another.")
    if request.add is None and request.decisions is None:
        raise ConfigError("Expected tiles to add or decisions, got neither. Pass --add DIR or --decisions FILE.")
    text = session_text(request.name)
    if text is None:
        return False
    if not request.replaces:
        raise ConfigError(
            f"Session {request.name} exists already: expected a new name, since a session does not change. Take the next name; "
            f"or pass --replace, if no run has used it."
        )
    session = parsed_session(request.name, text)
    if session.manifest is None:
        raise ConfigError(
            f"--replace: expected a session that satx made, got session {request.name}, which has no manifest. Take another name."
        )
    from satx.sessions.used import recorded_digest  # here, since the import of MLflow takes seconds

    for experiment in (session.experiment_name, f"{session.experiment_name}-sample"):
        if recorded_digest(experiment) is not None:
            raise ConfigError(
                f"--replace: expected a session that no run has used, but experiment {experiment} has runs on its tiles. A "
                f"changed tile is a new session: take the next name."
            )
    return True


def _folder_of(name: str, session: SessionConfig) -> Path:
    folder = project() / session.data_dir
    if not folder.is_dir():
        raise DataError(
            f"{folder}: expected the tiles of session {name}, found no folder. Restore it, or correct `data_dir`."
        )
    return folder


def _read_decisions(request: NewSession, parent: Manifest) -> dict[int, Decision]:
    if request.decisions is None:
        return {}
    copy = project() / f"experiments/session{request.name}-decisions.csv"
    if request.decisions.resolve() == copy:
        raise ConfigError(
            f"--decisions: expected a file elsewhere than {copy}, where a sorted copy of it will be. Move it first."
        )
    return read_decisions(request.decisions, session=request.parent, session_digest=parent.digest)


def _read_additions(request: NewSession, parent: TileFolder, on_progress: OnStage) -> _Additions:
    """Read the folder to add: each tile that has a split, and that nobody left out."""
    if request.add is None:
        return _Additions(Path(), (), (), {})
    root = request.add
    if (root / SAMPLE_MARKER).is_file() != parent.sample:
        kinds = ("rendered", "real") if parent.sample else ("real", "rendered")
        raise DataError(
            f"{root}: expected {kinds[0]} tiles, as session {request.parent} has, got {kinds[1]} ones. A session has tiles of "
            f"one kind; add another folder."
        )
    files = read_unsplit(root).files
    table = root / CSV_NAME
    said = read_columns(table, ["left_out"]) if table.is_file() else {}
    unused = {relative for relative, (_, cells) in said.items() if cells["left_out"]}
    used = [file for file in files if file.relative not in unused]
    _refuse_incomplete(root, used)
    found = find_pictures(root, used, lambda done, total: on_progress("reading tiles to add", done, total))
    sources, time = sources_of(root), present_time()
    why = {
        "reason": request.reason or f"added from {root.resolve().name}",
        "author": request.author,
        "decided_at": time,
    }
    rows = tuple(
        row_of(picture, source=sources.get(picture.file.relative) or root.resolve().name, **why)
        for picture in found.pictures
    )
    return _Additions(root, found.pictures, rows, _not_read(found, len(unused)))


def _not_read(found: Pictures, num_unused: int) -> dict[str, int]:
    counts = {
        "left out by `satx data split`": num_unused,
        "copies of another": found.num_copies,
        "broken or refused": len(found.broken),
    }
    return {reason: count for reason, count in counts.items() if count}


def _refuse_incomplete(root: Path, files: Sequence[TileFile]) -> None:
    unlabelled = [file.relative for file in files if not file.label]
    if unlabelled:
        raise DataError(
            f"{root}: expected a class for each tile to add, got {len(unlabelled)} without: {first_few(unlabelled)}. Label or "
            f"remove them."
        )
    unsplit = [file.relative for file in files if not file.split]
    if unsplit:
        raise DataError(
            f"{root}: expected a split for each tile to add, got {len(unsplit)} without: {first_few(unsplit)}. Run "
            f"`satx data split {root}`, or put all of them into a folder train/."
        )


def _manifest(
    request: NewSession, parent: Manifest, added: _Additions, decisions: dict[int, Decision]
) -> tuple[Manifest, dict[str, int]]:
    """Return the new manifest, with paths of the tiles as they are now, and how many tiles of the folder are left out."""
    pictures = {*parent.by_picture, *(row.pixel_sha256 for row in added.rows)}
    classes = {*parent.classes, *(row.label for row in added.rows)}
    about = decided(request.decisions or Path(), decisions, pictures=pictures, classes=classes)
    new, left_out = additions(parent, added.rows, about, session=request.parent)
    version = parent.test_version + request.new_test_version
    manifest = Manifest(combined(parent, new, about), request.parent, parent.digest, version)
    check_test_split(parent, manifest, is_new_version=request.new_test_version)
    check_classes(manifest.rows)
    return manifest, dict(Counter(added.left_out) + Counter(left_out))


def _linked(
    name: str, tiles: TileFolder, added: _Additions, parent: Manifest, manifest: Manifest, on_progress: OnStage
) -> dict[str, LinkedTile]:
    """Return the file of each picture, and where it goes, after a check of the parent's tiles."""
    own = verified_files(tiles, parent, lambda done, total: on_progress("checking the parent's tiles", done, total))
    files = {found.pixel_sha256: (added.root, Tile(found.file, found.file_sha256)) for found in added.pictures}
    files |= {picture: (tiles.root, tile) for picture, tile in own.items()}
    return placed(manifest, {row.pixel_sha256: files[row.pixel_sha256] for row in manifest.rows})


def _write(request: NewSession, session: SessionConfig, manifest: Manifest, decisions: Sequence[Decision]) -> Path:
    values = read_yaml(shipped_file(f"experiments/session{request.parent}.yaml"))
    data_dir = f"data/session{request.name}"
    values = {key: value for key, value in values.items() if key != "manifest"}
    values |= {"session": request.name, "data_dir": data_dir}
    comment = (
        f"Session {request.name}: made from session {request.parent}. `satx session show {request.name}` says how."
    )
    applied = decisions_text(decisions) if decisions else None
    if applied is None and request.replaces:
        (project() / f"experiments/session{request.name}-decisions.csv").unlink(missing_ok=True)
    config = manifest_of(request.name, manifest, decisions_sha256=text_sha256(applied) if applied else None)
    text = with_manifest(request.name, new_text(values, comment), config, data_dir=data_dir)
    return write_session(request.name, text, manifest, decisions=applied)
