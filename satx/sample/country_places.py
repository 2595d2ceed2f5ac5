"""The network of roads of a rendered country, the blocks of land between them, and what each block holds.

The network is a turned and bent lattice of crossings. Its lines are curves through them: roads, tracks or mere borders of
fields. A block is the land between four crossings. Nothing in a block reaches into the next one, so each can be planned and
drawn alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from satx.sample.canvas import Frame, Point
from satx.sample.country_ground import SPACING_PX, river_distance, settlement
from satx.sample.country_noise import Doubles, generator, smooth_at, uniform
from satx.sample.places import SCHOOL_KINDS, SchoolPlan, plan_school

BLOCK_PX = 352  # mean distance of crossings
MARGIN_PX = 12  # between the middle of a road and a lot
_STEPS = 8  # points along one side of a block
_JITTER, _BEND_PX, _BEND_SPACING_PX = 0.17, 300.0, 3072.0
_MAX_BEND_PX = 700.0
_TOWN, _VILLAGE = 0.9, 0.3  # levels of settlement
# Probabilities of places in a block of a town, a village and the open country; the rest are houses or fields.
_SHARES = {
    "school": (0.085, 0.05, 0.008),
    "market": (0.05, 0.03, 0.003),
    "factory": (0.05, 0.02, 0.004),
    "pitch": (0.05, 0.06, 0.02),
}
_ATTEMPTS = 4
_SWING_PX = 36  # at most, of a curve from the straight line between its crossings
_HIGHWAYS = 0.14  # share of the network's lines that are paved and marked from end to end

_T = np.linspace(0, 1, _STEPS + 1)
_CURVE_WEIGHTS = (
    -_T / 2 + _T**2 - _T**3 / 2,
    1 - 2.5 * _T**2 + 1.5 * _T**3,
    _T / 2 + 2 * _T**2 - 1.5 * _T**3,
    (_T**3 - _T**2) / 2,
)

Index = NDArray[np.int64]


@dataclass(frozen=True)
class Road:
    """One line of the network between two crossings: its points, its width (0 for none) and whether it is paved."""

    points: tuple[Point, ...]
    width_px: float
    paved: bool


@dataclass(frozen=True)
class Block:
    """One block of land.

    Attributes:
        i: Column of its north-west crossing before the lattice is turned.
        j: Row of it.
        roads: Its four sides: first row, last row, first column, last column; each in the direction of growing indices.
        settled: Level of settlement at its center.
        kind: "school-u" and the other school kinds, "market", "factory", "pitch", or "" for houses and fields.
        frame: Center and direction of its place, or of the block.
        lot_px: Length and width of the place's lot; (0, 0) without one.
        school: Layout of a school.
    """

    i: int
    j: int
    roads: tuple[Road, Road, Road, Road]
    settled: float
    kind: str
    frame: Frame
    lot_px: tuple[float, float]
    school: SchoolPlan | None

    @property
    def slice(self) -> str:
        """Return "urban" in towns and villages, else "rural"."""
        return "urban" if self.settled > _VILLAGE else "rural"

    @property
    def is_town(self) -> bool:
        """Whether it lies in a town."""
        return self.settled > _TOWN

    @property
    def outline(self) -> list[Point]:
        """Its border as a polygon."""
        first_row, last_row, first_column, last_column = (road.points for road in self.roads)
        return [*first_row, *last_column[1:], *last_row[-2::-1], *first_column[-2:0:-1]]

    @property
    def lot(self) -> list[Point]:
        """The corners of its place's lot; empty without a place."""
        return self.frame.rectangle(0, 0, *self.lot_px) if self.kind else []

    def at(self, s: float, t: float) -> Point:
        """Return the point at shares of the way along its rows and its columns: a Coons patch between its sides."""
        top, bottom, left, right = (road.points for road in self.roads)
        rows, columns = (_along(top, s), _along(bottom, s)), (_along(left, t), _along(right, t))

        def part(axis: int) -> float:
            ruled = (1 - t) * rows[0][axis] + t * rows[1][axis] + (1 - s) * columns[0][axis] + s * columns[1][axis]
            corners = (1 - s) * ((1 - t) * top[0][axis] + t * bottom[0][axis])
            return float(ruled - corners - s * ((1 - t) * top[-1][axis] + t * bottom[-1][axis]))

        return part(0), part(1)


