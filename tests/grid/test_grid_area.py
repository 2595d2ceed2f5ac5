from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import shapely

from satx.errors import DataError
from satx.grid.area import Area, check_not_swapped, read_area

SQUARE = [[36.0, -2.0], [37.0, -2.0], [37.0, -1.0], [36.0, -1.0], [36.0, -2.0]]
HOLE = [[36.4, -1.6], [36.4, -1.4], [36.6, -1.4], [36.6, -1.6], [36.4, -1.6]]
FAR = [[40.0, 1.0], [41.0, 1.0], [41.0, 2.0], [40.0, 1.0]]


def polygon(*rings: Any) -> dict[str, Any]:
    return {"type": "Polygon", "coordinates": list(rings)}


def feature(geometry: Any) -> dict[str, Any]:
    return {"type": "Feature", "properties": {}, "geometry": geometry}


def area_of(tmp_path: Path, content: Any) -> Area:
    path = tmp_path / "area.geojson"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_area(path)


def refusal(tmp_path: Path, content: Any) -> str:
    with pytest.raises(DataError) as caught:
        area_of(tmp_path, content)
    assert "area.geojson" in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        {"type": "MultiPolygon", "coordinates": [[SQUARE, HOLE], [FAR]]},
        {"type": "GeometryCollection", "geometries": [polygon(SQUARE, HOLE), polygon(FAR)]},
        {"type": "FeatureCollection", "features": [feature(polygon(SQUARE, HOLE)), feature(polygon(FAR))]},
        {
            "type": "FeatureCollection",
            "features": [
                feature(None),
                feature({"type": "Point", "coordinates": [0, 0]}),
                feature({"type": "GeometryCollection", "geometries": [polygon(SQUARE, HOLE)]}),
                feature(polygon([[*point, 1500.0] for point in FAR])),
            ],
        },
        feature({"type": "MultiPolygon", "coordinates": [[SQUARE[:-1], HOLE[:-1]], [FAR]]}),
    ],
    ids=["multipolygon", "collection", "features", "points and heights beside", "open rings"],
)
def test_polygons_are_found_wherever_they_are_and_keep_their_holes(tmp_path: Path, content: dict[str, Any]) -> None:
    area = area_of(tmp_path, content)
    expected = shapely.MultiPolygon([shapely.Polygon(SQUARE, [HOLE]), shapely.Polygon(FAR)])
    assert area.geometry.equals(expected)
    assert area.bounds == (36.0, -2.0, 41.0, 2.0)
    assert "longitude 36.00000 to 41.00000, latitude -2.00000 to 2.00000" in str(area)


def test_polygons_that_overlap_are_one_area(tmp_path: Path) -> None:
    shifted = [[x + 0.5, y] for x, y in SQUARE]
    area = area_of(tmp_path, {"type": "MultiPolygon", "coordinates": [[SQUARE], [shifted]]})
    assert area.geometry.equals(shapely.box(36, -2, 37.5, -1))
    assert area.geometry.is_valid


def test_a_byte_order_mark_is_no_error(tmp_path: Path) -> None:
    assert area_of(tmp_path, "\ufeff" + json.dumps(polygon(SQUARE))).geometry.equals(shapely.Polygon(SQUARE))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("z,x,y\n1,2,3\n", "no JSON"),
        ("", "no JSON"),
        ("[" * 200_000, "no JSON"),
        ("[1, 2]", "an object with a type"),
        ({"type": "FeatureCollection"}, "a list of features"),
        ({"type": "FeatureCollection", "features": []}, "no geometry"),
        (feature({"type": "MultiPoint", "coordinates": SQUARE}), "1 of type MultiPoint"),
        (polygon(), "empty polygon"),
        ({"type": "MultiPolygon", "coordinates": None}, "empty polygon"),
        (polygon([]), "at least three"),
        (polygon(SQUARE[:2]), "at least three"),
        (polygon([SQUARE[0]] * 5), "got one without"),
        (polygon([[36, -1], [37, -1], [38, -1], [36, -1]]), "got one without"),
        (polygon([[36, "south"], *SQUARE]), "rings of [longitude, latitude]"),
        (polygon(36.0), "rings of [longitude, latitude]"),
        (polygon([[36], [37], [38], [36]]), "[longitude, latitude]"),
        (polygon([[36, None], *SQUARE]), "finite"),
        ('{"type": "Polygon", "coordinates": [[[NaN, 1], [2, 1], [2, 2]]]}', "finite"),
        ('{"type": "Polygon", "coordinates": [[[1e999, 1], [2, 1], [2, 2]]]}', "finite"),
        (polygon([[250_000, 9_800_000], [260_000, 9_800_000], [260_000, 9_900_000]]), "EPSG:4326"),
        (polygon([[36, 80], [37, 80], [37, 86]]), "Web Mercator end there: cut"),
        (polygon([[-170, 80], [170, 80], [100, -89]]), "Web Mercator end there: cut"),
        (polygon([[-1.3, 136.0], [-1.2, 136.0], [-1.2, 137.0]]), "look swapped: GeoJSON has the longitude first."),
        (polygon([[36, 80], [37, 80], [37, 86]]), "look swapped"),
        (polygon([[36, -2], [37, -1], [37, -2], [36, -1]]), "Self-intersection[36.5 -1.5]"),
        (polygon(SQUARE, FAR), "Hole lies outside"),
        (polygon([[-170, 70], [-60, 70], [60, 70], [170, 70]]), "encloses no pole"),
        (polygon([[-180, 0], [-60, 0], [60, 0], [181, 0], [181, 9], [60, 9], [-60, 9], [-180, 9]]), "360 degrees"),
    ],
)
def test_what_is_no_area_is_refused_with_the_reason(tmp_path: Path, content: Any, said: str) -> None:
    assert said in refusal(tmp_path, content)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.geojson.*No such file"):
        read_area(tmp_path / "nowhere.geojson")


