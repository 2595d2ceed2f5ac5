from __future__ import annotations

import mercantile
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from satx.grid.tiles import (
    MAX_LATITUDE,
    MAX_ZOOM,
    bounds_of,
    center_of,
    is_increasing,
    keys_of,
    places_of,
    tile_of,
)

ZOOMS = range(MAX_ZOOM + 1)
zooms = st.integers(0, MAX_ZOOM)


@st.composite
def places(draw: st.DrawFn) -> tuple[int, int, int]:
    z = draw(zooms)
    edge = st.sampled_from([0, (1 << z) - 1])
    inside = st.integers(0, (1 << z) - 1)
    return z, draw(edge | inside), draw(edge | inside)


@given(st.floats(-200, 200) | st.sampled_from([-180.0, 0.0, 180.0]), st.floats(-89.99, 89.99), zooms)
def test_a_point_lies_in_the_tile_that_mercantile_says(longitude: float, latitude: float, zoom: int) -> None:
    x, y = tile_of(longitude, latitude, zoom)
    assert (int(x), int(y)) == mercantile.tile(longitude, latitude, zoom)[:2]


@pytest.mark.parametrize("zoom", ZOOMS)
def test_poles_and_the_antimeridian_are_on_the_map(zoom: int) -> None:
    last = (1 << zoom) - 1
    longitudes = [-180.0, 180.0, -180.0, 180.0, -1e9, 1e9]
    x, y = tile_of(longitudes, [90.0, -90.0, MAX_LATITUDE, -MAX_LATITUDE, 89.9, -89.9], zoom)
    assert x.tolist() == [0, last] * 3
    assert y.tolist() == [0, last] * 3


@given(places())
def test_bounds_are_those_of_mercantile_and_neighbours_share_them(place: tuple[int, int, int]) -> None:
    z, x, y = place
    bounds = [float(side) for side in bounds_of(z, x, y)]
    assert bounds == pytest.approx(mercantile.bounds(x, y, z), abs=1e-12)
    west, south, east, north = bounds
    if x < (1 << z) - 1:
        assert bounds_of(z, x + 1, y)[0] == east
    if y < (1 << z) - 1:
        assert bounds_of(z, x, y + 1)[3] == south
    longitude, latitude = center_of(z, x, y)
    assert west < longitude < east
    assert south < latitude < north


@given(st.lists(places(), min_size=1, max_size=20))
def test_corner_and_center_of_a_tile_lie_in_it_and_its_key_gives_its_place(several: list[tuple[int, int, int]]) -> None:
    z, x, y = np.array(several).T
    west, _, _, north = bounds_of(z, x, y)
    for longitude, latitude in ((west, north), center_of(z, x, y)):
        found_x, found_y = tile_of(longitude, latitude, z)
        assert np.array_equal(found_x, x)
        assert np.array_equal(found_y, y)
    keys = keys_of(z, x, y)
    assert keys.dtype == np.uint64
    assert all(np.array_equal(*pair) for pair in zip(places_of(keys), (z, x, y), strict=True))


def test_the_center_is_the_middle_of_the_image_not_of_the_latitudes() -> None:
    longitude, latitude = center_of(1, 0, 0)
    assert float(longitude) == -90
    assert float(latitude) == pytest.approx(mercantile.bounds(0, 0, 2).south), "where the four children meet"


@given(st.lists(places(), min_size=1, max_size=30, unique=True))
def test_keys_sort_as_zoom_and_quadkey_do(several: list[tuple[int, int, int]]) -> None:
    def zoom_and_quadkey(place: tuple[int, int, int]) -> tuple[int, str]:
        z, x, y = place
        return z, mercantile.quadkey(x, y, z)

    by_key = sorted(several, key=lambda place: int(keys_of(*place)))
    assert by_key == sorted(several, key=zoom_and_quadkey)


def test_a_key_is_what_the_documentation_says() -> None:
    assert int(keys_of(3, 0b101, 0b010)) == 3 << 58 | 0b011001
    assert int(keys_of(24, (1 << 24) - 1, 0)) == 24 << 58 | 0x555555555555


@pytest.mark.parametrize("place", [(25, 0, 0), (-1, 0, 0), (3, 8, 0), (3, 0, 8), (3, -1, 0), (3, 0, -1), (0, 1, 0)])
def test_what_is_no_tile_has_no_key(place: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="Expected"):
        keys_of(*np.array([(3, 1, 1), place]).T)


@pytest.mark.parametrize("point", [(np.nan, 0.0), (0.0, np.nan), (np.inf, 0.0)])
def test_a_point_that_is_not_finite_has_no_tile(point: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="finite"):
        tile_of([0.0, point[0]], [0.0, point[1]], 3)


def test_increasing_means_sorted_and_without_duplicates() -> None:
    keys = keys_of(2, [0, 1, 1], [0, 0, 1])
    assert is_increasing(keys)
    assert is_increasing(keys[:0])
    assert not is_increasing(keys[::-1])
    assert not is_increasing(keys[[0, 1, 1]])
