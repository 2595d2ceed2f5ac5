from __future__ import annotations

import csv
from pathlib import Path

import pytest

from satx.errors import DataError
from satx.tiles.layout import read_layout
from satx.tiles.listing import read_columns, read_listing, with_cells

from .test_layout import FOUR, put


def listed(root: Path, text: str) -> list[tuple[str, str, str, str]]:
    (root / "tiles.csv").write_text(text, encoding="utf-8", newline="")
    return [(tile.relative, tile.label, tile.split, tile.slice) for tile in read_listing(root / "tiles.csv")]


@pytest.mark.parametrize(
    "text",
    [
        "path,label,split,slice\na/b.jpg,school,train,rural\n",
        "path,label,split,slice\na/b.jpg,school,train,rural,\n",
        "path,label,split,slice,\na/b.jpg,school,train,rural,,,\n",
        "\ufeffpath,label,split,slice\r\na/b.jpg,school,train,rural\r\n,,,\r\n\r\n",
        "\nSlice, SPLIT ,Label,Path,area\nrural,train,school,./a//b.jpg,7\n",
        "sep=;\r\npath;label;split;slice\r\na/b.jpg;school;train;rural\r\n",
        "path;label;split;slice\na/b.jpg;school;train;rural\n",
        "path\tlabel\tsplit\tslice\na/b.jpg\tschool\ttrain\trural\n",
        'path,label,split,slice\n"a/b.jpg", "school",train, rural\n',
        "path,label,split,slice\na\\b.jpg,school,train,rural\n",
        "path,label,split,slice\n{root}/a/b.jpg,school,train,rural\n",
        "path,label,split,slice\na/c/../b.jpg,school,train,rural\n",
    ],
)
def test_a_table_is_read_however_it_was_written(tmp_path: Path, text: str) -> None:
    put(tmp_path, "a/b.jpg")
    assert listed(tmp_path, text.replace("{root}", str(tmp_path))) == [("a/b.jpg", "school", "train", "rural")]


def test_an_absolute_path_through_a_link_lies_in_the_folder(tmp_path: Path) -> None:
    put(tmp_path / "data", "a/b.jpg")
    (tmp_path / "link").symlink_to(tmp_path / "data")
    text = f"path,label,split\n{tmp_path}/data/a/b.jpg,school,train\n"
    assert listed(tmp_path / "link", text) == [("a/b.jpg", "school", "train", "")]


def test_a_backslash_in_the_name_of_a_file_is_kept(tmp_path: Path) -> None:
    put(tmp_path, "a\\b.jpg", "a/b.jpg")
    assert listed(tmp_path, "path,label,split\na\\b.jpg,school,train\n")[0][0] == "a\\b.jpg"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("path,label,split,slice,Slice\n", ["slice 2 times", "slice, Slice"]),
        ("path,Path,label,split\n", ["path 2 times", "path, Path"]),
        ("path,label,split\na.jpg,sch,ool,train\n", ["line 2", "3 cells, got 4"]),
        ("path,label,split\na.jpg,school\n", ["line 2", "no split"]),
        ("path,label,split\n\n\na.jpg,school,train\n/etc/b.jpg,school,train\n", ["line 5", "'/etc/b.jpg'"]),
        ("path,label,split\n..,school,train\n", ["line 2", "'..'"]),
        ('path,label,split\n"a.jpg"x,school,train\n', ["line 2", "Correct that line"]),
        ("path,label,split\n", ["lists no tiles"]),
        ("path,label,split\n/loop/a.jpg,school,train\n", ["line 2", "'/loop/a.jpg'"]),
        ('path;label;split\n"a.jpg"x;school;train\n', ["line 2", "separated by ';'"]),
        ("p\0a\0t\0h\0,\0", ["UTF-8"]),
    ],
)
def test_what_cannot_be_read_is_told_with_its_line(tmp_path: Path, text: str, named: list[str]) -> None:
    with pytest.raises(DataError) as error:
        listed(tmp_path, text)
    assert [value for value in named if value not in str(error.value)] == []


