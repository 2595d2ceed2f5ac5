from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from satx.errors import DataError
from satx.grid import geojson
from satx.grid.point_table import _BATCH_ROWS
from satx.grid.points import Points, place_keys, places_of_keys, read_points, write_points
from satx.grid.tiles import MAX_LATITUDE, tile_of

Row = tuple[float, float, str, str]  # longitude, latitude, label, slice


@st.composite
def rows_of_distinct_places(draw: st.DrawFn) -> list[Row]:
    places = draw(
        st.lists(
            st.tuples(st.integers(-1_800_000_000, 1_799_999_999), st.integers(-850_000_000, 850_000_000)),
            min_size=1,
            max_size=20,
            unique=True,
        )
    )
    text = st.sampled_from(["", "school", "not-school", 'écolé, "à" côté'])
    return [(east / 1e7, north / 1e7, draw(text), draw(text)) for east, north in places]


def feature(row: Row, kind: str = "Point") -> dict[str, Any]:
    coordinates: Any = [row[0], row[1], 1500.0]
    return {
        "type": "Feature",
        "properties": {"label": row[2] or None, "slice": row[3], "name": "not read"},
        "geometry": {"type": kind, "coordinates": coordinates if kind == "Point" else [coordinates]},
    }


def collection(features: list[dict[str, Any]]) -> dict[str, Any]:
    return {"type": "FeatureCollection", "features": features}


def csv_of(rows: list[Row], delimiter: str, names: tuple[str, str]) -> str:
    def cell(text: str) -> str:
        return '"' + text.replace('"', '""') + '"'

    lines = [delimiter.join(["note", names[1], "slice", names[0], "Label"])]
    lines += [delimiter.join(["x", repr(row[1]), cell(row[3]), f" {row[0]!r} ", cell(row[2])]) for row in rows]
    return "\n".join(lines)


def assert_is(points: Points, rows: list[Row]) -> None:
    assert points.longitude.dtype == points.latitude.dtype == np.float64
    assert points.longitude.tolist() == [row[0] for row in rows]
    assert points.latitude.tolist() == [row[1] for row in rows]
    assert points.labels == tuple(row[2] for row in rows)
    assert points.slices == tuple(row[3] for row in rows)
    assert points.num_duplicates == 0


