"""What the map of a bulk prediction shows: the tiles with the highest probabilities, and which area was scored.

Reads one block at a time. Memory is bounded by `MAX_POINTS` and `MAX_CELLS`, however many tiles there are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from satx.bulk.block_file import PROBABILITY_PREFIX, ModelIdentity
from satx.bulk.counts import Tally
from satx.imagery.contract import DONE

MAX_POINTS = 200_000
MAX_CELLS = 20_000
_ROW_BITS = 24  # of a cell's key: column << 24 | row, for zooms up to 24

_NO_POINTS = pa.table({"z": [], "x": [], "y": [], "probability": [], "tile_id": []})


@dataclass(frozen=True)
class Points:
    """Tiles on the map, from the highest probability to the lowest; equal ones by zoom, column and row.

    Attributes:
        z: (n,) uint8, zooms.
        x: (n,) uint32, columns.
        y: (n,) uint32, rows.
        probability: (n,) float32, of the class of interest.
        tile_ids: n names.
    """

    z: np.ndarray
    x: np.ndarray
    y: np.ndarray
    probability: np.ndarray
    tile_ids: list[str]

    def __len__(self) -> int:
        """Return the number of tiles."""
        return len(self.probability)


@dataclass(frozen=True)
class Coverage:
    """The area of a prediction, as rectangles of cells of one zoom.

    Attributes:
        zoom: Zoom of the cells.
        rectangles: (n, 5) uint32: first column, last column, first row, last row, and 1 if at least half of the tiles were
            scored, else 0.
    """

    zoom: int
    rectangles: np.ndarray


@dataclass(frozen=True)
class MapData:
    """What is drawn.

    Attributes:
        points: The tiles of at least `floor`; the `MAX_POINTS` highest, if there are more.
        floor: Lowest probability on the map.
        num_at_floor: Number of tiles of at least `floor` that have a place, on the map or not.
        num_found: Number of tiles of at least the model's threshold, with or without a place.
        num_unplaced: Number of tiles whose zoom, column and row are unknown.
        counts: Number of tiles of each status that occurs, in the order of `STATUSES`.
        coverage: The area.
    """

    points: Points
    floor: float
    num_at_floor: int
    num_found: int
    num_unplaced: int
    counts: dict[str, int]
    coverage: Coverage


@dataclass
class _Cells:
    """Number of tiles, and of scored tiles, in each cell of a grid that becomes coarser when it has too many cells."""

    zoom: int | None = None
    keys: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    totals: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), np.int64))

    def add(self, z: np.ndarray, x: np.ndarray, y: np.ndarray, is_done: np.ndarray) -> None:
        """Add tiles: zooms, columns, rows, each (n,) int64, and whether they were scored, (n,) bool."""
        if not len(z):
            return
        self._coarsen_to(int(z.min()) if self.zoom is None else min(self.zoom, int(z.min())))
        shift = z - self.zoom
        self._merge((x >> shift) << _ROW_BITS | (y >> shift), np.stack([np.ones_like(x), is_done.astype(np.int64)], 1))
        while len(self.keys) > MAX_CELLS and self.zoom:
            self._coarsen_to(self.zoom - 1)

    def coverage(self) -> Coverage:
        """Return the cells as rectangles."""
        scored = (2 * self.totals[:, 1] >= self.totals[:, 0]).astype(np.int64)
        return Coverage(self.zoom or 0, _rectangles(*_columns_and_rows(self.keys), scored))

    def _coarsen_to(self, zoom: int) -> None:
        shift = 0 if self.zoom is None else self.zoom - zoom
        self.zoom = zoom
        if shift:
            column, row = _columns_and_rows(self.keys)
            totals, self.keys, self.totals = self.totals, self.keys[:0], self.totals[:0]
            self._merge((column >> shift) << _ROW_BITS | (row >> shift), totals)

    def _merge(self, keys: np.ndarray, totals: np.ndarray) -> None:
        self.keys, place = np.unique(np.concatenate([self.keys, keys]), return_inverse=True)
        weights = np.concatenate([self.totals, totals])
        self.totals = np.stack([np.bincount(place, weight).astype(np.int64) for weight in weights.T], 1)


def gather_map(tables: Iterable[pa.Table], model: ModelIdentity, *, floor: float | None = None) -> MapData:
    """Read the blocks of a prediction and keep what the map shows.

    Args:
        tables: The blocks, as `block_file.block_table` makes them, in any order.
        model: The model that scored them.
        floor: Lowest probability on the map; by default half of the model's threshold.

    Returns:
        The data of the map.
    """
    floor = model.threshold / 2 if floor is None else floor
    kept: list[pa.Table] = []
    cells, tally = _Cells(), Tally(model)
    num_kept = num_at_floor = num_unplaced = 0
    for table in tables:
        tally.add(table)
        is_done = pc.equal(table["status"].cast(pa.string()), DONE)
        placed = table.append_column("is_done", is_done).filter(pc.is_valid(table["z"]))
        num_unplaced += len(table) - len(placed)
        z, x, y = (placed[axis].to_numpy().astype(np.int64) for axis in "zxy")
        cells.add(z, x, y, placed["is_done"].to_numpy())
        high = _at_least(placed, model, floor)
        num_at_floor += len(high)
        num_kept += len(high)
        kept.append(high)
        if num_kept > 2 * MAX_POINTS:
            kept = [_highest(kept)]
            num_kept = len(kept[0])
    counted = tally.record()
    return MapData(
        points=_points(kept),
        floor=floor,
        num_at_floor=num_at_floor,
        num_found=counted["num_above_threshold"],
        num_unplaced=num_unplaced,
        counts={status: number for status, number in counted["status"].items() if number},
        coverage=cells.coverage(),
    )


def _at_least(placed: pa.Table, model: ModelIdentity, floor: float) -> pa.Table:
    """Return place, name and probability of the tiles of at least `floor`, which is compared as float32."""
    column = placed[PROBABILITY_PREFIX + model.positive_class]
    high = placed.append_column("probability", column).select(["z", "x", "y", "tile_id", "probability"])
    return high.filter(pc.greater_equal(column, pa.scalar(np.float32(floor), pa.float32())))  # null is dropped


def _highest(kept: list[pa.Table]) -> pa.Table:
    """Return the `MAX_POINTS` rows of the highest probabilities, sorted."""
    order = [("probability", "descending"), ("z", "ascending"), ("x", "ascending"), ("y", "ascending")]
    return pa.concat_tables(kept).sort_by(order).slice(0, MAX_POINTS).combine_chunks()


def _points(kept: list[pa.Table]) -> Points:
    highest = _highest(kept) if kept else _NO_POINTS
    return Points(
        z=highest["z"].to_numpy().astype("u1"),
        x=highest["x"].to_numpy().astype("u4"),
        y=highest["y"].to_numpy().astype("u4"),
        probability=highest["probability"].to_numpy().astype("f4"),
        tile_ids=highest["tile_id"].to_pylist(),
    )


def _columns_and_rows(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return keys >> _ROW_BITS, keys & ((1 << _ROW_BITS) - 1)


def _rectangles(column: np.ndarray, row: np.ndarray, scored: np.ndarray) -> np.ndarray:
    """Join cells, first along columns, then runs of equal rows along rows, into rectangles (n, 5) uint32."""
    if not len(column):
        return np.zeros((0, 5), np.uint32)
    runs = _joined(np.stack([column, column, row, row, scored], 1), fixed=(0, 1, 4), low=2, high=3)
    return _joined(runs, fixed=(2, 3, 4), low=0, high=1).astype(np.uint32)


def _joined(boxes: np.ndarray, *, fixed: tuple[int, ...], low: int, high: int) -> np.ndarray:
    """Join boxes that follow one another from `high` to `low` and are equal in the `fixed` columns."""
    boxes = boxes[np.lexsort([boxes[:, low], *(boxes[:, place] for place in fixed)])]
    same = (boxes[1:, fixed] == boxes[:-1, fixed]).all(1) & (boxes[1:, low] == boxes[:-1, high] + 1)
    first = np.flatnonzero(np.concatenate([[True], ~same]))
    joined = boxes[first]
    joined[:, high] = boxes[np.concatenate([first[1:], [len(boxes)]]) - 1, high]
    return joined
