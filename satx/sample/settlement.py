"""Houses, streets and farmsteads, and the surroundings of any kind of rendered place."""

from __future__ import annotations

import math

import numpy as np

from satx.sample.buildings import Roof, build, build_house, lay_lawn, roof_color
from satx.sample.canvas import Canvas, Frame, Point
from satx.sample.terrain import (
    Land,
    bend,
    lay_crossing_roads,
    lay_pond,
    lay_road,
    lay_water,
    lot_colors,
    plant_wood,
    sow_parcels,
)


def surroundings(canvas: Canvas, land: Land, frame: Frame, slice_name: str, *, clear: list[Point]) -> None:
    """Draw everything around a place that is drawn later.

    Args:
        canvas: The tile.
        land: Its colors.
        frame: Its main direction.
        slice_name: "urban" surrounds the place with a town, "rural" with fields, woods or water.
        clear: Outline of the place, which stays free.
    """
    rng = canvas.rng
    if slice_name == "rural" and rng.random() < 0.6:
        sow_parcels(canvas, land, frame, share=rng.uniform(0.3, 1))
    if rng.random() < 0.3:
        if rng.random() < 0.6:
            side = rng.choice((-1, 1)) * rng.uniform(105, 135)
            lay_water(canvas, land, bend(rng, frame, side, sway_px=8), width_px=rng.uniform(12, 40))
        else:
            lay_pond(canvas, land, frame.at(rng.choice((-110, 110)), rng.uniform(-110, 110)), rng.uniform(14, 34))
    canvas.take(clear)
    if slice_name == "urban":
        town(canvas, land, frame, dense=rng.random() < 0.7)
    else:
        side = rng.choice((-1, 1)) * rng.uniform(85, 110)
        lay_road(canvas, land, bend(rng, frame, side, sway_px=3), width_px=rng.uniform(4, 8), paved=rng.random() < 0.5)
        for _ in range(int(rng.integers(0, 4))):
            farmstead(canvas, land, frame.moved(*rng.uniform(-120, 120, 2)))
    plant_wood(canvas, land, num_trees=int(rng.choice((30, 120, 500))), clumping=rng.choice((0.3, 1.0)))


def town(canvas: Canvas, land: Land, frame: Frame, *, dense: bool) -> None:
    """Draw a grid of streets with houses in its blocks; if not `dense`, draw only houses, on a part of the tile."""
    rng = canvas.rng
    spacing_u, spacing_v = rng.uniform(70, 120), rng.uniform(52, 80)
    start_u, start_v = rng.uniform(-200, -150), rng.uniform(-200, -150)
    if dense:
        streets = [(frame.at(u, -200), frame.at(u, 200), rng.uniform(5, 8)) for u in np.arange(start_u, 200, spacing_u)]
        streets += [
            (frame.at(-200, v), frame.at(200, v), rng.uniform(5, 10)) for v in np.arange(start_v, 200, spacing_v)
        ]
        lay_crossing_roads(canvas, land, [(run, width) for a, b, width in streets for run in _free_runs(canvas, a, b)])
    color, one_color = roof_color(rng), rng.random() < 0.45
    size_px, filled = rng.uniform(11, 18), rng.uniform(0.6, 0.95)
    border = -200.0 if dense else rng.uniform(-20, 50)
    for v in np.arange(max(start_v, border), 200, size_px * rng.uniform(1.25, 1.6)):
        for u in np.arange(start_u, 200, size_px * rng.uniform(1.45, 1.9)):
            if rng.random() < filled:
                spot = frame.moved(u + rng.normal(0, 1.5), v + rng.normal(0, 1.2), rng.normal(0, 0.04))
                build_house(canvas, spot, size_px * rng.uniform(0.75, 1.1), color if one_color else roof_color(rng))


def _free_runs(canvas: Canvas, start: Point, end: Point) -> list[list[Point]]:
    """Return the parts of a straight line where the ground is free."""
    runs: list[list[Point]] = [[]]
    for share in np.linspace(0, 1, 41):
        point = (start[0] + (end[0] - start[0]) * share, start[1] + (end[1] - start[1]) * share)
        if canvas.is_free([point]):
            runs[-1].append(point)
        else:
            runs.append([])
    return [run for run in runs if len(run) > 2]


def houses_along(canvas: Canvas, land: Land, frame: Frame, *, num_houses: int) -> None:
    """Draw a village: houses along a road, with fewer houses further away from it."""
    rng = canvas.rng
    v_road = rng.uniform(-50, 50)
    lay_road(canvas, land, bend(rng, frame, v_road, sway_px=4), width_px=rng.uniform(4, 9), paved=rng.random() < 0.5)
    color, one_color = roof_color(rng), rng.random() < 0.5
    for _ in range(num_houses):
        u, v = rng.uniform(-170, 170), v_road + rng.choice((-1, 1)) * (12 + rng.exponential(35))
        turn = rng.choice((0, math.pi / 2)) + rng.normal(0, 0.15)
        tint = color if one_color else roof_color(rng)
        build_house(canvas, frame.moved(u, v, turn), rng.uniform(10, 19), tint)


def farmstead(canvas: Canvas, land: Land, frame: Frame) -> None:
    """Draw a few buildings around a bare yard: a house, a barn, sheds."""
    rng = canvas.rng
    if not canvas.is_free(frame.rectangle(0, 0, 44, 40)):
        return
    lay_lawn(canvas, frame, rng.uniform(28, 44), rng.uniform(26, 40), lot_colors(rng, land))
    color = roof_color(rng)
    barn = frame.moved(0, -22, rng.normal(0, 0.1))
    if canvas.is_free(barn.rectangle(0, 0, 40, 20)):
        build(canvas, barn, rng.uniform(24, 38), rng.uniform(13, 18), Roof("gable", color, 7, rng.choice((0.0, 3.0))))
    for _ in range(int(rng.integers(1, 5))):
        u, v = rng.uniform(-36, 36, 2)
        spot = frame.moved(u, v, rng.choice((0, math.pi / 2)) + rng.normal(0, 0.1))
        build_house(canvas, spot, rng.uniform(7, 16), color if rng.random() < 0.5 else roof_color(rng))
