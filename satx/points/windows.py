"""Which parts of which map tiles make the window centred on a point.

Pixels of a zoom count from the north-west corner of the map, 256 along the edge of a tile, x to the east and y to the south. A
window continues beyond the antimeridian on the other side of the map; beyond its north and south edge there is nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from satx.grid.tiles import tile_of

TILE_PX = 256
_PIXEL_ZOOMS = 8  # a tile of 256 px is divided into pixels as the world is into tiles of zoom 8

Place = tuple[slice, slice]  # rows and columns of pixels


class Part(NamedTuple):
    """A rectangle of pixels that a window has from one tile.

    Attributes:
        x: Column of the tile.
        y: Row of the tile.
        of_tile: Where the pixels are in the tile.
        of_window: Where they are in the window.
    """

    x: int
    y: int
    of_tile: Place
    of_window: Place


def corners_of(
    longitude: npt.ArrayLike, latitude: npt.ArrayLike, zoom: int, window_px: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the first columns and rows of pixels of windows centred on points, int64.

    The pixel in which a point lies has index `window_px // 2` in its window, in both directions. The results may be negative, or
    so large that the window reaches beyond the map.

    Args:
        longitude: Degrees.
        latitude: Degrees.
        zoom: 0 to 24.
        window_px: Edge of the windows.
    """
    x, y = tile_of(longitude, latitude, zoom + _PIXEL_ZOOMS)
    return x - window_px // 2, y - window_px // 2


def parts_of(left_px: int, top_px: int, zoom: int, window_px: int) -> tuple[Part, ...]:
    """Return the parts of a window, row by row from its north-west corner.

    Args:
        left_px: First column of its pixels; negative or beyond the east edge of the map where it crosses the antimeridian.
        top_px: First row.
        zoom: Zoom.
        window_px: Its edge, at most that of the map.

    Returns:
        The parts, which cover each pixel once; none if the window reaches beyond the north or south edge of the map.
    """
    num_tiles = 1 << zoom
    if top_px < 0 or top_px + window_px > num_tiles * TILE_PX:
        return ()
    columns = list(_cuts(left_px, window_px))
    return tuple(
        Part(column % num_tiles, row, (rows_of_tile, columns_of_tile), (rows_of_window, columns_of_window))
        for row, rows_of_tile, rows_of_window in _cuts(top_px, window_px)
        for column, columns_of_tile, columns_of_window in columns
    )


def stitched(parts: Sequence[Part], tiles: Iterable[np.ndarray], window_px: int) -> np.ndarray:
    """Return the pixels of a window, (window_px, window_px, 3) uint8.

    Args:
        parts: Its parts.
        tiles: The pixels of the tile of each part, each (256, 256, 3) uint8.
        window_px: Its edge.
    """
    window = np.empty((window_px, window_px, 3), np.uint8)
    for part, tile in zip(parts, tiles, strict=True):
        window[part.of_window] = tile[part.of_tile]
    return window


def _cuts(start_px: int, window_px: int) -> Iterator[tuple[int, slice, slice]]:
    """Divide a run of pixels at the borders of tiles: yield the tile, and the pixels within it and within the run."""
    stop_px = start_px + window_px
    for tile in range(start_px // TILE_PX, (stop_px - 1) // TILE_PX + 1):
        begin, end = max(start_px, tile * TILE_PX), min(stop_px, (tile + 1) * TILE_PX)
        of_tile = slice(begin - tile * TILE_PX, end - tile * TILE_PX)
        yield tile, of_tile, slice(begin - start_px, end - start_px)