FIJI = {
    "split": {
        "type": "MultiPolygon",
        "coordinates": [
            [[[177, -19], [180, -19], [180, -16], [177, -16], [177, -19]]],
            [[[-180, -19], [-178, -19], [-178, -16], [-180, -16], [-180, -19]]],
        ],
    },
    "beyond 180": polygon([[177, -19], [182, -19], [182, -16], [177, -16], [177, -19]]),
    "beyond -180": polygon([[-183, -19], [-178, -19], [-178, -16], [-183, -16], [-183, -19]]),
    "with a jump": polygon([[177, -19], [-178, -19], [-178, -16], [177, -16], [177, -19]]),
    "jump written from the east": polygon([[-178, -19], [-178, -16], [177, -16], [177, -19], [-178, -19]]),
    "jump at the border": polygon(
        [[177, -19], [180, -19], [-180, -19], [-178, -19], [-178, -16], [-180, -16], [180, -16], [177, -16], [177, -19]]
    ),
}


@pytest.mark.parametrize("style", FIJI)
def test_an_area_across_the_antimeridian_is_the_same_however_it_is_written(tmp_path: Path, style: str) -> None:
    area = area_of(tmp_path, FIJI[style])
    expected = shapely.MultiPolygon([shapely.box(177, -19, 180, -16), shapely.box(-180, -19, -178, -16)])
    assert area.geometry.equals(expected)
    assert area.bounds == (177, -19, -178, -16)
    assert "longitude 177.00000, across the antimeridian, to -178.00000" in str(area)


@pytest.mark.parametrize("shift", [-360, 0, 360])
def test_a_hole_belongs_to_its_shell_on_whichever_side_it_is_written(tmp_path: Path, shift: int) -> None:
    hole = [[179 + shift, -18], [179 + shift, -17], [180 + shift, -17], [180 + shift, -18]]
    area = area_of(tmp_path, polygon(FIJI["beyond 180"]["coordinates"][0], hole))
    assert area.geometry.area == pytest.approx(5 * 3 - 1)
    assert not area.geometry.intersects(shapely.Point(179.5, -17.5))


def test_the_whole_map_is_an_area(tmp_path: Path) -> None:
    ring = [[-180, -85], [180, -85], [180, 85], [-180, 85], [-180, -85]]
    assert area_of(tmp_path, polygon(ring)).geometry.equals(shapely.box(-180, -85, 180, 85))
    area = area_of(tmp_path, polygon([[x + 180, y] for x, y in ring]))
    assert area.geometry.area == 360 * 170
    assert area.bounds == (-180, -85, 180, 85)


def test_an_area_on_two_continents_has_plain_bounds(tmp_path: Path) -> None:
    west, east = ([[x - shift, y] for x, y in SQUARE] for shift in (106, 0))
    area = area_of(tmp_path, {"type": "MultiPolygon", "coordinates": [[west], [east]]})
    assert area.bounds == (-70, -2, 37, -1)


def test_an_area_that_fits_only_when_swapped_is_refused(tmp_path: Path) -> None:
    kenya = (33.9, -4.7, 41.9, 5.0)
    right = area_of(tmp_path, polygon(SQUARE))
    swapped = area_of(tmp_path, polygon([[y, x] for x, y in SQUARE]))
    check_not_swapped(right, kenya, "kenya.mbtiles")
    with pytest.raises(DataError, match=r"latitude 36\.0.*kenya\.mbtiles has longitude 33\.9.*look swapped"):
        check_not_swapped(swapped, kenya, "kenya.mbtiles")
    elsewhere = area_of(tmp_path, polygon(FAR))
    check_not_swapped(elsewhere, (100.0, 10.0, 110.0, 20.0), "meets neither way")
    check_not_swapped(swapped, (-10.0, -10.0, 50.0, 50.0), "meets both ways")
