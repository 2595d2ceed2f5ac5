import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from satx.sample.canvas import TILE_PX
from satx.sample.country import unexposed
from satx.sample.country_ground import (
    CORRELATION_LENGTH_PX,
    SPACING_PX,
    Window,
    correlation,
    ground_pixels,
    land_at,
    relief,
    river_distance,
    water_cover,
)
from satx.sample.country_noise import correlation as noise_correlation
from satx.sample.country_noise import normal, octaves, smooth_at, smooth_grids, uniform
from satx.sample.terrain import draw_land

LAGS_TILES = (1, 4, 7, 14)


def spots(num: int, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return points so far apart that noise at them is independent."""
    x, y = np.random.default_rng(seed).uniform(-1e8, 1e8, (2, num))
    return x, y


@given(st.integers(0, 2**63), st.integers(-(2**40), 2**40), st.integers(-(2**40), 2**40))
def test_random_numbers_of_a_place_do_not_depend_on_the_array_they_are_computed_in(seed: int, i: int, j: int) -> None:
    around_i, around_j = np.arange(i - 1, i + 2)[None, :], np.arange(j - 1, j + 2)[:, None]
    alone = normal(seed, ["b"], np.array([i]), np.array([j]))
    assert normal(seed, ["a", "b"], around_i, around_j)[1, 1, 1] == alone[0, 0]
    assert 0 < uniform(seed, "u", np.array([i]), np.array([j]))[0] < 1


def test_streams_seeds_and_neighbouring_places_are_independent() -> None:
    i, j = np.meshgrid(np.arange(200), np.arange(200))
    first, second = normal(1, ["a", "b"], i, j)
    others = (second, normal(2, ["a"], i, j)[0], normal(1, ["a"], i + 1, j)[0], normal(1, ["a"], j, i)[0])
    assert abs(first.mean()) < 0.03
    assert first.std() == pytest.approx(1, abs=0.02)
    for other in others:
        assert abs(np.corrcoef(first.ravel(), other.ravel())[0, 1]) < 0.03


def test_noise_on_a_grid_is_the_noise_at_its_points() -> None:
    x, y = np.arange(-30, 40) + 0.5, np.arange(100, 130) + 0.5
    grid = smooth_grids(5, ["a", "b"], 7.3, x, y)
    columns, rows = np.meshgrid(x, y)
    points = smooth_at(5, ["a", "b"], 7.3, columns.ravel(), rows.ravel())
    np.testing.assert_allclose(grid.reshape(2, -1), points, atol=1e-5)


def test_the_slope_of_noise_is_its_derivative() -> None:
    x, y = spots(500)
    step = 1e-3
    for slope in ((1, 0), (0, 1)):
        there = smooth_at(1, ["a"], 90.0, x + step * slope[0], y + step * slope[1])
        rise = (there - smooth_at(1, ["a"], 90.0, x, y)) / step
        np.testing.assert_allclose(smooth_at(1, ["a"], 90.0, x, y, slope=slope), rise, atol=1e-4)


def test_noise_has_unit_variance_and_the_stated_correlation() -> None:
    x, y = spots(100_000)
    here = smooth_at(3, ["a"], 100.0, x, y)[0]
    assert here.std() == pytest.approx(1, abs=0.01)
    for distance in (0, 20, 50, 118, 200, 450):
        east, south = smooth_at(3, ["a"], 100.0, x + distance, y)[0], smooth_at(3, ["a"], 100.0, x, y + distance)[0]
        expected = noise_correlation(distance, 100.0)
        assert np.mean(here * east) == pytest.approx(expected, abs=0.02)
        assert np.mean(here * south) == pytest.approx(expected, abs=0.02)


def test_octaves_have_unit_variance() -> None:
    values = octaves(1, "a", (9.0, 4.0, 2.0), 0.7, np.arange(700) + 0.5, np.arange(700) + 0.5)
    assert values.std() == pytest.approx(1, abs=0.05)


def test_the_correlation_length_is_where_the_correlation_has_fallen_to_one_in_e() -> None:
    assert correlation(0) == pytest.approx(1)
    assert correlation(CORRELATION_LENGTH_PX) == pytest.approx(math.exp(-1), abs=1e-3)
    assert correlation(4 * SPACING_PX) == pytest.approx(0, abs=1e-9)
    falling = [correlation(tiles * TILE_PX) for tiles in range(25)]
    assert falling == sorted(falling, reverse=True)


def correlations(means: Sequence[NDArray[np.float64]]) -> list[float]:
    """Return the correlations of the first set of colors, (n, 3), with the others, averaged over the channels."""
    return [float(np.mean([np.corrcoef(means[0][:, k], other[:, k])[0, 1] for k in range(3)])) for other in means[1:]]


def test_mean_ground_color_of_tiles_is_correlated_as_stated() -> None:
    """The middle of each tile stands for it; patches that are smaller than a tile take a constant share of the variance."""
    x, y = (np.floor(part / TILE_PX).astype(int) * TILE_PX for part in spots(200, seed=4))

    def colors(lag_tiles: int) -> NDArray[np.float64]:
        windows = [Window(int(a) + lag_tiles * TILE_PX + 104, int(b) + 104, 48) for a, b in zip(x, y, strict=True)]
        return np.array([ground_pixels(8, window, relief(8, window)).mean((0, 1)) for window in windows])

    measured = correlations([colors(lag) for lag in (0, *LAGS_TILES)])
    expected = np.array([correlation(lag * TILE_PX) for lag in LAGS_TILES])
    share = measured[0] / expected[0]  # of the variance that is correlated at all
    assert 0.55 < share <= 1
    np.testing.assert_allclose(measured, share * expected, atol=0.14)


@pytest.mark.slow
def test_mean_color_of_built_ground_is_correlated_over_the_stated_length() -> None:
    """With all that stands on it; the sensor, which changes over twice the length, adds to it."""
    x, y = (np.floor(part / TILE_PX).astype(int) * TILE_PX for part in spots(60, seed=5))

    def colors(lag_tiles: int) -> NDArray[np.float64]:
        windows = [Window(int(a) + lag_tiles * TILE_PX + 96, int(b) + 96, 64) for a, b in zip(x, y, strict=True)]
        return np.array([unexposed(8, window).mean((0, 1)) for window in windows])

    near, at_length, far = correlations([colors(lag) for lag in (0, 1, 7, 60)])
    assert near > 0.4
    assert 0.1 < at_length < near
    assert abs(far) < 0.3


def test_land_has_the_colors_of_the_sample() -> None:
    rng = np.random.default_rng(0)
    names = ("grass", "soil", "paving", "foliage", "water", "asphalt")
    sample = np.array([[getattr(land, name) for name in names] for land in (draw_land(rng) for _ in range(2000))])
    country = np.array(
        [
            [getattr(land, name) for name in names]
            for land in (land_at(1, a, b) for a, b in zip(*spots(2000), strict=True))
        ]
    )
    np.testing.assert_allclose(country.mean(0), sample.mean(0), atol=3)
    np.testing.assert_allclose(country.std(0), sample.std(0), rtol=0.15, atol=1)


def test_water_covers_what_lies_within_a_rivers_banks() -> None:
    x, y = np.meshgrid(np.arange(-60, 60) * 200.0, np.arange(-60, 60) * 200.0)
    distance = river_distance(20, x.ravel(), y.ravel())
    wet, dry = (int(index) for index in (distance.argmin(), distance.argmax()))
    left, top = int(x.ravel()[wet]) - 60, int(y.ravel()[wet]) - 60
    cover = water_cover(20, Window(left, top, 120))
    assert cover is not None
    columns, rows = np.meshgrid(left + np.arange(120) + 0.5, top + np.arange(120) + 0.5)
    exact = river_distance(20, columns.ravel(), rows.ravel()).reshape(120, 120)
    assert ((cover[0] < 0) == (exact < 0)).mean() > 0.97
    assert water_cover(20, Window(int(x.ravel()[dry]), int(y.ravel()[dry]), 64)) is None
