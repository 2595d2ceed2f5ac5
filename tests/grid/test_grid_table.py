from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from satx.errors import DataError
from satx.grid.table import TileTable, read_table
from satx.grid.tiles import keys_of

PLACES = [(18, 158_000, 131_100), (18, 158_001, 131_100), (3, 7, 0)]


@st.composite
def places(draw: st.DrawFn) -> tuple[int, int, int]:
    z = draw(st.integers(0, 24))
    return z, draw(st.integers(0, (1 << z) - 1)), draw(st.integers(0, (1 << z) - 1))


def csv_of(rows: list[tuple[int, int, int]], delimiter: str, names: str = "zxy") -> str:
    """Write the columns in the order of `names`, one more between them, and the last row without a line end."""
    order = ["zxy".index(name.lower()) for name in names]
    header = delimiter.join([names[0], "note", *names[1:]])
    lines = [delimiter.join([str(row[order[0]]), '"a note"', *(str(row[axis]) for axis in order[1:])]) for row in rows]
    return "\n".join([header, *lines])


def write_parquet(path: Path, rows: list[tuple[int, int, int]], kinds: tuple[Any, Any, Any]) -> None:
    columns = {
        name.upper(): pa.array([row["zxy".index(name)] for row in rows], kind)
        for name, kind in zip("zxy", kinds, strict=True)
    }
    pq.write_table(pa.table({"note": [None] * len(rows), **dict(reversed(columns.items()))}), path)


def assert_is(table: TileTable, rows: list[tuple[int, int, int]]) -> None:
    expected = np.unique(np.array([int(keys_of(*row)) for row in rows], np.uint64))
    assert table.keys.dtype == np.uint64
    assert np.array_equal(table.keys, expected)
    assert table.num_duplicates == len(rows) - len(expected)


