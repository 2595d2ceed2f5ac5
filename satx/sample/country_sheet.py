"""Drawing without borders: what places draw is recorded in the plane's pixels, and drawn later on any window of it.

Points are rounded to subpixels of the plane, not of the window, so that every window that shows an object shows the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from satx.sample.canvas import (
    SHADOW_TABLE,
    SUPERSAMPLING,
    Color,
    Floats,
    Point,
    Solid,
    ink_of,
    textured_fill,
)
from satx.sample.country_ground import Window

FIELDS, VERGES, ROADS, LOTS, SHADOWS, SOLIDS, CROWNS = range(7)  # layers, from the ground up
_NUM_LAYERS = 7

Ink = tuple[int, int, int]
Subpixels = tuple[int, ...]  # x, y, x, y, ...


class Mark(NamedTuple):
    """One recorded shape, in subpixels of the plane."""

    kind: str
    points: Subpixels
    ink: Ink
    more: Any = None


class Picture(NamedTuple):
    """What was recorded, by layer: bounding boxes (n, 4) int64 in subpixels (left, top, right, bottom), and the shapes."""

    layers: list[tuple[NDArray[np.int64], list[Mark]]]


class Recorder:
    """A `Canvas` that records what is drawn, for a piece of free ground with known borders."""

    def __init__(self, rng: np.random.Generator, shadow: Point, free: Sequence[Point]) -> None:
        """Start with the outline of the free ground; everything else is occupied."""
        self.rng = rng
        self.shadow = shadow
        self._layers: list[list[Mark]] = [[] for _ in range(_NUM_LAYERS)]
        self._into = self._layers[LOTS]
        corners = np.asarray(free)
        self._left, self._top = (int(value) for value in np.floor(corners.min(0)) - 1)
        right, bottom = (int(value) for value in np.ceil(corners.max(0)) + 2)
        self._size = right - self._left, bottom - self._top
        taken = Image.new("L", self._size, 255)
        ImageDraw.Draw(taken).polygon(self._local(free), fill=0)
        self._taken_image = taken
        self._taken: Any = taken.load()  # indexed by [x, y]
        self._take = ImageDraw.Draw(taken)

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of the free ground's box, in px."""
        return self._left, self._top, self._left + self._size[0], self._top + self._size[1]

    @contextmanager
    def on(self, layer: int) -> Iterator[None]:
        """Draw on another layer than the lots'."""
        before, self._into = self._into, self._layers[layer]
        try:
            yield
        finally:
            self._into = before

    def polygon(self, points: Sequence[Point], color: Color) -> None:
        """Draw a filled polygon."""
        self._into.append(Mark("polygon", _subpixels(points), ink_of(color)))

    def line(self, points: Sequence[Point], color: Color, width_px: float) -> None:
        """Draw a line through points."""
        width = max(1, round(width_px * SUPERSAMPLING))
        self._into.append(Mark("line", _subpixels(points), ink_of(color), width))

    def disc(self, center: Point, radius_px: float, color: Color) -> None:
        """Draw a filled circle."""
        self._into.append(Mark("disc", _around(center, radius_px), ink_of(color)))

    def ring(self, center: Point, radius_px: float, color: Color, width_px: float) -> None:
        """Draw the outline of a circle."""
        width = max(1, round(width_px * SUPERSAMPLING))
        self._into.append(Mark("ring", _around(center, radius_px), ink_of(color), width))

    def textured(
        self, points: Sequence[Point], first: Color, second: Color, *, stripes: tuple[float, float, float] | None = None
    ) -> None:
        """Draw a polygon with a mottled mix of two colors."""
        self._into.append(Mark("textured", _subpixels(points), ink_of(first), (first, second, stripes)))

    def take(self, points: Sequence[Point]) -> None:
        """Mark the ground of a polygon as occupied."""
        self._take.polygon(self._local(points), fill=255)

    def take_line(self, points: Sequence[Point], width_px: float) -> None:
        """Mark the ground along a line as occupied."""
        self._take.line(self._local(points), fill=255, width=round(width_px))

    def take_where(self, occupied: NDArray[np.bool_], step_px: int) -> None:
        """Mark the squares of a grid over `bounds` as occupied where an array is true."""
        mask = Image.fromarray(occupied.astype(np.uint8) * 255)
        mask = mask.resize((mask.width * step_px, mask.height * step_px), Image.Resampling.NEAREST)
        self._taken_image.paste(255, (0, 0), mask)

    def is_free(self, points: Sequence[Point]) -> bool:
        """Return whether no corner, edge midpoint or centre of a polygon is occupied."""
        num = len(points)
        sum_x = sum_y = 0.0
        before = points[-1]
        for point in points:
            x, y = point
            if self._is_taken(x, y) or self._is_taken((x + before[0]) / 2, (y + before[1]) / 2):
                return False
            sum_x, sum_y, before = sum_x + x, sum_y + y, point
        return not self._is_taken(sum_x / num, sum_y / num)

    def stand(self, solid: Solid) -> None:
        """Add an upright object, and mark its ground as occupied."""
        self.take(solid.footprint)
        self._raise(solid, SOLIDS)

    def grow(self, crown: Solid) -> None:
        """Add a tree; its ground is not marked as occupied."""
        self._raise(crown, CROWNS)

    def picture(self) -> Picture:
        """Return what was recorded."""
        return Picture([(_boxes(marks), marks) for marks in self._layers])

    def _raise(self, solid: Solid, layer: int) -> None:
        east, south = (part * solid.height_px for part in self.shadow)
        outline = _swept(solid.footprint, east, south)
        self._layers[SHADOWS].append(Mark("polygon", _subpixels(outline), (255, 255, 255)))
        with self.on(layer):
            solid.paint()

    def _is_taken(self, x: float, y: float) -> bool:
        column, row = math.floor(x) - self._left, math.floor(y) - self._top
        return not (0 <= column < self._size[0] and 0 <= row < self._size[1]) or bool(self._taken[column, row])

    def _local(self, points: Sequence[Point]) -> list[Point]:
        return [(x - self._left, y - self._top) for x, y in points]