def blocks_near(seed: int, x_px: float, y_px: float, size_px: float) -> list[tuple[int, int]]:
    """Return (i, j) of all blocks that a square of the plane may meet, in ascending order of (j, i)."""
    reach = size_px / 2 * math.sqrt(2) + _MAX_BEND_PX * math.sqrt(2) + BLOCK_PX
    cosine, sine = _turn(seed)
    x, y = x_px + size_px / 2, y_px + size_px / 2
    center_i, center_j = (x * cosine + y * sine) / BLOCK_PX, (y * cosine - x * sine) / BLOCK_PX
    steps = reach / BLOCK_PX
    i = np.arange(math.floor(center_i - steps) - 1, math.ceil(center_i + steps) + 2)
    j = np.arange(math.floor(center_j - steps) - 1, math.ceil(center_j + steps) + 2)
    crossings = _crossings(seed, i, j)  # (rows, columns, 2)
    corners = np.stack([crossings[:-1, :-1], crossings[:-1, 1:], crossings[1:, :-1], crossings[1:, 1:]])
    turned = np.stack(
        [corners[..., 0] * cosine + corners[..., 1] * sine, corners[..., 1] * cosine - corners[..., 0] * sine], 3
    )
    middle, half = np.array([x, y]), np.full(2, size_px / 2)
    # Along the map's axes and along the lattice's: a block that is apart from the square along any of them does not meet it.
    is_near = _overlap(corners, middle, half) & _overlap(
        turned, np.array([center_i, center_j]) * BLOCK_PX, half * (cosine + sine)
    )
    rows, columns = np.nonzero(is_near)
    return [(int(i[column]), int(j[row])) for row, column in zip(rows, columns, strict=True)]


def places_in(seed: int, left_px: float, top_px: float, width_px: float, height_px: float) -> list[Block]:
    """Return the blocks with a place whose center lies in a rectangle of the plane, in ascending order of (j, i)."""
    size_px = max(width_px, height_px)
    i, j = np.array(blocks_near(seed, left_px, top_px, size_px), np.int64).reshape(-1, 2).T
    most = sum(shares[0] for shares in _SHARES.values())  # in a town, where places are most frequent
    may_hold = uniform(seed, "kind", i, j) < most
    blocks = [block_at(seed, a, b) for a, b in zip(i[may_hold].tolist(), j[may_hold].tolist(), strict=True)]
    return [
        block
        for block in blocks
        if block.kind
        and 0 <= block.frame.center[0] - left_px < width_px
        and 0 <= block.frame.center[1] - top_px < height_px
    ]