@settings(max_examples=20)
@given(rows=st.lists(places(), min_size=1, max_size=30), again=st.integers(0, 3), data=st.data())
def test_a_table_gives_its_tiles_once_however_it_is_written(
    rows: list[tuple[int, int, int]], again: int, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("tables")
    rows += rows[:again]
    for delimiter in ",;\t":
        path = folder / "tiles.csv"
        path.write_text(csv_of(rows, delimiter, data.draw(st.sampled_from(["zxy", "XYZ", "yZx"]))))
        assert_is(read_table(path), rows)
    kinds = (pa.int8(), pa.uint32(), pa.int64())
    write_parquet(folder / "tiles.parquet", rows, kinds)
    assert_is(read_table(folder / "tiles.parquet"), rows)
    for name, separator in (("tile_id", "-"), ("Tile", "/")):
        ids = [separator.join(map(str, row)) for row in rows]
        (folder / "ids.csv").write_text("\n".join([name, *ids]))
        assert_is(read_table(folder / "ids.csv"), rows)
        pq.write_table(pa.table({name: pa.array(ids).dictionary_encode()}), folder / "ids.parquet")
        assert_is(read_table(folder / "ids.parquet"), rows)


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffz,x,y\r\n3,7,0\r\n",
        '"z","x","y"\n"3","7","0"\n',
        " z , x , y \n 3 , 7 , 0 \n",
        "z,x,y\n\n3,7,0\n\n",
        "x,y,z,tile_id\n7,0,3,not read\n",
        "tile_id,Z,X,Y\nnot read,3,7,0\n",
    ],
    ids=["mark", "quoted", "spaces", "empty lines", "id too", "upper case"],
)
def test_a_csv_is_read_however_a_program_wrote_it(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tiles.csv"
    path.write_bytes(text.encode())
    assert_is(read_table(path), [(3, 7, 0)])


def test_the_content_decides_what_a_file_is(tmp_path: Path) -> None:
    path = tmp_path / "tiles.csv"
    write_parquet(path, PLACES, (pa.int64(),) * 3)
    assert_is(read_table(path), PLACES)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "got no names"),
        ("z,x\n1,2\n", "got 'z', 'x'"),
        ("18,1234,567\n", "first line"),
        ("z,x,y\n", "without rows"),
        ("z,x,y\n3,1,1\n3,1.5,1\n", "data row 2: expected an integer x, got '1.5'"),
        ("z,x,y\n3,1,1\n3,1,\n", "data row 2: expected an integer y, got ''"),
        ("z,x,y\n3,1,1\n3,1,NaN\n", "data row 2: expected an integer y, got 'NaN'"),
        ("z,x,y\n3,1,99999999999999999999\n", "data row 1: expected an integer y"),
        ("z,x,y\n3,1,1\n3,2,2\n25,1,1\n", "data row 3: expected z from 0 to 24, got 25"),
        ("z,x,y\n-1,0,0\n", "data row 1: expected z from 0 to 24, got -1"),
        ("z,x,y\n3,7,7\n3,8,0\n", "data row 2: expected x from 0 to 2^z - 1, got 8"),
        ("z,x,y\n3,7,7\n3,0,-1\n", "data row 2: expected y from 0 to 2^z - 1, got -1"),
        ("z,x,y\n3,1,1\n3,1\n", "Expected 3 columns, got 2"),
        ("tile_id\n3-1-1\n3-1\n", "data row 2: expected z-x-y or z/x/y, got '3-1'"),
        ("tile_id\n1234-567-18\n", "data row 1: expected z-x-y or z/x/y, got '1234-567-18'"),
        ("tile_id\n3-8-0\n", "data row 1: expected x from 0 to 2^z - 1, got 8"),
    ],
)
def test_a_csv_with_a_mistake_is_refused_with_the_place(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "tiles.csv"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        read_table(path)
    assert said in str(caught.value)
    assert "tiles.csv" in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"z": [3], "x": [1]}, "got 'z', 'x'"),
        ({"a": [3]}, "got 'a'"),
        ({"z": [3], "x": [1.0], "y": [1]}, "expected integers in column 'x', got double"),
        ({"z": ["3"], "x": ["1"], "y": ["1"]}, "expected integers in column 'z', got string"),
        ({"tile": [12345]}, "expected texts such as 18-1234-567 in column 'tile', got int64"),
        ({"z": [3, 3], "x": [1, None], "y": [1, 1]}, "data row 2: expected an integer x, got None"),
        ({"tile": ["3-1-1", None]}, "data row 2: expected z-x-y or z/x/y, got None"),
        ({"z": [3], "x": pa.array([2**64 - 1], pa.uint64()), "y": [1]}, "data row 1: expected x"),
        ({"z": pa.array([], pa.int8()), "x": pa.array([], pa.int32()), "y": pa.array([], pa.int32())}, "without rows"),
    ],
)
def test_a_parquet_with_a_mistake_is_refused_with_the_place(tmp_path: Path, columns: dict[str, Any], said: str) -> None:
    path = tmp_path / "tiles.parquet"
    pq.write_table(pa.table(columns), path)
    with pytest.raises(DataError) as caught:
        read_table(path)
    assert said in str(caught.value)


def test_files_that_are_no_table_are_refused(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.parquet"
    write_parquet(damaged, PLACES, (pa.int64(),) * 3)
    damaged.write_bytes(damaged.read_bytes()[:-20])
    image = tmp_path / "image.csv"
    image.write_bytes(bytes(range(256)) * 10)
    for path in (damaged, image, tmp_path, tmp_path / "nowhere.csv"):
        with pytest.raises(DataError, match="it cannot be read"):
            read_table(path)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_mistake_far_down_is_counted_over_all_batches(tmp_path: Path, kind: str) -> None:
    num_rows, wrong = 700_000, 654_321
    x = np.arange(num_rows) % 2**18
    x[wrong - 1] = -5
    table = pa.table({"z": np.full(num_rows, 18), "x": x, "y": np.arange(num_rows) // 2**18})
    path = tmp_path / f"tiles.{kind}"
    if kind == "csv":
        pyarrow.csv.write_csv(table, path)
    else:
        pq.write_table(table, path)
    with pytest.raises(DataError, match=r"data row 654,321: expected x from 0 to 2\^z - 1, got -5"):
        read_table(path)
    x[wrong - 1] = 5
    table = table.set_column(1, "x", pa.array(x))
    if kind == "csv":
        pyarrow.csv.write_csv(table, path)
    else:
        pq.write_table(table, path)
    read = read_table(path)
    assert np.array_equal(read.keys, np.unique(keys_of(18, x, np.arange(num_rows) // 2**18)))
    assert len(read.keys) + read.num_duplicates == num_rows