class Sheet:
    """A window while it is drawn, at `SUPERSAMPLING` times its resolution."""

    def __init__(self, window: Window, ground: Floats, mottle: NDArray[np.float32]) -> None:
        """Start from the ground, (size, size, 3) in 0..255, and the noise of textured surfaces, (size, size)."""
        self._left, self._top = window.x_px * SUPERSAMPLING, window.y_px * SUPERSAMPLING
        self._size = window.size_px * SUPERSAMPLING
        sheet_size = (self._size, self._size)
        start = Image.fromarray(np.clip(ground, 0, 255).astype(np.uint8))
        self._image = start.resize(sheet_size, Image.Resampling.NEAREST)
        self._draw = ImageDraw.Draw(self._image)
        self._mottle = mottle.repeat(SUPERSAMPLING, 0).repeat(SUPERSAMPLING, 1)

    def draw(self, pictures: Sequence[Picture], layers: Sequence[int]) -> None:
        """Draw layers of all pictures, from the lowest layer to the highest."""
        for layer in layers:
            marks = [mark for picture in pictures for mark in self._meeting(picture, layer)]
            if layer == SHADOWS:
                self._cast(marks)
                continue
            for mark in marks:
                self._put(mark)

    def cover(self, color: Floats, share: NDArray[np.float32]) -> None:
        """Draw (size, size, 3) colors with (size, size) opacity in 0..1, at the resolution of the window."""
        sheet_size = (self._size, self._size)
        mask = Image.fromarray((np.clip(share, 0, 1) * 255).astype(np.uint8))
        paint = Image.fromarray(np.clip(color, 0, 255).astype(np.uint8))
        bilinear = Image.Resampling.BILINEAR
        self._image.paste(paint.resize(sheet_size, bilinear), (0, 0), mask.resize(sheet_size, bilinear))

    def reduced(self) -> Image.Image:
        """Return the picture at the resolution of the window."""
        size_px = self._size // SUPERSAMPLING
        return self._image.resize((size_px, size_px), Image.Resampling.BOX)

    def _meeting(self, picture: Picture, layer: int) -> Iterator[Mark]:
        boxes, marks = picture.layers[layer]
        start, end = np.array([self._left, self._top]), np.array([self._left, self._top]) + self._size
        for index in np.flatnonzero(((boxes[:, :2] < end) & (boxes[:, 2:] > start)).all(1)).tolist():
            yield marks[index]

    def _put(self, mark: Mark) -> None:
        points = self._shifted(mark.points)
        if mark.kind == "polygon":
            self._draw.polygon(points, fill=mark.ink)
        elif mark.kind == "disc":
            self._draw.ellipse(points, fill=mark.ink)
        elif mark.kind == "line":
            self._draw.line(points, fill=mark.ink, width=mark.more, joint="curve")
        elif mark.kind == "ring":
            self._draw.ellipse(points, outline=mark.ink, width=mark.more)
        else:
            self._fill(points, *mark.more)

    def _fill(self, points: list[int], first: Color, second: Color, stripes: tuple[float, float, float] | None) -> None:
        corners = np.asarray(points).reshape(-1, 2)
        left, top = np.maximum(corners.min(0), 0).tolist()
        right, bottom = np.minimum(corners.max(0) + 1, self._size).tolist()
        if right <= left or bottom <= top:
            return
        mask = Image.new("L", (right - left, bottom - top))
        ImageDraw.Draw(mask).polygon((corners - (left, top)).ravel().tolist(), fill=255)
        rows, columns = np.ogrid[top + self._top : bottom + self._top, left + self._left : right + self._left]
        fill = textured_fill(first, second, self._mottle[top:bottom, left:right], rows, columns, stripes)
        self._image.paste(Image.fromarray(fill), (left, top), mask)

    def _cast(self, shadows: Sequence[Mark]) -> None:
        mask = Image.new("L", (self._size, self._size))
        draw = ImageDraw.Draw(mask)
        for mark in shadows:
            draw.polygon(self._shifted(mark.points), fill=255)
        self._image.paste(self._image.point(SHADOW_TABLE), mask=mask)

    def _shifted(self, points: Subpixels) -> list[int]:
        left, top = self._left, self._top
        places = iter(points)
        return [part for x, y in zip(places, places, strict=True) for part in (x - left, y - top)]


