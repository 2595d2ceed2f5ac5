"""Leave out tiles that lie within one window of another split's, so that no split sees the ground beside another's tiles."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from satx.tiles.layout import SPLITS

TRAIN, VALID, TEST = range(len(SPLITS))
NOWHERE = -1

_ROUNDING = 1e-6  # of a window: tiles exactly one window apart are not nearer
_CHUNK = 4096  # tiles whose neighbours are looked up at a time


def left_out(footprints: np.ndarray, splits: np.ndarray) -> np.ndarray:
    """Return which tiles to leave out because a tile of another split is nearer than one window.

    Of two such tiles the one in the larger split is left out: train before valid, valid before test. A tile beside one that is
    left out itself stays.

    Args:
        footprints: (N, 4) west, north, east and south as parts of the world; a tile whose place is unknown (NaN) stays.
        splits: (N,) index into `SPLITS`.

    Returns:
        (N,) int8: `NOWHERE` for a tile that stays, else the index of the split that it is too near to.
    """
    near = np.full(len(splits), NOWHERE, np.int8)
    placed = np.isfinite(footprints).all(axis=1)
    for split, other in ((VALID, TEST), (TRAIN, TEST), (TRAIN, VALID)):
        own = np.flatnonzero(placed & (splits == split) & (near == NOWHERE))
        others = np.flatnonzero(placed & (splits == other) & (near == NOWHERE))
        if len(own) and len(others):
            near[own[_is_near(footprints[own], footprints[others])]] = other
    return near


def _is_near(own: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return which of the squares (N, 4) are nearer than one window to one of the others (M, 4): (N,) bool."""
    from shapely import STRtree, box

    sides, other_sides = own[:, 2] - own[:, 0], others[:, 2] - others[:, 0]
    widest = max(sides.max(), other_sides.max())
    tree = STRtree(box(others[:, 0], others[:, 1], others[:, 2], others[:, 3]))
    found = np.zeros(len(own), bool)
    for rows, shift in _chunks(own, others, widest):
        west, north, east, south = (own[rows] + (shift, 0, shift, 0)).T
        asking, answering = tree.query(box(west - widest, north - widest, east + widest, south + widest))
        gap_x = np.maximum(others[answering, 0] - east[asking], west[asking] - others[answering, 2])
        gap_y = np.maximum(others[answering, 1] - south[asking], north[asking] - others[answering, 3])
        window = np.maximum(sides[rows][asking], other_sides[answering])
        is_near = np.maximum(gap_x, gap_y) < window * (1 - _ROUNDING)
        found[rows[asking[is_near]]] = True
    return found


def _chunks(own: np.ndarray, others: np.ndarray, widest: float) -> Iterator[tuple[np.ndarray, float]]:
    """Yield rows of squares, and by how many worlds to move them, so that the antimeridian separates nothing."""
    first, last = others[:, 0].min() - widest, others[:, 2].max() + widest
    for shift in (-1.0, 0.0, 1.0):
        rows = np.flatnonzero((own[:, 2] + shift >= first) & (own[:, 0] + shift <= last))
        for start in range(0, len(rows), _CHUNK):
            yield rows[start : start + _CHUNK], shift
