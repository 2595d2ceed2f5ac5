from collections import Counter
from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest
import shapely
from shapely import Point, Polygon, box

from satx.grid.tiles import tile_of
from satx.sample.canvas import TILE_PX
from satx.sample.country import Country, degrees_of, pixel_of, unexposed
from satx.sample.country_blocks import picture_of
from satx.sample.country_ground import Window, river_distance
from satx.sample.country_places import MARGIN_PX, block_at, blocks_near, places_in
from satx.sample.country_sheet import SOLIDS, Picture, Sheet
from satx.sample.country_truth import LOT_SHARE, Place, area_geojson, places, schools, tile_truth, truth_geojson
from satx.sample.places import SCHOOL_KINDS

COUNTRY = Country(seed=20, width_tiles=48, height_tiles=40)


def test_about_one_or_two_percent_of_the_tiles_contain_a_school_and_other_places_distract() -> None:
    counts: Counter[str] = Counter()
    for seed in (1, 2):
        counts.update(place.kind for place in places(Country(seed=seed, width_tiles=48, height_tiles=48)))
    num_schools = sum(counts[kind] for kind in SCHOOL_KINDS)
    assert 0.01 < num_schools / (2 * 48 * 48) < 0.02
    assert all(counts[kind] > 3 for kind in (*SCHOOL_KINDS, "market", "factory", "pitch"))


def test_schools_are_of_both_slices() -> None:
    found = schools(Country(seed=3, width_tiles=60, height_tiles=60))
    assert {place.slice for place in found} == {"urban", "rural"}


def test_blocks_cover_the_plane_without_overlap() -> None:
    """So nothing in one block can stand in another one."""
    outlines = [Polygon(block_at(20, i, j).outline) for i, j in blocks_near(20, -1500, 900, 3000)]
    assert all(outline.is_valid for outline in outlines)
    seen = box(-1500, 900, 1500, 3900)
    areas = sum(outline.intersection(seen).area for outline in outlines)
    assert areas == pytest.approx(seen.area, rel=1e-6)
    union = outlines[0]
    for outline in outlines[1:]:
        union = union.union(outline)
    assert union.intersection(seen).area == pytest.approx(seen.area, rel=1e-6)


def test_a_square_is_given_all_the_blocks_that_meet_it() -> None:
    wide = {(i, j): Polygon(block_at(20, i, j).outline) for i, j in blocks_near(20, 4000, 4000, 3000)}
    small = set(blocks_near(20, 5200, 5300, 256))
    assert {place for place, outline in wide.items() if outline.intersects(box(5200, 5300, 5456, 5556))} <= small
    assert len(small) < 30


@pytest.mark.parametrize("place", range(40))
def test_the_blocks_of_a_square_cover_it_wherever_it_is(place: int) -> None:
    """At random squares, each of another seed."""
    x, y = np.random.default_rng(place).integers(-(10**6), 10**6, 2).tolist()
    seen = box(x, y, x + TILE_PX, y + TILE_PX)
    outlines = [Polygon(block_at(place, i, j).outline) for i, j in blocks_near(place, x, y, TILE_PX)]
    assert sum(outline.intersection(seen).area for outline in outlines) == pytest.approx(seen.area, rel=1e-6)


def test_lots_lie_in_their_block_clear_of_roads_and_water() -> None:
    lots = 0
    for seed in (20, 21):
        for block in places_in(seed, 0, 0, 45 * TILE_PX, 45 * TILE_PX):
            lot, outline = Polygon(block.lot), Polygon(block.outline)
            assert outline.contains(lot)
            assert outline.exterior.distance(lot) > MARGIN_PX - 4
            assert lot.contains(Point(block.frame.center))
            assert river_distance(seed, *np.array(block.lot).T).min() > 0
            lots += 1
    assert lots > 50


schools_of = cache(schools)


class WithoutBuildings(Sheet):
    """A sheet that draws everything but buildings."""

    def draw(self, pictures: Sequence[Picture], layers: Sequence[int]) -> None:
        super().draw(pictures, [layer for layer in layers if layer != SOLIDS])


