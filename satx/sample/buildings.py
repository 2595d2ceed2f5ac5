"""Man-made objects on a rendered tile: roofs of all kinds, tanks, vehicles, courts, walls.

Every kind of building can have every roof color.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from satx.sample.canvas import Canvas, Color, Frame, Point, Solid, mix, shade
from satx.sample.terrain import Land, vary

_ROOFS: tuple[Color, ...] = (
    (164, 92, 70),
    (142, 84, 62),
    (178, 116, 88),
    (166, 166, 168),
    (204, 204, 202),
    (132, 136, 140),
    (112, 132, 158),
    (110, 134, 116),
    (176, 164, 144),
    (104, 92, 86),
    (150, 126, 108),
)
_LINE: Color = (238, 236, 230)
_VEHICLES: tuple[Color, ...] = (
    (222, 222, 222),
    (60, 62, 68),
    (150, 40, 38),
    (52, 78, 130),
    (168, 170, 172),
    (196, 176, 90),
)


@dataclass(frozen=True)
class Roof:
    """Shape and color of a roof; `form` is gable, hip, flat or sawtooth."""

    form: str
    color: Color
    height_px: float = 7.0
    ribs_px: float = 0.0  # spacing of corrugation, 0 for none


def roof_color(rng: np.random.Generator) -> Color:
    """Return a random roof color."""
    return vary(rng, _ROOFS[rng.integers(len(_ROOFS))], 0.06)


def build(canvas: Canvas, frame: Frame, length_px: float, width_px: float, roof: Roof) -> None:
    """Add a rectangular building centred on a frame, its ridge along the frame's `u`."""
    footprint = frame.rectangle(0, 0, length_px, width_px)
    painters = {"gable": _paint_gable, "hip": _paint_hip, "flat": _paint_flat, "sawtooth": _paint_sawtooth}

    def paint() -> None:
        painters[roof.form](canvas, frame, length_px, width_px, roof.color)
        if roof.ribs_px:
            _paint_ribs(canvas, frame, length_px, width_px, roof)

    canvas.stand(Solid(footprint, roof.height_px, paint))


def build_house(canvas: Canvas, frame: Frame, size_px: float, color: Color) -> bool:
    """Add a small house, some with a wing or a porch, if its ground is free; return whether it was."""
    rng = canvas.rng
    length_px, width_px = size_px * rng.uniform(0.95, 1.5), size_px * rng.uniform(0.7, 1.0)
    if not canvas.is_free(frame.rectangle(0, 0, length_px + 3, width_px + 3)):
        return False
    form = ("gable", "hip", "flat")[rng.choice(3, p=(0.45, 0.3, 0.25))]
    roof = Roof(form, vary(rng, color, 0.07), rng.uniform(4, 8), rng.choice((0.0, 2.5)))
    if rng.random() < 0.35:
        wing = frame.moved(rng.uniform(-0.3, 0.3) * length_px, width_px * 0.55, math.pi / 2)
        build(canvas, wing, width_px * 0.8, length_px * rng.uniform(0.35, 0.55), roof)
    build(canvas, frame, length_px, width_px, roof)
    return True


def build_tank(canvas: Canvas, center: Point, radius_px: float, color: Color) -> None:
    """Add a round tank or silo with a rim and a walkway."""
    angles = np.linspace(0, 2 * math.pi, 14, endpoint=False)
    footprint = [(center[0] + radius_px * math.cos(a), center[1] + radius_px * math.sin(a)) for a in angles]

    def paint() -> None:
        canvas.disc(center, radius_px, shade(color, 0.8))
        canvas.disc(center, radius_px - 0.8, color)
        away = _sunward(canvas)
        canvas.disc(
            (center[0] + away[0] * radius_px * 0.3, center[1] + away[1] * radius_px * 0.3),
            radius_px * 0.5,
            shade(color, 1.08),
        )
        canvas.line([center, (center[0] + radius_px, center[1])], shade(color, 0.7), 0.7)

    canvas.stand(Solid(footprint, radius_px * 0.9 + 3, paint))


