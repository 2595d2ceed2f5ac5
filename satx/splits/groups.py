"""Which tiles must be in one split: groups that show the same ground, and blocks of the map that hold whole groups."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from satx.grid.tiles import MAX_ZOOM, center_of, keys_of
from satx.splits.pairs import CERTAIN, Pair

EQUATOR_KM = 40_075.017  # of the sphere of Web Mercator, 2 pi x 6,378.137 km

# A place this close to a tile's border, as a part of the world, belongs to the next tile, so that the last bit of a coordinate,
# which differs between processors, decides nothing; 0.04 mm on the ground.
_BORDER = 1e-12


def groups_of(num_tiles: int, pairs: Iterable[Pair]) -> np.ndarray:
    """Return the groups of tiles that certain pairs connect, directly or through others.

    Args:
        num_tiles: Number of tiles.
        pairs: Pairs of tiles; those that are only candidates connect nothing.

    Returns:
        (N,) int64, for each tile the lowest index in its group.
    """
    certain = np.array([(pair.first, pair.second) for pair in pairs if pair.how in CERTAIN], np.int64).reshape(-1, 2)
    links = coo_array((np.ones(len(certain), bool), (certain[:, 0], certain[:, 1])), shape=(num_tiles, num_tiles))
    num_groups, numbers = connected_components(links, directed=False)
    lowest = np.full(num_groups, num_tiles, np.int64)
    np.minimum.at(lowest, numbers, np.arange(num_tiles))
    return np.asarray(lowest[numbers])


def blocks_of(footprints: np.ndarray, groups: np.ndarray, zoom: int) -> np.ndarray:
    """Return the block of each tile: the map tile at a zoom in which its group lies.

    A group lies where its first member does, in the order of the map's keys, so that tiles that overlap across the border of two
    blocks are in one of them, and the two blocks stay apart. A group without a known place is a block of its own.

    Args:
        footprints: (N, 4) west, north, east and south as parts of the world, NaN where unknown.
        groups: (N,) from `groups_of`.
        zoom: Zoom of the blocks, 0 to `MAX_ZOOM`.

    Returns:
        (N,) int64 numbers of blocks, from 0; they follow the map, then the order of the groups without a place.
    """
    is_placed = np.isfinite(footprints).all(axis=1)
    unknown = np.iinfo(np.uint64).max
    first = np.full(len(groups), unknown, np.uint64)
    np.minimum.at(first, groups[is_placed], _keys_at(footprints[is_placed]))
    keys = first[groups]
    shift = np.uint64(2 * (MAX_ZOOM - zoom))
    parents = np.where(keys == unknown, np.uint64(0), keys >> shift)  # the zoom in a key is the same for all
    alone = np.where(keys == unknown, groups + 1, 0)
    _, numbers = np.unique(np.stack([alone.astype(np.uint64), parents]), axis=1, return_inverse=True)
    return np.asarray(numbers.reshape(-1), np.int64)


def block_side_km(footprints: np.ndarray, zoom: int) -> float:
    """Return the side of a block on the ground, at the middle latitude of the tiles."""
    return float(EQUATOR_KM * np.cos(np.radians(_latitude(footprints)))) / float(2**zoom)


def _latitude(footprints: np.ndarray) -> float:
    """Return the latitude of the middle tile in degrees."""
    middle = float(np.nanmedian(footprints[:, (1, 3)]))
    row = int(np.clip(middle, 0, 1 - _BORDER) * 2**MAX_ZOOM)
    return float(center_of(MAX_ZOOM, 0, row)[1])


def _keys_at(footprints: np.ndarray) -> np.ndarray:
    """Return the keys, at the deepest zoom, of the places in the middle of tiles."""
    middle_x, middle_y = footprints[:, (0, 2)].mean(axis=1), footprints[:, (1, 3)].mean(axis=1)
    num_tiles = 1 << MAX_ZOOM
    columns = np.floor((middle_x + _BORDER) % 1.0 * num_tiles).astype(np.int64)
    rows = np.clip(np.floor((middle_y + _BORDER) * num_tiles), 0, num_tiles - 1).astype(np.int64)
    return keys_of(np.full(len(columns), MAX_ZOOM), columns, rows)
