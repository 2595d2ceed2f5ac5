"""Roads, streets and rows of houses of a rendered country."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from satx.sample.buildings import build_house, roof_color
from satx.sample.canvas import Color, Frame, Point, mix, shade
from satx.sample.country_places import Block, Road
from satx.sample.country_sheet import ROADS, VERGES, Recorder
from satx.sample.terrain import MARKING, Land, vary

_STREET_STEPS = 12
_NEAR_END = 0.08  # share of a street that may lie on the road it leads to


def lay_road(recorder: Recorder, land: Land, road: Road) -> None:
    """Draw a road: asphalt with verges and, if wide, markings; or a dirt track with a grassy middle."""
    points, width_px = list(road.points), road.width_px
    if not width_px:
        return
    if not road.paved:
        with recorder.on(VERGES):
            recorder.line(points, vary(recorder.rng, land.soil, 0.05), width_px)
            recorder.line(points, mix(land.soil, land.grass, 0.45), width_px * 0.3)
        return
    with recorder.on(VERGES):
        recorder.line(points, shade(land.paving, 1.02), width_px + 3)
        recorder.disc(points[0], (width_px + 3) / 2, shade(land.paving, 1.02))
    with recorder.on(ROADS):
        recorder.line(points, land.asphalt, width_px)
        recorder.disc(points[0], width_px / 2, land.asphalt)
        if width_px > 8:
            for start, end in pairwise(points):
                for share in np.arange(0.0, 1.0, 0.25):
                    recorder.line([_between(start, end, share), _between(start, end, share + 0.13)], MARKING, 0.7)


def lay_drive(recorder: Recorder, land: Land, block: Block) -> None:
    """Draw a drive from the middle of a lot's side to the nearest road around the block, and mark its ground as occupied."""
    length_px, width_px = block.lot_px
    gates = [block.frame.at(u * length_px, v * width_px) for u, v in ((0.5, 0), (-0.5, 0), (0, 0.5), (0, -0.5))]
    ends = [point for road in block.roads if road.width_px for point in road.points[1:-1]]
    if not ends:
        return
    gate, end = min(((gate, end) for gate in gates for end in ends), key=lambda pair: math.dist(*pair))
    with recorder.on(VERGES):
        recorder.line([gate, end], vary(recorder.rng, land.soil, 0.05), 3.5)
    recorder.take_line([gate, end], 8)


def build_town(recorder: Recorder, land: Land, block: Block) -> None:
    """Divide a block by streets from side to side, line them with houses, and fill the rest with houses."""
    rng = recorder.rng
    paved = rng.random() < 0.35 + 0.4 * (block.settled - 0.9)
    width_px = rng.uniform(4, 7)
    num_across, num_along = rng.integers(2, 5, 2)
    courses = [[(share, t) for t in _steps()] for share in _shares(rng, num_across)]
    courses += [[(s, share) for s in _steps()] for share in _shares(rng, num_along)]
    streets = [run for course in courses for run in _free_runs(recorder, block, course)]
    for points in streets:
        recorder.take_line(points, width_px + 5)
    for points in streets:
        lay_road(recorder, land, Road(tuple(points), width_px, bool(paved)))
    size_px, filled = rng.uniform(11, 18), rng.uniform(0.6, 0.97)
    color = roof_color(rng) if rng.random() < 0.4 else None
    for line in (*streets, *(road.points for road in block.roads)):
        _line_with_houses(recorder, line, width_px, size_px, filled, color)
    left, top, right, bottom = recorder.bounds
    for x, y in rng.uniform((left, top), (right, bottom), (int(250 * filled), 2)).tolist():
        if not recorder.is_free([(x, y)]):
            continue
        spot = Frame((x, y), block.frame.angle + rng.normal(0, 0.05))
        build_house(recorder, spot, size_px * rng.uniform(0.6, 0.95), color or roof_color(rng))


def build_village(recorder: Recorder, block: Block) -> None:
    """Add houses along the roads of a village, fewer further away from them."""
    rng = recorder.rng
    color = roof_color(rng) if rng.random() < 0.5 else None
    dense = (block.settled - 0.1) * 60
    for road in block.roads:
        for _ in range(int(dense if road.width_px else dense / 4)):
            index = int(rng.integers(len(road.points) - 1))
            start, end = road.points[index], road.points[index + 1]
            foot = Frame(_between(start, end, rng.random()), _direction(start, end))
            away = _inward(foot, block.frame.center) * (road.width_px / 2 + 13 + rng.exponential(28))
            spot = foot.moved(0, away, rng.choice((0, math.pi / 2)) + rng.normal(0, 0.12))
            build_house(recorder, spot, rng.uniform(10, 19), color or roof_color(rng))


def _line_with_houses(
    recorder: Recorder, points: Sequence[Point], width_px: float, size_px: float, filled: float, color: Color | None
) -> None:
    """Add houses on both sides of a street, where the ground is free."""
    rng = recorder.rng
    for start, end in pairwise(points):
        foot, length_px = Frame(start, _direction(start, end)), math.dist(start, end)
        position = rng.uniform(0, size_px / 2)
        while position < length_px:
            for side in (-1, 1):
                if rng.random() < filled:
                    away = side * (width_px / 2 + 5 + size_px * rng.uniform(0.5, 0.75))
                    spot = foot.moved(position, away, rng.normal(0, 0.04))
                    build_house(recorder, spot, size_px * rng.uniform(0.75, 1.1), color or roof_color(rng))
            position += size_px * rng.uniform(1.2, 1.7)


def _steps() -> list[float]:
    return [float(share) for share in np.linspace(0, 1, _STREET_STEPS + 1)]


def _shares(rng: np.random.Generator, num_parts: int) -> list[float]:
    """Return where a side is divided into about equal parts."""
    return [(index + rng.uniform(-0.15, 0.15)) / num_parts for index in range(1, num_parts)]


def _free_runs(recorder: Recorder, block: Block, line: Sequence[tuple[float, float]]) -> list[list[Point]]:
    """Return the parts of a street, given in shares of a block, that meet neither a lot nor water."""
    runs: list[list[Point]] = [[]]
    for s, t in line:
        point = block.at(s, t)
        if min(s, t, 1 - s, 1 - t) < _NEAR_END or recorder.is_free([point]):
            runs[-1].append(point)
        else:
            runs.append([])
    return [run for run in runs if len(run) > 2]


def _direction(start: Point, end: Point) -> float:
    return math.atan2(end[1] - start[1], end[0] - start[0])


def _inward(foot: Frame, center: Point) -> int:
    """Return on which side of a line's point a center lies: 1 or -1 along the frame's `v`."""
    across = foot.angle + math.pi / 2
    toward = (center[0] - foot.center[0]) * math.cos(across) + (center[1] - foot.center[1]) * math.sin(across)
    return 1 if toward > 0 else -1


def _between(start: Point, end: Point, share: float) -> Point:
    return start[0] + (end[0] - start[0]) * share, start[1] + (end[1] - start[1]) * share
