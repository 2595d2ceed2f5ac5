import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from satx.errors import ConfigError
from satx.grid.tiles import bounds_of, tile_of
from satx.sample import country as country_module
from satx.sample.canvas import TILE_PX
from satx.sample.country import (
    Country,
    degrees_of,
    pixel_of,
    render_at,
    render_country_tile,
    render_window,
    unexposed,
)
from satx.sample.country_blocks import picture_of
from satx.sample.country_ground import Window

COUNTRY = Country(seed=20, width_tiles=142, height_tiles=142)
TOWN, VILLAGE, WOOD, OUTSIDE = (33, 12), (94, 21), (29, 5), (-2, -2)


def in_parts(x_px: int, y_px: int, part_px: int) -> NDArray[np.float32]:
    """Return a square of two by two windows."""
    rows = [
        [unexposed(20, Window(x_px + part_px * i, y_px + part_px * j, part_px)) for i in range(2)] for j in range(2)
    ]
    return np.concatenate([np.concatenate(row, 1) for row in rows])


@pytest.mark.parametrize("tile", [TOWN, VILLAGE, WOOD, OUTSIDE])
def test_a_square_drawn_tile_by_tile_is_the_square_drawn_at_once(tile: tuple[int, int]) -> None:
    """Houses, trees, roads and shadows on the borders of tiles show in both, and no resampling sees the border."""
    x_px, y_px = tile[0] * TILE_PX, tile[1] * TILE_PX
    whole = unexposed(20, Window(x_px, y_px, 2 * TILE_PX))
    np.testing.assert_array_equal(whole, in_parts(x_px, y_px, TILE_PX))
    shifted = unexposed(20, Window(x_px + 101, y_px + 67, 300))
    np.testing.assert_array_equal(whole[67:367, 101:401], shifted)


def test_something_stands_on_the_border_of_the_tiles_compared_above() -> None:
    """So that the comparison would notice if it were missing in one of them."""
    x_px, y_px = (TOWN[0] + 1) * TILE_PX, TOWN[1] * TILE_PX
    whole = unexposed(20, Window(x_px - 60, y_px, 120))
    along_border = np.abs(np.diff(whole[:, 59:61], axis=1)).max(2)
    along_columns = np.abs(np.diff(whole[:, 58:60], axis=0)).max(2)
    assert along_columns.max() > 30
    assert along_border.mean() < 25  # the border itself is not seen


def test_tiles_are_the_same_in_any_order_and_after_what_was_kept_is_lost() -> None:
    places = [(COUNTRY.west_x + 33 + i, COUNTRY.north_y + 12) for i in range(3)]
    forward = {place: render_country_tile(COUNTRY, *place) for place in places}
    picture_of.cache_clear()
    country_module._cell.cache_clear()
    backward = {place: render_country_tile(COUNTRY, *place) for place in reversed(places)}
    for place in places:
        np.testing.assert_array_equal(forward[place], backward[place])
        assert forward[place].std() > 5
    assert not np.array_equal(forward[places[0]], forward[places[1]])


def test_another_seed_gives_another_country() -> None:
    tile = COUNTRY.west_x, COUNTRY.north_y
    assert not np.array_equal(render_country_tile(COUNTRY, *tile), render_country_tile(Country(seed=21), *tile))


def test_the_ground_moves_with_the_country() -> None:
    there = Country(seed=20, west_x=5000, north_y=9000)
    np.testing.assert_array_equal(
        render_country_tile(there, 5003, 9002),
        render_country_tile(COUNTRY, COUNTRY.west_x + 3, COUNTRY.north_y + 2),
    )


@settings(max_examples=8)
@given(st.integers(-300, 300), st.integers(-300, 300), st.integers(1, 300))
def test_a_window_at_any_pixel_is_cut_from_the_tiles(x_px: int, y_px: int, size_px: int) -> None:
    """With the sensor's noise."""
    window = render_window(COUNTRY, x_px, y_px, size_px)
    assert (window.shape, window.dtype) == ((size_px, size_px, 3), np.uint8)
    for corner_x, corner_y in ((0, 0), (size_px - 1, size_px - 1), (size_px - 1, 0), (0, size_px - 1)):
        column, row = x_px + corner_x, y_px + corner_y
        tile = render_country_tile(COUNTRY, COUNTRY.west_x + column // TILE_PX, COUNTRY.north_y + row // TILE_PX)
        np.testing.assert_array_equal(window[corner_y, corner_x], tile[row % TILE_PX, column % TILE_PX])


def test_a_rendered_tile_belongs_to_the_caller() -> None:
    tile = COUNTRY.west_x, COUNTRY.north_y
    render_country_tile(COUNTRY, *tile)[:] = 0
    assert render_country_tile(COUNTRY, *tile).any()


@given(st.integers(0, 142 * 256 - 1), st.integers(0, 142 * 256 - 1))
def test_pixels_and_degrees_agree(x_px: int, y_px: int) -> None:
    longitude, latitude = degrees_of(COUNTRY, x_px, y_px)
    assert pixel_of(COUNTRY, longitude, latitude) == (x_px, y_px)
    x, y = tile_of(longitude, latitude, COUNTRY.zoom)
    assert (x - COUNTRY.west_x, y - COUNTRY.north_y) == (x_px // TILE_PX, y_px // TILE_PX)


def test_a_window_centred_on_a_point_shows_the_point_in_its_middle() -> None:
    longitude, latitude = degrees_of(COUNTRY, 300.5, 200.5)
    np.testing.assert_array_equal(
        render_at(COUNTRY, longitude, latitude, 64), render_window(COUNTRY, 300 - 32, 200 - 32, 64)
    )


def test_bounds_are_those_of_the_corner_tiles() -> None:
    west, south, east, north = COUNTRY.bounds
    first = bounds_of(18, COUNTRY.west_x, COUNTRY.north_y)
    last = bounds_of(18, COUNTRY.west_x + 141, COUNTRY.north_y + 141)
    assert (west, north, south, east) == (first[0], first[3], last[1], last[2])
    assert west < east
    assert south < north
    assert COUNTRY.contains(COUNTRY.west_x + 141, COUNTRY.north_y)
    assert not COUNTRY.contains(COUNTRY.west_x + 142, COUNTRY.north_y)
    assert not COUNTRY.contains(COUNTRY.west_x - 1, COUNTRY.north_y)
    assert not COUNTRY.contains(COUNTRY.west_x, COUNTRY.north_y + 142)


@pytest.mark.parametrize(
    "wrong",
    [{"west_x": -1}, {"west_x": 2**18 - 1}, {"north_y": 2**18}, {"width_tiles": 0}, {"height_tiles": -2}, {"zoom": 25}],
)
def test_a_country_off_the_map_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="within the map"):
        Country(**wrong)