def park_vehicle(canvas: Canvas, frame: Frame, length_px: float) -> None:
    """Add a car or, if long, a truck with its cab."""
    color = vary(canvas.rng, _VEHICLES[canvas.rng.integers(len(_VEHICLES))], 0.05)
    width_px = 2.8 if length_px < 10 else 4.4

    def paint() -> None:
        canvas.polygon(frame.rectangle(0, 0, length_px, width_px), color)
        canvas.polygon(frame.rectangle(length_px * 0.3, 0, length_px * 0.12, width_px * 0.8), shade(color, 0.45))

    canvas.stand(Solid(frame.rectangle(0, 0, length_px, width_px), 2.0 if length_px < 10 else 4.5, paint))


def lay_court(canvas: Canvas, frame: Frame, length_px: float, width_px: float, colors: tuple[Color, Color]) -> None:
    """Draw a ball court: a surface in its own colors with white lines."""
    canvas.textured(frame.rectangle(0, 0, length_px * 1.1, width_px * 1.14), *colors)
    _rule(canvas, frame, length_px, width_px, 2.0)
    canvas.line([frame.at(0, -width_px / 2), frame.at(0, width_px / 2)], _LINE, 1.8)
    canvas.ring(frame.center, width_px * 0.15, _LINE, 1.6)
    for end in (-1, 1):
        box = frame.moved(end * length_px * 0.41, 0)
        _rule(canvas, box, length_px * 0.18, width_px * 0.42, 1.6)
    canvas.take(frame.rectangle(0, 0, length_px * 1.1, width_px * 1.14))


def lay_pitch(canvas: Canvas, frame: Frame, length_px: float, width_px: float, colors: tuple[Color, Color]) -> None:
    """Draw a football pitch: mown or trodden ground, white lines, bare goal mouths."""
    lay_lawn(canvas, frame, length_px, width_px, colors)
    _rule(canvas, frame, length_px * 0.93, width_px * 0.9, 2.2)
    canvas.line([frame.at(0, -width_px * 0.45), frame.at(0, width_px * 0.45)], _LINE, 2.0)
    canvas.ring(frame.center, width_px * 0.14, _LINE, 1.8)
    for end in (-1, 1):
        box = frame.moved(end * length_px * 0.39, 0)
        _rule(canvas, box, length_px * 0.15, width_px * 0.5, 1.8)
        canvas.disc(frame.at(end * length_px * 0.45, 0), width_px * 0.05, mix(colors[1], (176, 150, 112), 0.6))


def lay_lawn(canvas: Canvas, frame: Frame, length_px: float, width_px: float, colors: tuple[Color, Color]) -> None:
    """Draw an even piece of ground without lines, mown in stripes."""
    corners = frame.rectangle(0, 0, length_px, width_px)
    canvas.textured(corners, *colors, stripes=(frame.angle, length_px / 7, canvas.rng.uniform(0.05, 0.5)))
    canvas.take(corners)


def lay_parking(canvas: Canvas, frame: Frame, length_px: float, width_px: float, land: Land) -> None:
    """Draw a car park: asphalt with rows of bays, some of them occupied."""
    corners = frame.rectangle(0, 0, length_px, width_px)
    canvas.textured(corners, land.asphalt, shade(land.asphalt, 0.92))
    canvas.take(corners)
    for v in np.arange(-width_px / 2 + 5, width_px / 2 - 4, 15.0):
        for u in np.arange(-length_px / 2 + 4, length_px / 2 - 3, 4.4):
            canvas.line([frame.at(u, v - 4), frame.at(u, v + 4)], _LINE, 0.5)
            if canvas.rng.random() < 0.4:
                park_vehicle(canvas, frame.moved(u + 2.2, v, math.pi / 2), 7.5)


def put_wall(canvas: Canvas, corners: list[Point], color: Color) -> None:
    """Draw a wall along a closed outline, with a gap for the gate."""
    canvas.line(corners, color, 1.3)
    canvas.line([corners[-1], _between(corners[-1], corners[0], 0.42)], color, 1.3)
    canvas.line([_between(corners[-1], corners[0], 0.58), corners[0]], color, 1.3)


def _between(start: Point, end: Point, share: float) -> Point:
    return start[0] + (end[0] - start[0]) * share, start[1] + (end[1] - start[1]) * share


