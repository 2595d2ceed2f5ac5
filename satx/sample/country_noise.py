"""Random numbers and smooth noise of an endless plane: every value follows from a seed and a position.

Smooth noise has independent normal values at the nodes of a lattice and cubic B-splines between them. So its mean is 0, its
variance 1, and its correlation is known: see `correlation`.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]

_ZERO = 151 / 315  # the B-spline of degree 7 at 0, which is the integral of the square of the cubic one
# SplitMix64, whose output function mixes all bits: Steele, Lea & Flood, "Fast splittable pseudorandom number generators", 2014.
_GAMMA, _FIRST, _SECOND = (np.uint64(n) for n in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
_SHIFTS = tuple(np.uint64(n) for n in (30, 27, 31))


def uniform(seed: int, stream: str, i: NDArray[np.int64], j: NDArray[np.int64]) -> Doubles:
    """Return random numbers in (0, 1) at places of a lattice.

    Args:
        seed: Seed of the plane.
        stream: What the numbers are for; streams are independent.
        i: Columns of the lattice, int64; negative ones are allowed.
        j: Rows, broadcast with `i`.
    """
    bits = np.asarray(_hashed(seed, [stream], i, j)[0] >> np.uint64(11), np.float64)
    return np.asarray((bits + 0.5) * 2.0**-53)


def normal(seed: int, streams: Sequence[str], i: NDArray[np.int64], j: NDArray[np.int64]) -> Doubles:
    """Return standard normal numbers of several streams, by Box and Muller's method: (len(streams), *shape of i and j)."""
    bits = _hashed(seed, streams, i, j)
    radius = (np.asarray(bits >> np.uint64(32), np.float64) + 0.5) * 2.0**-32
    angle = np.asarray(bits & np.uint64(0xFFFFFFFF), np.float64) * (2 * math.pi * 2.0**-32)
    return np.asarray(np.sqrt(-2 * np.log(radius)) * np.cos(angle))


def generator(seed: int, stream: str, i: int, j: int) -> np.random.Generator:
    """Return the random generator of one place of a lattice."""
    return np.random.default_rng(int(_hashed(seed, [stream], np.array([i]), np.array([j])).item()))


def smooth_at(
    seed: int, streams: Sequence[str], spacing_px: float, x: Doubles, y: Doubles, *, slope: tuple[int, int] = (0, 0)
) -> Doubles:
    """Return smooth noises at points.

    Args:
        seed: Seed of the plane.
        streams: Which noises.
        spacing_px: Distance of the lattice's nodes.
        x: (n,) positions in px.
        y: (n,) positions in px.
        slope: (1, 0) returns the derivative along x, (0, 1) along y, per px.

    Returns:
        (len(streams), n) float64.
    """
    first_i, weights_x = _weights(x, spacing_px, slope[0])
    first_j, weights_y = _weights(y, spacing_px, slope[1])
    steps = np.arange(4)
    nodes = normal(
        seed, streams, first_i[:, None, None] + steps[None, None, :], first_j[:, None, None] + steps[None, :, None]
    )  # (len(streams), n, 4, 4)
    return np.asarray((nodes * (weights_y[:, :, None] * weights_x[:, None, :])).sum((2, 3)) / _ZERO)


def smooth_grids(seed: int, streams: Sequence[str], spacing_px: float, x: Doubles, y: Doubles) -> NDArray[np.float32]:
    """Return smooth noises at all pairs of columns and rows, `(len(streams), len(y), len(x))` float32.

    Args:
        seed: Seed of the plane.
        streams: Which noises.
        spacing_px: Distance of the lattice's nodes.
        x: Positions of the columns in px.
        y: Positions of the rows in px.
    """
    (first_i, across), (first_j, down) = _weights(x, spacing_px, 0), _weights(y, spacing_px, 0)
    start_i, start_j = int(first_i.min()), int(first_j.min())
    columns = np.arange(start_i, int(first_i.max()) + 4)
    rows = np.arange(start_j, int(first_j.max()) + 4)
    nodes = normal(seed, streams, columns[None, :], rows[:, None]).astype(np.float32)
    # Four weighted copies along each axis, not a matrix product: the sums have the same order for every window, so that
    # windows agree to the last bit, and no threads of a BLAS are started.
    lines = _blended(nodes, first_j - start_j, down / _ZERO)
    turned = np.ascontiguousarray(lines.swapaxes(1, 2))
    return np.asarray(_blended(turned, first_i - start_i, across).swapaxes(1, 2))


