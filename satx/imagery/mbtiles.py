"""Tiles in one SQLite file, as MBTiles 1.3 lays them out: https://github.com/mapbox/mbtiles-spec/blob/master/1.3/spec.md."""

from __future__ import annotations

import hashlib
import html
import os
import re
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np

from satx.errors import DataError
from satx.grid.tiles import MAX_ZOOM, bounds_of, keys_of, sorted_keys
from satx.imagery.contract import FAILED, MISSING, REFUSED, Fetched, Tile, Unscored
from satx.imagery.places import row_from_south
from satx.imagery.threaded import ThreadedImagery
from satx.tiles.decode import MAX_FILE_BYTES

_NUM_THREADS, _CHUNK_TILES = 4, 16
_ROWS_AT_ONCE = 65_536
_HEADER_BYTES = 100
_WAIT_SECONDS = 5.0  # for a program that writes the file
_GZIP = b"\x1f\x8b"  # vector tiles are compressed, images are not
_FIND = (
    f"SELECT length(tile_data), CASE WHEN length(tile_data) <= {MAX_FILE_BYTES} THEN CAST(tile_data AS blob) END "
    f"FROM tiles WHERE zoom_level = ? AND tile_column = ? AND tile_row = ?"
)
_INDEX = "CREATE UNIQUE INDEX tile_index ON tiles (zoom_level, tile_column, tile_row)"


def zooms(path: Path) -> list[int]:
    """Return the zooms of an MBTiles file, from its tiles; what its metadata says of them may be wrong.

    Raises:
        DataError: The file is no MBTiles of images, or is damaged.
    """
    with _reading(path) as database:
        return _zooms(database, path)


def list_keys(path: Path, zoom: int) -> np.ndarray:
    """Return the keys of all tiles of an MBTiles file at a zoom, sorted, uint64, without duplicates.

    Raises:
        DataError: The file is no MBTiles of images, is damaged, or has no tiles at this zoom.
    """
    with _reading(path) as database:
        _check_zoom(database, path, zoom)
        rows = database.execute("SELECT tile_column, tile_row FROM tiles WHERE zoom_level = ?", (zoom,))
        keys, _ = sorted_keys(_keys_of_rows(rows, path, zoom))
    return keys


def bounds(path: Path, zoom: int) -> tuple[float, float, float, float]:
    """Return west, south, east and north of the tiles of an MBTiles file at a zoom, in degrees.

    Raises:
        DataError: The file is no MBTiles of images, is damaged, or has no tiles at this zoom.
    """
    with _reading(path) as database:
        _check_zoom(database, path, zoom)
        corners = database.execute(
            "SELECT min(tile_column), max(tile_row), max(tile_column), min(tile_row) FROM tiles WHERE zoom_level = ?",
            (zoom,),
        ).fetchone()
    try:
        columns, rows = (np.array(corners, np.int64).reshape(2, 2)).T
        west, south, east, north = bounds_of(zoom, columns, (1 << zoom) - 1 - rows)
    except (ValueError, TypeError, OverflowError) as error:
        raise _damaged(path, "a tile's column or row is none of its zoom") from error
    return float(west[0]), float(south[1]), float(east[1]), float(north[0])


def _check_zoom(database: sqlite3.Connection, path: Path, zoom: int) -> None:
    found = _zooms(database, path)
    if zoom not in found:
        raise DataError(f"{path}: expected tiles at zoom {zoom}, found {zooms_in_words(found)}. Choose --zoom.")


def _keys_of_rows(rows: sqlite3.Cursor, path: Path, zoom: int) -> Iterator[np.ndarray]:
    while chunk := rows.fetchmany(_ROWS_AT_ONCE):
        try:
            columns, from_south = np.array(chunk, np.int64).T
            yield keys_of(zoom, columns, (1 << zoom) - 1 - from_south)
        except (ValueError, TypeError, OverflowError) as error:
            raise _damaged(path, "a tile's column or row is none of its zoom") from error


def open_mbtiles(path: Path) -> ThreadedImagery:
    """Open an MBTiles file of images.

    Its identity is a digest of SQLite's header, which counts the changes except in write-ahead mode, of the file's length and of
    the metadata: the tiles themselves may be hundreds of gigabytes.

    Raises:
        DataError: The file is no MBTiles of images, or its tiles have no index.
    """
    with _reading(path) as database:
        _check_index(database, path)
        metadata = _metadata(database)
    identity = {"kind": "mbtiles", "digest": _digest(path, metadata)}
    local = threading.local()
    connections: list[sqlite3.Connection] = []

    def connection() -> sqlite3.Connection:
        if not hasattr(local, "connection"):
            local.connection = _connect(path)
            connections.append(local.connection)
        found: sqlite3.Connection = local.connection
        return found

    def fetch_one(tile: Tile) -> Fetched:
        try:
            row = connection().execute(_FIND, (tile.z, tile.x, row_from_south(tile))).fetchone()
        except sqlite3.Error as error:
            return Unscored(FAILED, f"the MBTiles file cannot be read ({error})")
        if row is None or row[0] is None:
            return Unscored(MISSING, "not in the MBTiles file")
        num_bytes, data = row
        return too_large(num_bytes) if data is None else bytes(data)

    def close() -> None:
        for opened in connections:
            opened.close()

    return ThreadedImagery(
        fetch_one,
        identity=identity,
        attribution=plain_attribution(metadata.get("attribution", "")),
        num_threads=_NUM_THREADS,
        chunk_tiles=_CHUNK_TILES,
        on_close=close,
    )


