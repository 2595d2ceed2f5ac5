"""Kinds of place that a rendered tile can show, and the layout of each.

Schools and other places share surroundings, grounds and colors. A school differs in its layout: long roofs of one color
around a yard, a marked court or a pitch.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from satx.sample.buildings import (
    Roof,
    build,
    build_tank,
    lay_court,
    lay_lawn,
    lay_parking,
    lay_pitch,
    park_vehicle,
    put_wall,
    roof_color,
)
from satx.sample.canvas import TILE_PX, Canvas, Color, Frame, shade
from satx.sample.settlement import farmstead, houses_along, surroundings, town
from satx.sample.terrain import (
    Land,
    bend,
    draw_land,
    lay_pond,
    lay_road,
    lay_water,
    lot_colors,
    make_ground,
    plant,
    plant_wood,
    sow_parcels,
    vary,
)

BUILT_UP_KINDS = ("houses", "market", "factory")
OPEN_LAND_KINDS = ("farmland", "forest", "river")
SCHOOL_KINDS = ("school-u", "school-l", "school-o", "school-group")

_MIN_CONTRAST = 75.0  # summed over the channels


def render_scene(kind: str, slice_name: str, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Render one tile that shows a kind of place.

    Args:
        kind: One of `BUILT_UP_KINDS`, `OPEN_LAND_KINDS` or `SCHOOL_KINDS`.
        slice_name: "rural" or "urban".
        rng: Random generator, the only source of randomness.

    Returns:
        (256, 256, 3) uint8.
    """
    land = draw_land(rng)
    canvas = Canvas(rng, make_ground(rng, land))
    frame = Frame((TILE_PX / 2, TILE_PX / 2), rng.uniform(0, 2 * math.pi))
    if kind in SCHOOL_KINDS:
        _school(canvas, land, frame, kind, slice_name)
    else:
        _SCENES[kind](canvas, land, frame, slice_name)
    return canvas.photograph()


def _school(canvas: Canvas, land: Land, frame: Frame, kind: str, slice_name: str) -> None:
    rng = canvas.rng
    place = frame.moved(*rng.normal(0, 10, 2))
    bars, yard, lot = _school_plan(rng, kind)
    surroundings(canvas, land, frame, slice_name, clear=place.rectangle(0, lot[0], lot[1] + 10, lot[2] + 10))
    corners = place.rectangle(0, lot[0], lot[1], lot[2])
    color = roof_color(rng)
    canvas.textured(corners, *_setting_off(rng, land, color))
    if rng.random() < 0.6:
        put_wall(canvas, corners, shade(land.paving, 1.1))
    court = place.moved(*yard[:2])
    if yard[2] > 70 and rng.random() < 0.75:
        lay_pitch(canvas, court, yard[2], yard[3], lot_colors(rng, land))
    else:
        lay_court(canvas, court, min(yard[2], 62), min(yard[3], 36), lot_colors(rng, land))
    roof = Roof(rng.choice(("gable", "hip")), color, rng.uniform(6, 11), rng.choice((0.0, 3.5)))
    for u, v, turn, length_px, width_px in bars:
        build(canvas, place.moved(u, v, turn), length_px, width_px, roof)
    _line_with_trees(canvas, land, place, lot)


def _setting_off(rng: np.random.Generator, land: Land, color: Color) -> tuple[Color, Color]:
    """Return lot colors that contrast with a roof of this color."""
    first, second = lot_colors(rng, land)
    contrast = sum(first) - sum(color)
    if abs(contrast) < _MIN_CONTRAST:
        factor = (sum(color) + math.copysign(_MIN_CONTRAST, contrast)) / sum(first)
        return shade(first, factor), shade(second, factor)
    return first, second


Bar = tuple[float, float, float, float, float]  # u, v, turn, length, width
Yard = tuple[float, float, float, float]  # u, v, length, width
Lot = tuple[float, float, float]  # v, length, width