@pytest.mark.parametrize("kind", SCHOOL_KINDS)
def test_a_schools_buildings_stand_where_the_truth_says(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are where the rendered land differs from the same land without buildings: in its lot, and not right beside it."""
    country = Country(seed=20, width_tiles=60, height_tiles=60)
    place = next(place for place in schools_of(country) if place.kind == kind)
    window = Window(int(place.x_px) - 128, int(place.y_px) - 128, 256)
    land = unexposed(country.seed, window)
    monkeypatch.setattr("satx.sample.country.Sheet", WithoutBuildings)
    is_built = np.abs(land - unexposed(country.seed, window)).max(2) > 5
    rows, columns = np.indices(is_built.shape)
    lot = Polygon(place.lot)
    distance_px = shapely.distance(lot, shapely.points(columns + window.x_px + 0.5, rows + window.y_px + 0.5))
    assert lot.centroid.distance(Point(place.x_px, place.y_px)) < 1
    assert is_built[distance_px == 0].mean() > 0.25
    assert not is_built[(distance_px > 0) & (distance_px < 2)].any()


@pytest.mark.parametrize("kind", SCHOOL_KINDS)
def test_a_schools_buildings_are_drawn_where_its_plan_has_them(kind: str) -> None:
    block = next(block for block in places_in(20, 0, 0, 60 * TILE_PX, 60 * TILE_PX) if block.kind == kind)
    assert block.school is not None
    x, y = block.frame.center
    window = Window(int(x) - 128, int(y) - 128, 256)
    sheet = Sheet(window, np.zeros((256, 256, 3), np.float32), np.zeros((256, 256), np.float32))
    sheet.draw([picture_of(20, block.i, block.j)], [SOLIDS])
    is_roof = np.asarray(sheet.reduced()).max(2) > 0

    def has_roof(u: float, v: float) -> bool:
        column, row = block.frame.at(u, v)
        return bool(is_roof[int(row) - window.y_px, int(column) - window.x_px])

    assert all(has_roof(u, v) for u, v, *_ in block.school.bars)
    assert not has_roof(*block.school.yard[:2])


def test_a_tile_is_a_school_if_it_has_the_center_or_enough_of_the_lot() -> None:
    labels = tile_truth(COUNTRY)
    assert len(labels) == 48 * 40
    lots = [(place, Polygon(place.lot)) for place in around(COUNTRY) if place.is_school]
    for (x, y), label in labels.items():
        left, top = (x - COUNTRY.west_x) * TILE_PX, (y - COUNTRY.north_y) * TILE_PX
        tile = box(left, top, left + TILE_PX, top + TILE_PX)
        expected = any(
            (0 <= place.x_px - left < TILE_PX and 0 <= place.y_px - top < TILE_PX)
            or lot.intersection(tile).area / lot.area >= LOT_SHARE
            for place, lot in lots
            if abs(place.x_px - left) < 600 and abs(place.y_px - top) < 600
        )
        assert (label == "school") == expected, (x, y)


def test_a_school_beyond_the_border_counts_for_the_tile_that_shows_enough_of_it() -> None:
    wide = Country(seed=20, width_tiles=60, height_tiles=60)
    labels = tile_truth(wide)
    tiles = {(int(place.x_px // TILE_PX), int(place.y_px // TILE_PX)): place for place in schools(wide)}
    (width_tiles, row), place = next(
        ((x, y), place)
        for (x, y), place in tiles.items()
        if (x - 1, y) not in tiles and labels.get((wide.west_x + x - 1, wide.north_y + y)) == "school"
    )
    narrow = Country(seed=20, width_tiles=width_tiles, height_tiles=60)
    assert place not in schools(narrow)
    tile = narrow.west_x + width_tiles - 1, narrow.north_y + row
    assert tile_truth(narrow)[tile] == "school"


def around(country: Country) -> list[Place]:
    """Return the places of a country and of a strip around it."""
    blocks = places_in(country.seed, -256, -256, (country.width_tiles + 2) * 256, (country.height_tiles + 2) * 256)
    return [Place(*block.frame.center, block.kind, block.slice, tuple(block.lot)) for block in blocks]


def test_truth_and_area_are_geojson_in_degrees() -> None:
    found = schools(COUNTRY)
    truth, labels = truth_geojson(COUNTRY), tile_truth(COUNTRY)
    assert len(truth["features"]) == len(found) > 5
    for feature, place in zip(truth["features"], found, strict=True):
        longitude, latitude = feature["geometry"]["coordinates"]
        assert pixel_of(COUNTRY, longitude, latitude) == (int(place.x_px), int(place.y_px))
        x, y = tile_of(longitude, latitude, 18)
        assert (feature["properties"]["x"], feature["properties"]["y"]) == (x, y)
        assert labels[int(x), int(y)] == feature["properties"]["label"] == "school"
    (area,) = area_geojson(COUNTRY)["features"]
    ring = Polygon(area["geometry"]["coordinates"][0])
    west, south, east, north = COUNTRY.bounds
    assert ring.within(box(west, south, east, north))
    assert ring.area == pytest.approx((east - west) * (north - south), rel=1e-3)
    assert ring.exterior.is_ccw  # RFC 7946
    assert all(ring.contains(Point(degrees_of(COUNTRY, p.x_px, p.y_px))) for p in found if min(p[:2]) > 1)


@pytest.mark.slow
def test_neighbouring_schools_are_often_alike() -> None:
    """So that a random split of the tiles flatters a model."""
    found = schools(Country(seed=4, width_tiles=90, height_tiles=90))
    spots = np.array([place[:2] for place in found])
    kinds = np.array([place.kind for place in found])
    distance = np.hypot(*(spots[:, None] - spots[None]).transpose(2, 0, 1))
    same = kinds[:, None] == kinds[None]
    near, far = (distance > 0) & (distance < 3 * TILE_PX), distance > 40 * TILE_PX
    assert same[near].mean() > same[far].mean() + 0.1
