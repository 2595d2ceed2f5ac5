"""Ground of a rendered tile and what grows on it: soil, parcels, roads, water, trees.

All scenes draw their colors from the same palettes, so that no color identifies a class.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from satx.sample.canvas import TILE_PX, Canvas, Color, Floats, Frame, Point, Solid, mix, noise, shade

_GRASS: tuple[Color, ...] = (
    (92, 116, 60),
    (112, 124, 72),
    (136, 130, 84),
    (82, 102, 62),
    (150, 142, 98),
    (104, 132, 66),
)
_SOIL: tuple[Color, ...] = (
    (166, 130, 94),
    (150, 108, 78),
    (184, 154, 116),
    (138, 112, 86),
    (172, 118, 84),
    (158, 140, 112),
)
_PAVING: tuple[Color, ...] = ((196, 180, 146), (172, 166, 152), (152, 148, 142), (186, 162, 126), (128, 126, 124))
_FOLIAGE: tuple[Color, ...] = ((58, 84, 42), (70, 92, 50), (84, 100, 54), (50, 74, 46), (96, 104, 60))
_WATER: tuple[Color, ...] = ((66, 88, 92), (98, 102, 82), (52, 74, 84), (120, 110, 86), (78, 100, 108))
_ASPHALT: tuple[Color, ...] = ((92, 92, 96), (110, 108, 106), (128, 124, 120))
PALETTES = (_GRASS, _SOIL, _PAVING, _FOLIAGE, _WATER, _ASPHALT)  # in the order of the attributes of `Land`
MARKING: Color = (226, 224, 216)


@dataclass(frozen=True)
class Land:
    """Colors of one tile's land."""

    grass: Color
    soil: Color
    paving: Color
    foliage: Color
    water: Color
    asphalt: Color


def vary(rng: np.random.Generator, color: Color, spread: float) -> Color:
    """Return a random color near this one: lighter or darker, with a slightly different hue."""
    light, (red, green, blue) = 1 + rng.normal(0, spread), rng.normal(0, 60 * spread, 3).tolist()
    return color[0] * light + red, color[1] * light + green, color[2] * light + blue


def _pick(rng: np.random.Generator, palette: tuple[Color, ...]) -> Color:
    return vary(rng, palette[rng.integers(len(palette))], 0.08)


def draw_land(rng: np.random.Generator) -> Land:
    """Choose random colors for one tile."""
    return Land(*(_pick(rng, palette) for palette in PALETTES))


def make_ground(rng: np.random.Generator, land: Land) -> Floats:
    """Return patches of grass and soil: (256, 256, 3) float32."""
    patches = noise(rng, TILE_PX, (3, 7, 16, 40), 0.6) * rng.uniform(0.5, 1.5) + rng.uniform(-1.6, 1.6)
    share = (1 / (1 + np.exp(-2.5 * patches)))[..., None]  # (256, 256, 1) soil's share
    light = 1 + 0.07 * noise(rng, TILE_PX, (5, 20, 60), 0.9)[..., None]
    ground: Floats = (
        np.asarray(land.grass, np.float32) * (1 - share) + np.asarray(land.soil, np.float32) * share
    ) * light
    return ground


def lot_colors(rng: np.random.Generator, land: Land) -> tuple[Color, Color]:
    """Return two similar colors for a yard, a square, a bare field or a lawn."""
    base = (land.soil, land.paving, land.grass)[rng.choice(3, p=(0.4, 0.35, 0.25))]
    return vary(rng, base, 0.05), shade(vary(rng, base, 0.05), rng.uniform(0.85, 1.0))


def bend(rng: np.random.Generator, frame: Frame, v: float, *, sway_px: float) -> list[Point]:
    """Return a gently winding line across the whole tile, along the frame's `u` at distance `v`."""
    phase, waves = rng.uniform(0, 2 * math.pi), rng.uniform(0.5, 1.6)
    steps = np.linspace(-220, 220, 24)
    return [frame.at(u, v + sway_px * math.sin(phase + waves * u / 70)) for u in steps]


def lay_road(canvas: Canvas, land: Land, points: list[Point], *, width_px: float, paved: bool) -> None:
    """Draw a road: asphalt with verges and markings, or a dirt track with a grassy middle."""
    if paved:
        lay_crossing_roads(canvas, land, [(points, width_px)])
        return
    canvas.line(points, vary(canvas.rng, land.soil, 0.05), width_px)
    canvas.line(points, mix(land.soil, land.grass, 0.45), width_px * 0.3)
    canvas.take_line(points, width_px + 5)


def lay_crossing_roads(canvas: Canvas, land: Land, roads: list[tuple[list[Point], float]]) -> None:
    """Draw paved roads that join where they meet; each is given by its points and its width."""
    for points, width_px in roads:
        canvas.line(points, shade(land.paving, 1.02), width_px + 3)
        canvas.take_line(points, width_px + 5)
    for points, width_px in roads:
        canvas.line(points, land.asphalt, width_px)
    for points, width_px in roads:
        if width_px > 8:
            for start, end in zip(points[::2], points[1::2], strict=False):
                canvas.line([start, end], MARKING, 0.7)