def plain_attribution(text: str) -> str:
    """Return an attribution, which MBTiles and PMTiles may give as HTML, as plain text on one line."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", "", text)).split())


def too_large(num_bytes: int) -> Unscored:
    """Return why a tile of so many bytes is not read."""
    return Unscored(REFUSED, f"{num_bytes / 1e6:.0f} MB; expected at most {MAX_FILE_BYTES / 1e6:.0f} MB")


def zooms_in_words(found: list[int]) -> str:
    """Return zooms as a phrase: "zoom 14", "zooms 14 to 18" or "zooms 12, 14, 18"."""
    if len(found) == 1:
        return f"zoom {found[0]}"
    if found == list(range(found[0], found[-1] + 1)):
        return f"zooms {found[0]} to {found[-1]}"
    return f"zooms {', '.join(map(str, found))}"


@contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    """Yield a connection to a file whose tiles are images; SQLite's errors become one that names the file."""
    if not path.is_file():
        raise DataError(f"{path}: expected an MBTiles file, found none. Check the path.")
    try:
        with closing(_connect(path)) as database:
            _check_content(database, path)
            yield database
    except sqlite3.OperationalError as error:
        if "no such table" in str(error) or "no such column" in str(error):
            raise DataError(
                f"{path}: expected an MBTiles file, with a table `tiles` of zoom_level, tile_column, tile_row and tile_data, got "
                f"another SQLite database ({error}). Give an MBTiles, PMTiles or a folder."
            ) from error
        raise DataError(
            f"{path} cannot be read ({error}). Check its permissions, and that no program writes it."
        ) from error
    except sqlite3.DatabaseError as error:
        if "not a database" in str(error):
            raise DataError(
                f"{path}: expected an MBTiles file, which is an SQLite database, got another kind of file. Check the path."
            ) from error
        raise _damaged(path, str(error)) from error


def _connect(path: Path) -> sqlite3.Connection:
    """Open a file for reading only, by several threads, each with a connection of its own."""
    path = path.resolve()  # the log of a database lies beside the file, not beside a link to it
    uri = f"{path.as_uri()}?mode=ro"
    # A database in write-ahead mode needs files beside it, even to be read; `immutable` reads it without them.
    if not os.access(path.parent, os.W_OK) and not path.with_name(f"{path.name}-wal").exists():
        uri += "&immutable=1"
    return sqlite3.connect(uri, uri=True, timeout=_WAIT_SECONDS, check_same_thread=False)


def _check_content(database: sqlite3.Connection, path: Path) -> None:
    row = database.execute("SELECT CAST(tile_data AS blob) FROM tiles LIMIT 1").fetchone()
    if row is None:
        raise DataError(f"{path}: expected tiles, but this MBTiles file has none. Create it again.")
    kind = _metadata(database).get("format", "").lower()
    is_compressed = bytes(row[0] or b"").startswith(_GZIP)
    if is_compressed or kind in ("pbf", "mvt"):
        raise DataError(
            f"{path}: expected tiles of imagery, got vector tiles (format {kind or 'unknown'}). Give an MBTiles file of JPEG, "
            f"PNG or WebP."
        )


def _check_index(database: sqlite3.Connection, path: Path) -> None:
    """Refuse a file in which SQLite would read all tiles to find one."""
    steps = [str(row[3]) for row in database.execute(f"EXPLAIN QUERY PLAN {_FIND}", (0, 0, 0))]
    if any(step.startswith("SCAN") for step in steps):
        raise DataError(
            f"{path}: expected an index of the tiles, found none, so each tile would take a search through the whole file. "
            f'Create one: sqlite3 {path} "{_INDEX}"'
        )


def _metadata(database: sqlite3.Connection) -> dict[str, str]:
    try:
        rows = database.execute("SELECT name, value FROM metadata").fetchall()
    except sqlite3.OperationalError:  # some writers leave out the table
        return {}
    return {str(name): str(value) for name, value in rows}


def _zooms(database: sqlite3.Connection, path: Path) -> list[int]:
    """Return the zooms in use, each by one look into the index."""
    found: list[int] = []
    query = "SELECT zoom_level FROM tiles WHERE zoom_level > ? ORDER BY zoom_level LIMIT 1"
    while row := database.execute(query, (found[-1] if found else -1,)).fetchone():
        if not isinstance(row[0], int) or row[0] > MAX_ZOOM:
            raise _damaged(path, f"a tile at zoom {row[0]}; satx reads zooms from 0 to {MAX_ZOOM}")
        found.append(row[0])
    return found


def _digest(path: Path, metadata: dict[str, str]) -> str:
    with path.open("rb") as stream:
        header = stream.read(_HEADER_BYTES)
    facts = f"{path.stat().st_size} {sorted(metadata.items())}"
    return hashlib.sha256(header + facts.encode()).hexdigest()


def _damaged(path: Path, reason: str) -> DataError:
    return DataError(
        f"{path}: damaged MBTiles file ({reason}). Copy or create it again, or repair it with sqlite3's .recover."
    )