@pytest.mark.parametrize("written", ["{root}/loop/a.jpg", "link/../b.jpg"])
def test_a_path_through_a_link_that_leads_out_or_to_itself_is_told(tmp_path: Path, written: str) -> None:
    put(tmp_path, "data/b.jpg", "other/in/c.jpg", "other/b.jpg")
    (tmp_path / "data/loop").symlink_to("loop")
    (tmp_path / "data/link").symlink_to(tmp_path / "other/in")
    with pytest.raises(DataError, match="inside"):
        listed(tmp_path / "data", f"path,label,split\n{written.replace('{root}', str(tmp_path))},school,train\n")


def test_a_name_that_looks_like_a_windows_path_is_read_if_there_is_such_a_file(tmp_path: Path) -> None:
    put(tmp_path, "c:/tile.png")
    assert listed(tmp_path, "path,label,split\nc:/tile.png,school,train\n")[0][0] == "c:/tile.png"


def test_text_in_another_encoding_is_told(tmp_path: Path) -> None:
    (tmp_path / "tiles.csv").write_bytes("path,label,split\na.jpg,school,train\n".encode("utf-16"))
    with pytest.raises(DataError, match="UTF-8"):
        read_listing(tmp_path / "tiles.csv")


def test_a_file_of_any_ending_can_be_listed(tmp_path: Path) -> None:
    names = [relative.removesuffix(".jpg") for relative in FOUR]
    put(tmp_path, *names)
    lines = [f"{name},{name.split('/')[1]},{name.split('/')[0]}" for name in names]
    (tmp_path / "tiles.csv").write_text("\n".join(["path,label,split", *lines]))
    assert len(read_layout(tmp_path).files) == 4


def test_only_lines_whose_status_is_done_or_empty_have_a_tile(tmp_path: Path) -> None:
    text = (
        "path,label,split,status\na.jpg,school,train,done\n,school,,failed\nb.jpg,school,valid,\nc.jpg,school,,blank\n"
    )
    assert [row[0] for row in listed(tmp_path, text)] == ["a.jpg", "b.jpg"]
    assert list(read_columns(tmp_path / "tiles.csv", ["status"])) == ["a.jpg", "b.jpg"]


def test_a_table_whose_tiles_all_failed_is_told_apart_from_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none of them with the status 'done'"):
        listed(tmp_path, "path,label,split,status\n,school,,failed\n")


def test_other_columns_are_read_by_the_path_of_the_tile(tmp_path: Path) -> None:
    text = "sep=;\nLon;path;label;split;z\n9,5;a.jpg;school;train;18\n;./b.jpg;school;train\n"
    assert len(listed(tmp_path, text)) == 2
    assert read_columns(tmp_path / "tiles.csv", ["lon", "z", "lat"]) == {
        "a.jpg": (3, {"lon": "9,5", "z": "18", "lat": ""}),
        "b.jpg": (4, {"lon": "", "z": "", "lat": ""}),
    }


def test_a_column_that_is_read_and_there_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tiles.csv").write_text("path,label,lon,Lon\na.jpg,school,1,2\n")
    with pytest.raises(DataError, match="lon 2 times"):
        read_columns(tmp_path / "tiles.csv", ["lon"])


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_set_cells_change_nothing_else(tmp_path: Path, separator: str) -> None:
    lines = ["Path|Label|Split|note", 'b.jpg|school||"a, b; ""c"""', "|school|||", "a.jpg|school", "c.jpg|x|test|kept"]
    text = "\n".join(lines).replace("|", separator) + "\n\n"
    (tmp_path / "tiles.csv").write_text(text)
    changed = with_cells(
        tmp_path / "tiles.csv", {2: {"split": "train", "left_out": ""}, 4: {"split": "", "left_out": "near"}}
    )
    (tmp_path / "tiles.csv").write_text(changed)
    with (tmp_path / "tiles.csv").open(newline="") as stream:
        rows = list(csv.reader(stream, delimiter=separator))
    assert rows == [
        ["Path", "Label", "Split", "note", "left_out"],
        ["b.jpg", "school", "train", 'a, b; "c"', ""],
        ["", "school", "", "", ""],
        ["a.jpg", "school", "", "", "near"],
        ["c.jpg", "x", "test", "kept", ""],
    ]
