"""Windows cut from map tiles: the pixels of one big picture of the map, at every place and of every size."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from satx.grid.tiles import MAX_LATITUDE, bounds_of, tile_of
from satx.points.windows import TILE_PX, corners_of, parts_of, stitched

ZOOM = 2
MAP_PX = TILE_PX << ZOOM
MAP = np.random.default_rng(22).integers(0, 256, (MAP_PX, MAP_PX, 3), np.uint8)
LONGITUDES = st.floats(-180, 180, exclude_max=True) | st.sampled_from([-180.0, -90.0, 0.0, 90.0, 179.999])
LATITUDES = st.floats(-MAX_LATITUDE, MAX_LATITUDE) | st.sampled_from(
    [0.0, MAX_LATITUDE, -MAX_LATITUDE, 66.51326044311186]
)


def tile(x: int, y: int) -> np.ndarray:
    return MAP[y * TILE_PX : (y + 1) * TILE_PX, x * TILE_PX : (x + 1) * TILE_PX]


@given(longitude=LONGITUDES, latitude=LATITUDES, window_px=st.integers(1, 600))
def test_a_window_has_the_pixels_of_the_map_around_its_point(longitude: float, latitude: float, window_px: int) -> None:
    left, top = (int(corner) for corner in corners_of(longitude, latitude, ZOOM, window_px))
    parts = parts_of(left, top, ZOOM, window_px)
    is_on_map = top >= 0 and top + window_px <= MAP_PX
    assert bool(parts) == is_on_map
    if not is_on_map:
        return
    window = stitched(parts, [tile(part.x, part.y) for part in parts], window_px)
    around = np.roll(MAP, -left, axis=1)[top : top + window_px, :window_px]  # the map has no east or west edge
    np.testing.assert_array_equal(window, around)
    column, row = tile_of(longitude, latitude, ZOOM + 8)
    np.testing.assert_array_equal(window[window_px // 2, window_px // 2], MAP[row, column])


@given(
    left=st.integers(-MAP_PX, MAP_PX),
    top=st.integers(0, MAP_PX - 1),
    window_px=st.integers(1, MAP_PX),
    zoom=st.integers(2, 4),
)
def test_parts_cover_each_pixel_once_from_neighbouring_tiles(left: int, top: int, window_px: int, zoom: int) -> None:
    parts = parts_of(left, top, zoom, window_px)
    covered = np.zeros((window_px, window_px), int)
    for part in parts:
        covered[part.of_window] += 1
        assert np.empty((TILE_PX, TILE_PX))[part.of_tile].shape == covered[part.of_window].shape
        assert 0 <= part.x < 1 << zoom and 0 <= part.y < 1 << zoom
    assert (covered == (1 if parts else 0)).all()
    across = -(-window_px // TILE_PX)
    assert len(parts) <= (across + 1) ** 2


def test_a_window_around_the_corner_of_a_tile_has_parts_of_four_and_an_aligned_one_is_a_tile() -> None:
    west, _, _, north = (float(value) for value in bounds_of(18, 150_000, 130_000))
    corner = [int(value) for value in corners_of(west, north, 18, 256)]
    assert corner == [150_000 * 256 - 128, 130_000 * 256 - 128]
    assert [(part.x, part.y) for part in parts_of(*corner, 18, 256)] == [
        (149_999, 129_999),
        (150_000, 129_999),
        (149_999, 130_000),
        (150_000, 130_000),
    ]
    assert [(part.x, part.y) for part in parts_of(150_000 * 256, 130_000 * 256, 18, 256)] == [(150_000, 130_000)]


def test_a_window_across_the_antimeridian_continues_on_the_other_side() -> None:
    left, top = (int(value) for value in corners_of(-180.0, 10.0, 3, 256))
    assert left == -128
    assert {part.x for part in parts_of(left, top, 3, 256)} == {7, 0}


@pytest.mark.parametrize("latitude", [MAX_LATITUDE, -MAX_LATITUDE, 85.0, -85.0])
def test_a_window_beyond_the_north_or_south_edge_has_no_parts(latitude: float) -> None:
    left, top = (int(value) for value in corners_of(36.8, latitude, 6, 256))
    assert parts_of(left, top, 6, 256) == ()
