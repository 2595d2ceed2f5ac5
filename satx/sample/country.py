"""A rendered country: continuous ground with towns, fields, rivers, and schools at known places.

Every pixel follows from the seed and its position, so that tiles can be rendered alone, in any order, and neighbouring tiles
continue each other. Ground and land use are correlated over a known distance (`country_ground.CORRELATION_LENGTH_PX`).

Pixels of a country count from the north-west corner of its rectangle of tiles, x to the east and y to the south. The plane
continues beyond the rectangle.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import ImageFilter

from satx.errors import ConfigError
from satx.grid.tiles import MAX_ZOOM, bounds_of, center_of, tile_of
from satx.sample.canvas import TILE_PX, Floats
from satx.sample.country_blocks import picture_of
from satx.sample.country_ground import Window, exposed, ground_pixels, mottle, relief, water_cover
from satx.sample.country_noise import generator
from satx.sample.country_places import blocks_near
from satx.sample.country_sheet import CROWNS, FIELDS, LOTS, ROADS, SHADOWS, SOLIDS, VERGES, Sheet

COUNTRY_VERSION = 1  # increment when the same seed gives other pixels

_PIXEL_ZOOMS = 8  # a tile of 256 px is divided into pixels as the world is into tiles of zoom 8
_BLUR_PX = 0.35
_EDGE_PX = 4  # drawn around a window, so that blur and resampling see the same neighbours in every window
_REACH_PX = 24  # how far from a window something stands that still casts a shadow into it


@dataclass(frozen=True)
class Country:
    """A rectangle of tiles on the plane of a seed.

    By default it lies in the Gulf of Guinea, where there is no land that it could be mistaken for.

    Attributes:
        seed: Determines everything that is drawn.
        zoom: Zoom of its tiles.
        west_x: Column of its westernmost tiles.
        north_y: Row of its northernmost tiles.
        width_tiles: Number of columns.
        height_tiles: Number of rows.
    """

    seed: int = 20
    zoom: int = 18
    west_x: int = 131_100
    north_y: int = 130_900
    width_tiles: int = 142
    height_tiles: int = 142

    def __post_init__(self) -> None:
        """Check that the rectangle is on the map.

        Raises:
            ConfigError: It is not.
        """
        num_tiles = 2 ** min(max(self.zoom, 0), MAX_ZOOM)
        east_x, south_y = self.west_x + self.width_tiles, self.north_y + self.height_tiles
        is_on_map = 0 <= self.west_x < east_x <= num_tiles and 0 <= self.north_y < south_y <= num_tiles
        if not 0 <= self.zoom <= MAX_ZOOM or not is_on_map:
            raise ConfigError(
                f"Expected a country of at least one tile within the map of zoom 0 to {MAX_ZOOM}, got {self}. Choose another."
            )

    def contains(self, x: int, y: int) -> bool:
        """Return whether the tile in a column and row of the map belongs to the country."""
        return 0 <= x - self.west_x < self.width_tiles and 0 <= y - self.north_y < self.height_tiles

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """West, south, east and north in degrees."""
        west, _, _, north = (float(value) for value in bounds_of(self.zoom, self.west_x, self.north_y))
        last_x, last_y = self.west_x + self.width_tiles - 1, self.north_y + self.height_tiles - 1
        _, south, east, _ = (float(value) for value in bounds_of(self.zoom, last_x, last_y))
        return west, south, east, north


def render_window(country: Country, x_px: int, y_px: int, size_px: int) -> NDArray[np.uint8]:
    """Render a square of a country at any pixel.

    Args:
        country: The country.
        x_px: Column of the first pixel, from the country's west border; may be negative.
        y_px: Row of the first pixel, from the north border; may be negative.
        size_px: Side.

    Returns:
        (size_px, size_px, 3) uint8. Windows that overlap have equal pixels where they do.
    """
    if x_px % TILE_PX == 0 and y_px % TILE_PX == 0 and size_px == TILE_PX:
        return _cell(country.seed, x_px // TILE_PX, y_px // TILE_PX).copy()
    return _sensed(country.seed, Window(x_px, y_px, size_px))


def render_country_tile(country: Country, x: int, y: int) -> NDArray[np.uint8]:
    """Render one tile of a country.

    Args:
        country: The country.
        x: Its column on the map.
        y: Its row on the map.

    Returns:
        (256, 256, 3) uint8.
    """
    return _cell(country.seed, x - country.west_x, y - country.north_y).copy()


def render_at(country: Country, longitude: float, latitude: float, size_px: int) -> NDArray[np.uint8]:
    """Render a square centred on a point given in degrees; (size_px, size_px, 3) uint8."""
    x_px, y_px = pixel_of(country, longitude, latitude)
    return render_window(country, x_px - size_px // 2, y_px - size_px // 2, size_px)


def pixel_of(country: Country, longitude: float, latitude: float) -> tuple[int, int]:
    """Return the pixel of a country in which a point given in degrees lies."""
    x, y = tile_of(longitude, latitude, country.zoom + _PIXEL_ZOOMS)
    return int(x) - country.west_x * TILE_PX, int(y) - country.north_y * TILE_PX


def degrees_of(country: Country, x_px: float, y_px: float) -> tuple[float, float]:
    """Return longitude and latitude of the center of the pixel in which a point of a country lies."""
    x, y = int(np.floor(x_px)) + country.west_x * TILE_PX, int(np.floor(y_px)) + country.north_y * TILE_PX
    longitude, latitude = center_of(country.zoom + _PIXEL_ZOOMS, x, y)
    return float(longitude), float(latitude)


def unexposed(seed: int, window: Window) -> Floats:
    """Return what the sensor receives from a window, without its noise: (size, size, 3) float32.

    It depends on the window's place alone, not on how the plane is divided into windows.
    """
    edge = Window(window.x_px - _EDGE_PX, window.y_px - _EDGE_PX, window.size_px + 2 * _EDGE_PX)
    uneven = relief(seed, edge)
    sheet = Sheet(edge, ground_pixels(seed, edge, uneven), mottle(seed, edge))
    near = blocks_near(seed, edge.x_px - _REACH_PX, edge.y_px - _REACH_PX, edge.size_px + 2 * _REACH_PX)
    pictures = [picture_of(seed, i, j) for i, j in near]
    sheet.draw(pictures, [FIELDS])
    river = water_cover(seed, edge)
    if river is not None:
        _flood(sheet, *river)
    sheet.draw(pictures, [VERGES, ROADS, LOTS, SHADOWS, SOLIDS, CROWNS])
    blurred = sheet.reduced().filter(ImageFilter.GaussianBlur(_BLUR_PX))
    inner = slice(_EDGE_PX, -_EDGE_PX)
    return exposed(seed, np.asarray(blurred, np.float32)[inner, inner], uneven[inner, inner], window)


def _flood(sheet: Sheet, distance: NDArray[np.float32], water: Floats) -> None:
    """Draw a river: a pale bank, lighter water at its edges and darker water in the middle."""
    bank = water + (np.array([172, 150, 118], np.float32) - water) * np.float32(0.85)
    sheet.cover(bank, (5 - distance) / np.float32(2))
    sheet.cover(water * np.float32(1.12), -distance)
    sheet.cover(water, (-2 - distance) / np.float32(3))
    sheet.cover(water * np.float32(0.93), (-6 - distance) / np.float32(6))


@lru_cache(maxsize=64)
def _cell(seed: int, column: int, row: int) -> NDArray[np.uint8]:
    """Return the pixels of one tile of the plane; the latest ones are kept."""
    return _sensed(seed, Window(column * TILE_PX, row * TILE_PX, TILE_PX))


def _sensed(seed: int, window: Window) -> NDArray[np.uint8]:
    """Return the pixels of a window, with the sensor's noise."""
    pixels = unexposed(seed, window)
    noise = _sensor_noise(seed, window)
    pixels *= 1 + np.float32(0.02) * noise[..., 3:]
    pixels += np.float32(2.2) * noise[..., :3]
    return np.clip(pixels, 0, 255).astype(np.uint8)


def _sensor_noise(seed: int, window: Window) -> Floats:
    """Return the noise of a window's pixels, (size, size, 4), cut from that of the tiles it meets."""
    size_px = window.size_px
    noise = np.empty((size_px, size_px, 4), np.float32)
    for row in range(window.y_px // TILE_PX, (window.y_px + size_px - 1) // TILE_PX + 1):
        for column in range(window.x_px // TILE_PX, (window.x_px + size_px - 1) // TILE_PX + 1):
            tile = generator(seed, "sensor", column, row).standard_normal((TILE_PX, TILE_PX, 4), np.float32)
            left, top = column * TILE_PX - window.x_px, row * TILE_PX - window.y_px
            part = tile[max(0, -top) : size_px - top, max(0, -left) : size_px - left]
            noise[max(0, top) : max(0, top) + len(part), max(0, left) : max(0, left) + part.shape[1]] = part
    return noise