def lay_water(canvas: Canvas, land: Land, points: list[Point], *, width_px: float) -> None:
    """Draw a river with pale banks, lighter water at its edges and darker water in the middle."""
    canvas.line(points, mix(land.soil, land.paving, 0.5), width_px + canvas.rng.uniform(3, 10))
    canvas.line(points, shade(land.water, 1.12), width_px)
    canvas.line(points, land.water, width_px * 0.8)
    canvas.line(points, shade(land.water, 0.93), width_px * 0.45)
    canvas.take_line(points, width_px + 8)


def lay_pond(canvas: Canvas, land: Land, center: Point, radius_px: float) -> None:
    """Draw a pond with an irregular outline."""
    rng = canvas.rng
    angles = np.linspace(0, 2 * math.pi, 28, endpoint=False)
    wobble = 1 + 0.18 * np.sin(angles * 2 + rng.uniform(0, 6)) + 0.1 * np.sin(angles * 3 + rng.uniform(0, 6))

    def outline(scale: float) -> list[Point]:
        rays = zip(angles, wobble * radius_px * scale, strict=True)
        return [(center[0] + r * math.cos(a), center[1] + r * math.sin(a)) for a, r in rays]

    canvas.polygon(outline(1.12), mix(land.soil, land.grass, 0.3))
    canvas.polygon(outline(1.0), land.water)
    canvas.polygon(outline(0.6), shade(land.water, 0.93))
    canvas.take(outline(1.15))


def sow_parcels(canvas: Canvas, land: Land, frame: Frame, *, share: float) -> None:
    """Draw strips of unequal parcels; a `share` of them are cultivated fields with furrows and hedges."""
    rng = canvas.rng
    v = -190.0
    while v < 190:
        height = rng.uniform(28, 75)
        u = -190.0 - rng.uniform(0, 40)
        while u < 190:
            length = rng.uniform(35, 120)
            if rng.random() < share:
                sow(canvas, land, frame.angle, frame.rectangle(u + length / 2, v + height / 2, length - 2, height - 2))
            u += length
        v += height


def sow(canvas: Canvas, land: Land, angle: float, corners: list[Point]) -> None:
    """Draw one cultivated field whose furrows run along or across an angle, some with a hedge along the first side."""
    rng = canvas.rng
    crop = mix(land.grass, land.soil, rng.choice((rng.uniform(0, 0.3), rng.uniform(0.3, 1))))
    first = vary(rng, mix(crop, land.foliage, rng.uniform(0, 0.4)), 0.08)
    second = shade(vary(rng, first, 0.03), rng.uniform(0.8, 0.95))
    if rng.random() < 0.06:  # under plastic sheets
        first, second = MARKING, shade(MARKING, rng.uniform(0.6, 0.9))
    furrows = angle + rng.choice((0, math.pi / 2)) + rng.normal(0, 0.03)
    canvas.textured(corners, first, second, stripes=(furrows, rng.uniform(2.2, 6.5), rng.uniform(0.1, 0.75)))
    if rng.random() < 0.35:
        canvas.line(corners[:2], shade(land.foliage, 1.05), rng.uniform(0.8, 2.2))


def plant(canvas: Canvas, land: Land, center: Point, radius_px: float) -> None:
    """Add one tree that is lighter on its sunny side."""
    rng = canvas.rng
    x, y = center
    color = vary(rng, land.foliage, 0.1)
    length = math.hypot(*canvas.shadow)
    sun = (-canvas.shadow[0] / length, -canvas.shadow[1] / length)
    blobs = [
        (rng.normal(0, 0.4, 2).tolist(), rng.uniform(0.25, 0.5) * radius_px) for _ in range(3 if radius_px < 5 else 5)
    ]

    def paint() -> None:
        canvas.disc(center, radius_px, shade(color, 0.72))
        canvas.disc((x + sun[0] * radius_px * 0.2, y + sun[1] * radius_px * 0.2), radius_px * 0.75, color)
        for (off_x, off_y), size_px in blobs:
            spot = (
                x + off_x * radius_px + sun[0] * radius_px * 0.25,
                y + off_y * radius_px + sun[1] * radius_px * 0.25,
            )
            canvas.disc(spot, size_px, shade(color, 1.22))

    reach = radius_px * 0.85
    angles = (0.0, 1.05, 2.09, 3.14, 4.19, 5.24)
    footprint = [(x + reach * math.cos(a), y + reach * math.sin(a)) for a in angles]
    canvas.grow(Solid(footprint, radius_px * 0.9, paint))


def plant_wood(canvas: Canvas, land: Land, *, num_trees: int, clumping: float) -> None:
    """Add trees on free ground, more where a smooth noise is high; `clumping` 0 spreads them evenly."""
    rng = canvas.rng
    density = noise(rng, TILE_PX, (3, 6), 0.6)
    size_px = rng.uniform(3.2, 6.5)
    for x, y in rng.uniform(-4, TILE_PX + 4, (num_trees, 2)).tolist():
        column, row = (int(min(max(value, 0), TILE_PX - 1)) for value in (x, y))
        if clumping * density[row, column] + rng.normal(0, 0.3) < clumping * 0.25 - (clumping == 0):
            continue
        radius_px = size_px * rng.uniform(0.6, 1.45)
        if canvas.is_free([(x - radius_px, y), (x, y - radius_px), (x + radius_px, y), (x, y + radius_px)]):
            plant(canvas, land, (x, y), radius_px)