def _school_plan(rng: np.random.Generator, kind: str) -> tuple[list[Bar], Yard, Lot]:
    width = rng.uniform(25, 34)
    yard_length, yard_width = rng.uniform(64, 98), rng.uniform(50, 72)
    quarter = math.pi / 2
    if kind == "school-group":
        num_bars = int(rng.integers(2, 4))
        length, gap = rng.uniform(95, 150), rng.uniform(36, 50)
        if num_bars == 3:
            width, gap = min(width, 28), min(gap, 42)
        pitch = (width + gap) * (num_bars - 1) / 2
        rows = [(index * (width + gap) - pitch) for index in range(num_bars)]
        bars = [(0.0, v, 0.0, length, width) for v in rows]
        return (
            bars,
            (0.0, rows[0] + (width + gap) / 2, length * 0.6, gap * 0.74),
            (0.0, length + 24, 2 * pitch + width + 24),
        )
    back = (0.0, -(yard_width + width) / 2, 0.0, yard_length + 2 * width, width)
    sides = [(side * (yard_length + width) / 2, 0.0, quarter, yard_width + 1, width) for side in (-1, 1)]
    front = (0.0, (yard_width + width) / 2, 0.0, yard_length + 2 * width, width)
    lot = (0.0, yard_length + 2 * width + 18, yard_width + 2 * width + 18)
    yard = (0.0, 0.0, yard_length * 0.84, yard_width * 0.8)
    if kind == "school-u":
        return [back, *sides], yard, lot
    if kind == "school-l":
        return [back, (sides[0][0], width / 2, quarter, yard_width + width + 10, width)], yard, lot
    return [back, *sides, front], yard, lot


def _line_with_trees(canvas: Canvas, land: Land, place: Frame, lot: Lot) -> None:
    rng = canvas.rng
    radius_px = rng.uniform(3, 5.5)
    for side in (-1, 1):
        if rng.random() < 0.6:
            for u in np.arange(-lot[1] / 2, lot[1] / 2, radius_px * rng.uniform(2.2, 5)):
                spot = place.at(u + rng.normal(0, 1.5), lot[0] + side * (lot[2] / 2 - 2) + rng.normal(0, 1.2))
                if rng.random() < 0.8:
                    plant(canvas, land, spot, radius_px * rng.uniform(0.7, 1.2))


def _houses(canvas: Canvas, land: Land, frame: Frame, slice_name: str) -> None:
    rng = canvas.rng
    if slice_name == "urban":
        town(canvas, land, frame, dense=True)
        plant_wood(canvas, land, num_trees=int(rng.integers(20, 120)), clumping=0.3)
        return
    _lay_decoy(canvas, land, frame.moved(*rng.normal(0, 25, 2)), marked=0.1)
    if rng.random() < 0.5:
        sow_parcels(canvas, land, frame, share=rng.uniform(0.2, 0.6))
    houses_along(canvas, land, frame, num_houses=int(rng.integers(25, 60)))
    plant_wood(canvas, land, num_trees=int(rng.integers(40, 200)), clumping=0.5)


def _market(canvas: Canvas, land: Land, frame: Frame, slice_name: str) -> None:
    rng = canvas.rng
    length, width = rng.uniform(110, 190), rng.uniform(90, 160)
    corners = frame.rectangle(0, 0, length, width)
    surroundings(canvas, land, frame, slice_name, clear=frame.rectangle(0, 0, length + 8, width + 8))
    stall, lane, color = rng.uniform(6.5, 11), rng.uniform(3.5, 8), roof_color(rng)
    canvas.textured(corners, *_setting_off(rng, land, color))
    uniform = rng.random() < 0.3
    for v in np.arange(-width / 2 + stall, width / 2 - stall / 2, stall + lane):
        for u in np.arange(-length / 2 + stall, length / 2 - stall / 2, stall * rng.uniform(1.3, 1.7)):
            if rng.random() < 0.82:
                tint = vary(rng, color, 0.08) if uniform else roof_color(rng)
                spot = frame.moved(u + rng.normal(0, 0.6), v + rng.normal(0, 0.6), rng.normal(0, 0.05))
                build(canvas, spot, stall, stall * rng.uniform(0.75, 1), Roof("gable", tint, 4))
    for _ in range(int(rng.integers(3, 14))):
        spot = frame.moved(rng.uniform(-0.5, 0.5) * length, rng.choice((-0.47, 0.47)) * width)
        park_vehicle(canvas, spot, rng.choice((7.5, 14)))


