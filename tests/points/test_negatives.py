from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest
from test_distance import geodesic_m, points

from satx.errors import DataError
from satx.grid.area import Area, read_area
from satx.grid.points import Points, place_keys, places_of_keys
from satx.points import ground
from satx.points.buildings import read_buildings
from satx.points.ground import ground_points
from satx.points.negatives import BUILT_UP, HALF_WIDTH_M, OPEN, Negatives, Wanted, draw_negatives, positives_in
from satx.sample.canvas import SUPERSAMPLING
from satx.sample.country import Country, degrees_of
from satx.sample.country_blocks import picture_of
from satx.sample.country_places import blocks_near
from satx.sample.country_sheet import SOLIDS
from satx.sample.country_truth import area_geojson, schools

METERS_A_DEGREE = 111_000.0


def wanted(number: int, **changes: Any) -> Wanted:
    values = {"distance_m": 300.0, "apart_m": 200.0, "open_share": 0.25, "label": "not-school", "seed": 1}
    return Wanted(number, **{**values, **changes})


def area_of(tmp_path: Path, *polygons: list[Any]) -> Area:
    path = tmp_path / "area.geojson"
    features = [
        {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": rings}}
        for rings in polygons
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return read_area(path)


def box(west: float, south: float, east: float, north: float) -> list[list[float]]:
    return [[west, south], [east, south], [east, north], [west, north], [west, south]]


def square_at(longitude: float, latitude: float, side_m: float) -> list[list[float]]:
    """Return the ring of a square; longitudes may be beyond 180."""
    up = side_m / METERS_A_DEGREE / 2
    across = up / math.cos(math.radians(latitude))
    return box(longitude - across, latitude - up, longitude + across, latitude + up)


def places(of: Points) -> list[tuple[float, float]]:
    return list(zip(of.longitude.tolist(), of.latitude.tolist(), strict=True))


def way_m(first: tuple[float, float], second: tuple[float, float]) -> float:
    """Return the length of the geodesic, the shorter way around."""
    moved = first[0] + 360 * round((second[0] - first[0]) / 360)
    return geodesic_m((moved, first[1]), second)


def assert_promises_hold(found: Negatives, area: Area, positives: Points, asked: Wanted) -> None:
    drawn = places(found.points)
    assert len(drawn) == len(set(drawn)) == asked.number
    assert shapely.intersects_xy(area.geometry, found.points.longitude, found.points.latitude).all()
    for place, nearest_m in zip(drawn, found.nearest_positive_m.tolist(), strict=True):
        distances_m = [way_m(place, positive) for positive in places(positives)]
        assert min(distances_m) >= asked.distance_m - 1e-4  # the precision of Vincenty's formula
        assert nearest_m == pytest.approx(min(distances_m), abs=0.01)
    for index, place in enumerate(drawn):
        assert all(way_m(place, other) >= asked.apart_m - 1e-4 for other in drawn[:index])


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_negatives_keep_their_distances_on_the_ellipsoid_and_lie_in_the_area(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """At any latitude, across the antimeridian, with and without buildings; distances by an independent formula."""
    longitude = data.draw(st.sampled_from([-180.0, 179.995, 0.0, 36.8]) | st.floats(-180, 180))
    latitude = data.draw(st.floats(-80, 80))
    distance_m = data.draw(st.floats(50, 800))
    ring = square_at(longitude, latitude, 6_000)
    area = area_of(tmp_path_factory.mktemp("area"), [ring])
    parts = st.floats(0.02, 0.98)
    west, south, east, north = ring[0] + ring[2]

    def somewhere(share: tuple[float, float]) -> tuple[float, float]:
        moved = (west + share[0] * (east - west) + 180) % 360 - 180
        return moved, south + share[1] * (north - south)

    positives = points(
        *(somewhere(share) for share in data.draw(st.lists(st.tuples(parts, parts), min_size=1, max_size=4)))
    )
    seed = data.draw(st.integers(0, 2**32))
    asked = wanted(6, distance_m=distance_m, apart_m=distance_m / 2, seed=seed)
    assert_promises_hold(draw_negatives(area, positives, None, asked), area, positives, asked)
    standing = np.unique(
        place_keys(*np.array([somewhere(spot) for spot in np.random.default_rng(seed).random((4000, 2))]).T)
    )
    asked = wanted(4, distance_m=distance_m, apart_m=distance_m / 2, open_share=0.0, seed=seed)
    found = draw_negatives(area, positives, standing, asked)
    assert_promises_hold(found, area, positives, asked)
    assert set(places(found.points)) <= set(places(points(*zip(*places_of_keys(standing), strict=True))))


FAR_APART = [square_at(36.0, -1.0, 9_000), square_at(36.2, -1.0, 5_000), square_at(36.05, -1.0, 7_000)]  # two overlap


def test_a_seed_decides_whatever_the_order_of_the_inputs(tmp_path: Path) -> None:
    positives = points((36.0, -1.0), (36.2, -1.0), (36.06, -1.01))
    rng = np.random.default_rng(3)
    spots = [(36.0 + east * 0.08, -1.03 + north * 0.06) for east, north in rng.random((3_000, 2)).tolist()]
    path = tmp_path / "buildings.csv"
    results = []
    for turn in range(3):
        area = area_of(tmp_path, *([ring] for ring in np.roll(np.array(FAR_APART), turn, axis=0).tolist()))
        order = rng.permutation(len(spots))
        path.write_text("\n".join(["lon,lat", *(f"{spots[index][0]!r},{spots[index][1]!r}" for index in order)]))
        shuffled = points(*(places(positives)[index] for index in rng.permutation(3)))
        with_buildings = draw_negatives(area, shuffled, read_buildings(path, area, HALF_WIDTH_M), wanted(20))
        results.append((places(draw_negatives(area, shuffled, None, wanted(20)).points), places(with_buildings.points)))
    assert results[0] == results[1] == results[2]
    other = draw_negatives(area, positives, None, wanted(20, seed=2))
    assert not set(places(other.points)) & set(results[0][0])


def test_holes_have_no_points_and_every_part_has_some(tmp_path: Path) -> None:
    hole = square_at(10.0, 50.0, 15_000)
    area = area_of(tmp_path, [square_at(10.0, 50.0, 20_000), hole], [square_at(11.0, 50.0, 20_000)])
    found = draw_negatives(area, points((10.13, 50.08)), None, wanted(300)).points
    assert not shapely.intersects_xy(shapely.Polygon(hole), found.longitude, found.latitude).any()
    assert 60 < (found.longitude < 10.5).sum() < 150  # a third of the ground is there, less what is near the positive


@pytest.mark.parametrize("style", ["beyond 180", "split", "with a jump"])
def test_an_area_across_the_antimeridian_gives_the_same_points_however_it_is_written(
    tmp_path: Path, style: str
) -> None:
    """The distance to a positive on the other side counts."""
    rings = {
        "beyond 180": [[box(179.98, -17.02, 180.02, -16.98)]],
        "split": [[box(179.98, -17.02, 180, -16.98)], [box(-180, -17.02, -179.98, -16.98)]],
        "with a jump": [[[[179.98, -17.02], [-179.98, -17.02], [-179.98, -16.98], [179.98, -16.98], [179.98, -17.02]]]],
    }
    area = area_of(tmp_path, *rings[style])
    positives, asked = points((179.9999, -17.0)), wanted(40)
    found = draw_negatives(area, positives, None, asked)
    assert_promises_hold(found, area, positives, asked)
    assert 10 < (found.points.longitude < 0).sum() < 30
    reference = draw_negatives(area_of(tmp_path, *rings["split"]), positives, None, asked)
    assert places(found.points) == places(reference.points)


@pytest.mark.parametrize("min_tiles", [ground._MIN_TILES, 1], ids=["many tiles", "one tile"])
def test_points_are_uniform_by_area_on_the_ground(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, min_tiles: int
) -> None:
    """By the area of WGS 84 between the equator and a latitude, in closed form (Snyder 1987, equation 3-12)."""
    monkeypatch.setattr(ground, "_MIN_TILES", min_tiles)
    area = area_of(tmp_path, [box(0, 0, 180, 80)])
    batches = ground_points(area, np.random.default_rng(5))
    longitude, latitude = places_of_keys(np.concatenate([next(batches) for _ in range(40)]))

    def share_below(degrees: Any) -> Any:
        def size(values: Any) -> Any:
            e, sine = math.sqrt(0.00669437999014), np.sin(np.radians(values))
            return (1 - e**2) * (sine / (1 - e**2 * sine**2) - np.log((1 - e * sine) / (1 + e * sine)) / (2 * e))

        return size(degrees) / size(80.0)

    assert len(latitude) > 40_000
    assert kstest(latitude, share_below).pvalue > 0.01
    assert kstest(longitude / 180, "uniform").pvalue > 0.01
    # A sphere's distribution differs by up to 0.2 points of 100, which as many points do not show; that of degrees by up to 15.
    assert (latitude < 40).mean() == pytest.approx(float(share_below(40.0)), abs=0.007)


def test_a_small_area_is_drawn_from_too(tmp_path: Path) -> None:
    area = area_of(tmp_path, [square_at(36.8, -1.3, 30)])
    asked = wanted(2, apart_m=5.0, distance_m=10.0)
    found = draw_negatives(area, points((36.8, -1.3)), None, asked)
    assert_promises_hold(found, area, points((36.8, -1.3)), asked)


@pytest.mark.parametrize("with_buildings", [False, True])
def test_an_area_without_room_is_an_error_that_says_how_many_fit(tmp_path: Path, with_buildings: bool) -> None:
    area = area_of(tmp_path, [square_at(36.8, -1.3, 1_000)])
    longitude, latitude = np.meshgrid(np.linspace(36.795, 36.805, 30), np.linspace(-1.305, -1.295, 30))
    standing = np.unique(place_keys(longitude.ravel(), latitude.ravel())) if with_buildings else None
    asked = wanted(100, open_share=0.0)
    with pytest.raises(DataError, match=r"Expected 100 negatives .*at least 300 m .* found room for \d+\..*--number"):
        draw_negatives(area, points((36.8, -1.3)), standing, asked)
    with pytest.raises(DataError, match="found room for 0"):
        draw_negatives(area, points((36.8, -1.3)), standing, wanted(1, distance_m=2_000.0, open_share=0.0))


def test_buildings_everywhere_leave_no_open_land(tmp_path: Path) -> None:
    area = area_of(tmp_path, [square_at(36.8, -1.3, 3_000)])
    longitude, latitude = np.meshgrid(np.linspace(36.78, 36.82, 60), np.linspace(-1.32, -1.28, 60))
    standing = np.unique(place_keys(longitude.ravel(), latitude.ravel()))
    with pytest.raises(DataError, match=r"without a building within 75 m.*found room for 0"):
        draw_negatives(area, points((36.8, -1.3)), standing, wanted(8))
    assert (
        draw_negatives(area, points((36.8, -1.3)), standing, wanted(8, open_share=0.0)).points.slices == (BUILT_UP,) * 8
    )


def test_slices_follow_from_the_buildings_in_the_picture(tmp_path: Path) -> None:
    area = area_of(tmp_path, [square_at(36.8, -1.3, 8_000)])
    rng = np.random.default_rng(1)
    spots = np.array([36.77, -1.33]) + rng.random((2_000, 2)) * np.array([0.06, 0.03])  # the southern half
    standing = np.unique(place_keys(*spots.T))
    positives, asked = points((36.8, -1.3)), wanted(40, open_share=0.3)
    found = draw_negatives(area, positives, standing, asked)
    assert_promises_hold(found, area, positives, asked)
    assert found.points.slices == (BUILT_UP,) * 28 + (OPEN,) * 12
    buildings = list(zip(*(part.tolist() for part in places_of_keys(standing)), strict=True))
    assert found.num_buildings is not None
    for place, count in zip(places(found.points), found.num_buildings.tolist(), strict=True):
        near = [spot for spot in buildings if abs(spot[0] - place[0]) < 0.001 and abs(spot[1] - place[1]) < 0.001]
        assert count == sum(geodesic_m(place, spot) <= HALF_WIDTH_M for spot in near)
    assert (found.num_buildings[:28] > 0).all()
    assert (found.num_buildings[28:] == 0).all()
    assert set(places(found.points)[:28]) <= set(buildings)


@pytest.mark.parametrize(("share", "num_open"), [(0.0, 0), (1.0, 10), (0.25, 2)])
def test_the_share_of_open_land_is_kept(tmp_path: Path, share: float, num_open: int) -> None:
    area = area_of(tmp_path, [square_at(36.8, -1.3, 8_000)])
    standing = np.unique(place_keys(*np.random.default_rng(1).normal((36.8, -1.3), 0.01, (500, 2)).T))
    found = draw_negatives(area, points((36.8, -1.3)), standing, wanted(10, open_share=share))
    assert found.points.slices.count(OPEN) == num_open
    assert found.points.labels == ("not-school",) * 10


def test_points_of_later_batches_keep_away_from_earlier_ones_and_from_positives_beyond_the_border(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With few candidates at a time, so that many batches are needed."""
    monkeypatch.setattr(ground, "_POINTS_AT_ONCE", 20)
    area = area_of(tmp_path, [square_at(36.8, -1.3, 2_000)])
    beyond = [
        (36.8 + east * 0.00905, -1.3 + north * 0.00905)
        for east, north in ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, -1))
    ]
    positives = points(*beyond, (36.8, -1.3))
    assert positives_in(area, positives).tolist() == [False] * 6 + [True]
    asked = wanted(25)
    assert_promises_hold(draw_negatives(area, positives, None, asked), area, positives, asked)


def test_positives_of_another_region_are_refused(tmp_path: Path) -> None:
    area = area_of(tmp_path, [box(36, -2, 37, -1)])
    assert positives_in(area, points((36.5, -1.5), (36.0, -1.0), (35.9, -1.5))).tolist() == [True, True, False]
    with pytest.raises(DataError, match=r"2 elsewhere: longitude -1\.5.*look swapped: GeoJSON has the longitude first"):
        positives_in(area, points((-1.5, 36.5), (-1.2, 36.1)))
    with pytest.raises(DataError, match="positives of the same region") as caught:
        positives_in(area, points((30.0, -1.5)))
    assert "swapped" not in str(caught.value)


def building(longitude: float, latitude: float, side: float = 0.0001) -> dict[str, Any]:
    ring = box(longitude - side, latitude - side, longitude + side, latitude + side)
    return {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [ring]}}


def test_buildings_are_the_same_in_every_format(tmp_path: Path) -> None:
    area = area_of(tmp_path, [box(36, -2, 37, -1)])
    spots = [(36.5 + number / 1e4, -1.5) for number in range(10)]
    elsewhere = (38.0, -1.5)
    features = [building(*spot) for spot in [*spots, elsewhere, spots[0]]]
    multi = {
        "type": "Feature",
        "properties": None,
        "geometry": {"type": "MultiPolygon", "coordinates": [found["geometry"]["coordinates"] for found in features]},
    }
    as_points = [{"type": "Point", "coordinates": spot} for spot in [*spots, elsewhere]]
    collection = {"type": "FeatureCollection", "features": features}
    texts = {
        "document.geojson": json.dumps(collection, indent=1),
        "lines.geojsonl": "\n".join(map(json.dumps, features)),
        "sequence.geojsons": "".join(f"\x1e{json.dumps(found)}\n" for found in features),
        "multi.geojson": json.dumps({"type": "FeatureCollection", "features": [multi]}),
        "points.geojson": json.dumps({"type": "GeometryCollection", "geometries": as_points}),
        "points.csv": "\n".join(
            ["latitude,longitude,area", *(f"{spot[1]},{spot[0]},9" for spot in [*spots, elsewhere])]
        ),
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    table = pa.table({"lon": [spot[0] for spot in spots], "lat": [spot[1] for spot in spots]})
    pq.write_table(table, tmp_path / "points.parquet")
    expected = np.unique(place_keys(*np.array(spots).T))
    for name in [*texts, "points.parquet"]:
        told: list[tuple[int, int]] = []
        keys = read_buildings(
            tmp_path / name, area, HALF_WIDTH_M, on_progress=lambda *numbers, told=told: told.append(numbers)
        )
        assert np.array_equal(keys, expected), name
        assert told[-1][0] >= 10
        assert all(done <= total for done, total in told)


def test_buildings_just_outside_of_the_area_count_and_hold_no_points(tmp_path: Path) -> None:
    area = area_of(tmp_path, [box(36, 59, 36.1, 60)])
    path = tmp_path / "buildings.csv"
    across, up = 70 / 55_800, 70 / 111_412  # degrees of 70 m at 60° north
    spots = [(36 - across, 59.5), (36.05, 60 + up), (36.1 + across, 60 + up / 4), (36.05, 59.5), (36.05, 60 + 4 * up)]
    path.write_text("\n".join(["lon,lat", *(f"{east!r},{north!r}" for east, north in spots)]))
    keys = read_buildings(path, area, HALF_WIDTH_M)
    assert set(keys.tolist()) == set(place_keys(*np.array(spots[:4]).T).tolist())
    found = draw_negatives(area, points((36.01, 59.1)), keys, wanted(1, open_share=0.0))
    assert places(found.points) == [(36.05, 59.5)]
    with pytest.raises(DataError, match="Expected 2 negatives where buildings stand"):
        draw_negatives(area, points((36.01, 59.1)), keys, wanted(2, open_share=0.0))


def test_a_footprint_across_the_antimeridian_has_its_center_there(tmp_path: Path) -> None:
    area = area_of(tmp_path, [box(179.9, -17.1, 180.1, -16.9)])
    ring = [[179.9999, -17], [-179.9997, -17], [-179.9997, -16.9996], [179.9999, -16.9996], [179.9999, -17]]
    path = tmp_path / "buildings.geojson"
    path.write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    longitude, latitude = places_of_keys(read_buildings(path, area, HALF_WIDTH_M))
    assert (longitude.tolist(), latitude.tolist()) == ([-179.9999], [-16.9998])


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("b.csv", "lon,lat\n-1.5,36.5\n", "look swapped: only the swapped ones lie in it"),
        ("b.csv", "lon,lat\n30,36.5\n", "got 1 and none there. Area: longitude 36.0.* Pass the buildings of this area"),
        ("b.csv", "lon,lat\n", "got 0 and none there"),
        ("b.csv", "lon,lat\n36.5,-1.5\n36.5,91\n", "point 2: expected a latitude within"),
        ("b.csv", "x,y\n36.5,-1.5\n", "expected the columns lon and lat"),
        ("b.geojson", '{"type": "FeatureCollection", "features": []}', "got 0 and none there"),
        ("b.geojson", '{"type": "Polygon", "coordinates": "all"}', "document 1 of the file is broken"),
        ("b.geojson", '{"type": "Feature", "properties": {}, "geometry": null}', "has a feature without one"),
        (
            "b.geojson",
            json.dumps(building(36.5, -1.5)) + '\n{"type": "Feature", "geometry": \n',
            "document 2 of the file",
        ),
    ],
)
def test_a_file_without_buildings_of_the_area_is_refused(tmp_path: Path, name: str, text: str, said: str) -> None:
    area = area_of(tmp_path, [box(36, -2, 37, -1)])
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(DataError, match=said) as caught:
        read_buildings(path, area, HALF_WIDTH_M)
    assert name in str(caught.value)


def test_a_missing_file_of_buildings_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.csv: expected buildings.*No such file"):
        read_buildings(tmp_path / "nowhere.csv", area_of(tmp_path, [box(36, -2, 37, -1)]), HALF_WIDTH_M)


COUNTRY = Country(seed=20, width_tiles=14, height_tiles=14)


def country_roofs() -> list[tuple[float, float]]:
    """Return the centers of the parts of roofs of a rendered country, in px; what is under 5 px is a truck or a tank."""
    roofs = set()
    for i, j in blocks_near(COUNTRY.seed, 0, 0, COUNTRY.width_tiles * 256):
        boxes, _ = picture_of(COUNTRY.seed, i, j).layers[SOLIDS]
        left, top, right, bottom = boxes.T / SUPERSAMPLING
        is_roof = np.minimum(right - left, bottom - top) > 5
        roofs |= set(zip(((left + right) / 2)[is_roof].tolist(), ((top + bottom) / 2)[is_roof].tolist(), strict=True))
    return sorted(roofs)


def test_in_a_rendered_country_points_show_buildings_only_if_they_are_drawn_where_buildings_stand(
    tmp_path: Path,
) -> None:
    (tmp_path / "area.geojson").write_text(json.dumps(area_geojson(COUNTRY)))
    area = read_area(tmp_path / "area.geojson")
    roofs_px = country_roofs()
    path = tmp_path / "roofs.csv"
    degrees = [degrees_of(COUNTRY, *roof) for roof in roofs_px]
    path.write_text("\n".join(["lon,lat", *(f"{east!r},{north!r}" for east, north in degrees)]))
    standing = read_buildings(path, area, HALF_WIDTH_M)
    positives = points(*(degrees_of(COUNTRY, place.x_px, place.y_px) for place in schools(COUNTRY)))
    asked = wanted(40, distance_m=150.0, apart_m=100.0)

    def shows_buildings(found: Negatives) -> np.ndarray:
        """Return whether the picture of 256 px around each point shows roofs, by pixels."""
        west, _, _, north = COUNTRY.bounds
        # Near the equator a degree is as many pixels in both directions.
        places_px = np.column_stack([found.points.longitude - west, north - found.points.latitude]) / 360 * 2**26
        gaps_px = np.abs(places_px[:, None] - np.array(roofs_px)[None])  # (num_points, num_roofs, 2)
        return np.asarray((gaps_px < 128).all(2).sum(1) >= 3)

    with_buildings = shows_buildings(draw_negatives(area, positives, standing, asked))
    without = shows_buildings(draw_negatives(area, positives, None, asked))
    assert with_buildings.mean() >= 0.75  # all but the open quarter
    assert without.mean() < 0.5
