"""What places are drawn on, and the canvas for one rendered tile: shapes, shadows, occupied ground, a simulated camera sensor.

Coordinates are pixels, x to the right and y down; drawing happens at twice the resolution. Independent of scenes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

TILE_PX = 256
SUPERSAMPLING = 2
_SHEET_PX = TILE_PX * SUPERSAMPLING
# Level in a shadow for each level of each channel; a shadow is lit by the sky, which is bluer than the sun.
SHADOW_TABLE = [round(level * share) for share in (0.46, 0.5, 0.59) for level in range(256)]

Point = tuple[float, float]
Color = tuple[float, float, float]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Frame:
    """A local coordinate system to place objects in: `u` runs along the angle, `v` across it."""

    center: Point
    angle: float  # radians

    def at(self, u: float, v: float) -> Point:
        """Return the tile coordinates of a local point."""
        cosine, sine = math.cos(self.angle), math.sin(self.angle)
        return self.center[0] + u * cosine - v * sine, self.center[1] + u * sine + v * cosine

    def rectangle(self, u: float, v: float, length_px: float, width_px: float) -> list[Point]:
        """Return the corners of a rectangle centred on a local point, its length along `u`."""
        half_length, half_width = length_px / 2, width_px / 2
        cosine, sine = math.cos(self.angle), math.sin(self.angle)
        (x, y), ends, sides = self.center, (u - half_length, u + half_length), (v - half_width, v + half_width)
        corners = ((ends[0], sides[0]), (ends[1], sides[0]), (ends[1], sides[1]), (ends[0], sides[1]))
        return [(x + a * cosine - b * sine, y + a * sine + b * cosine) for a, b in corners]

    def moved(self, u: float, v: float, turn: float = 0.0) -> Frame:
        """Return a frame at a local point of this one, rotated by `turn`."""
        return Frame(self.at(u, v), self.angle + turn)


@dataclass(frozen=True)
class Solid:
    """An upright object: its footprint, its height, which sets the length of its shadow, and how its top is painted."""

    footprint: list[Point]
    height_px: float
    paint: Callable[[], None]


def noise(rng: np.random.Generator, size_px: int, cells: Sequence[int], persistence: float = 0.6) -> Floats:
    """Return smooth noise of several octaves with zero mean and unit standard deviation.

    Args:
        rng: Random generator.
        size_px: Side of the square.
        cells: Grid cells per side for each octave, coarse to fine.
        persistence: Amplitude of an octave relative to the one before.
    """
    total = np.zeros((size_px, size_px), np.float32)
    for octave, num_cells in enumerate(cells):
        grid = Image.fromarray(rng.standard_normal((num_cells + 3, num_cells + 3), np.float32))
        margin = rng.random(2) * 2  # the octaves must not line up
        box = (margin[0], margin[1], margin[0] + num_cells, margin[1] + num_cells)
        total += persistence**octave * np.asarray(grid.resize((size_px, size_px), Image.Resampling.BICUBIC, box))
    scaled: Floats = (total - total.mean()) / (total.std() + 1e-6)
    return scaled


def mix(first: Color, second: Color, share: float) -> Color:
    """Mix two colors: `share` of the second, the rest of the first."""
    red, green, blue = (a + (b - a) * share for a, b in zip(first, second, strict=True))
    return red, green, blue


def shade(color: Color, factor: float) -> Color:
    """Make a color lighter or darker."""
    return color[0] * factor, color[1] * factor, color[2] * factor


def ink_of(color: Color) -> tuple[int, int, int]:
    """Return a color as levels in 0..255."""
    red, green, blue = color
    return min(255, max(0, round(red))), min(255, max(0, round(green))), min(255, max(0, round(blue)))


def textured_fill(
    first: Color,
    second: Color,
    mottle: Floats,
    rows: NDArray[Any],
    columns: NDArray[Any],
    stripes: tuple[float, float, float] | None,
) -> NDArray[np.uint8]:
    """Return a mottled mix of two colors.

    Args:
        first: One color.
        second: The other color.
        mottle: (height, width) noise of unit standard deviation.
        rows: (height, 1) positions in subpixels, `SUPERSAMPLING` a pixel.
        columns: (1, width) positions in subpixels.
        stripes: Angle in radians, spacing in px and strength in 0..1 of stripes across it; None for no stripes.

    Returns:
        (height, width, 3) uint8.
    """
    share = 0.5 + 0.28 * mottle
    if stripes is not None:
        angle, spacing_px, strength = stripes
        across = (columns * math.cos(angle) + rows * math.sin(angle)) * (2 * math.pi / (spacing_px * SUPERSAMPLING))
        share = share * (1 - strength) + strength * (0.5 + 0.5 * np.sin(across)).astype(np.float32)
    share = np.clip(share, 0, 1)[..., None]  # (height, width, 1) float32
    fill = np.asarray(first, np.float32) * (1 - share) + np.asarray(second, np.float32) * share
    return np.asarray(np.clip(fill, 0, 255).astype(np.uint8))


class Canvas(Protocol):
    """What places are drawn on: first marks on the ground, then upright objects.

    Attributes:
        rng: Random generator of what is drawn.
        shadow: Where shadows fall: px per px of height.
    """

    rng: np.random.Generator
    shadow: Point

    def polygon(self, points: Sequence[Point], color: Color) -> None:
        """Draw a filled polygon."""

    def line(self, points: Sequence[Point], color: Color, width_px: float) -> None:
        """Draw a line through points."""

    def disc(self, center: Point, radius_px: float, color: Color) -> None:
        """Draw a filled circle."""

    def ring(self, center: Point, radius_px: float, color: Color, width_px: float) -> None:
        """Draw the outline of a circle."""

    def textured(
        self, points: Sequence[Point], first: Color, second: Color, *, stripes: tuple[float, float, float] | None = None
    ) -> None:
        """Draw a polygon with a mottled mix of two colors; `stripes` as in `textured_fill`."""

    def take(self, points: Sequence[Point]) -> None:
        """Mark the ground of a polygon as occupied."""

    def take_line(self, points: Sequence[Point], width_px: float) -> None:
        """Mark the ground along a line as occupied."""

    def is_free(self, points: Sequence[Point]) -> bool:
        """Return whether no corner, edge midpoint or centre of a polygon is occupied."""
        ...

    def stand(self, solid: Solid) -> None:
        """Add an upright object, such as a building, truck or tank, and mark its ground as occupied."""

    def grow(self, crown: Solid) -> None:
        """Add a tree; its crown may overlap neighbouring objects, so its ground is not marked as occupied."""


class TileCanvas:
    """One tile while it is drawn: first the ground, then marks on it, then upright objects, then the photograph."""

    def __init__(self, rng: np.random.Generator, ground: Floats) -> None:
        """Start from a ground of (256, 256, 3) in 0..255, and choose a random direction of the sun for the tile."""
        self.rng = rng
        sheet = Image.fromarray(np.clip(ground, 0, 255).astype(np.uint8))
        sheet_size = (_SHEET_PX, _SHEET_PX)
        self._image = sheet.resize(sheet_size, Image.Resampling.BILINEAR)
        self._draw = ImageDraw.Draw(self._image)
        taken = Image.new("L", (TILE_PX, TILE_PX))
        self._taken: Any = taken.load()  # indexed by [x, y]
        self._take = ImageDraw.Draw(taken)
        mottle = Image.fromarray(noise(rng, TILE_PX, (12, 40, 120), 0.8))
        self._mottle = np.asarray(mottle.resize(sheet_size, Image.Resampling.BILINEAR))  # (512, 512) float32
        self._solids: list[Solid] = []
        self._crowns: list[Solid] = []
        angle, length = rng.uniform(0, 2 * math.pi), rng.uniform(0.45, 1.2)
        self.shadow = (math.cos(angle) * length, math.sin(angle) * length)  # px per px of height

    def polygon(self, points: Sequence[Point], color: Color) -> None:
        """Draw a filled polygon."""
        self._draw.polygon([(x * SUPERSAMPLING, y * SUPERSAMPLING) for x, y in points], fill=ink_of(color))

    def line(self, points: Sequence[Point], color: Color, width_px: float) -> None:
        """Draw a line through points."""
        scaled = [(x * SUPERSAMPLING, y * SUPERSAMPLING) for x, y in points]
        self._draw.line(scaled, fill=ink_of(color), width=max(1, round(width_px * SUPERSAMPLING)), joint="curve")

    def disc(self, center: Point, radius_px: float, color: Color) -> None:
        """Draw a filled circle."""
        x, y, radius = (value * SUPERSAMPLING for value in (*center, radius_px))
        self._draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=ink_of(color))

    def ring(self, center: Point, radius_px: float, color: Color, width_px: float) -> None:
        """Draw the outline of a circle."""
        x, y, radius = (value * SUPERSAMPLING for value in (*center, radius_px))
        width = max(1, round(width_px * SUPERSAMPLING))
        self._draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=ink_of(color), width=width)

    def textured(
        self, points: Sequence[Point], first: Color, second: Color, *, stripes: tuple[float, float, float] | None = None
    ) -> None:
        """Draw a polygon with a mottled mix of two colors.

        Args:
            points: Its corners.
            first: One color.
            second: The other color.
            stripes: Angle in radians, spacing in px and strength in 0..1 of stripes across it; None for no stripes.
        """
        corners = np.asarray(points, np.float32) * SUPERSAMPLING
        left, top = np.maximum(np.floor(corners.min(0)), 0).astype(int)
        right, bottom = np.minimum(np.ceil(corners.max(0)), _SHEET_PX).astype(int)
        if right <= left or bottom <= top:
            return
        mask = Image.new("L", (int(right - left), int(bottom - top)))
        ImageDraw.Draw(mask).polygon([(float(x - left), float(y - top)) for x, y in corners], fill=255)
        rows, columns = np.ogrid[top:bottom, left:right]
        fill = textured_fill(first, second, self._mottle[top:bottom, left:right], rows, columns, stripes)
        self._image.paste(Image.fromarray(fill), (int(left), int(top)), mask)

    def take(self, points: Sequence[Point]) -> None:
        """Mark the ground of a polygon as occupied."""
        self._take.polygon(list(points), fill=255)

    def take_line(self, points: Sequence[Point], width_px: float) -> None:
        """Mark the ground along a line as occupied."""
        self._take.line(list(points), fill=255, width=round(width_px))

    def is_free(self, points: Sequence[Point]) -> bool:
        """Return whether no corner, edge midpoint or centre of a polygon is occupied; points off the tile are free."""
        middles = [((a + c) / 2, (b + d) / 2) for (a, b), (c, d) in zip(points, [*points[1:], points[0]], strict=True)]
        center = (sum(x for x, _ in points) / len(points), sum(y for _, y in points) / len(points))
        return not any(
            0 <= x < TILE_PX and 0 <= y < TILE_PX and self._taken[int(x), int(y)]
            for x, y in (*points, *middles, center)
        )

    def stand(self, solid: Solid) -> None:
        """Add an upright object, such as a building, truck or tank, and mark its ground as occupied."""
        self.take(solid.footprint)
        self._solids.append(solid)

    def grow(self, crown: Solid) -> None:
        """Add a tree; its crown may overlap neighbouring objects, so its ground is not marked as occupied."""
        self._crowns.append(crown)

    def photograph(self) -> NDArray[np.uint8]:
        """Draw shadows and tops, then simulate the sensor: haze, color cast, contrast, blur and noise.

        The sensor's parameters are drawn from the same distributions for every kind of scene.
        """
        self._cast_shadows([*self._solids, *self._crowns])
        for solid in (*self._solids, *self._crowns):
            solid.paint()
        small = self._image.resize((TILE_PX, TILE_PX), Image.Resampling.BOX)
        rng = self.rng
        small = small.filter(ImageFilter.GaussianBlur(rng.uniform(0, 0.6)))
        pixels = np.asarray(small, np.float32)  # (256, 256, 3) float32
        relief = 0.035 * noise(rng, TILE_PX, (3, 9, 27, 81), 0.8) + 0.02 * rng.standard_normal(
            (TILE_PX, TILE_PX), np.float32
        )
        pixels = pixels * (1 + relief[..., None])
        grey = pixels.mean(2, keepdims=True)
        pixels = grey + (pixels - grey) * rng.uniform(0.6, 1.1)
        pixels = (pixels - 118) * rng.uniform(0.9, 1.3) + 118
        pixels = pixels * rng.normal(1, 0.035, 3).astype(np.float32) * rng.uniform(0.8, 1.15)
        haze = rng.uniform(0, 0.14)
        pixels = pixels * (1 - haze) + haze * np.array([190, 196, 204], np.float32)
        pixels += rng.uniform(1, 3.5) * rng.standard_normal(pixels.shape, np.float32)
        photograph: NDArray[np.uint8] = np.clip(pixels, 0, 255).astype(np.uint8)
        return photograph

    def _cast_shadows(self, solids: Sequence[Solid]) -> None:
        mask = Image.new("L", (_SHEET_PX, _SHEET_PX))
        draw = ImageDraw.Draw(mask)
        for solid in solids:
            reach = solid.height_px * SUPERSAMPLING
            shift_x, shift_y = self.shadow[0] * reach, self.shadow[1] * reach
            near = [(x * SUPERSAMPLING, y * SUPERSAMPLING) for x, y in solid.footprint]
            far = [(x + shift_x, y + shift_y) for x, y in near]
            for start in range(len(near)):
                end = (start + 1) % len(near)
                draw.polygon([near[start], near[end], far[end], far[start]], fill=255)
            draw.polygon(far, fill=255)
        self._image.paste(self._image.point(SHADOW_TABLE), mask=mask)
