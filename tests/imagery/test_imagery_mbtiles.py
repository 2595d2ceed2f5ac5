"""Tests of MBTiles: its rows count from the south, what is in it is listed, and what is no MBTiles is one clear error."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from imagery_sources import COLUMNS, ROWS, ZOOM, files_of_tiles, mbtiles_of, shown, tile_at

from satx.errors import DataError
from satx.grid.tiles import keys_of
from satx.imagery import mbtiles
from satx.imagery.contract import FAILED, MISSING, REFUSED, Fetched, Tile, Unscored
from satx.imagery.mbtiles import list_keys, open_mbtiles, plain_attribution, zooms, zooms_in_words
from satx.imagery.places import path_by_place, row_from_south

FILES = files_of_tiles()
VIEW = """
CREATE TABLE map (zoom_level integer, tile_column integer, tile_row integer, tile_id text);
CREATE TABLE images (tile_id text, tile_data blob);
CREATE TABLE metadata (name text, value text);
CREATE UNIQUE INDEX map_index ON map (zoom_level, tile_column, tile_row);
CREATE UNIQUE INDEX images_id ON images (tile_id);
CREATE VIEW tiles AS SELECT zoom_level, tile_column, tile_row, tile_data FROM map JOIN images USING (tile_id);
"""


def fetched(path: Path, tiles: Iterable[Tile]) -> list[Fetched]:
    imagery = open_mbtiles(path)
    found = list(imagery.fetch(tiles))
    imagery.close()
    return found


def changed(path: Path, statement: str, *values: Any) -> Path:
    with sqlite3.connect(path) as database:
        database.execute(statement, values)
    database.close()
    return path


@given(zoom=st.integers(0, 24), data=st.data())
def test_the_row_from_the_south_is_flipped_twice_to_itself(zoom: int, data: st.DataObject) -> None:
    row = data.draw(st.integers(0, 2**zoom - 1))
    flipped = row_from_south(Tile("a", zoom, 0, row))
    assert 0 <= flipped < 2**zoom and flipped + row == 2**zoom - 1
    assert row_from_south(Tile("a", zoom, 0, flipped)) == row
    assert path_by_place("{z}/{x}/{y}/{-y}")(Tile("a", zoom, 0, row)) == f"{zoom}/0/{row}/{flipped}"


def test_the_northernmost_tile_has_the_last_row_of_the_file(tmp_path: Path) -> None:
    path = changed(mbtiles_of({}, tmp_path / "a.mbtiles"), "INSERT INTO tiles VALUES (3, 5, 7, x'FFD8FF')")
    assert list_keys(path, 3).tolist() == keys_of([3], [5], [0]).tolist()
    assert fetched(path, [Tile("a", 3, 5, 0), Tile("b", 3, 5, 7)])[0] == b"\xff\xd8\xff"


def test_all_tiles_of_a_zoom_are_listed_in_the_order_of_their_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mbtiles, "_ROWS_AT_ONCE", 3)
    path = mbtiles_of(FILES, tmp_path / "a.mbtiles")
    mbtiles_of({(0, 0): b"x", (1, 1): b"y"}, path, zoom=4)
    assert zooms(path) == [4, ZOOM]
    expected = np.sort(keys_of(ZOOM, *np.array(list(FILES)).T))
    found = list_keys(path, ZOOM)
    assert found.dtype == np.uint64
    np.testing.assert_array_equal(found, expected)
    with pytest.raises(DataError, match=rf"expected tiles at zoom 18, found zooms 4, {ZOOM}"):
        list_keys(path, 18)


def test_a_tile_that_is_listed_twice_counts_once(tmp_path: Path) -> None:
    path = mbtiles_of({(1, 2): b"x"}, tmp_path / "a.mbtiles", indexed=False)
    mbtiles_of({(1, 2): b"x", (0, 2): b"x"}, path, indexed=False)
    assert len(list_keys(path, ZOOM)) == 2


def test_a_file_that_shares_equal_tiles_through_a_view_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.mbtiles"
    with sqlite3.connect(path) as database:
        database.executescript(VIEW)
        database.executemany("INSERT INTO map VALUES (?, ?, ?, ?)", [(2, 0, 3, "a"), (2, 1, 3, "a"), (3, 0, 0, "b")])
        database.executemany("INSERT INTO images VALUES (?, ?)", [("a", b"both"), ("b", b"other")])
    database.close()
    assert zooms(path) == [2, 3] and len(list_keys(path, 2)) == 2
    assert fetched(path, [Tile("a", 2, 0, 0), Tile("b", 2, 1, 0)]) == [b"both", b"both"]


def test_a_tile_without_usable_data_has_a_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mbtiles, "_FIND", mbtiles._FIND.replace(str(mbtiles.MAX_FILE_BYTES), "10"))
    files: dict[tuple[int, int], Any] = {
        (0, 0): b"first",
        (1, 0): None,
        (2, 0): "a text",
        (3, 0): bytes(11),
        (4, 0): b"",
    }
    path = mbtiles_of(files, tmp_path / "a.mbtiles")
    found = fetched(path, [tile_at(x, 0) for x in range(6)])
    assert [one if isinstance(one, bytes) else one.status for one in found] == [
        b"first",
        MISSING,
        b"a text",
        REFUSED,
        b"",
        MISSING,
    ]


def test_a_file_that_is_no_mbtiles_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "page.mbtiles").write_text("<html>" * 1000)
    (tmp_path / "empty.mbtiles").write_bytes(b"")
    (tmp_path / "folder.mbtiles").mkdir()
    other = changed(tmp_path / "other.mbtiles", "CREATE TABLE schools (name text)")
    columns = changed(tmp_path / "columns.mbtiles", "CREATE TABLE tiles (z integer, image blob)")
    without = mbtiles_of({}, tmp_path / "without.mbtiles")
    cases = {
        tmp_path / "page.mbtiles": "which is an SQLite database, got another kind of file",
        tmp_path / "empty.mbtiles": "got another SQLite database",
        tmp_path / "folder.mbtiles": "found none",
        tmp_path / "none.mbtiles": "found none",
        other: "got another SQLite database",
        columns: "got another SQLite database",
        without: "has none",
    }
    for path, problem in cases.items():
        for function in (zooms, open_mbtiles, lambda path: list_keys(path, 3)):
            with pytest.raises(DataError, match=problem) as caught:
                function(path)
            assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_vector_tiles_are_refused_by_format_and_by_content(tmp_path: Path) -> None:
    named = mbtiles_of(FILES, tmp_path / "named.mbtiles", kind="pbf")
    compressed = mbtiles_of({(0, 0): b"\x1f\x8b\x08\0"}, tmp_path / "compressed.mbtiles", kind="")
    for path in (named, compressed):
        with pytest.raises(DataError, match="got vector tiles"):
            open_mbtiles(path)


def test_a_file_without_an_index_is_refused_and_the_message_creates_one(tmp_path: Path) -> None:
    path = mbtiles_of(FILES, tmp_path / "a.mbtiles", indexed=False)
    with pytest.raises(DataError, match="expected an index") as caught:
        open_mbtiles(path)
    changed(path, str(caught.value).split('"')[1])
    assert shown(fetched(path, [tile_at(*next(iter(FILES)))])[0]) == shown(next(iter(FILES.values())))


def test_a_row_that_is_no_place_is_an_error_when_tiles_are_listed(tmp_path: Path) -> None:
    for number, value in enumerate((2**ZOOM, -1, "north")):
        path = mbtiles_of(FILES, tmp_path / f"{number}.mbtiles")
        changed(path, "INSERT INTO tiles VALUES (?, ?, 0, x'00')", ZOOM, value)
        with pytest.raises(DataError, match="damaged MBTiles"):
            list_keys(path, ZOOM)
    path = mbtiles_of(FILES, tmp_path / "deep.mbtiles", zoom=30)
    with pytest.raises(DataError, match="zoom 30; satx reads zooms from 0 to 24"):
        zooms(path)


def test_tiles_of_a_damaged_file_fail_one_by_one_and_the_others_are_read(tmp_path: Path) -> None:
    path = mbtiles_of({place: data * 9 for place, data in FILES.items()}, tmp_path / "a.mbtiles")
    tiles = [tile_at(x, y) for y in ROWS for x in COLUMNS]
    whole = fetched(path, tiles)
    with path.open("r+b") as stream:
        stream.seek(path.stat().st_size // 2)
        stream.write(b"\xff" * (path.stat().st_size // 4))
    found = fetched(path, tiles)
    statuses = [one.status for one in found if isinstance(one, Unscored)]
    assert FAILED in statuses and set(statuses) <= {FAILED, MISSING} and len(found) == len(tiles)
    assert sum(one == before for one, before in zip(found, whole, strict=True)) >= 2
    path.write_bytes(path.read_bytes()[:10_000])
    with pytest.raises(DataError, match="damaged MBTiles"):
        list_keys(path, ZOOM)


def test_a_changed_file_has_another_identity_and_a_read_one_the_same(tmp_path: Path) -> None:
    path = mbtiles_of(FILES, tmp_path / "a.mbtiles")

    def identity() -> Any:
        imagery = open_mbtiles(path)
        list(imagery.fetch([tile_at(*next(iter(FILES)))]))
        imagery.close()
        return imagery.identity

    assert identity() == identity()
    before = identity()
    changed(path, "UPDATE tiles SET tile_data = x'00' || substr(tile_data, 2) WHERE tile_column = ?", COLUMNS[0])
    assert identity() != before


READ_ONLY = """
import sys
from pathlib import Path
from satx.imagery.contract import Tile
from satx.imagery.mbtiles import list_keys, open_mbtiles
path = Path(sys.argv[1])
imagery = open_mbtiles(path)
print(len(list_keys(path, 12)), len(next(iter(imagery.fetch([Tile("a", 12, 2100, 1400)])))))
imagery.close()
"""


def test_a_file_in_write_ahead_mode_is_read_from_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    path = mbtiles_of(FILES, tmp_path / "shared" / "a.mbtiles")
    with sqlite3.connect(path) as database:
        assert database.execute("PRAGMA journal_mode = wal").fetchone() == ("wal",)
    database.close()
    command = [sys.executable, "-c", READ_ONLY, str(path)]
    if os.getuid() == 0:  # who may write everywhere, unless without capabilities
        command = ["setpriv", "--inh-caps=-all", "--bounding-set=-all", *command]
    path.parent.chmod(0o555)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    finally:
        path.parent.chmod(0o755)
    assert done.stdout.split() == ["16", str(len(FILES[2100, 1400]))], done.stderr


def test_an_attribution_is_shown_without_markup() -> None:
    text = '<a href="https://x" target=_blank>&copy; A</a>\n <b>&amp; B</b>'
    assert plain_attribution(text) == "© A & B"
    assert plain_attribution("Plain, 2024") == "Plain, 2024"


def test_zooms_are_named_in_words() -> None:
    assert [zooms_in_words(found) for found in ([9], [9, 10], [8, 9, 10], [8, 10])] == [
        "zoom 9",
        "zooms 9 to 10",
        "zooms 8 to 10",
        "zooms 8, 10",
    ]
