from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import mercantile
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from satx.errors import ConfigError, DataError
from satx.grid.area import Area, read_area
from satx.grid.cover import MIN_OVERLAP_DEGREES, cover
from satx.grid.tiles import is_increasing, keys_of, places_of


def area_of(geometry: Any) -> Area:
    return Area(geometry, tuple(geometry.bounds))


def box_of(z: int, x: int, y: int) -> Any:
    return shapely.box(*mercantile.bounds(x, y, z))


def places(keys: np.ndarray) -> set[tuple[int, int, int]]:
    return set(zip(*(axis.tolist() for axis in places_of(keys)), strict=True))


def brute_force(geometry: Any, zoom: int, overlap: float) -> set[tuple[int, int, int]]:
    """Look at each tile of the world, made smaller on all sides."""
    found = set()
    for tile in mercantile.tiles(-180, -86, 180, 86, zoom):
        west, south, east, north = mercantile.bounds(tile)
        if shapely.box(west + overlap, south + overlap, east - overlap, north - overlap).intersects(geometry):
            found.add((zoom, tile.x, tile.y))
    return found


@st.composite
def stars(draw: st.DrawFn) -> Any:
    """Draw a polygon around a point, its corners at random distances, perhaps with a hole of the same shape."""
    corners = draw(st.lists(st.floats(0.2, 1.0), min_size=3, max_size=12))
    angles = np.linspace(0, 2 * np.pi, len(corners), endpoint=False) + draw(st.floats(0, 6))
    shape = np.column_stack([np.cos(angles), np.sin(angles)]) * np.array(corners)[:, None]
    middle = [draw(st.floats(-100, 100)), draw(st.floats(-45, 45))]
    edge = draw(st.floats(0.5, 60))
    size = [edge, min(edge, 39)]
    holes = [shape * size * draw(st.floats(0.1, 0.9)) + middle] if draw(st.booleans()) else []
    return shapely.Polygon(shape * size + middle, holes)


@settings(max_examples=60)
@given(stars(), st.integers(0, 5))
def test_the_cover_is_what_a_look_at_every_tile_finds(geometry: Any, zoom: int) -> None:
    keys = cover(area_of(geometry), zoom)
    assert is_increasing(keys)
    found = places(keys)
    assert len(found) == len(keys)
    assert brute_force(geometry, zoom, 2 * MIN_OVERLAP_DEGREES) <= found
    assert found <= brute_force(geometry, zoom, MIN_OVERLAP_DEGREES / 2)


@settings(max_examples=60)
@given(st.lists(stars(), min_size=2, max_size=4), st.integers(0, 9))
def test_the_cover_of_a_union_is_the_union_of_the_covers(geometries: list[Any], zoom: int) -> None:
    together = cover(area_of(shapely.union_all(geometries)), zoom)
    one_by_one = np.concatenate([cover(area_of(geometry), zoom) for geometry in geometries])
    assert np.array_equal(together, np.unique(one_by_one))


@given(stars(), st.integers(1, 9))
def test_the_cover_at_a_zoom_has_the_parents_of_the_cover_below(geometry: Any, zoom: int) -> None:
    _, x, y = places_of(cover(area_of(geometry), zoom))
    assert np.array_equal(np.unique(keys_of(zoom - 1, x // 2, y // 2)), cover(area_of(geometry), zoom - 1))


@pytest.mark.parametrize("digits", [7, 15])
@pytest.mark.parametrize(
    "tile", [(0, 0, 0), (5, 31, 0), (9, 300, 255), (18, 158_000, 131_100), (24, 9_999_999, 8_400_000)]
)
def test_an_area_that_is_a_tile_covers_that_tile_and_its_children_only(tile: tuple[int, int, int], digits: int) -> None:
    z, x, y = tile
    west, south, east, north = (round(side, digits) for side in mercantile.bounds(x, y, z))
    area = area_of(shapely.box(west, south, east, north))
    assert places(cover(area, z)) == {tile}
    for deeper in range(z + 1, min(z + 5, 25)):
        children = {(deeper, child.x, child.y) for child in mercantile.children(x, y, z, zoom=deeper)}
        assert places(cover(area, deeper)) == children
    if z:
        parent = mercantile.parent(x, y, z)
        assert places(cover(area, z - 1)) == {(z - 1, parent.x, parent.y)}


def test_a_tile_within_a_hole_is_left_out() -> None:
    hole = shapely.box(*mercantile.bounds(300, 255, 9))
    around = shapely.unary_union([box_of(9, x, y) for x, y in ring_around(300, 255)])
    geometry = around.difference(hole)
    assert places(cover(area_of(geometry), 9)) == {(9, x, y) for x, y in ring_around(300, 255)}


def ring_around(x: int, y: int) -> Iterable[tuple[int, int]]:
    return [(x + right, y + down) for right in (-1, 0, 1) for down in (-1, 0, 1) if right or down]


@pytest.mark.parametrize("zoom", [0, 4, 8])
def test_an_area_across_the_antimeridian_is_covered_as_its_halves_are(tmp_path: Path, zoom: int) -> None:
    def covered(*rings: list[list[float]]) -> np.ndarray:
        path = tmp_path / "area.geojson"
        path.write_text(json.dumps({"type": "MultiPolygon", "coordinates": [[ring] for ring in rings]}))
        return cover(read_area(path), zoom)

    east: list[list[float]] = [[177, -19], [180, -19], [180, -16], [177, -17]]
    west: list[list[float]] = [[-180, -19], [-178, -19], [-178, -15], [-180, -16]]
    across: list[list[float]] = [[177, -19], [180, -19], [-178, -19], [-178, -15], [-180, -16], [177, -17]]
    halves = np.union1d(covered(east), covered(west))
    assert np.array_equal(covered(across), halves)
    assert np.array_equal(covered(east, west), halves)
    columns = places_of(halves)[1]
    assert {0, (1 << zoom) - 1} <= set(columns.tolist())
    assert len(np.unique(columns)) <= max(1, 7 * 2**zoom // 360 + 2), "not around the globe"


def test_the_whole_map_has_every_tile() -> None:
    world = area_of(shapely.box(-180, -85.06, 180, 85.06))
    for zoom in (0, 1, 6):
        assert len(cover(world, zoom)) == 4**zoom


def test_the_deepest_zoom_has_its_tiles_where_they_belong() -> None:
    point = shapely.Point(36.8, -1.3).buffer(1e-5)
    assert places(cover(area_of(point), 24)) >= {(24, *mercantile.tile(36.8, -1.3, 24)[:2])}


@pytest.mark.parametrize("zoom", [-1, 25])
def test_a_zoom_beyond_the_grid_is_refused(zoom: int) -> None:
    with pytest.raises(ConfigError, match=rf"--zoom: expected 0 to 24, got {zoom}"):
        cover(area_of(shapely.box(0, 0, 1, 1)), zoom)


def test_too_many_tiles_are_refused_before_memory_is_taken() -> None:
    for zoom in (16, 24):
        with pytest.raises(DataError, match=rf"at most 2,147,483,648 tiles, got more at zoom {zoom}.*lower --zoom"):
            cover(area_of(shapely.box(-170, -80, 170, 80)), zoom)


def test_an_area_that_is_too_small_for_a_tile_is_refused() -> None:
    west, _, _, north = mercantile.bounds(300, 255, 9)
    with pytest.raises(DataError, match="less than 1e-07 degrees"):
        cover(area_of(shapely.box(west - 5e-8, north - 5e-8, west + 5e-8, north + 5e-8)), 9)
