"""Open a source of imagery by the form of what the user wrote; and which tiles a tile file has."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from satx.errors import ConfigError, DataError
from satx.imagery import mbtiles, pmtiles
from satx.imagery.contract import Imagery
from satx.imagery.mbtiles import zooms_in_words
from satx.tiles.walk import exists, is_folder

_IMAGE_ENDINGS = (".tif", ".tiff", ".vrt")
_FORMS = (
    "a folder, a .mbtiles, .pmtiles or .tif file, a template like /data/{z}/{x}/{y}.jpg or s3://bucket/{z}/{x}/{y}.jpg, or the "
    "template of a tile server's URLs, https://…/{z}/{x}/{y}.jpg"
)


def open_imagery(where: str, zooms: Iterable[int] = ()) -> Imagery:
    """Open a source of imagery.

    Args:
        where: A folder whose files are tiles, an MBTiles, PMTiles or GeoTIFF file, or a template with `{z}`, `{x}` and `{y}`:
            of a path, of `s3://bucket/…`, or of a URL.
        zooms: Zooms that are going to be asked for, to refuse a tile file that has none of one of them.

    Raises:
        ConfigError: It is none of these, lacks a placeholder, or needs a package that is not installed.
        DataError: It cannot be read, has no imagery, or has no tiles at one of the zooms.
    """
    path = Path(where)
    # Imported where they are opened, since a run needs one of them, and some import slow libraries.
    if where.startswith("s3://"):
        from satx.imagery.s3 import open_s3

        return open_s3(where)
    if "://" in where:
        from satx.imagery.http import open_http

        return open_http(where)
    if is_folder(path):
        from satx.imagery.folder import open_folder

        return open_folder(path)
    if "{" in where and not exists(path):
        from satx.imagery.folder import open_folder_template

        return open_folder_template(where)
    return _opened_file(path, zooms)


def known_tiles(where: str, zoom: int | None = None) -> np.ndarray | None:
    """Return the keys of all tiles of an MBTiles or PMTiles file, sorted, uint64; None for other sources.

    Args:
        where: The file.
        zoom: Their zoom; by default the deepest of the file.

    Raises:
        DataError: The file cannot be read, or has no tiles at this zoom.
    """
    path = Path(where)
    tile_file = _tile_file(path)
    if tile_file is None or not path.is_file():
        return None
    return tile_file.list_keys(path, tile_file.zooms(path)[-1] if zoom is None else zoom)


def known_bounds(where: str, zoom: int) -> tuple[float, float, float, float] | None:
    """Return west, south, east and north of an MBTiles or PMTiles file, in degrees; None for other sources.

    Args:
        where: The file.
        zoom: The zoom at which its tiles are going to be asked for.

    Raises:
        DataError: The file cannot be read, or has no tiles at this zoom.
    """
    path = Path(where)
    tile_file = _tile_file(path)
    return None if tile_file is None or not path.is_file() else tile_file.bounds(path, zoom)


def _opened_file(path: Path, wanted_zooms: Iterable[int]) -> Imagery:
    tile_file = _tile_file(path)
    if tile_file is not None:
        found = tile_file.zooms(path)
        others = sorted(set(wanted_zooms).difference(found))
        if others:
            raise DataError(
                f"{path}: expected tiles at {zooms_in_words(others)}, found {zooms_in_words(found)}. Plan tiles at a zoom of "
                f"the file, with --zoom."
            )
        return tile_file.open(path)
    if path.suffix.lower() in _IMAGE_ENDINGS:
        from satx.imagery.cog import open_cog

        return open_cog(path)
    raise ConfigError(f"{path}: expected imagery, got {'another file' if exists(path) else 'nothing'}. Give {_FORMS}.")


class _TileFile(NamedTuple):
    """What a kind of tile file can do."""

    zooms: Callable[[Path], list[int]]
    list_keys: Callable[[Path, int], np.ndarray]
    bounds: Callable[[Path, int], tuple[float, float, float, float]]
    open: Callable[[Path], Imagery]


def _tile_file(path: Path) -> _TileFile | None:
    if path.suffix.lower() == ".mbtiles":
        return _TileFile(mbtiles.zooms, mbtiles.list_keys, mbtiles.bounds, mbtiles.open_mbtiles)
    if path.suffix.lower() == ".pmtiles":
        return _TileFile(pmtiles.zooms, pmtiles.list_keys, pmtiles.bounds, pmtiles.open_pmtiles)
    return None
