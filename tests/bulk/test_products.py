from __future__ import annotations

import builtins
import importlib.util
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyogrio
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from satx.bulk import counts as counting
from satx.bulk.block_file import ModelIdentity, block_table
from satx.bulk.counts import collect
from satx.bulk.flatgeobuf import check_flatgeobuf
from satx.bulk.geojson import link_to
from satx.bulk.geoparquet import write_boxes, write_points
from satx.bulk.products import Products, products_of
from satx.errors import ConfigError
from satx.grid.tiles import bounds_of, center_of
from satx.imagery.contract import BLANK, MISSING, STATUSES, UNKNOWN, Tile, Unscored

MODEL = ModelIdentity("schools", 3, "d1", ("other", "school"), "school", 0.7, 64, sample=True)
ATTRIBUTION = 'Images © "Somebody", CC-BY 4.0'
EVERY_FILE = {
    "candidates.parquet",
    "tiles_above_threshold.parquet",
    "candidates.geojson",
    "candidates.maproulette.geojsonl",
    "candidates.fgb",
}

Score = float | Unscored


def tile(x: int, y: int = 90_000, z: int = 18) -> Tile:
    return Tile(f"{z}-{x}-{y}", z, x, y)


def block(scores: Sequence[tuple[Tile, Score]]) -> pa.Table:
    tiles = [place for place, _ in scores]
    return block_table(
        tiles,
        [score if isinstance(score, Unscored) else np.array([1 - score, score], np.float32) for _, score in scores],
        MODEL,
    )


BLOCKS = [
    block([(tile(100), 0.1), (tile(101), 0.9), (tile(102), 0.8), (tile(103), Unscored(MISSING, "404"))]),
    block([(tile(103, 89_999), 0.75), (tile(200), 0.95), (tile(201), 0.69), (tile(202), Unscored(BLANK, "one color"))]),
]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Products, Path]]:
    folder = tmp_path_factory.mktemp("products")
    products = products_of(BLOCKS, MODEL, attribution=ATTRIBUTION, with_flatgeobuf=True)
    for name, write in products.files.items():
        write(folder / name)
    yield products, folder


def bytes_of(blocks: Sequence[pa.Table], folder: Path) -> dict[str, bytes]:
    folder.mkdir()
    for name, write in products_of(blocks, MODEL, attribution=ATTRIBUTION, with_flatgeobuf=True).files.items():
        write(folder / name)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_counts_say_how_many_tiles_have_which_status_reason_and_probability(written: tuple[Products, Path]) -> None:
    counts = written[0].counts
    assert counts["num_tiles"] == 8
    assert counts["status"] == dict.fromkeys(STATUSES, 0) | {"done": 6, "missing": 1, "blank": 1}
    assert counts["reasons"] == {
        "blank": [{"reason": "one color", "num_tiles": 1}],
        "missing": [{"reason": "404", "num_tiles": 1}],
    }
    assert (counts["threshold"], counts["num_above_threshold"]) == (0.7, 4)
    assert (counts["num_candidates"], counts["num_candidates_without_place"]) == (2, 0)
    histogram = counts["probability_histogram"]
    assert len(histogram) == 100 and sum(histogram) == 6
    assert [number for number, tiles in enumerate(histogram) if tiles] == [10, 69, 75, 80, 90, 95]
    assert json.loads(json.dumps(counts)) == counts


def test_reasons_are_bounded_and_none_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "MAX_COUNTED_REASONS", 30)
    numbers = [0] * 5 + list(range(100)) + [0] + [99] * 3  # when 99 comes, 30 others are counted already
    rows = [(tile(place), Unscored(MISSING, f"reason {number:02d}")) for place, number in enumerate(numbers)]
    reasons = collect([block(rows[:50]), block(rows[50:])], MODEL).counts["reasons"]["missing"]
    assert len(reasons) == counting.MAX_SHOWN_REASONS + 1
    assert reasons[0] == {"reason": "reason 00", "num_tiles": 7}
    assert reasons[-1] == {"reason": counting.OTHER_REASONS, "num_tiles": 83}
    assert sum(reason["num_tiles"] for reason in reasons) == len(numbers)