def _rule(canvas: Canvas, frame: Frame, length_px: float, width_px: float, line_px: float) -> None:
    corners = frame.rectangle(0, 0, length_px, width_px)
    canvas.line([*corners, corners[0]], _LINE, line_px)


def _sunward(canvas: Canvas) -> Point:
    length = math.hypot(*canvas.shadow)
    return -canvas.shadow[0] / length, -canvas.shadow[1] / length


def _lit(canvas: Canvas, frame: Frame, turn: float, color: Color) -> Color:
    """Return the color of a roof slope that falls towards the frame's angle plus `turn`."""
    sun = _sunward(canvas)
    angle = frame.angle + turn
    return shade(color, 0.97 + 0.32 * (math.cos(angle) * sun[0] + math.sin(angle) * sun[1]))


def _paint_gable(canvas: Canvas, frame: Frame, length_px: float, width_px: float, color: Color) -> None:
    for side in (-1, 1):
        half = frame.rectangle(0, side * width_px / 4, length_px, width_px / 2)
        canvas.polygon(half, _lit(canvas, frame, side * math.pi / 2, color))
    canvas.line([frame.at(-length_px / 2, 0), frame.at(length_px / 2, 0)], shade(color, 1.14), 0.9)


def _paint_hip(canvas: Canvas, frame: Frame, length_px: float, width_px: float, color: Color) -> None:
    corners = frame.rectangle(0, 0, length_px, width_px)
    reach = max(length_px - width_px, 0) / 2
    left, right = frame.at(-reach, 0), frame.at(reach, 0)
    canvas.polygon([corners[0], corners[1], right, left], _lit(canvas, frame, -math.pi / 2, color))
    canvas.polygon([corners[2], corners[3], left, right], _lit(canvas, frame, math.pi / 2, color))
    canvas.polygon([corners[1], corners[2], right], _lit(canvas, frame, 0, color))
    canvas.polygon([corners[3], corners[0], left], _lit(canvas, frame, math.pi, color))
    canvas.line([left, right], shade(color, 1.14), 0.9)


def _paint_flat(canvas: Canvas, frame: Frame, length_px: float, width_px: float, color: Color) -> None:
    canvas.polygon(frame.rectangle(0, 0, length_px, width_px), shade(color, 1.12))
    canvas.textured(frame.rectangle(0, 0, length_px - 2, width_px - 2), shade(color, 1.02), shade(color, 0.92))
    if width_px > 50:
        for u in np.arange(-length_px / 2 + 8, length_px / 2 - 6, 12.0):
            for v in (-0.25, 0.25):
                canvas.polygon(frame.rectangle(u, v * width_px, 3, width_px * 0.32), shade(color, 1.2))
    elif min(length_px, width_px) > 9:
        spot = frame.moved(length_px * 0.28, width_px * 0.2)
        canvas.polygon(spot.moved(*(0.6 * s for s in canvas.shadow)).rectangle(0, 0, 4.6, 3.6), shade(color, 0.6))
        canvas.polygon(spot.rectangle(0, 0, 4, 3), shade(color, 1.18))


def _paint_sawtooth(canvas: Canvas, frame: Frame, length_px: float, width_px: float, color: Color) -> None:
    num_teeth = max(3, round(length_px / 8))
    step = length_px / num_teeth
    for tooth in range(num_teeth):
        u = -length_px / 2 + step * (tooth + 0.5)
        canvas.polygon(frame.rectangle(u, 0, step, width_px), _lit(canvas, frame, 0, color))
        canvas.polygon(
            frame.rectangle(u + step * 0.33, 0, step * 0.34, width_px), _lit(canvas, frame, math.pi, shade(color, 0.85))
        )


def _paint_ribs(canvas: Canvas, frame: Frame, length_px: float, width_px: float, roof: Roof) -> None:
    dark = shade(roof.color, 0.86)
    for u in np.arange(-length_px / 2 + roof.ribs_px, length_px / 2 - 1, roof.ribs_px):
        canvas.line([frame.at(u, -width_px / 2 + 0.7), frame.at(u, width_px / 2 - 0.7)], dark, 0.4)
