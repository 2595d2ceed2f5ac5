from __future__ import annotations

from pathlib import Path

import pytest

from satx.errors import DataError
from satx.tiles.layout import read_layout
from satx.tiles.unsplit import read_unsplit

from .test_layout import FOUR, put, write_csv

FETCHED = "path,label,split,slice,lon,lat,z,x,y,window_px,status,reason"


def found(root: Path) -> list[tuple[str, str, str]]:
    return [(file.relative, file.label, file.split) for file in read_unsplit(root).files]


def test_class_folders_without_splits_are_read(tmp_path: Path) -> None:
    put(tmp_path, "school/b.jpg", "school/rural/a.jpg", "Not School/c.png", ".hidden/d.jpg", "school/.e.jpg")
    (tmp_path / "school/notes.txt").write_text("no tile")
    assert found(tmp_path) == [
        ("Not School/c.png", "not-school", ""),
        ("school/b.jpg", "school", ""),
        ("school/rural/a.jpg", "school", ""),
    ]
    assert all(file.path.is_file() for file in read_unsplit(tmp_path).files)


@pytest.mark.parametrize("names", [FOUR, FOUR[:2], tuple(name.replace("valid", "val") for name in FOUR)])
def test_split_folders_are_read_with_their_splits_even_if_one_is_missing(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    put(tmp_path, *names)
    splits = {name: "train" if name.startswith("train") else "valid" for name in names}
    assert found(tmp_path) == [(name, name.split("/")[1], splits[name]) for name in sorted(names)]


def test_a_class_may_be_called_like_a_split(tmp_path: Path) -> None:
    put(tmp_path, "test/a.jpg", "no-test/b.jpg")
    assert found(tmp_path) == [("no-test/b.jpg", "no-test", ""), ("test/a.jpg", "test", "")]


def test_a_fetched_table_is_read_without_the_points_that_gave_no_tile(tmp_path: Path) -> None:
    put(tmp_path, "tiles/school/2.jpg", "tiles/unlabelled/1.jpg", "tiles/school/hand.jpg")
    write_csv(
        tmp_path,
        "tiles/school/2.jpg,school,,rural,1,2,18,3,4,,done,",
        ",school,,,1,2,18,3,4,,missing,the server has no such tile",
        ",school,,,1,2,18,3,4,,failed,no answer",
        "tiles/unlabelled/1.jpg,,,,1,2,18,3,4,256,done,",
        "tiles/school/hand.jpg,school,,,,,,,,,,",
        header=FETCHED,
    )
    assert found(tmp_path) == [
        ("tiles/school/2.jpg", "school", ""),
        ("tiles/school/hand.jpg", "school", ""),
        ("tiles/unlabelled/1.jpg", "", ""),
    ]


def test_the_column_split_may_be_missing(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg")
    write_csv(tmp_path, "a.jpg,school", header="path,label")
    assert found(tmp_path) == [("a.jpg", "school", "")]


def test_a_tile_that_is_left_out_has_no_split_but_is_still_a_tile(tmp_path: Path) -> None:
    put(tmp_path, *FOUR, "train/school/e.jpg")
    lines = [f"{name},{name.split('/')[1]},{name.split('/')[0]}," for name in FOUR]
    write_csv(tmp_path, *lines, "train/school/e.jpg,school,train,near", header="path,label,split,left_out")
    assert ("train/school/e.jpg", "school", "") in found(tmp_path)
    folder = read_layout(tmp_path)
    assert [file.relative for file in folder.files if file.label == "school"] == [FOUR[0], FOUR[2]]
    assert "left out" in folder.reason_unlisted


def test_a_table_without_splits_is_refused_with_the_command_that_splits_it(tmp_path: Path) -> None:
    root = put(tmp_path / "my tiles", "a.jpg", "b.jpg")
    write_csv(root, "a.jpg,school,,", "b.jpg,not-school,,")
    with pytest.raises(DataError) as error:
        read_layout(root)
    assert f"`satx data split '{root}'`" in str(error.value)


@pytest.mark.parametrize(
    ("names", "lines", "named"),
    [
        ((), (), "There is no folder"),
        (("a.jpg",), (), "no images in folders"),
        (("school/notes.txt",), (), "no images in folders"),
        (("a.jpg",), ("a.jpg,school,tarin",), "'tarin'"),
        (("a.jpg",), ("b.jpg,school,",), "b.jpg"),
        (("a.jpg",), ("a.jpg,school,", "a.jpg,school,"), "twice"),
    ],
)
def test_what_cannot_be_read_is_told(
    tmp_path: Path, names: tuple[str, ...], lines: tuple[str, ...], named: str
) -> None:
    put(tmp_path / "tiles", *names)
    for name in names:
        if name.endswith(".txt"):
            (tmp_path / "tiles" / name).write_text("no tile")
    if lines:
        write_csv(tmp_path / "tiles", *lines, header="path,label,split")
    with pytest.raises(DataError) as error:
        read_unsplit(tmp_path / "tiles")
    assert named in str(error.value)


def test_the_real_session_is_read(real_tiles: Path) -> None:
    assert {file.relative: file.split for file in read_unsplit(real_tiles).files} == {
        file.relative: file.split for file in read_layout(real_tiles).files
    }
