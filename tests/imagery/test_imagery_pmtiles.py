"""Tests of PMTiles: compared with the library `pmtiles`, and what is damaged or no PMTiles of images."""

from __future__ import annotations

import gzip
import random
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from imagery_sources import ATTRIBUTION, COLUMNS, ROWS, ZOOM, files_of_tiles, pmtiles_of, shown, tile_at
from pmtiles.reader import MmapSource, Reader, all_tiles
from pmtiles.tile import (
    Compression,
    Entry,
    TileType,
    deserialize_directory,
    serialize_directory,
    tileid_to_zxy,
    zxy_to_tileid,
)
from pmtiles.writer import build_roots_leaves, write

from satx.errors import DataError
from satx.grid.tiles import keys_of
from satx.imagery import pmtiles
from satx.imagery.contract import FAILED, MISSING, STATUSES, Fetched, Tile, Unscored
from satx.imagery.pmtiles import list_keys, open_pmtiles, zooms
from satx.imagery.pmtiles_directory import DamagedDirectory, ids_of_zoom, places_of_ids, read_directory, unpacked

FILES = files_of_tiles()


def fetched(path: Path, tiles: Iterable[Tile]) -> list[Fetched]:
    imagery = open_pmtiles(path)
    found = list(imagery.fetch(tiles))
    imagery.close()
    return found


@given(zoom=st.integers(0, 24), data=st.data())
def test_places_of_ids_are_those_of_the_library(zoom: int, data: st.DataObject) -> None:
    places = st.integers(0, 2**zoom - 1)
    expected = data.draw(st.lists(st.tuples(places, places), min_size=1, max_size=20))
    ids = np.array([zxy_to_tileid(zoom, x, y) for x, y in expected])
    start, stop = ids_of_zoom(zoom)
    assert (ids >= start).all() and (ids < stop).all()
    assert list(zip(*(axis.tolist() for axis in places_of_ids(ids, zoom)), strict=True)) == expected


def test_the_ids_of_a_zoom_begin_where_those_of_the_zoom_above_end() -> None:
    assert all(ids_of_zoom(zoom)[1] == ids_of_zoom(zoom + 1)[0] for zoom in range(24))
    for zoom in range(25):
        assert tileid_to_zxy(ids_of_zoom(zoom)[0])[0] == zoom == tileid_to_zxy(ids_of_zoom(zoom)[1] - 1)[0]


numbers = st.integers(0, 2**40) | st.integers(0, 200)


@given(
    entries=st.lists(st.tuples(st.integers(1, 2**40), numbers, numbers, numbers), min_size=1, max_size=40),
    follows=st.lists(st.booleans(), min_size=40, max_size=40),
)
def test_directories_are_decoded_as_by_the_library(
    entries: list[tuple[int, int, int, int]], follows: list[bool]
) -> None:
    made: list[Entry] = []
    for (step, run_length, length, offset), follow in zip(entries, follows, strict=False):
        tile_id = made[-1].tile_id + step if made else step
        made.append(
            Entry(tile_id, made[-1].offset + made[-1].length if made and follow else offset, length, run_length)
        )
    data = serialize_directory(made)
    found = read_directory(unpacked(data, 1_000_000))
    expected = [(e.tile_id, e.run_length, e.length, e.offset) for e in deserialize_directory(data)]
    columns = (found.ids, found.run_lengths, found.lengths, found.offsets)
    assert list(zip(*(column.tolist() for column in columns), strict=True)) == expected


@given(data=st.binary(max_size=60))
def test_any_bytes_are_a_directory_or_a_clear_error(data: bytes) -> None:
    try:
        directory = read_directory(data)
    except DamagedDirectory:
        return
    assert all(first < second for first, second in pairwise(directory.ids.tolist()))


@pytest.mark.parametrize(
    "data", [b"", b"\0", b"\x80", b"\x01", b"\x01\x00\x01\x01\x00", b"\x01\x00\x01\x01\x01\x05", b"\xff" * 30 + b"\0"]
)
def test_a_directory_that_is_cut_off_or_has_more_is_an_error(data: bytes) -> None:
    with pytest.raises(DamagedDirectory):
        read_directory(data)


def test_compressed_data_is_unpacked_up_to_a_limit() -> None:
    data = gzip.compress(bytes(1000))
    assert unpacked(data, 1000) == bytes(1000)
    for damaged in (data[:-9], b"no gzip", b""):
        with pytest.raises(DamagedDirectory):
            unpacked(damaged, 1000)
    with pytest.raises(DamagedDirectory, match="more than 999"):
        unpacked(data, 999)