def octaves(
    seed: int, stream: str, spacings_px: Sequence[float], persistence: float, x: Doubles, y: Doubles
) -> NDArray[np.float32]:
    """Return smooth noise of several spacings with unit variance; each has `persistence` times the amplitude before."""
    amplitudes = [persistence**octave for octave in range(len(spacings_px))]
    scale = 1 / math.sqrt(sum(amplitude**2 for amplitude in amplitudes))
    total = np.zeros((len(y), len(x)), np.float32)
    for spacing_px, amplitude in zip(spacings_px, amplitudes, strict=True):
        total += np.float32(amplitude * scale) * smooth_grids(seed, [f"{stream} {spacing_px}"], spacing_px, x, y)[0]
    return total


def correlation(distance_px: float, spacing_px: float) -> float:
    """Return the correlation of smooth noise at two points, one `distance_px` east or south of the other.

    Averaged over all positions, it is the B-spline of degree 7, the cubic one convolved with itself, divided by its value at 0
    (Unser, "Splines: a perfect fit for signal and image processing", 1999). It falls to 1/e at 1.185 spacings and is 0 from 4
    spacings on.
    """
    t = abs(distance_px) / spacing_px
    total = sum((-1) ** k * math.comb(8, k) * max(0.0, t + 4 - k) ** 7 for k in range(9))
    return float(max(0.0, total / math.factorial(7) / _ZERO))


def _hashed(seed: int, streams: Sequence[str], i: NDArray[np.int64], j: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return random bits, (len(streams), *shape of i and j)."""
    names = np.array([zlib.crc32(stream.encode()) for stream in streams], np.uint64)
    start = np.array([seed & (2**64 - 1)], np.uint64) * _GAMMA + names
    states = _mixed(start).reshape(-1, *(1 for _ in range(max(np.ndim(i), np.ndim(j)))))
    states = _mixed(states + np.asarray(i, np.int64).astype(np.uint64) * _GAMMA)
    return _mixed(states + np.asarray(j, np.int64).astype(np.uint64) * _GAMMA)


def _mixed(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    state = (state ^ (state >> _SHIFTS[0])) * _FIRST
    state = (state ^ (state >> _SHIFTS[1])) * _SECOND
    return np.asarray(state ^ (state >> _SHIFTS[2]))


def _weights(positions: Doubles, spacing_px: float, slope: int) -> tuple[NDArray[np.int64], Doubles]:
    """Return for each position the first of its four nodes, and the cubic B-spline's weights of these, (n, 4)."""
    scaled = np.asarray(positions, np.float64) / spacing_px
    cell = np.floor(scaled)
    t = scaled - cell
    if slope:
        parts = (-((1 - t) ** 2) / 2, (3 * t**2 - 4 * t) / 2, (-3 * t**2 + 2 * t + 1) / 2, t**2 / 2)
        weights = np.stack(parts, 1) / spacing_px
    else:
        parts = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
        weights = np.stack(parts, 1) / 6
    return cell.astype(np.int64) - 1, weights


def _blended(nodes: NDArray[np.float32], first: NDArray[np.int64], weights: Doubles) -> NDArray[np.float32]:
    """Return weighted sums of four neighbouring rows of nodes, (k, rows, columns) -> (k, len(first), columns)."""
    scales = weights.astype(np.float32)
    total = nodes[:, first] * scales[:, :1]
    for step in range(1, 4):
        part = nodes[:, first + step]
        part *= scales[:, step : step + 1]
        total += part
    return total