def _subpixels(points: Sequence[Point]) -> Subpixels:
    return tuple(math.floor(value * SUPERSAMPLING) for point in points for value in point)


def _around(center: Point, radius_px: float) -> Subpixels:
    (x, y), radius = center, radius_px
    return _subpixels([(x - radius, y - radius), (x + radius, y + radius)])


def _boxes(marks: Sequence[Mark]) -> NDArray[np.int64]:
    lengths = np.array([len(mark.points) // 2 for mark in marks], np.int64)
    if not len(lengths):
        return np.empty((0, 4), np.int64)
    points = np.fromiter(chain.from_iterable(mark.points for mark in marks), np.int64).reshape(-1, 2)
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    widths = [mark.more if mark.kind in ("line", "ring") else 0 for mark in marks]
    reach = 1 + np.array(widths, np.int64)[:, None]
    low, high = np.minimum.reduceat(points, starts), np.maximum.reduceat(points, starts)
    return np.concatenate([low - reach, high + reach], axis=1)


def _swept(points: Sequence[Point], east: float, south: float) -> list[Point]:
    """Return the outline of the ground that a convex polygon sweeps over when it moves.

    Args:
        points: Its corners, clockwise on the screen, as `Frame.rectangle` returns them.
        east: Movement along x in px.
        south: Movement along y in px.
    """
    outline = []
    (before_x, before_y), (x, y) = points[-2], points[-1]
    leads = (y - before_y) * east > (x - before_x) * south  # whether the side before a corner faces the movement
    for next_x, next_y in points:
        follows = (next_y - y) * east > (next_x - x) * south
        if leads != follows:
            near, far = (x, y), (x + east, y + south)
            outline += [far, near] if leads else [near, far]
        else:
            outline.append((x + east, y + south) if leads else (x, y))
        x, y, leads = next_x, next_y, follows
    return outline