def many_tiles(path: Path, num_tiles: int = 3000, seed: int = 5) -> dict[tuple[int, int, int], bytes]:
    """Write tiles of zooms 5 to 7, in runs and alone, and two levels of directories; return them by place."""
    drawn = random.Random(seed)
    ids = sorted(drawn.sample(range(ids_of_zoom(5)[0], ids_of_zoom(7)[1]), num_tiles))
    tiles = {tile_id: drawn.choice((b"sea", b"sand", f"tile {tile_id}".encode())) for tile_id in ids}
    with write(str(path)) as writer:
        for tile_id, data in tiles.items():
            writer.write_tile(tile_id, data)
        writer.finalize({"tile_type": TileType.PNG, "tile_compression": Compression.NONE}, {})
    return {tileid_to_zxy(tile_id): data for tile_id, data in tiles.items()}


@pytest.fixture
def leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the library write leaves of 100 entries, as it does for files of millions."""
    monkeypatch.setattr("pmtiles.writer.optimize_directories", lambda entries, _size: build_roots_leaves(entries, 100))


@pytest.mark.usefixtures("leaves")
def test_all_tiles_are_listed_and_read_as_by_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pmtiles, "_TILES_AT_ONCE", 7)
    path = tmp_path / "a.pmtiles"
    tiles = many_tiles(path)
    with path.open("rb") as stream:
        source = MmapSource(stream)
        assert Reader(source).header()["leaf_directory_length"] > 0
        assert dict(all_tiles(source)) == tiles
    assert zooms(path) == [5, 6, 7]
    for zoom in (5, 6, 7):
        places = np.array([(x, y) for z, x, y in tiles if z == zoom])
        np.testing.assert_array_equal(list_keys(path, zoom), np.sort(keys_of(zoom, *places.T)))
    every = [Tile("a", z, x, y) for z in (5, 6) for x in range(2**z) for y in range(2**z)]
    found = fetched(path, every)
    assert [one if isinstance(one, bytes) else one.status for one in found] == [
        tiles.get((tile.z, tile.x, tile.y), MISSING) for tile in every
    ]


def test_no_tile_is_read_to_list_them(tmp_path: Path) -> None:
    path = tmp_path / "a.pmtiles"
    tiles = many_tiles(path)
    with path.open("rb") as stream:
        data_offset = Reader(MmapSource(stream)).header()["tile_data_offset"]
    path.write_bytes(path.read_bytes()[:data_offset])
    assert len(list_keys(path, 6)) == len([place for place in tiles if place[0] == 6])
    found = fetched(path, [Tile("a", *next(iter(tiles)))])
    assert isinstance(found[0], Unscored) and found[0].status == FAILED


def test_a_run_may_go_on_into_the_next_zoom(tmp_path: Path) -> None:
    path = tmp_path / "a.pmtiles"
    with write(str(path)) as writer:
        for tile_id in range(85):  # zooms 0 to 3
            writer.write_tile(tile_id, b"sea")
        writer.finalize({"tile_type": TileType.PNG, "tile_compression": Compression.NONE}, {})
    data = path.read_bytes()
    path.write_bytes(data[:101] + b"\3" + data[102:])  # the deepest zoom; the library takes that of a run's first tile
    assert [len(list_keys(path, zoom)) for zoom in range(4)] == [1, 4, 16, 64]
    assert fetched(path, [Tile("a", 3, 7, 7)]) == [b"sea"]


def test_more_tiles_than_memory_is_meant_for_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.pmtiles"
    monkeypatch.setattr(pmtiles, "MAX_LISTED_TILES", 100)
    many_tiles(path)
    with pytest.raises(DataError, match=r"at most 100 tiles at zoom 7, found more\. Give the area"):
        list_keys(path, 7)


@pytest.mark.parametrize("internal", ["gzip", "none"])
def test_tiles_and_directories_may_be_compressed_or_not(tmp_path: Path, internal: str) -> None:
    path = pmtiles_of(FILES, tmp_path / "a.pmtiles", compress=gzip.compress)
    if internal == "none":
        _unpack_directories(path)
    found = fetched(path, [tile_at(*place) for place in FILES])
    assert list(map(shown, found)) == list(map(shown, FILES.values()))
    assert len(list_keys(path, ZOOM)) == len(FILES)


def _unpack_directories(path: Path) -> None:
    """Rewrite a file without leaves so that its root directory and metadata are not compressed."""
    from pmtiles.tile import deserialize_header, serialize_header

    data = path.read_bytes()
    header: Any = deserialize_header(data[:127])
    tiles = data[header["tile_data_offset"] :]
    root = gzip.decompress(data[127 : 127 + header["root_length"]])
    metadata = gzip.decompress(data[header["metadata_offset"] :][: header["metadata_length"]])
    header |= {"internal_compression": Compression.NONE, "root_length": len(root), "metadata_length": len(metadata)}
    header |= {"metadata_offset": 127 + len(root), "tile_data_offset": 127 + len(root) + len(metadata)}
    path.write_bytes(serialize_header(header) + root + metadata + tiles)


def test_a_zoom_that_is_not_in_the_file_is_an_error_that_says_which_are(tmp_path: Path) -> None:
    path = tmp_path / "a.pmtiles"
    many_tiles(path)
    with pytest.raises(DataError, match=r"expected tiles at zoom 18, found zooms 5 to 7\. Choose --zoom"):
        list_keys(path, 18)


def test_what_is_no_pmtiles_of_images_is_one_clear_error(tmp_path: Path) -> None:
    good = pmtiles_of(FILES, tmp_path / "good.pmtiles").read_bytes()

    def made(name: str, **header: Any) -> Path:
        return pmtiles_of(FILES, tmp_path / f"{name}.pmtiles", **header)

    def written(name: str, data: bytes) -> Path:
        (tmp_path / f"{name}.pmtiles").write_bytes(data)
        return tmp_path / f"{name}.pmtiles"

    cases = {
        made("vector", tile_type=TileType.MVT): "got vector tiles",
        made("maplibre", tile_type=TileType.MLT): "got vector tiles",
        made("avif", tile_type=TileType.AVIF): "got AVIF",
        made("brotli", tile_compression=Compression.BROTLI): "got brotli",
        written("zstd", good[:97] + b"\4" + good[98:]): "got zstd",
        written("page", b"<html>" * 100): "got another kind of file",
        written("empty", b""): "damaged PMTiles file, or none",
        written("binary", b"\xff" * 200): "damaged PMTiles file, or none",
        written("old", good[:7] + b"\2" + good[8:]): "expected PMTiles version 3",
        written("kind", good[:99] + b"\x63" + good[100:]): "damaged PMTiles file, or none",
        written("zooms", good[:101] + b"\x63" + good[102:]): "expected zooms from 0 to 24",
        written("cut", good[:140]): "damaged PMTiles file, or none",
        written("far", good[:8] + b"\xff" * 8 + good[16:]): "damaged PMTiles file, or none",
        written("long", good[:16] + b"\xff" * 8 + good[24:]): "damaged PMTiles file, or none",
        tmp_path / "none.pmtiles": "found none",
    }
    for path, problem in cases.items():
        for function in (open_pmtiles, lambda path: list_keys(path, ZOOM)):
            with pytest.raises(DataError, match=problem) as caught:
                function(path)
            assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.usefixtures("leaves")
def test_a_directory_that_leads_back_to_itself_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.pmtiles"
    tiles = many_tiles(path)
    data = bytearray(path.read_bytes())
    with path.open("rb") as stream:
        header = Reader(MmapSource(stream)).header()
    root = serialize_directory([Entry(0, 0, 30, 0)])
    for length in range(20, 40):  # the one that is the root's own
        root = serialize_directory([Entry(0, 0, length, 0)])
        if len(root) == length:
            break
    data[127 : 127 + len(root)] = root
    data[16:24] = len(root).to_bytes(8, "little")
    data[40:48] = (127).to_bytes(8, "little")  # directories below begin where the root does
    path.write_bytes(data)
    assert header["root_offset"] == 127
    with pytest.raises(DataError, match="more than 4 levels of directories"):
        list_keys(path, 6)
    found = fetched(path, [Tile("a", *next(iter(tiles)))])
    assert isinstance(found[0], Unscored) and found[0].status == FAILED


@pytest.mark.usefixtures("leaves")
def test_a_file_with_changed_bytes_gives_a_clear_error_or_a_status_for_each_tile(tmp_path: Path) -> None:
    path = tmp_path / "a.pmtiles"
    many_tiles(path, 500)
    good, drawn = path.read_bytes(), random.Random(2)
    tiles = [Tile("a", 5, x, y) for x in range(8) for y in range(4)]
    for _ in range(60):
        data = bytearray(good)
        for _ in range(drawn.randint(1, 3)):
            data[drawn.randrange(len(good))] = drawn.randrange(256)
        path.write_bytes(data)
        try:
            list_keys(path, 5)
            found = fetched(path, tiles)
        except DataError as error:
            assert str(path) in str(error)
            continue
        assert len(found) == len(tiles)
        assert all(isinstance(one, bytes) or one.status in STATUSES for one in found)


def test_the_library_writes_what_the_other_tests_expect(tmp_path: Path) -> None:
    path = pmtiles_of(FILES, tmp_path / "a.pmtiles")
    with path.open("rb") as stream:
        reader = Reader(MmapSource(stream))
        assert reader.metadata() == {"attribution": ATTRIBUTION}
        assert reader.get(ZOOM, COLUMNS[1], ROWS[2]) == FILES[COLUMNS[1], ROWS[2]]
