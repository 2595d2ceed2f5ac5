"""Ground of a rendered country: what lies where before anything is built, and how the sensor sees it.

All of it is smooth noise of the plane (`satx.sample.country_noise`), so that it continues from tile to tile. Colors and land
use change over `SPACING_PX`; neighbouring tiles are alike, and the colors and land use of tiles further apart than four spacings
are independent. The sensor's parameters change over twice that length.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from satx.sample import country_noise
from satx.sample.canvas import TILE_PX, Color, Floats, Point
from satx.sample.country_noise import Doubles, octaves, smooth_at, smooth_grids
from satx.sample.terrain import PALETTES, Land

SPACING_PX = 6 * TILE_PX  # of the noise that sets colors and land use
CORRELATION_LENGTH_PX = 1.1847 * SPACING_PX  # where the correlation has fallen to 1/e

_SENSOR_SPACING_PX = 12 * TILE_PX
_RIVER_SPACINGS_PX = (9 * TILE_PX, 420.0)
_RIVER_PARTS = (1.0, 0.13)  # amplitudes: the course, its bends
_COARSE_PX = 32  # slow noise is computed at every so many pixels, and linear between
_NAMES = ("grass", "soil", "paving", "foliage", "water", "asphalt")
# Mean and standard deviation of the sensor's parameters; they stay within two of these.
_SENSOR = {
    "saturation": (0.85, 0.12),
    "contrast": (1.1, 0.1),
    "haze": (0.07, 0.035),
    "brightness": (0.97, 0.09),
    "red": (1.0, 0.03),
    "green": (1.0, 0.03),
    "blue": (1.0, 0.03),
}
_HAZE = np.array([190, 196, 204], np.float32)[:, None, None]
_MAX_DEVIATION = 2.2  # of a color, in standard deviations


@dataclass(frozen=True)
class Window:
    """A square of the plane: the pixel of its north-west corner, and its side."""

    x_px: int
    y_px: int
    size_px: int

    @property
    def columns(self) -> Doubles:
        """Positions of the pixels' centers along x, (size_px,)."""
        return np.asarray(self.x_px + np.arange(self.size_px) + 0.5, np.float64)

    @property
    def rows(self) -> Doubles:
        """Positions of the pixels' centers along y, (size_px,)."""
        return np.asarray(self.y_px + np.arange(self.size_px) + 0.5, np.float64)


def _gaussian(palette: tuple[Color, ...]) -> tuple[Doubles, Doubles]:
    """Return mean and a square root of the covariance of the sample's colors: a palette, varied by `terrain.vary`."""
    colors = np.asarray(palette, np.float64)
    mean = colors.mean(0)
    covariance = np.cov(colors.T, bias=True) + np.outer(mean, mean) * 0.08**2 + np.eye(3) * 4.8**2
    return np.asarray(mean, np.float64), np.asarray(np.linalg.cholesky(covariance), np.float64)


_COLORS = {name: _gaussian(palette) for name, palette in zip(_NAMES, PALETTES, strict=True)}


def correlation(distance_px: float) -> float:
    """Return the correlation of color and land use at two points, one `distance_px` east or south of the other."""
    return country_noise.correlation(distance_px, SPACING_PX)


def land_at(seed: int, x: float, y: float) -> Land:
    """Return the colors of the land around a point; each follows the distribution of the sample's."""
    parts = smooth_at(seed, _streams(*_NAMES), SPACING_PX, np.array([x]), np.array([y])).reshape(-1, 3)
    colors = []
    for name, numbers in zip(_NAMES, parts, strict=True):
        red, green, blue = _color(name, numbers).tolist()
        colors.append((red, green, blue))
    return Land(*colors)


def settlement(seed: int, x: Doubles, y: Doubles) -> Doubles:
    """Return how densely settled the land is at points, (n,): mean 0, variance 1; towns lie above 0.9."""
    return np.asarray(smooth_at(seed, ["settlement"], SPACING_PX, x, y)[0])


def cultivation(seed: int, x: float, y: float) -> tuple[float, float]:
    """Return how wooded and how cultivated the land is around a point; each has mean 0 and variance 1."""
    wooded, farmed = smooth_at(seed, ["woodland", "farming"], SPACING_PX, np.array([x]), np.array([y]))[:, 0].tolist()
    return wooded, farmed


def shadow_at(seed: int, x: float, y: float) -> Point:
    """Return where shadows fall around a point, in px per px of height; the sun moves little within a country."""
    noon = country_noise.uniform(seed, "noon", np.array([0]), np.array([0]))[0]
    turn, height = smooth_at(seed, ["sun", "sun's height"], _SENSOR_SPACING_PX, np.array([x]), np.array([y]))[:, 0]
    angle, length = 2 * math.pi * noon + 0.3 * turn, float(np.clip(0.82 + 0.15 * height, 0.45, 1.2))
    return math.cos(angle) * length, math.sin(angle) * length


def river_distance(seed: int, x: Doubles, y: Doubles) -> Doubles:
    """Return about how many px points are from the bank of a river, (n,); negative in the water.

    A river flows where a noise is 0: the distance to that line is the noise divided by its slope.
    """
    course, half_width = _river(seed, x, y)
    return np.abs(course) - half_width


def water_cover(seed: int, window: Window) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
    """Return distance from the river's bank in px, (size, size), and the water's color, (size, size, 3); None without a river."""
    x, y = _coarse(window.x_px, window.size_px), _coarse(window.y_px, window.size_px)
    columns, rows = np.meshgrid(x, y)
    course, half_width = (part.reshape(1, *columns.shape) for part in _river(seed, columns.ravel(), rows.ravel()))
    if (np.abs(course) - half_width).min() > 2 * _COARSE_PX:
        return None
    water = _color("water", smooth_grids(seed, _streams("water"), SPACING_PX, x, y))
    fine = _expanded(np.concatenate([course, half_width, water]).astype(np.float32), window)
    return np.abs(fine[0]) - fine[1], np.moveaxis(fine[2:], 0, 2)


