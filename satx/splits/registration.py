"""How well two pictures fit on each other when one is shifted, flipped or turned: do two windows show the same ground?"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image
from scipy.fft import irfft2, next_fast_len, rfft2
from scipy.ndimage import gaussian_filter

from satx.splits.pictures import NUM_TURNS, turned

EDGE_PX = 48
MIN_COMMON_SHARE = 0.4  # of a picture's area that both must show
# Measured: windows of a rendered country with 50% to 90% in common correlate by 0.86 and more, and two different photographs of
# one campus by 0.84. Of the neighbours in features among 732 real tiles and 540 windows, one pair of different ground, of two
# bridges, is above 0.75 (`make bench NAME=pairs`).
MIN_FIT = 0.6

_FINE_PX, _COARSE_PX = 0.7, 3.0  # what is smaller is noise, what is larger is brightness
_AROUND_PX, _LEAST_CONTRAST = 4.0, 0.5  # edges are divided by the contrast around them


def edges_of(pixels: np.ndarray) -> np.ndarray:
    """Return a picture as it is registered: small, in grey, and filtered so that edges count alike, whatever their contrast.

    Args:
        pixels: (H, W, 3) uint8.

    Returns:
        (48, 48) float16 of mean 0 and variance 1.
    """
    small = Image.fromarray(pixels).convert("L").resize((EDGE_PX, EDGE_PX), Image.Resampling.BOX)
    values = np.asarray(small, np.float32)
    values = _standardized(gaussian_filter(values, _FINE_PX) - gaussian_filter(values, _COARSE_PX))
    # else one strong line, such as a bridge or a shore, would fit on any other
    contrast = np.sqrt(gaussian_filter(values**2, _AROUND_PX))
    return _standardized(values / (contrast + _LEAST_CONTRAST)).astype(np.float16)


def best_fits(one: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return how well pictures fit on another one, (n,) float64 correlations from -1 to 1.

    For each of the eight flips and turns, the best shift is where the sum of products is largest for the area that both show,
    over the shifts at which that area is at least `MIN_COMMON_SHARE`. The result is the normalized correlation of that area, the
    largest over the best two flips and turns ("Fast Normalized Cross-Correlation", J. P. Lewis, 1995).

    Args:
        one: (48, 48), from `edges_of`.
        others: (n, 48, 48).
    """
    turns = np.stack([turned(one.astype(np.float32), turn) for turn in range(NUM_TURNS)])  # (8, 48, 48)
    size, shifts = _size(), _shifts()
    spectra = rfft2(turns, (size, size))
    rows, columns = shifts[:, None] % size, shifts[None, :] % size
    found = np.empty(len(others))
    for number, other in enumerate(others.astype(np.float32)):
        products = irfft2(spectra * np.conj(rfft2(other, (size, size))), (size, size))
        scores = (products[:, rows, columns] / _counts()).reshape(NUM_TURNS, -1)
        places = scores.argmax(axis=1)
        likely = np.argsort(scores[np.arange(NUM_TURNS), places])[-2:]
        found[number] = max(
            _correlation(*_common(turns[turn], other, *divmod(int(places[turn]), len(shifts)))) for turn in likely
        )
    return found


def _standardized(values: np.ndarray) -> np.ndarray:
    return np.asarray((values - values.mean()) / (values.std() + 1e-6))


def _common(one: np.ndarray, other: np.ndarray, row: int, column: int) -> tuple[np.ndarray, np.ndarray]:
    """Return what two pictures have in common when the second is moved by a pair of shifts, given by their indices."""
    down, right = int(_shifts()[row]), int(_shifts()[column])
    rows, columns = EDGE_PX - abs(down), EDGE_PX - abs(right)
    return (
        one[max(down, 0) :, max(right, 0) :][:rows, :columns],
        other[max(-down, 0) :, max(-right, 0) :][:rows, :columns],
    )


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    one, other = one - one.mean(), other - other.mean()
    # a part without edges correlates with nothing
    lengths = np.sqrt(max(np.vdot(one, one), 0.05 * one.size) * max(np.vdot(other, other), 0.05 * other.size))
    return float(np.vdot(one, other) / lengths)


@lru_cache(1)
def _size() -> int:
    """Return the edge of the Fourier transforms, at which no shift wraps around."""
    return int(next_fast_len(2 * EDGE_PX - 1, real=True))


@lru_cache(1)
def _shifts() -> np.ndarray:
    most = int(EDGE_PX * (1 - MIN_COMMON_SHARE))
    return np.arange(-most, most + 1)


@lru_cache(1)
def _counts() -> np.ndarray:
    """Return how many pixels two pictures have in common at each shift; infinite where they are too few."""
    common = EDGE_PX - np.abs(_shifts())
    counts = np.outer(common, common).astype(np.float32)
    return np.where(counts >= MIN_COMMON_SHARE * EDGE_PX**2, counts, np.float32(np.inf))
