"""Tiles in one PMTiles 3 file: https://github.com/protomaps/PMTiles/blob/main/spec/v3/spec.md."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from pmtiles.tile import (
    Compression,
    MagicNumberNotFound,
    SpecVersionUnsupported,
    TileType,
    deserialize_header,
    zxy_to_tileid,
)

from satx.errors import DataError
from satx.grid.tiles import MAX_ZOOM, keys_of, sorted_keys
from satx.imagery.contract import BROKEN, FAILED, MISSING, Fetched, Tile, Unscored
from satx.imagery.mbtiles import plain_attribution, too_large
from satx.imagery.pmtiles_directory import (
    MAX_DIRECTORY_BYTES,
    DamagedDirectory,
    Directory,
    ids_of_zoom,
    places_of_ids,
    read_directory,
    unpacked,
)
from satx.imagery.threaded import ThreadedImagery
from satx.tiles.decode import MAX_FILE_BYTES

MAX_LISTED_TILES = 400_000_000  # one entry may stand for any number of tiles; this many keys take 3.2 GB
_TILES_AT_ONCE = 1_000_000
_NUM_THREADS, _CHUNK_TILES = 4, 16
_HEADER_BYTES = 127
_MAX_DEPTH = 4  # of directories, as in the library
_CACHED_DIRECTORIES = 64  # each of some 4,096 entries, so 130 kB
_READ_COMPRESSIONS = (Compression.NONE, Compression.GZIP)
_VECTOR_TYPES = (TileType.MVT, TileType.MLT)
_IMAGE_TYPES = (TileType.UNKNOWN, TileType.PNG, TileType.JPEG, TileType.WEBP)


@dataclass(frozen=True)
class _File:
    """An open file and its header."""

    path: Path
    stream: BinaryIO
    header: dict[str, Any]

    def read(self, offset: int, num_bytes: int) -> bytes:
        """Read from several threads at once; unlike a memory map, a file that was cut off ends in an error, not in a crash."""
        try:
            data = os.pread(self.stream.fileno(), num_bytes, offset)
        except OverflowError as error:
            raise DamagedDirectory(f"an offset of {offset:,} bytes") from error
        if len(data) != num_bytes:
            raise DamagedDirectory(f"expected {num_bytes:,} bytes at {offset:,}, got {len(data):,}")
        return data


def zooms(path: Path) -> list[int]:
    """Return the zooms that a PMTiles file names in its header.

    Raises:
        DataError: The file is no PMTiles of images.
    """
    with _opened(path) as file:
        return list(range(file.header["min_zoom"], file.header["max_zoom"] + 1))


def list_keys(path: Path, zoom: int) -> np.ndarray:
    """Return the keys of all tiles of a PMTiles file at a zoom, sorted, uint64; no tile is read.

    Raises:
        DataError: The file is no PMTiles of images, is damaged, or has no tiles at this zoom.
    """
    with _opened(path) as file:
        first, last = _check_zoom(file, zoom)
        keys, _ = sorted_keys(_parts_of_zoom(file, zoom))
    if not len(keys):
        raise DataError(f"{path}: expected tiles at zoom {zoom}, found none; the file names zooms {first} to {last}.")
    return keys


def bounds(path: Path, zoom: int) -> tuple[float, float, float, float]:
    """Return west, south, east and north of a PMTiles file, in degrees, as its header says.

    Raises:
        DataError: The file is no PMTiles of images, or has no tiles at this zoom.
    """
    with _opened(path) as file:
        _check_zoom(file, zoom)
        west, south, east, north = (
            file.header[f"{name}_e7"] / 1e7 for name in ("min_lon", "min_lat", "max_lon", "max_lat")
        )
        return west, south, east, north


def open_pmtiles(path: Path) -> ThreadedImagery:
    """Open a PMTiles file of images.

    Its identity is a digest of header, root directory and metadata: they have the number of tiles and the lengths of all parts.

    Raises:
        DataError: The file is no PMTiles of images, or is damaged.
    """
    with ExitStack() as on_error:
        file = on_error.enter_context(_opened(path))
        identity, attribution = _facts(file)
        directory = lru_cache(_CACHED_DIRECTORIES)(partial(_read_directory, file))
        directory(file.header["root_offset"], file.header["root_length"])
        held = on_error.pop_all()

    def fetch_one(tile: Tile) -> Fetched:
        try:
            found = _find(file, directory, zxy_to_tileid(tile.z, tile.x, tile.y))
            if found is None:
                return Unscored(MISSING, "not in the PMTiles file")
            offset, num_bytes = found
            return too_large(num_bytes) if num_bytes > MAX_FILE_BYTES else _tile(file, offset, num_bytes)
        except (DamagedDirectory, OSError) as error:
            return Unscored(FAILED, f"the PMTiles file cannot be read ({error})")

    return ThreadedImagery(
        fetch_one,
        identity=identity,
        attribution=attribution,
        num_threads=_NUM_THREADS,
        chunk_tiles=_CHUNK_TILES,
        on_close=held.close,
    )


def _check_zoom(file: _File, zoom: int) -> tuple[int, int]:
    """Return the first and the last zoom of a file, which this one is between."""
    first, last = file.header["min_zoom"], file.header["max_zoom"]
    if not first <= zoom <= last:
        raise DataError(f"{file.path}: expected tiles at zoom {zoom}, found zooms {first} to {last}. Choose --zoom.")
    return first, last


@contextmanager
def _opened(path: Path) -> Iterator[_File]:
    """Yield an open file of images, and close it; what is damaged is one error that names the file."""
    if not path.is_file():
        raise DataError(f"{path}: expected a PMTiles file, found none. Check the path.")
    try:
        with path.open("rb", buffering=0) as stream:
            file = _File(path, stream, {})
            file.header.update(deserialize_header(file.read(0, _HEADER_BYTES)))
            _check_header(file.header, path)
            yield file
    except MagicNumberNotFound as error:
        raise DataError(f"{path}: expected a PMTiles file, got another kind of file. Check the path.") from error
    except SpecVersionUnsupported as error:
        raise DataError(f"{path}: expected PMTiles version 3, got another. Convert it: pmtiles convert.") from error
    except (ValueError, OSError) as error:  # UnicodeDecodeError and DamagedDirectory are ValueErrors
        raise DataError(
            f"{path}: damaged PMTiles file, or none ({error}). Copy or create it again; `pmtiles verify` checks it."
        ) from error


def _facts(file: _File) -> tuple[dict[str, str], str]:
    """Return identity and attribution."""
    header = file.header
    root = file.read(header["root_offset"], _bounded(header["root_length"]))
    stored_metadata = file.read(header["metadata_offset"], _bounded(header["metadata_length"]))
    metadata = json.loads(_unpacked(file, stored_metadata) or b"{}")
    attribution = metadata.get("attribution") if isinstance(metadata, dict) else None
    digest = hashlib.sha256(file.read(0, _HEADER_BYTES) + root + stored_metadata).hexdigest()
    return {"kind": "pmtiles", "digest": digest}, plain_attribution(str(attribution or ""))


def _check_header(header: dict[str, Any], path: Path) -> None:
    kind = header["tile_type"]
    if kind in _VECTOR_TYPES:
        raise DataError(
            f"{path}: expected tiles of imagery, got vector tiles ({kind.name}). Give a PMTiles file of JPEG, PNG or WebP."
        )
    if kind not in _IMAGE_TYPES:
        raise DataError(f"{path}: expected tiles of JPEG, PNG or WebP, got {kind.name}. Convert the tiles.")
    for name in ("internal_compression", "tile_compression"):
        if header[name] not in (*_READ_COMPRESSIONS, Compression.UNKNOWN):
            raise DataError(
                f"{path}: expected a PMTiles file compressed with gzip or not at all, got {header[name].name.lower()}. Write it "
                f"again with gzip."
            )
    if not header["min_zoom"] <= header["max_zoom"] <= MAX_ZOOM:
        raise DataError(
            f"{path}: expected zooms from 0 to {MAX_ZOOM}, got {header['min_zoom']} to {header['max_zoom']}. Create it again."
        )


def _find(file: _File, directory: Any, tile_id: int) -> tuple[int, int] | None:
    """Return where the bytes of a tile begin in the file, and their number; None if the file has no such tile."""
    offset, num_bytes = file.header["root_offset"], file.header["root_length"]
    for _ in range(_MAX_DEPTH):
        entries: Directory = directory(offset, num_bytes)
        row = int(np.searchsorted(entries.ids, tile_id, side="right")) - 1
        if row < 0:
            return None
        num_tiles, num_bytes = int(entries.run_lengths[row]), int(entries.lengths[row])
        if num_tiles:
            is_in_run = tile_id - int(entries.ids[row]) < num_tiles
            return (file.header["tile_data_offset"] + int(entries.offsets[row]), num_bytes) if is_in_run else None
        offset = file.header["leaf_directory_offset"] + int(entries.offsets[row])
    raise DamagedDirectory(f"more than {_MAX_DEPTH} levels of directories")


def _tile(file: _File, offset: int, num_bytes: int) -> Fetched:
    data = file.read(offset, num_bytes)
    if file.header["tile_compression"] is not Compression.GZIP:
        return data
    try:
        return unpacked(data, MAX_FILE_BYTES)
    except DamagedDirectory as error:
        return Unscored(BROKEN, str(error))


def _parts_of_zoom(file: _File, zoom: int) -> Iterator[np.ndarray]:
    """Yield the keys of the tiles of a zoom, a part of bounded size at a time."""
    num_tiles = 0
    for ids, run_lengths in _runs(file, file.header["root_offset"], file.header["root_length"], *ids_of_zoom(zoom), 1):
        stops = np.cumsum(run_lengths)
        num_tiles += int(stops[-1])
        if num_tiles > MAX_LISTED_TILES:
            raise DataError(
                f"{file.path}: expected at most {MAX_LISTED_TILES:,} tiles at zoom {zoom}, found more. Give the area to predict "
                f"as GeoJSON, and the file as --url."
            )
        for begin in range(0, int(stops[-1]), _TILES_AT_ONCE):
            places = np.arange(begin, min(begin + _TILES_AT_ONCE, int(stops[-1])))
            rows = np.searchsorted(stops, places, side="right")
            yield keys_of(zoom, *places_of_ids(ids[rows] + places - (stops - run_lengths)[rows], zoom))


def _runs(
    file: _File, offset: int, num_bytes: int, start: int, stop: int, depth: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield first ids and numbers of tiles of all runs within `[start, stop)`, from a directory and those below it."""
    if depth > _MAX_DEPTH:
        raise DamagedDirectory(f"more than {_MAX_DEPTH} levels of directories")
    entries = _read_directory(file, offset, num_bytes)
    is_run = entries.run_lengths > 0
    ends = np.append(entries.ids[1:], np.iinfo(np.int64).max)
    firsts = np.maximum(entries.ids, start)
    lasts = np.minimum(np.where(is_run, np.minimum(entries.ids + entries.run_lengths, ends), ends), stop)
    inside = lasts > firsts
    if (inside & is_run).any():
        yield firsts[inside & is_run], (lasts - firsts)[inside & is_run]
    for row in np.flatnonzero(inside & ~is_run):
        below = file.header["leaf_directory_offset"] + int(entries.offsets[row])
        yield from _runs(file, below, int(entries.lengths[row]), int(firsts[row]), int(lasts[row]), depth + 1)


def _read_directory(file: _File, offset: int, num_bytes: int) -> Directory:
    return read_directory(_unpacked(file, file.read(offset, _bounded(num_bytes))))


def _unpacked(file: _File, data: bytes) -> bytes:
    return unpacked(data, MAX_DIRECTORY_BYTES) if file.header["internal_compression"] is Compression.GZIP else data


def _bounded(num_bytes: int) -> int:
    if num_bytes > MAX_DIRECTORY_BYTES:
        raise DamagedDirectory(f"a directory of {num_bytes:,} bytes")
    return num_bytes