def _factory(canvas: Canvas, land: Land, frame: Frame, slice_name: str) -> None:
    rng = canvas.rng
    lot_length, lot_width = rng.uniform(165, 200), rng.uniform(130, 160)
    corners = frame.rectangle(0, 0, lot_length, lot_width)
    surroundings(canvas, land, frame, slice_name, clear=frame.rectangle(0, 0, lot_length + 8, lot_width + 8))
    color = roof_color(rng)
    canvas.textured(corners, *_setting_off(rng, land, color))
    put_wall(canvas, corners, shade(land.paving, 1.1))
    length, width = rng.uniform(88, 116), rng.uniform(72, 90)
    hall = frame.moved((length - lot_length) / 2 + 8, (width - lot_width) / 2 + 8)
    form = "sawtooth" if rng.random() < 0.3 else "flat"
    build(canvas, hall, length, width, Roof(form, color, rng.uniform(9, 13), rng.choice((0.0, 4.0))))
    side = lot_length - length - 24
    for index in range(int(rng.integers(1, 5))):
        radius_px = rng.uniform(6, min(12, side / 3))
        spot = frame.at(lot_length / 2 - side / 2, -lot_width / 2 + 18 + index * 26)
        build_tank(canvas, spot, radius_px, roof_color(rng))
    below = lot_width / 2 - 22
    if rng.random() < 0.5:
        lay_parking(canvas, frame.moved(0, below - 2), lot_length * 0.7, 34, land)
    else:
        for u in np.arange(-lot_length * 0.4, lot_length * 0.4, rng.uniform(9, 20)):
            park_vehicle(canvas, frame.moved(u, below, math.pi / 2 + rng.normal(0, 0.1)), rng.uniform(13, 20))


def _farmland(canvas: Canvas, land: Land, frame: Frame, slice_name: str) -> None:
    rng = canvas.rng
    sow_parcels(canvas, land, frame, share=rng.uniform(0.75, 1))
    _lay_decoy(canvas, land, frame.moved(*rng.normal(0, 40, 2)), marked=0.0)
    track = bend(rng, frame, rng.uniform(-80, 80), sway_px=rng.uniform(0, 6))
    lay_road(canvas, land, track, width_px=rng.uniform(3, 7), paved=rng.random() < 0.4)
    _edge(canvas, land, frame, slice_name)
    plant_wood(canvas, land, num_trees=int(rng.integers(5, 120)), clumping=1.2)


def _forest(canvas: Canvas, land: Land, frame: Frame, slice_name: str) -> None:
    rng = canvas.rng
    if rng.random() < 0.8:
        _lay_decoy(canvas, land, frame.moved(*rng.normal(0, 40, 2)), marked=0.15 if slice_name == "urban" else 0.0)
    track = bend(rng, frame, rng.uniform(-90, 90), sway_px=rng.uniform(4, 18))
    lay_road(canvas, land, track, width_px=rng.uniform(3, 6), paved=False)
    if rng.random() < 0.35:
        lay_pond(canvas, land, frame.at(*rng.normal(0, 60, 2)), rng.uniform(14, 34))
    _edge(canvas, land, frame, slice_name)
    plant_wood(canvas, land, num_trees=int(rng.integers(350, 900)), clumping=rng.choice((0.0, 0.6)))


def _river(canvas: Canvas, land: Land, frame: Frame, slice_name: str) -> None:
    rng = canvas.rng
    if rng.random() < 0.6:
        sow_parcels(canvas, land, frame, share=rng.uniform(0.3, 0.9))
    course = bend(rng, frame, rng.uniform(-40, 40), sway_px=rng.uniform(5, 30))
    lay_water(canvas, land, course, width_px=rng.uniform(18, 70))
    if rng.random() < 0.4:
        bridge = bend(rng, Frame(frame.center, frame.angle + math.pi / 2), rng.uniform(-70, 70), sway_px=0)
        lay_road(canvas, land, bridge, width_px=rng.uniform(6, 11), paved=True)
    _edge(canvas, land, frame, slice_name)
    plant_wood(canvas, land, num_trees=int(rng.integers(60, 300)), clumping=0.8)


def _edge(canvas: Canvas, land: Land, frame: Frame, slice_name: str) -> None:
    """Add buildings to open land: the edge of a town, or a few farmsteads."""
    if slice_name == "urban":
        town(canvas, land, frame, dense=False)
        return
    for _ in range(int(canvas.rng.integers(1, 4))):
        farmstead(canvas, land, frame.moved(*canvas.rng.uniform(-100, 100, 2)))


def _lay_decoy(canvas: Canvas, land: Land, frame: Frame, *, marked: float) -> None:
    """Draw a lot without a school: a lawn, a bare field, a car park or, with probability `marked`, a village pitch."""
    rng = canvas.rng
    length, width = rng.uniform(60, 120), rng.uniform(45, 85)
    colors: tuple[Color, Color] = lot_colors(rng, land)
    if rng.random() < marked:
        lay_pitch(canvas, frame, length, width, colors)
    elif rng.random() < 0.2:
        lay_parking(canvas, frame, length, width * 0.6, land)
    else:
        lay_lawn(canvas, frame, length, width, colors)


_SCENES: dict[str, Callable[[Canvas, Land, Frame, str], None]] = {
    "houses": _houses,
    "market": _market,
    "factory": _factory,
    "farmland": _farmland,
    "forest": _forest,
    "river": _river,
}
