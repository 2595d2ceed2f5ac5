"""Where tiles lie: their squares on the Web Mercator map, from `tiles.csv` or from names such as `18-131100-130900.jpg`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from satx.errors import DataError
from satx.grid.tiles import MAX_LATITUDE, MAX_ZOOM
from satx.points.windows import TILE_PX, corners_of
from satx.tiles.layout import CSV_NAME, TileFile
from satx.tiles.listing import read_columns
from satx.tiles.store_writer import tile_id

_COLUMNS = ("lon", "lat", "z", "x", "y", "window_px")


def read_footprints(root: Path, files: Sequence[TileFile]) -> np.ndarray:
    """Return the square of each tile on the map.

    The columns of `tiles.csv` count first: `lon, lat, z, window_px` for a window, whose middle is the pixel in which the point
    lies, and `z, x, y` for a map tile. A tile without them has a place if its file is called `z-x-y`.

    Args:
        root: The folder of the tiles.
        files: Its tiles.

    Returns:
        (N, 4) float64: west, north, east and south as parts of the world in Web Mercator, 0..1 with y from the north; NaN where
        the place is unknown. A window across the antimeridian has a west below 0 or an east above 1.

    Raises:
        DataError: A cell of `tiles.csv` is no number, or lies outside its range.
    """
    table = root / CSV_NAME
    rows = read_columns(table, _COLUMNS) if table.is_file() else {}
    found = np.full((len(files), 4), np.nan)
    for number, file in enumerate(files):
        line, cells = rows.get(file.relative, (0, {}))
        found[number] = _footprint(f"{table}, line {line}", cells) or _named_footprint(file.relative)
    return found


def _footprint(where: str, cells: Mapping[str, str]) -> tuple[float, float, float, float] | None:
    """Return the square that the cells of a line tell; None if they are empty."""
    if cells.get("window_px") and all(cells.get(name) for name in ("lon", "lat", "z")):
        zoom = _whole(where, cells, "z", 0, MAX_ZOOM)
        size_px = _whole(where, cells, "window_px", 1, 2**16)
        longitude = _number(where, cells, "lon", 180)
        latitude = _number(where, cells, "lat", MAX_LATITUDE)
        left_px, top_px = (int(corner) for corner in corners_of(longitude, latitude, zoom, size_px))
        return _square(left_px, top_px, size_px, TILE_PX * 2**zoom)
    if all(cells.get(name) for name in ("z", "x", "y")):
        zoom = _whole(where, cells, "z", 0, MAX_ZOOM)
        x, y = (_whole(where, cells, name, 0, 2**zoom - 1) for name in ("x", "y"))
        return _square(x, y, 1, 2**zoom)
    return None


def _named_footprint(relative: str) -> tuple[float, float, float, float]:
    parts = tile_id(relative).split("-")
    if len(parts) != 3 or not all(part.isdecimal() for part in parts):
        return (np.nan,) * 4
    z, x, y = (int(part) for part in parts)
    return _square(x, y, 1, 2**z) if z <= MAX_ZOOM and max(x, y) < 2**z else (np.nan,) * 4


def _square(x: int, y: int, size: int, num_parts: int) -> tuple[float, float, float, float]:
    """Return a square whose corner and side count in parts of the world; exact, since `num_parts` is a power of two."""
    return x / num_parts, y / num_parts, (x + size) / num_parts, (y + size) / num_parts


def _whole(where: str, cells: Mapping[str, str], name: str, least: int, most: int) -> int:
    try:
        value = int(cells[name])
    except ValueError:
        value = least - 1
    if not least <= value <= most:
        raise DataError(
            f"{where}: expected a whole number from {least} to {most} for {name}, got {cells[name]!r}. Correct that line."
        )
    return value


def _number(where: str, cells: Mapping[str, str], name: str, most: float) -> float:
    try:
        value = float(cells[name])
    except ValueError:
        value = np.nan
    if not abs(value) <= most:
        raise DataError(
            f"{where}: expected degrees from {-most:.5g} to {most:.5g} for {name}, got {cells[name]!r}. Correct that line."
        )
    return value