@settings(max_examples=20)
@given(rows=rows_of_distinct_places())
def test_points_are_the_same_in_every_format_and_keep_their_order(
    rows: list[Row], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("points")
    texts = {
        "document.geojson": json.dumps(collection([feature(row) for row in rows]), indent=1),
        "mark.json": "\ufeff" + json.dumps(collection([feature(row, "MultiPoint") for row in rows])),
        "lines.geojsonl": "\n".join(json.dumps(feature(row)) for row in rows) + "\n\n",
        "sequence.txt": "".join(f"\x1e{json.dumps(collection([feature(row)]))}\n" for row in rows),
        "comma.csv": csv_of(rows, ",", ("lon", "lat")),
        "semicolon.csv": "\ufeff" + csv_of(rows, ";", ("longitude", "latitude")),
        "tab.tsv": csv_of(rows, "\t", ("LON", "Lat")),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    columns = {
        "note": pa.nulls(len(rows)),
        "latitude": pa.array([row[1] for row in rows]),
        "slice": pa.array([row[3] for row in rows], pa.large_string()),
        "lon": pa.array([row[0] for row in rows]),
        "label": pa.array([row[2] or None for row in rows], pa.string()).dictionary_encode(),
    }
    pq.write_table(pa.table(columns), folder / "points.parquet")
    for name in [*texts, "points.parquet"]:
        assert_is(read_points(folder / name), rows)
    write_points(folder / "written.geojson", read_points(folder / "comma.csv"))
    assert_is(read_points(folder / "written.geojson"), rows)


def test_a_table_without_labels_has_points_without_labels(tmp_path: Path) -> None:
    path = tmp_path / "points.csv"
    path.write_text("lon,lat\n36.8,-1.3\n36.9,-1.2\n")
    assert_is(read_points(path), [(36.8, -1.3, "", ""), (36.9, -1.2, "", "")])


def test_a_multipoint_gives_a_point_for_each_place(tmp_path: Path) -> None:
    path = tmp_path / "points.geojson"
    geometry = {"type": "MultiPoint", "coordinates": [[36, -1], [37, -2]]}
    path.write_text(json.dumps({"type": "Feature", "properties": {"label": " school "}, "geometry": geometry}))
    assert_is(read_points(path), [(36, -1, "school", ""), (37, -2, "school", "")])


def csv_file(tmp_path: Path, *rows: str) -> Path:
    path = tmp_path / "points.csv"
    path.write_text("".join(f"{line}\n" for line in ["lon,lat,label,slice", *rows]))
    return path


def test_a_place_counts_once_and_its_first_row_is_kept(tmp_path: Path) -> None:
    path = csv_file(
        tmp_path,
        "180,10,school,first",
        "36.8,-1.3,school,",
        "-180,10,school,second",
        "179.99999999,10,school,third",
        "36.80000004,-1.3,school,",
        "36.8000001,-1.3,school,",
    )
    points = read_points(path)
    assert points.longitude.tolist() == [-180, 36.8, 36.8000001]
    assert points.slices == ("first", "", "")
    assert points.num_duplicates == 3


@pytest.mark.parametrize(
    ("written", "longitude"), [("180", -180), ("182.5", -177.5), ("-183", 177), ("540", -180), ("-540", -180)]
)
def test_a_longitude_on_the_other_side_of_the_antimeridian_is_moved(
    tmp_path: Path, written: str, longitude: float
) -> None:
    assert read_points(csv_file(tmp_path, f"{written},-17,,")).longitude.tolist() == [longitude]


def test_the_edge_of_the_map_may_be_rounded(tmp_path: Path) -> None:
    points = read_points(csv_file(tmp_path, "0,85.0511288,,", "0,-85.0511288,,"))
    assert points.latitude.tolist() == [MAX_LATITUDE, -MAX_LATITUDE]


def test_a_point_on_a_border_is_in_the_same_tile_however_it_is_written(tmp_path: Path) -> None:
    """A border of tiles of zoom 10 that is a whole number of 1e-7 degrees: the eastern tile has it."""
    rows = ["36.5625,0,,", "36.562500000001,0.00000001,,", "36.562499999999,-0.00000001,,", "396.5625,0,,"]
    for row in rows:
        points = read_points(csv_file(tmp_path, row))
        x, y = tile_of(points.longitude, points.latitude, 10)
        assert (x.tolist(), y.tolist()) == ([616], [512])


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "at least one point"),
        (["36,-1,,", "nan,1,,"], "point 2: expected finite"),
        (["36,-1,,", "36,inf,,"], "point 2: expected finite"),
        (["36,-1,,", ",1,,"], "data row 2: expected degrees such as -1.2921 in the column lon, got ''"),
        (["36,-1,,", '36,"-1,3",,'], "data row 2: expected degrees such as -1.2921 in the column lat, got '-1,3'"),
        (["36,-1,,", "36,east,,"], "data row 2: expected degrees"),
        (["250000,9800000,,"], "EPSG:4326"),
        (["36,-1,,", "36,86,,"], "point 2: expected a latitude within ±85.0511, got longitude 36, latitude 86"),
        (["-1.3,136,,"], "look swapped: GeoJSON has the longitude first."),
        (["36,86,,"], "look swapped: GeoJSON has the longitude first. Or: Maps in Web Mercator end there"),
        (["136,86,,"], "86. Maps in Web Mercator end there: remove the point."),
        (["36,-1,school,", "37,-1,,", "36,-1,not-school,"], "points 1 and 3: expected one label for one place"),
        (["36,-1,school,", "36.00000001,-1,,"], "got 'school' and ''"),
    ],
)
def test_what_is_no_point_of_the_map_is_refused_with_the_place(tmp_path: Path, rows: list[str], said: str) -> None:
    with pytest.raises(DataError) as caught:
        read_points(csv_file(tmp_path, *rows))
    assert said in str(caught.value)
    assert "points.csv" in str(caught.value)


def point(coordinates: Any, kind: str = "Point", **properties: Any) -> dict[str, Any]:
    return {"type": "Feature", "properties": properties, "geometry": {"type": kind, "coordinates": coordinates}}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "no JSON"),
        ("lon,lat\n1,2\n", "no JSON"),
        ("[1, 2]", "an object with a type"),
        (collection([]), "at least one point, got none"),
        (
            collection([point([36, -1]), {"type": "Feature", "geometry": None}]),
            "point 2: expected a Point or MultiPoint, got no",
        ),
        (collection([point([[[36, -1], [37, -1], [37, 0]]], "Polygon")]), "got Polygon"),
        (point([]), "point 1: expected [longitude, latitude]"),
        (point([36]), "point 1: expected [longitude, latitude]"),
        (point([[36, -1]]), "point 1: expected [longitude, latitude]"),
        (point([], "MultiPoint"), "Remove the empty point"),
        (point([[36, -1], [36]], "MultiPoint"), "expected [longitude, latitude]"),
        (point(None), "expected [longitude, latitude], got None"),
        (point({"lon": 36}), "expected [longitude, latitude]"),
        (point(["east", -1]), "expected [longitude, latitude]"),
        (point([36, None]), "finite"),
        (point([36, -1], label=3), "point 1: expected a text as label, got 3"),
        (point([36, -1], slice=["a"]), "point 1: expected a text as slice"),
        ('{"type": "Feature", "geometry": {"type": "Point", "coordinates": [NaN, 1]}}', "finite"),
        ('{"type": "Feature",\n"geometry": }', "no JSON"),
        (json.dumps(point([36, -1])) + "\n{broken\n", "no JSON"),
    ],
)
def test_geojson_without_points_is_refused_with_the_reason(tmp_path: Path, content: Any, said: str) -> None:
    path = tmp_path / "points.geojson"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(DataError) as caught:
        read_points(path)
    assert said in str(caught.value)
    assert "points.geojson" in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"x": [1.0], "lat": [1.0]}, "expected the columns lon and lat, or longitude and latitude, got 'x', 'lat'"),
        ({"lon": [True], "lat": [1.0]}, "expected degrees in the column lon, got bool"),
        ({"lon": [1.0, None], "lat": [1.0, 2.0]}, "point 2: expected finite"),
        ({"lon": [1.0], "lat": [1.0], "label": [7]}, "expected texts in the column label, got int64"),
        ({"lon": pa.array([], pa.float64()), "lat": pa.array([], pa.float64())}, "at least one point"),
    ],
)
def test_a_parquet_with_a_mistake_is_refused(tmp_path: Path, columns: dict[str, Any], said: str) -> None:
    path = tmp_path / "points.parquet"
    pq.write_table(pa.table(columns), path)
    with pytest.raises(DataError) as caught:
        read_points(path)
    assert said in str(caught.value)