def test_a_probability_equal_to_the_threshold_is_kept_and_another_threshold_can_be_asked_for() -> None:
    table = block([(tile(1), 0.7), (tile(5), np.nextafter(np.float32(0.7), np.float32(0))), (tile(9), 0.2)])
    kept = collect([table], MODEL)
    assert kept.positives["tile_id"].to_pylist() == ["18-1-90000"]
    assert kept.counts["num_above_threshold"] == 1
    more = collect([table], MODEL, threshold=0.3)
    assert more.positives["tile_id"].to_pylist() == ["18-1-90000", "18-5-90000"]
    assert more.counts == kept.counts


@settings(max_examples=20)
@given(data=st.data())
def test_files_and_counts_are_equal_whatever_the_borders_and_order_of_blocks(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    whole = pa.concat_tables([table.unify_dictionaries() for table in BLOCKS]).unify_dictionaries()
    order = data.draw(st.permutations(range(len(whole))))
    cut = data.draw(st.integers(0, len(whole)))
    shuffled = whole.take(pa.array(order)).combine_chunks()
    blocks = [shuffled.slice(0, cut), shuffled.slice(cut)]
    folder = tmp_path_factory.mktemp("order")
    assert bytes_of(blocks, folder / "other") == bytes_of(BLOCKS, folder / "same")
    assert products_of(blocks, MODEL).counts == products_of(BLOCKS, MODEL).counts


def test_all_files_are_written_and_flatgeobuf_only_when_asked_for(written: tuple[Products, Path]) -> None:
    assert {path.name for path in written[1].iterdir()} == EVERY_FILE
    assert set(products_of(BLOCKS, MODEL).files) == EVERY_FILE - {"candidates.fgb"}


def geo_of(path: Path) -> dict[str, Any]:
    """Check what GeoParquet 1.1 requires of the metadata, and return the metadata of the geometry column."""
    file = pq.ParquetFile(path)
    geo = json.loads(file.schema_arrow.metadata[b"geo"])
    assert geo["version"] == "1.1.0"
    assert (geo["primary_column"], list(geo["columns"])) == ("geometry", ["geometry"])
    column: dict[str, Any] = geo["columns"]["geometry"]
    assert column["encoding"] == "WKB"
    assert "crs" not in column  # OGC:CRS84
    stored = file.schema.column(file.schema.names.index("geometry"))
    assert (stored.physical_type, stored.max_repetition_level) == ("BYTE_ARRAY", 0)
    return column


def test_candidates_are_geoparquet_points_with_what_a_person_needs(written: tuple[Products, Path]) -> None:
    path = written[1] / "candidates.parquet"
    table = pq.read_table(path, page_checksum_verification=True)
    assert table["candidate_id"].to_pylist() == ["18-200-90000", "18-101-90000"]
    assert table["num_tiles"].to_pylist() == [1, 3]
    assert table["probability"].to_pylist() == pytest.approx([0.95, 0.9])
    assert table["mean_probability"].to_pylist() == pytest.approx([0.95, (0.9 + 0.8 + 0.75) / 3])
    points = shapely.from_wkb(table["geometry"].to_pylist())
    longitudes, latitudes = center_of(18, np.array([200, 101]), np.array([90_000, 90_000]))
    assert shapely.get_coordinates(points).tolist() == np.stack([longitudes, latitudes], axis=1).tolist()
    column = geo_of(path)
    assert column["geometry_types"] == ["Point"]
    assert column["bbox"] == list(shapely.total_bounds(points))
    metadata = table.schema.metadata
    assert metadata[b"attribution"].decode() == ATTRIBUTION
    assert (metadata[b"model"], metadata[b"model_version"], metadata[b"threshold"]) == (b"schools", b"3", b"0.7")


def test_tiles_above_the_threshold_are_geoparquet_polygons_with_their_candidate(written: tuple[Products, Path]) -> None:
    path = written[1] / "tiles_above_threshold.parquet"
    table = pq.read_table(path, page_checksum_verification=True)
    assert dict(zip(table["tile_id"].to_pylist(), table["candidate_id"].to_pylist(), strict=True)) == {
        "18-101-90000": "18-101-90000",
        "18-102-90000": "18-101-90000",
        "18-103-89999": "18-101-90000",
        "18-200-90000": "18-200-90000",
    }
    polygons = shapely.from_wkb(table["geometry"].to_pylist())
    assert shapely.is_valid(polygons).all() and shapely.is_ccw(shapely.get_exterior_ring(polygons)).all()
    bounds = np.stack(bounds_of(*(table[axis].to_numpy() for axis in ("z", "x", "y"))), axis=1)
    assert shapely.bounds(polygons).tolist() == bounds.tolist()
    assert shapely.equals(polygons, shapely.box(*bounds.T)).all()
    column = geo_of(path)
    assert (column["geometry_types"], column["orientation"]) == (["Polygon"], "counterclockwise")
    assert column["bbox"] == list(shapely.total_bounds(polygons))
    assert column["covering"] == {"bbox": {side: ["bbox", side] for side in ("xmin", "ymin", "xmax", "ymax")}}
    sides = ("xmin", "ymin", "xmax", "ymax")  # the specification asks for this order
    assert [list(box.items()) for box in table["bbox"].to_pylist()] == [
        list(zip(sides, box, strict=True)) for box in bounds.tolist()
    ]


def test_a_file_of_many_rows_has_groups_that_a_reader_can_skip(tmp_path: Path) -> None:
    number = 70_000
    west = np.linspace(-170, 170, number)
    bounds = np.stack([west, west * 0, west + 0.001, west * 0 + 0.001], axis=1)
    write_boxes(tmp_path / "boxes.parquet", pa.table({"row": np.arange(number)}), bounds)
    file = pq.ParquetFile(tmp_path / "boxes.parquet")
    assert [file.metadata.row_group(index).num_rows for index in range(file.num_row_groups)] == [65_536, 4_464]
    table = file.read()
    assert table["row"].to_pylist() == list(range(number))
    assert shapely.bounds(shapely.from_wkb(table["geometry"].to_numpy())).tolist() == bounds.tolist()


def test_rows_without_coordinates_have_no_geometry(tmp_path: Path) -> None:
    table = pa.table({"east": pa.array([None, 2.5]), "north": pa.array([None, 50.0])})
    write_points(tmp_path / "points.parquet", table, "east", "north")
    assert geo_of(tmp_path / "points.parquet")["bbox"] == [2.5, 50, 2.5, 50]
    found = pq.read_table(tmp_path / "points.parquet")["geometry"].to_pylist()
    assert (found[0], shapely.from_wkb(found[1])) == (None, shapely.Point(2.5, 50))
    bounds = np.array([[np.nan] * 4, [1, 2, 3, 4]])
    write_boxes(tmp_path / "boxes.parquet", pa.table({"row": [0, 1]}), bounds)
    boxes = pq.read_table(tmp_path / "boxes.parquet")
    assert (boxes["geometry"][0].as_py(), boxes["bbox"][0].as_py()) == (None, None)
    assert geo_of(tmp_path / "boxes.parquet")["bbox"] == [1, 2, 3, 4]


def test_geojson_for_josm_is_rfc_7946_with_attribution(written: tuple[Products, Path]) -> None:
    path = written[1] / "candidates.geojson"
    found = json.loads(path.read_text(encoding="utf-8"))
    assert found["type"] == "FeatureCollection"
    assert (found["attribution"], found["model"], found["model_version"]) == (ATTRIBUTION, "schools", 3)
    first, second = found["features"]
    longitude, latitude = (round(float(degrees), 7) for degrees in center_of(18, 101, 90_000))
    assert second == {
        "type": "Feature",
        "id": "18-101-90000",
        "geometry": {"type": "Point", "coordinates": [longitude, latitude]},
        "properties": {
            "name": "school?",
            "candidate_id": "18-101-90000",
            "probability": 0.9,
            "num_tiles": 3,
            "tile": "18/101/90000",
            "link": f"https://www.openstreetmap.org/#map=18/{latitude:.7f}/{longitude:.7f}",
        },
    }
    assert first["properties"]["probability"] == 0.95
    _, _, points, fields = pyogrio.raw.read(path, columns=["candidate_id"])
    assert fields[0].tolist() == ["18-200-90000", "18-101-90000"]
    assert shapely.from_wkb(points[1]) == shapely.Point(longitude, latitude)


def test_links_stay_within_the_zooms_of_openstreetmap_and_have_no_exponents() -> None:
    assert link_to(0.00001, -0.00002, 22) == "https://www.openstreetmap.org/#map=19/-0.0000200/0.0000100"


def test_maproulette_has_a_collection_of_one_feature_in_each_line(written: tuple[Products, Path]) -> None:
    text = (written[1] / "candidates.maproulette.geojsonl").read_text(encoding="utf-8")
    lines = text.split("\n")
    assert lines.pop() == ""  # the last line ends too
    assert all(line.startswith("\x1e") for line in lines)
    tasks = [json.loads(line[1:]) for line in lines]
    features = json.loads((written[1] / "candidates.geojson").read_text())["features"]
    for task, feature in zip(tasks, features, strict=True):
        assert task["features"][0]["properties"].pop("attribution") == ATTRIBUTION
        assert task == {"type": "FeatureCollection", "features": [feature]}


def test_flatgeobuf_has_the_candidates_and_an_index(written: tuple[Products, Path]) -> None:
    path = written[1] / "candidates.fgb"
    table = pq.read_table(written[1] / "candidates.parquet")
    about, _, points, fields = pyogrio.raw.read(path)
    assert (about["crs"], about["geometry_type"]) == ("EPSG:4326", "Point")
    columns = dict(zip(about["fields"], fields, strict=True))
    order = [columns["candidate_id"].tolist().index(name) for name in table["candidate_id"].to_pylist()]
    for name, values in columns.items():  # the index puts neighbours together
        assert values[order].tolist() == table[name].to_pylist()
    assert points[order].tolist() == table["geometry"].to_pylist()
    west = pyogrio.raw.read(path, bbox=(-180, -90, -179.8, 90))
    assert west[3][list(west[0]["fields"]).index("candidate_id")].tolist() == ["18-101-90000"]


def test_flatgeobuf_without_its_library_is_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    check_flatgeobuf()
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pyogrio" else find(name))
    with pytest.raises(ConfigError, match=r"satx\[geo\]"):
        check_flatgeobuf()


def test_files_without_a_place_are_in_the_tables_only(tmp_path: Path) -> None:
    unplaced = Tile("photos/one.jpg", UNKNOWN, UNKNOWN, UNKNOWN)
    products = products_of([block([(unplaced, 0.9), (tile(5), 0.8)])], MODEL, with_flatgeobuf=True)
    assert (products.counts["num_candidates"], products.counts["num_candidates_without_place"]) == (2, 1)
    for name, write in products.files.items():
        write(tmp_path / name)
    table = pq.read_table(tmp_path / "candidates.parquet")
    assert table.select(["candidate_id", "z", "longitude", "geometry"]).to_pylist()[0] == {
        "candidate_id": "photos/one.jpg",
        "z": None,
        "longitude": None,
        "geometry": None,
    }
    assert pq.read_table(tmp_path / "tiles_above_threshold.parquet")["geometry"].null_count == 1
    features = json.loads((tmp_path / "candidates.geojson").read_text())["features"]
    assert [feature["id"] for feature in features] == ["18-5-90000"]
    assert (tmp_path / "candidates.maproulette.geojsonl").read_text().count("\n") == 1
    assert pyogrio.read_info(tmp_path / "candidates.fgb")["features"] == 1


def test_no_map_is_written_if_candidates_were_found_but_none_has_a_place(tmp_path: Path) -> None:
    unplaced = Tile("photos/one.jpg", UNKNOWN, UNKNOWN, UNKNOWN)
    products = products_of([block([(unplaced, 0.9)])], MODEL, with_flatgeobuf=True)
    assert set(products.files) == {"candidates.parquet", "tiles_above_threshold.parquet"}
    for name, write in products.files.items():
        write(tmp_path / name)
        column = geo_of(tmp_path / name)
        assert (column["geometry_types"], "bbox" in column) == ([], False)


def test_a_run_that_found_nothing_writes_empty_files(tmp_path: Path) -> None:
    products = products_of([block([(tile(5), 0.1)])], MODEL, with_flatgeobuf=True)
    assert set(products.files) == EVERY_FILE
    for name, write in products.files.items():
        write(tmp_path / name)
    assert len(pq.read_table(tmp_path / "candidates.parquet")) == 0
    assert json.loads((tmp_path / "candidates.geojson").read_text())["features"] == []
    assert (tmp_path / "candidates.maproulette.geojsonl").read_text() == ""
    assert len(pyogrio.raw.read(tmp_path / "candidates.fgb")[2]) == 0


def test_writing_flatgeobuf_loads_gdal_only_then(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    imported = builtins.__import__

    def refuse(name: str, *arguments: Any) -> Any:
        assert not name.startswith("pyogrio")
        return imported(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", refuse)
    for name, write in products_of(BLOCKS, MODEL).files.items():
        write(tmp_path / name)