@lru_cache(maxsize=512)
def block_at(seed: int, i: int, j: int) -> Block:
    """Plan one block."""
    crossings = _crossings(seed, np.arange(i - 1, i + 3), np.arange(j - 1, j + 3))
    corners = crossings[1:3, 1:3].reshape(4, 2)
    x, y = corners.mean(0).tolist()
    lines = [_curve(line) for line in (crossings[1], crossings[2], crossings[:, 1], crossings[:, 2])]
    spots = np.array([*(line[_STEPS // 2] for line in lines), (x, y)])
    *levels, settled = settlement(seed, *spots.T).tolist()
    first_row, last_row, first_column, last_column = (
        _road(seed, line, level, *place)
        for line, level, place in zip(
            lines, levels, (("row", i, j), ("row", i, j + 1), ("column", i, j), ("column", i + 1, j)), strict=True
        )
    )
    roads = (first_row, last_row, first_column, last_column)
    (left, top), (right, bottom) = corners[[0, 2]].mean(0).tolist(), corners[[1, 3]].mean(0).tolist()
    frame = Frame((x, y), math.atan2(bottom - top, right - left))
    plain = Block(i, j, roads, settled, "", frame, (0.0, 0.0), None)
    kind = _kind(seed, i, j, settled)
    return _with_place(seed, plain, kind) if kind else plain


def _with_place(seed: int, block: Block, kind: str) -> Block:
    """Return the block with a place of a kind, or unchanged if its lot does not fit."""
    rng = generator(seed, "place", block.i, block.j)
    for _ in range(_ATTEMPTS):
        frame = Frame(block.frame.center, block.frame.angle + math.pi / 2 * rng.integers(4) + rng.normal(0, 0.05))
        frame = frame.moved(*rng.normal(0, 12, 2))
        name, school = kind, None
        if kind == "school":
            name = _school_kind(seed, rng, *frame.center)
            school = plan_school(rng, name)
            lot_px = school.lot[1:]
        else:
            lot_px = _LOTS[kind](rng)
        placed = Block(block.i, block.j, block.roads, block.settled, name, frame, lot_px, school)
        if _fits(seed, placed):
            return placed
    return block


def _fits(seed: int, block: Block) -> bool:
    """Return whether a lot lies within its block, clear of roads and water."""
    length, width = block.lot_px
    lot = block.frame.rectangle(0, 0, length + 8, width + 8)
    points = np.array([*lot, *(_middle(a, b) for a, b in zip(lot, [*lot[1:], lot[0]], strict=True))])
    border = np.array(block.outline)
    inside = _is_inside(points, border)
    distances = np.hypot(*(points[:, None] - _densified(border)[None]).transpose(2, 0, 1))
    if not inside.all() or distances.min() < MARGIN_PX:
        return False
    spots = [block.frame.at(u * length, v * width) for u in (-0.5, -0.25, 0, 0.25, 0.5) for v in (-0.5, 0, 0.5)]
    return bool(river_distance(seed, *np.array(spots).T).min() > 25)


def _kind(seed: int, i: int, j: int, settled: float) -> str:
    column = 0 if settled > _TOWN else 1 if settled > _VILLAGE else 2
    drawn = float(uniform(seed, "kind", np.array([i]), np.array([j]))[0])
    for kind, shares in _SHARES.items():
        if drawn < shares[column]:
            return kind
        drawn -= shares[column]
    return ""


def _school_kind(seed: int, rng: np.random.Generator, x: float, y: float) -> str:
    """Return a school's kind: neighbouring schools are often of the same."""
    streams = [f"style of {kind}" for kind in SCHOOL_KINDS]
    liking = smooth_at(seed, streams, SPACING_PX, np.array([x]), np.array([y]))[:, 0]
    return SCHOOL_KINDS[int(np.argmax(liking + 0.7 * rng.standard_normal(len(streams))))]


_LOTS = {
    "market": lambda rng: (rng.uniform(110, 190), rng.uniform(90, 160)),
    "factory": lambda rng: (rng.uniform(165, 200), rng.uniform(130, 160)),
    "pitch": lambda rng: (rng.uniform(75, 125), rng.uniform(50, 80)),
}


def _road(seed: int, points: tuple[Point, ...], settled: float, axis: str, i: int, j: int) -> Road:
    """Return the road along a side of a block, from how settled the land at its middle is."""
    first, second = uniform(seed, f"{axis} use", np.array([i, i]), np.array([j, j + 2**40])).tolist()
    standing = _standing(seed, axis, j if axis == "row" else i)
    if standing < _HIGHWAYS:
        return Road(points, 10.0, True)
    if settled > _TOWN:
        return Road(points, 5.5 + 2.5 * second, True)
    if settled > _VILLAGE:
        return Road(points, 4 + 3 * second, standing < 0.5)
    return Road(points, 2.5 + 2 * second if first < 0.45 else 0.0, False)


@lru_cache(maxsize=4096)
def _standing(seed: int, axis: str, line: int) -> float:
    """Return how important a line of the network is; 0 is the most important."""
    return float(uniform(seed, f"standing {axis}", np.array([line]), np.array([0]))[0])


def _curve(around: Doubles) -> tuple[Point, ...]:
    """Return points of the Catmull-Rom curve from the second to the third of four points, (4, 2)."""
    points = sum(weight[:, None] * point for weight, point in zip(_CURVE_WEIGHTS, around, strict=True))
    return tuple((x, y) for x, y in np.asarray(points).tolist())


def _crossings(seed: int, i: Index, j: Index) -> Doubles:
    """Return the positions of crossings, (len(j), len(i), 2): a lattice, jittered, turned and bent."""
    columns, rows = np.broadcast_arrays(i[None, :], j[:, None])
    u = (columns + _JITTER * (2 * uniform(seed, "crossing u", columns, rows) - 1)) * BLOCK_PX
    v = (rows + _JITTER * (2 * uniform(seed, "crossing v", columns, rows) - 1)) * BLOCK_PX
    cosine, sine = _turn(seed)
    x, y = u * cosine - v * sine, u * sine + v * cosine
    shift = smooth_at(seed, ["bend x", "bend y"], _BEND_SPACING_PX, x.ravel(), y.ravel()).reshape(2, *x.shape)
    bends = _MAX_BEND_PX * np.tanh(shift * (_BEND_PX / _MAX_BEND_PX))
    return np.stack([x + bends[0], y + bends[1]], axis=2)


def _turn(seed: int) -> tuple[float, float]:
    angle = math.pi / 2 * float(uniform(seed, "turn", np.array([0]), np.array([0]))[0])
    return math.cos(angle), math.sin(angle)


def _overlap(corners: Doubles, middle: Doubles, half: Doubles) -> NDArray[np.bool_]:
    """Return whether blocks, (4, rows, columns, 2), and a square overlap along both axes; curves swing out a little."""
    low, high = corners.min(0) - _SWING_PX, corners.max(0) + _SWING_PX
    return np.asarray(((low < middle + half) & (high > middle - half)).all(2))


def _along(points: tuple[Point, ...], share: float) -> Point:
    """Return the point at a share of the way along a line of `_STEPS` equal parts."""
    index = min(int(share * _STEPS), _STEPS - 1)
    rest = share * _STEPS - index
    (x0, y0), (x1, y1) = points[index], points[index + 1]
    return x0 + (x1 - x0) * rest, y0 + (y1 - y0) * rest


def _middle(a: Point, b: Point) -> Point:
    return (a[0] + b[0]) / 2, (a[1] + b[1]) / 2


def _densified(border: Doubles) -> Doubles:
    """Return the points of a closed border and three more on each of its lines."""
    steps = border + (np.roll(border, -1, 0) - border) * np.arange(0, 1, 0.25)[:, None, None]
    return np.asarray(steps.reshape(-1, 2))


def _is_inside(points: Doubles, polygon: Doubles) -> NDArray[np.bool_]:
    """Return whether points lie within a polygon, by counting crossings of a ray to the east."""
    x, y = points[:, :1], points[:, 1:]
    (x0, y0), (x1, y1) = polygon.T, np.roll(polygon, -1, 0).T
    spans = (y0 > y) != (y1 > y)
    with np.errstate(divide="ignore", invalid="ignore"):
        crossed = spans & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
    return np.asarray(crossed.sum(1) % 2 == 1)
