"""Arithmetic of web map tiles on whole arrays: keys, places, bounds.

A tile is the square (z, x, y) of Web Mercator: zoom z divides the world into 2^z columns, counted from the west, and 2^z rows,
counted from the north. Its key is one uint64, `z << 58 | morton(x, y)`, with the bits of x in the even and those of y in the
odd places. Sorted keys are in Z-order within a zoom, so all tiles under one parent tile are neighbours in the array.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

MAX_ZOOM = 24
MAX_LATITUDE = 85.0511287798066  # where Web Mercator is as high as it is wide: atan(sinh(pi)) in degrees
ZOOM_BIT = 58  # position of the zoom in a key, above the 48 bits of the place

# A point this close to a tile's east or south border, as a part of the world, belongs to the next tile, so that the corner of
# a tile lies in that tile in spite of rounding; the value is mercantile's, and 2e-7 of a tile at zoom 24.
_BORDER = 1e-14
_PLACE_MASK = np.uint64((1 << 2 * MAX_ZOOM) - 1)
# "Interleave bits by binary magic numbers", S. E. Anderson, Bit Twiddling Hacks, https://graphics.stanford.edu/~seander/bithacks.html
_STEPS = tuple(
    (np.uint64(shift), np.uint64(mask))
    for shift, mask in (
        (16, 0x0000FFFF0000FFFF),
        (8, 0x00FF00FF00FF00FF),
        (4, 0x0F0F0F0F0F0F0F0F),
        (2, 0x3333333333333333),
        (1, 0x5555555555555555),
    )
)
_ONE, _ZOOM_BIT = np.uint64(1), np.uint64(ZOOM_BIT)


def keys_of(z: npt.ArrayLike, x: npt.ArrayLike, y: npt.ArrayLike) -> np.ndarray:
    """Return the keys of tiles, uint64, in the common shape of the arguments.

    Raises:
        ValueError: A zoom is not in 0..24, or a column or row is not in 0..2^z - 1.
    """
    zooms, columns, rows = (np.asarray(values, np.int64) for values in (z, x, y))
    if ((zooms < 0) | (zooms > MAX_ZOOM)).any():
        raise ValueError(f"Expected zooms from 0 to {MAX_ZOOM}, got {zooms.min()} to {zooms.max()}.")
    if ((columns | rows) >> zooms).any():  # of a negative number, too, something is left
        raise ValueError("Expected columns and rows from 0 to 2^z - 1.")
    places = _spread(columns.astype(np.uint64)) | _spread(rows.astype(np.uint64)) << _ONE
    return np.asarray(places | zooms.astype(np.uint64) << _ZOOM_BIT)


def places_of(keys: npt.ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return zooms, columns and rows of keys, each int64 in the shape of `keys`."""
    keys = np.asarray(keys, np.uint64)
    places = keys & _PLACE_MASK
    x, y = _gathered(places), _gathered(places >> _ONE)
    return (keys >> _ZOOM_BIT).astype(np.int64), x.astype(np.int64), y.astype(np.int64)


def is_increasing(keys: np.ndarray) -> bool:
    """Return whether keys are sorted and no two are equal."""
    return bool((keys[1:] > keys[:-1]).all())


def sorted_keys(parts: Iterable[np.ndarray]) -> tuple[np.ndarray, int]:
    """Return the keys of all parts, sorted and each once, uint64; and how many there were too many.

    The array grows by a quarter, so that parts and result are not in memory together: some 10 bytes a tile are needed, and 8
    more if there are duplicates.
    """
    keys, num_keys = np.empty(0, np.uint64), 0
    for part in parts:
        needed = num_keys + len(part)
        if needed > len(keys):
            keys.resize(max(needed, len(keys) * 5 // 4), refcheck=False)  # the only reference is here
        keys[num_keys:needed] = part
        num_keys = needed
    keys.resize(num_keys, refcheck=False)
    keys.sort()
    is_first = np.ones(len(keys), bool)
    np.not_equal(keys[1:], keys[:-1], out=is_first[1:])
    num_duplicates = len(keys) - int(np.count_nonzero(is_first))
    return keys[is_first] if num_duplicates else keys, num_duplicates


def tile_of(longitude: npt.ArrayLike, latitude: npt.ArrayLike, zoom: npt.ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return columns and rows, int64, of the tiles in which points lie.

    A point on a border lies in the eastern and southern tile. Points beyond the edge of the map count to the tile at that edge.

    Args:
        longitude: Degrees.
        latitude: Degrees.
        zoom: 0 to 24.

    Raises:
        ValueError: A coordinate is not finite.
    """
    east, south = _mercator_of(np.asarray(longitude, np.float64), np.asarray(latitude, np.float64))
    if not (np.isfinite(east).all() and np.isfinite(south).all()):
        raise ValueError("Expected finite longitudes and latitudes in degrees.")
    num_tiles = 1 << np.asarray(zoom, np.int64)
    x, y = (
        np.clip(np.floor((part + _BORDER) * num_tiles), 0, num_tiles - 1).astype(np.int64) for part in (east, south)
    )
    return np.asarray(x), np.asarray(y)


def bounds_of(
    z: npt.ArrayLike, x: npt.ArrayLike, y: npt.ArrayLike
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return west, south, east and north of tiles in degrees, float64."""
    columns, rows = np.asarray(x, np.int64), np.asarray(y, np.int64)
    west, north = _degrees_of(z, columns, rows)
    east, south = _degrees_of(z, columns + 1, rows + 1)
    return west, south, east, north


def center_of(z: npt.ArrayLike, x: npt.ArrayLike, y: npt.ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return longitude and latitude, float64 degrees, of the point in the middle of each tile's image."""
    return _degrees_of(z, np.asarray(x, np.int64) + 0.5, np.asarray(y, np.int64) + 0.5)


def _mercator_of(longitude: np.ndarray, latitude: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return points as parts of the world's width from the west and of its height from the north."""
    south = 0.5 - np.arcsinh(np.tan(np.radians(latitude))) / (2 * np.pi)
    return longitude / 360 + 0.5, south


def _degrees_of(z: npt.ArrayLike, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return longitude and latitude of points whose x and y count in tiles; parts of a tile are allowed."""
    num_tiles = 1 << np.asarray(z, np.int64)
    longitude = x / num_tiles * 360.0 - 180.0
    latitude = np.degrees(np.arctan(np.sinh(np.pi * (1 - 2 * (y / num_tiles)))))
    return np.asarray(longitude), np.asarray(latitude)


def _spread(values: np.ndarray) -> np.ndarray:
    """Move the bits 0..31 of uint64 to the even bits."""
    for shift, mask in _STEPS:
        values = (values | values << shift) & mask
    return values


def _gathered(values: np.ndarray) -> np.ndarray:
    """Move the even bits of uint64 to the bits 0..31; the inverse of `_spread`."""
    values = values & _STEPS[-1][1]
    masks = [mask for _, mask in _STEPS[-2::-1]] + [np.uint64(0xFFFFFFFF)]
    for (shift, _), mask in zip(_STEPS[::-1], masks, strict=True):
        values = (values | values >> shift) & mask
    return values
