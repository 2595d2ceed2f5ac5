"""The folder of a session's tiles: links to the files of its parent and of the folder that was added, with a `tiles.csv`."""

from __future__ import annotations

import csv
import io
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from satx.errors import ConfigError
from satx.sessions.manifest import Manifest
from satx.sessions.session_file import remove_leftovers
from satx.sessions.verified import Tile
from satx.storage import replacing
from satx.tiles.check import OnProgress
from satx.tiles.layout import CSV_NAME, SAMPLE_MARKER
from satx.tiles.listing import read_columns
from satx.tiles.walk import files_below

# What `satx data fetch` says of a tile; a session's table has those columns that one of its tiles has.
CARRIED = ("lon", "lat", "z", "x", "y", "window_px", "source", "fetched_at", "attribution")

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][\w.-]*", re.ASCII)


@dataclass(frozen=True)
class LinkedTile:
    """A tile of the new folder.

    Attributes:
        source: The file that is linked.
        relative: Its path in the new folder.
        file_sha256: SHA-256 of its bytes.
        cells: Its line in the new `tiles.csv`.
    """

    source: Path
    relative: str
    file_sha256: str
    cells: Mapping[str, str]


def placed(manifest: Manifest, files: Mapping[str, tuple[Path, Tile]]) -> dict[str, LinkedTile]:
    """Return where each picture goes: `<split>/<class>/<name>`, the same on every machine.

    A file keeps its name, in which coordinates may stand. If it has characters that not every system accepts, or another tile
    has that name, digits of the picture's digest are in it.

    Args:
        manifest: The new manifest.
        files: Root of the folder and file of each picture.
    """
    tables = {root: _cells_of(root) for root in {root for root, _ in files.values()}}
    taken: set[str] = set()
    found = {}
    for row in manifest.rows:
        root, (file, digest) = files[row.pixel_sha256]
        folder = f"{row.split}/{re.sub(r'[^a-z0-9-]+', '-', row.label).strip('-') or 'class'}"
        relative = f"{folder}/{_name(file.path, row.pixel_sha256)}"
        if relative.lower() in taken:
            stem = PurePosixPath(relative)
            relative = str(stem.with_name(f"{stem.stem}-{row.pixel_sha256[:16]}{stem.suffix}"))
        taken.add(relative.lower())
        cells = {"path": relative, "label": row.label, "split": row.split, "slice": row.slice}
        found[row.pixel_sha256] = LinkedTile(file.path, relative, digest, cells | tables[root].get(file.relative, {}))
    return found


def make_way(folder: Path, tiles: Sequence[LinkedTile], marker: str | None, *, may_move: bool) -> Path | None:
    """Make sure that nothing of somebody else's is in the place of a folder, and remove what killed calls left beside it.

    Args:
        folder: Where the tiles will be.
        tiles: The tiles.
        marker: Text of the sample marker, None for real tiles.
        may_move: Whether a folder with other content may be moved aside.

    Returns:
        Where such a folder was moved to, or None.

    Raises:
        ConfigError: There is a folder with other content, and it may not be moved.
    """
    remove_leftovers(folder.parent, f".{folder.name}.*/")
    if not os.path.lexists(folder) or _is_same(folder, tiles, marker):
        return None
    if not may_move:
        raise ConfigError(
            f"{folder}: expected no folder, since the tiles of the new session will be linked there, found one with other "
            f"content. Move it away, or take another name for the session."
        )
    aside = folder.with_name(f"{folder.name}-replaced-{datetime.now(UTC):%Y%m%dT%H%M%S}")
    folder.rename(aside)
    return aside


def link_tiles(folder: Path, tiles: Sequence[LinkedTile], marker: str | None, on_progress: OnProgress) -> None:
    """Link the tiles into a new folder, or copy them where links are not possible; the folder appears when it is complete.

    Args:
        folder: The folder.
        tiles: The tiles.
        marker: Text of the sample marker, None for real tiles.
        on_progress: Called with (done, total).
    """
    with replacing(folder) as temporary:
        for parent in {PurePosixPath(tile.relative).parent for tile in tiles}:
            (temporary / parent).mkdir(parents=True, exist_ok=True)
        for number, tile in enumerate(tiles, start=1):
            _link(tile.source, temporary / tile.relative)
            on_progress(number, len(tiles))
        (temporary / CSV_NAME).write_text(_table(tiles), encoding="utf-8")
        if marker is not None:
            (temporary / SAMPLE_MARKER).write_text(marker, encoding="utf-8")


def _cells_of(root: Path) -> dict[str, dict[str, str]]:
    """Return the carried cells of a folder's `tiles.csv`, by relative path."""
    table = root / CSV_NAME
    if not table.is_file():
        return {}
    return {relative: cells for relative, (_, cells) in read_columns(table, CARRIED).items()}


def _name(path: Path, picture: str) -> str:
    if _PLAIN_NAME.fullmatch(path.name):
        return path.name
    ending = path.suffix.lower()
    return picture[:16] + (ending if _PLAIN_NAME.fullmatch(ending[1:]) else "")


def _table(tiles: Sequence[LinkedTile]) -> str:
    carried = [name for name in CARRIED if any(tile.cells.get(name) for tile in tiles)]
    stream = io.StringIO()
    writer = csv.DictWriter(
        stream, ["path", "label", "split", "slice", *carried], extrasaction="ignore", restval="", lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(sorted((tile.cells for tile in tiles), key=lambda cells: cells["path"]))
    return stream.getvalue()


def _is_same(folder: Path, tiles: Sequence[LinkedTile], marker: str | None) -> bool:
    """Return whether a folder is what a killed call of the same command left: then it is written again."""
    table = folder / CSV_NAME
    if not folder.is_dir() or not table.is_file() or table.read_text(encoding="utf-8") != _table(tiles):
        return False
    beside = {CSV_NAME} | ({SAMPLE_MARKER} if marker is not None else set())
    found = {path.relative_to(folder).as_posix() for path in files_below(folder)}
    return found == beside | {tile.relative for tile in tiles}


def _link(source: Path, target: Path) -> None:
    real = source.resolve()  # a link to a link would depend on where the first one lies
    try:
        os.link(real, target)
    except OSError:  # another disk, or one without hard links
        shutil.copyfile(real, target)