def test_integers_and_decimals_are_degrees_too(tmp_path: Path) -> None:
    path = tmp_path / "points.parquet"
    decimals = pa.array(["-1.2921"]).cast(pa.float64()).cast(pa.decimal128(9, 4))
    pq.write_table(pa.table({"lon": pa.array([36], pa.int32()), "lat": decimals}), path)
    assert_is(read_points(path), [(36, -1.2921, "", "")])


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    image = tmp_path / "image.csv"
    image.write_bytes(bytes(range(128, 256)) * 10)
    latin = tmp_path / "latin.geojson"
    latin.write_bytes(json.dumps(point([36, -1], label="x")).encode().replace(b"x", b"\xe9"))
    for path in (image, latin, tmp_path, tmp_path / "nowhere.csv", tmp_path / "nowhere.geojson"):
        with pytest.raises(DataError, match="cannot be read") as caught:
            read_points(path)
        assert path.name in str(caught.value)


def test_a_mistake_far_down_is_counted_over_all_batches(tmp_path: Path) -> None:
    wrong = _BATCH_ROWS * 2 + 5
    numbers = np.arange(wrong + 10) / 1e5
    path = tmp_path / "points.csv"
    lines = [f"{number:.5f},1" for number in numbers.tolist()]
    lines[wrong - 1] = "east,1"
    path.write_text("\n".join(["lon,lat", *lines]))
    with pytest.raises(DataError, match=f"data row {wrong:,}: expected degrees"):
        read_points(path)


def test_a_large_document_is_refused_and_the_same_features_one_a_line_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(geojson, "MAX_WHOLE_BYTES", 1 << 20)
    monkeypatch.setattr(geojson, "_MAX_FIRST_LINE", 1_000)
    features = [point([number / 1e4, 1], note="x" * 200) for number in range(5_000)]
    document, lines = tmp_path / "large.geojson", tmp_path / "lines.geojson"
    document.write_text(json.dumps(collection(features)))
    lines.write_text("\n".join(map(json.dumps, features)))
    with pytest.raises(DataError, match=r"at most 1 MiB.*ogr2ogr -f GeoJSONSeq large\.geojsonl large\.geojson"):
        read_points(document)
    assert len(read_points(lines).labels) == 5_000


def test_more_is_written_beside_the_points_where_it_is_known(tmp_path: Path) -> None:
    path = tmp_path / "points.geojson"
    points = Points(np.array([179.99999999, 36.8]), np.array([-1.3, 2.0]), ("school", ""), ("", "urban"))
    write_points(path, points, {"distance_m": [None, 312.4], "num_buildings": [3, 0]})
    features = json.loads(path.read_text())["features"]
    assert [found["properties"] for found in features] == [
        {"label": "school", "num_buildings": 3},
        {"slice": "urban", "distance_m": 312.4, "num_buildings": 0},
    ]
    assert [found["geometry"]["coordinates"] for found in features] == [[-180.0, -1.3], [36.8, 2.0]]


def test_a_file_that_cannot_be_written_whole_leaves_the_earlier_one(tmp_path: Path) -> None:
    path = tmp_path / "points.geojson"
    points = Points(np.array([1.0, 2.0]), np.array([1.0, 2.0]), ("", ""), ("", ""))
    write_points(path, points)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="JSON compliant"):
        write_points(path, points, {"distance_m": [1.0, float("nan")]})
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["points.geojson"]


@given(
    places=st.lists(st.tuples(st.floats(-180, 180), st.floats(-MAX_LATITUDE, MAX_LATITUDE)), min_size=1, max_size=20)
)
def test_keys_hold_places_to_seven_digits(places: list[tuple[float, float]]) -> None:
    longitude, latitude = np.array(places).T
    keys = place_keys(longitude, latitude)
    east, north = places_of_keys(keys)
    gap = np.abs(east - longitude)
    assert (np.minimum(gap, 360 - gap) <= 0.5001e-7).all()
    assert (np.abs(north - latitude) <= 0.5001e-7).all()
    assert (east < 180).all()
    assert np.array_equal(place_keys(east, north), keys)
    assert [round(value, 7) for value in east.tolist()] == east.tolist()
    assert np.array_equal(np.lexsort((north, east)), np.argsort(keys, kind="stable"))
