"""The tiles of an area at a zoom, by descent through the quadtree."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import shapely

from satx.errors import ConfigError, DataError
from satx.grid.area import Area
from satx.grid.tiles import MAX_ZOOM, ZOOM_BIT, bounds_of, places_of

MAX_TILES = 1 << 31
# An overlap of a tile and an area that is narrower than this, 1 cm, does not count: an area that follows borders of tiles, with
# seven digits or more after the point, has no tiles beyond these borders.
MIN_OVERLAP_DEGREES = 1e-7

_PIECE = 1 << 16  # tiles looked at, or written, at a time


def cover(area: Area, zoom: int) -> np.ndarray:
    """Return the keys of all tiles that an area meets, sorted, uint64.

    A parent tile that lies in the area as a whole is not looked into: its tiles follow one another in the order of keys. So the
    time grows with the length of the border, and only the writing of the keys with the number of tiles.

    Args:
        area: The area.
        zoom: Zoom of the tiles, 0 to 24.

    Raises:
        ConfigError: The zoom is another number.
        DataError: The area has more than 2^31 tiles at this zoom, or is too small to meet one.
    """
    if not 0 <= zoom <= MAX_ZOOM:
        raise ConfigError(f"--zoom: expected 0 to {MAX_ZOOM}, got {zoom}.")
    shapely.prepare(area.geometry)
    first_keys: list[np.ndarray] = []
    num_keys: list[np.ndarray] = []
    num_tiles = 0
    places: np.ndarray = np.zeros(
        1, np.uint64
    )  # of parents that meet the area or may do so: their keys without the zoom
    for depth in range(zoom + 1):
        whole, partly = _looked_at(area.geometry, depth, places, is_last=depth == zoom)
        num_below = 1 << 2 * (zoom - depth)
        num_tiles += len(whole) * num_below
        if num_tiles + len(partly) > MAX_TILES:
            raise DataError(
                f"Expected an area of at most {MAX_TILES:,} tiles, got more at zoom {zoom}. {area} Pass a lower --zoom, or split "
                f"the area."
            )
        first_keys.append(whole * np.uint64(num_below))
        num_keys.append(np.full(len(whole), num_below))
        places = ((partly[:, None] << np.uint64(2)) + np.arange(4, dtype=np.uint64)).ravel()
    if not num_tiles:
        raise DataError(
            f"Expected an area that meets a tile, got one of less than {MIN_OVERLAP_DEGREES} degrees. {area}"
        )
    return _expanded(np.concatenate(first_keys) | np.uint64(zoom << ZOOM_BIT), np.concatenate(num_keys), num_tiles)


def _looked_at(geometry: Any, zoom: int, places: np.ndarray, *, is_last: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return which tiles of one zoom lie in a prepared geometry as a whole, and which in part.

    Of the last zoom, all that meet the geometry are among the former.
    """
    whole, partly = [], []
    for piece in _pieces(places):
        boxes = _boxes(zoom, piece)
        meets = shapely.intersects(geometry, boxes)
        piece, boxes = piece[meets], boxes[meets]
        is_whole = np.ones(len(piece), bool) if is_last else shapely.covers(geometry, boxes)
        whole.append(piece[is_whole])
        partly.append(piece[~is_whole])
    return np.concatenate(whole), np.concatenate(partly)


def _pieces(places: np.ndarray) -> Iterator[np.ndarray]:
    yield from (places[start : start + _PIECE] for start in range(0, max(1, len(places)), _PIECE))


def _boxes(zoom: int, places: np.ndarray) -> np.ndarray:
    """Return the squares of tiles, smaller by the overlap that does not count, as geometries."""
    _, x, y = places_of(places)
    west, south, east, north = bounds_of(zoom, x, y)
    overlap = MIN_OVERLAP_DEGREES
    return np.asarray(shapely.box(west + overlap, south + overlap, east - overlap, north - overlap))


def _expanded(first_keys: np.ndarray, num_keys: np.ndarray, num_tiles: int) -> np.ndarray:
    """Return the keys of all ranges, sorted."""
    order = np.argsort(first_keys)
    first_keys, num_keys = first_keys[order], num_keys[order]
    before = np.cumsum(num_keys) - num_keys  # keys in earlier ranges
    keys = np.repeat(first_keys - before.astype(np.uint64), num_keys)
    for start in range(
        0, num_tiles, _PIECE
    ):  # piece by piece, because all numbers at once would take as much memory as the keys
        stop = min(start + _PIECE, num_tiles)
        keys[start:stop] += np.arange(start, stop, dtype=np.uint64)
    return keys
