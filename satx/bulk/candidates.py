"""Group neighbouring tiles at or above the threshold into candidates: places for a person to look at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from satx.grid.tiles import bounds_of, center_of, keys_of, places_of

CANDIDATES = pa.schema(
    [
        pa.field("candidate_id", pa.string(), nullable=False),  # the best tile's
        pa.field("z", pa.int8()),  # the best tile
        pa.field("x", pa.int32()),
        pa.field("y", pa.int32()),
        pa.field("probability", pa.float32(), nullable=False),  # the best tile's, which is the highest
        pa.field("mean_probability", pa.float32(), nullable=False),
        pa.field("num_tiles", pa.int32(), nullable=False),
        pa.field("longitude", pa.float64()),  # center of the best tile, degrees
        pa.field("latitude", pa.float64()),
        pa.field("west", pa.float64()),  # bounds of all its tiles, degrees; west > east across the antimeridian
        pa.field("south", pa.float64()),
        pa.field("east", pa.float64()),
        pa.field("north", pa.float64()),
    ]
)
# East, south-east, south and south-west: with them, each pair of the eight neighbours is met once.
_NEIGHBOURS = ((1, 0), (1, 1), (0, 1), (-1, 1))


class Grouped(NamedTuple):
    """Tiles at or above the threshold, and the candidates that they form.

    Attributes:
        tiles: The columns of `counts.POSITIVES`, and `candidate_id`; in Z-order, then those without a place, by name.
        candidates: The columns of `CANDIDATES`; most probable first, then by `candidate_id`.
    """

    tiles: pa.Table
    candidates: pa.Table


def group(positives: pa.Table) -> Grouped:
    """Group tiles that touch, also at a corner, at the same zoom.

    A candidate is known by its best tile: the most probable one; of several, the first by name. Columns are counted around the
    globe, so tiles on both sides of the antimeridian touch. A tile without z, x and y is a candidate of its own, without
    coordinates. The result does not depend on the order of the rows.

    Args:
        positives: The columns of `counts.POSITIVES`. Several files of a folder may have one place.
    """
    tiles, keys, name_ranks = _in_order(positives)
    places = np.stack(places_of(keys))  # (3, number of tiles with a place)
    num_groups, labels = _labels(keys, places)
    num_unplaced = len(tiles) - len(keys)
    labels = np.concatenate([labels, num_groups + np.arange(num_unplaced)])
    best = _best_rows(labels, tiles["probability"].to_numpy(), name_ranks)
    bests = tiles.take(pa.array(best))
    coordinates = (*center_of(*places[:, best[:num_groups]]), *_bounds(places, labels[: len(keys)]))
    candidates = _table(bests, tiles["probability"].to_numpy(), labels, coordinates)
    order = pc.sort_indices(candidates, [("probability", "descending"), ("candidate_id", "ascending")])
    owners = pa.field("candidate_id", pa.string(), nullable=False)
    return Grouped(tiles.append_column(owners, bests["tile_id"].take(pa.array(labels))), candidates.take(order))


def _table(
    bests: pa.Table, probabilities: np.ndarray, labels: np.ndarray, coordinates: Sequence[np.ndarray]
) -> pa.Table:
    """Return the columns of `CANDIDATES`.

    Args:
        bests: The best tile of each group.
        probabilities: Of each tile.
        labels: The number of each tile's group.
        coordinates: Center and bounds of the groups that have a place, which come first.
    """
    num_tiles = np.bincount(labels, minlength=len(bests))
    means = np.bincount(labels, probabilities.astype(np.float64), len(bests)) / num_tiles
    num_unplaced = bests["z"].null_count
    columns = [
        *(bests[name].combine_chunks() for name in ("tile_id", "z", "x", "y", "probability")),
        *(pa.array(means), pa.array(num_tiles)),
        *(pa.concat_arrays([pa.array(values), pa.nulls(num_unplaced, pa.float64())]) for values in coordinates),
    ]
    return pa.table([column.cast(field.type) for column, field in zip(columns, CANDIDATES, strict=True)], CANDIDATES)


def _in_order(positives: pa.Table) -> tuple[pa.Table, np.ndarray, np.ndarray]:
    """Return the tiles in Z-order, those without a place last; the keys of the others; and each tile's rank by name."""
    is_placed = pc.is_valid(positives["z"]).to_numpy()
    place = [column.drop_null().to_numpy() for column in positives.select(["z", "x", "y"]).columns]
    keys = np.full(len(positives), np.iinfo(np.uint64).max)
    keys[is_placed] = keys_of(*place)
    name_ranks = np.empty(len(positives), np.int64)
    name_ranks[pc.sort_indices(positives["tile_id"]).to_numpy()] = np.arange(len(positives))
    order = np.lexsort((name_ranks, keys))
    return positives.take(pa.array(order)), keys[order][: is_placed.sum()], name_ranks[order]


def _labels(keys: np.ndarray, places: np.ndarray) -> tuple[int, np.ndarray]:
    """Return the number of groups of neighbouring tiles, and for each tile the number of its group.

    Args:
        keys: Keys of tiles, sorted.
        places: Their z, x and y, `(3, n)`.
    """
    z, x, y = places
    num_columns = 1 << z
    rows = np.arange(len(keys))
    same_place = np.flatnonzero(keys[1:] == keys[:-1])
    ends = [(same_place, same_place + 1)]
    for step_x, step_y in _NEIGHBOURS:
        inside = rows[y + step_y < num_columns]
        wanted = keys_of(z[inside], (x[inside] + step_x) % num_columns[inside], y[inside] + step_y)
        found = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        is_there = keys[found] == wanted
        ends.append((inside[is_there], found[is_there]))
    first, second = (np.concatenate(side) for side in zip(*ends, strict=True))
    graph = coo_array((np.ones(len(first), bool), (first, second)), shape=(len(keys), len(keys)))
    num_groups, labels = connected_components(graph, directed=False)
    return int(num_groups), labels.astype(np.int64)


def _bounds(places: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return west, south, east and north of each group in degrees.

    The columns of a group have no gap, unless it crosses the antimeridian. Then they have one, and the group begins east of it:
    west is greater than east, as in RFC 7946, section 5.2.
    """
    order = np.lexsort((places[1], labels))
    (z, x, y), group_of = places[:, order], labels[order]
    starts = np.flatnonzero(np.diff(group_of, prepend=-1))
    ends = np.flatnonzero(np.diff(group_of, append=-1))
    west_column, east_column = x[starts], x[ends]
    gaps = np.flatnonzero((np.diff(x) > 1) & (np.diff(group_of) == 0))
    west_column[group_of[gaps]], east_column[group_of[gaps]] = x[gaps + 1], x[gaps]
    west, _, _, north = bounds_of(z[starts], west_column, np.minimum.reduceat(y, starts))
    _, south, east, _ = bounds_of(z[starts], east_column, np.maximum.reduceat(y, starts))
    return west, south, east, north


def _best_rows(labels: np.ndarray, probabilities: np.ndarray, name_ranks: np.ndarray) -> np.ndarray:
    """Return the row of the most probable tile of each group; of several, the first by name."""
    order = np.lexsort((name_ranks, -probabilities, labels))
    return order[np.flatnonzero(np.diff(labels[order], prepend=-1))]
