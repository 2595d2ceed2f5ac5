"""Schools, markets, factories and other lots: their buildings and grounds, without their surroundings.

Schools and other places share grounds and colors. A school differs in its layout: long roofs of one color around a yard, a
marked court or a pitch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

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
from satx.sample.canvas import Canvas, Color, Frame, shade
from satx.sample.terrain import Land, lot_colors, plant, vary

SCHOOL_KINDS = ("school-u", "school-l", "school-o", "school-group")

_MIN_CONTRAST = 75.0  # summed over the channels

Bar = tuple[float, float, float, float, float]  # u, v, turn, length, width
Yard = tuple[float, float, float, float]  # u, v, length, width
Lot = tuple[float, float, float]  # v, length, width


@dataclass(frozen=True)
class SchoolPlan:
    """Layout of a school in its frame: its buildings, its yard and its lot."""

    bars: list[Bar]
    yard: Yard
    lot: Lot


def plan_school(rng: np.random.Generator, kind: str) -> SchoolPlan:
    """Choose the layout of a school of one of `SCHOOL_KINDS`."""
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
        yard = (0.0, rows[0] + (width + gap) / 2, length * 0.6, gap * 0.74)
        return SchoolPlan(bars, yard, (0.0, length + 24, 2 * pitch + width + 24))
    back = (0.0, -(yard_width + width) / 2, 0.0, yard_length + 2 * width, width)
    sides = [(side * (yard_length + width) / 2, 0.0, quarter, yard_width + 1, width) for side in (-1, 1)]
    front = (0.0, (yard_width + width) / 2, 0.0, yard_length + 2 * width, width)
    lot = (0.0, yard_length + 2 * width + 18, yard_width + 2 * width + 18)
    yard = (0.0, 0.0, yard_length * 0.84, yard_width * 0.8)
    if kind == "school-u":
        return SchoolPlan([back, *sides], yard, lot)
    if kind == "school-l":
        return SchoolPlan([back, (sides[0][0], width / 2, quarter, yard_width + width + 10, width)], yard, lot)
    return SchoolPlan([back, *sides, front], yard, lot)


def draw_school(canvas: Canvas, land: Land, place: Frame, plan: SchoolPlan, color: Color) -> None:
    """Draw a school with roofs of one color: its lot, its court or pitch, its buildings, its trees."""
    rng = canvas.rng
    yard, lot = plan.yard, plan.lot
    corners = place.rectangle(0, lot[0], lot[1], lot[2])
    canvas.textured(corners, *_setting_off(rng, land, color))
    if rng.random() < 0.6:
        put_wall(canvas, corners, shade(land.paving, 1.1))
    court = place.moved(*yard[:2])
    if yard[2] > 70 and rng.random() < 0.75:
        lay_pitch(canvas, court, yard[2], yard[3], lot_colors(rng, land))
    else:
        lay_court(canvas, court, min(yard[2], 62), min(yard[3], 36), lot_colors(rng, land))
    roof = Roof(rng.choice(("gable", "hip")), color, rng.uniform(6, 11), rng.choice((0.0, 3.5)))
    for u, v, turn, length_px, width_px in plan.bars:
        build(canvas, place.moved(u, v, turn), length_px, width_px, roof)
    _line_with_trees(canvas, land, place, lot)


def draw_market(canvas: Canvas, land: Land, frame: Frame, length_px: float, width_px: float) -> None:
    """Draw a market: a lot with rows of small stalls, and vehicles at its sides."""
    rng = canvas.rng
    length, width = length_px, width_px
    corners = frame.rectangle(0, 0, length, width)
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


def draw_factory(canvas: Canvas, land: Land, frame: Frame, lot_length_px: float, lot_width_px: float) -> None:
    """Draw a factory: a walled lot with one large hall, tanks, and parked vehicles."""
    rng = canvas.rng
    lot_length, lot_width = lot_length_px, lot_width_px
    corners = frame.rectangle(0, 0, lot_length, lot_width)
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


def draw_decoy(canvas: Canvas, land: Land, frame: Frame, *, marked: float) -> None:
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


def _setting_off(rng: np.random.Generator, land: Land, color: Color) -> tuple[Color, Color]:
    """Return lot colors that contrast with a roof of this color."""
    first, second = lot_colors(rng, land)
    contrast = sum(first) - sum(color)
    if abs(contrast) < _MIN_CONTRAST:
        factor = (sum(color) + math.copysign(_MIN_CONTRAST, contrast)) / sum(first)
        return shade(first, factor), shade(second, factor)
    return first, second


def _line_with_trees(canvas: Canvas, land: Land, place: Frame, lot: Lot) -> None:
    rng = canvas.rng
    radius_px = rng.uniform(3, 5.5)
    for side in (-1, 1):
        if rng.random() < 0.6:
            for u in np.arange(-lot[1] / 2, lot[1] / 2, radius_px * rng.uniform(2.2, 5)):
                spot = place.at(u + rng.normal(0, 1.5), lot[0] + side * (lot[2] / 2 - 2) + rng.normal(0, 1.2))
                if rng.random() < 0.8:
                    plant(canvas, land, spot, radius_px * rng.uniform(0.7, 1.2))