def relief(seed: int, window: Window) -> NDArray[np.float32]:
    """Return the noise of light and dark ground, (size, size): mean 0, variance 1."""
    return octaves(seed, "relief", (85.0, 28.0, 9.5, 3.2), 0.85, window.columns, window.rows)


def ground_pixels(seed: int, window: Window, relief: NDArray[np.float32]) -> Floats:
    """Return patches of grass and soil, (size, size, 3) float32 in 0..255."""
    x, y = _coarse(window.x_px, window.size_px), _coarse(window.y_px, window.size_px)
    slow = smooth_grids(seed, [*_streams("grass", "soil"), "bareness"], SPACING_PX, x, y)
    colors = [_color("grass", slow[:3]), _color("soil", slow[3:6]), 0.9 * slow[6:]]
    land = _expanded(np.concatenate(colors).astype(np.float32), window)  # (7, size, size)
    patches = octaves(seed, "patches", (85.0, 37.0, 16.0, 6.4), 0.6, window.columns, window.rows)
    share = 1 / (1 + np.exp(-2.5 * (patches + land[6])))
    ground = (land[:3] + (land[3:6] - land[:3]) * share) * (1 + np.float32(0.07) * relief)
    return np.asarray(np.moveaxis(ground, 0, 2), np.float32)


def mottle(seed: int, window: Window) -> NDArray[np.float32]:
    """Return the noise of textured surfaces, (size, size): mean 0, variance 1."""
    return octaves(seed, "mottle", (21.0, 6.4, 2.2), 0.8, window.columns, window.rows)


def exposed(seed: int, pixels: Floats, relief: NDArray[np.float32], window: Window) -> Floats:
    """Return how the sensor sees a window, (size, size, 3): relief, saturation, contrast, color cast, brightness and haze.

    The parameters have about the spread that the sample's tiles have, but change slowly over the plane.
    """
    x, y = _coarse(window.x_px, window.size_px), _coarse(window.y_px, window.size_px)
    noise = smooth_grids(seed, list(_SENSOR), _SENSOR_SPACING_PX, x, y)
    saturation, contrast, haze, light, *casts = (
        np.clip(mean + spread * part, mean - 2 * spread, mean + 2 * spread)
        for part, (mean, spread) in zip(noise, _SENSOR.values(), strict=True)
    )
    gain = np.stack(casts) * light * contrast * (1 - haze)
    offset = 118 * (1 - contrast) * np.stack(casts) * light * (1 - haze) + haze * _HAZE
    fields = _expanded(np.concatenate([saturation[None], gain, offset]).astype(np.float32), window)  # (7, size, size)
    seen = np.moveaxis(pixels, 2, 0) * (1 + np.float32(0.035) * relief)
    grey = seen.mean(0)
    seen = (grey + (seen - grey) * fields[0]) * fields[1:4] + fields[4:7]
    return np.asarray(np.moveaxis(seen, 0, 2), np.float32)


def _river(seed: int, x: Doubles, y: Doubles) -> tuple[Doubles, Doubles]:
    """Return about how far points are from the middle of a river, with a sign for the side, and half of its width; in px."""
    value, east, south = (
        sum(
            part * smooth_at(seed, [f"river {spacing_px}"], spacing_px, x, y, slope=slope)[0]
            for spacing_px, part in zip(_RIVER_SPACINGS_PX, _RIVER_PARTS, strict=True)
        )
        for slope in ((0, 0), (1, 0), (0, 1))
    )
    half_width = np.clip(15 + 6 * smooth_at(seed, ["river width"], SPACING_PX, x, y)[0], 6, 32)
    return np.asarray(value / (np.hypot(east, south) + 1e-5)), half_width


def _streams(*names: str) -> list[str]:
    """Return the streams of colors, three each."""
    return [f"{name} {channel}" for name in names for channel in range(3)]


def _color(name: str, parts: NDArray[np.floating]) -> Doubles:
    """Return colors of a kind of land from standard normal numbers, both (3, ...)."""
    mean, root = _COLORS[name]
    clipped = np.clip(parts, -_MAX_DEVIATION, _MAX_DEVIATION)
    column = (slice(None), *(None for _ in clipped.shape[1:]))
    return np.asarray(mean[column] + sum(root[:, k][column] * clipped[k] for k in range(3)))


def _coarse(start_px: int, size_px: int) -> Doubles:
    """Return the coarse lattice's positions around pixels' centers."""
    first, last = start_px // _COARSE_PX, -(-(start_px + size_px) // _COARSE_PX)
    return np.arange(first, last + 1, dtype=np.float64) * _COARSE_PX


def _expanded(coarse: NDArray[np.float32], window: Window) -> NDArray[np.float32]:
    """Return values between the coarse lattice's, (n, rows, columns) -> (n, size, size), linear along each axis."""
    lines = _between(coarse, window.rows, window.y_px)
    return np.asarray(_between(np.ascontiguousarray(lines.swapaxes(1, 2)), window.columns, window.x_px).swapaxes(1, 2))


def _between(values: NDArray[np.float32], positions: Doubles, start_px: int) -> NDArray[np.float32]:
    """Interpolate along axis 1."""
    scaled = positions / _COARSE_PX - start_px // _COARSE_PX
    index = np.floor(scaled).astype(np.int64)
    share = (scaled - index).astype(np.float32)[:, None]
    fine = (values[:, 1:] - values[:, :-1])[:, index]
    fine *= share
    fine += values[:, index]
    return fine
