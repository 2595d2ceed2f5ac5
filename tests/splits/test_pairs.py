from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pictured import encoded, lossless, window, write_files

from satx.errors import DataError
from satx.splits.answers import read_answers, read_confirmed, read_rows, write_pairs
from satx.splits.pairs import Pair, same_pictures
from satx.splits.pictures import turned
from satx.tiles.decode import decode_tile
from satx.tiles.layout import TileFile


@pytest.fixture
def files(tmp_path: Path) -> list[TileFile]:
    return [TileFile(tmp_path / name, name, "school", "", "") for name in ("a.jpg", "b.jpg", "c.jpg", "d.jpg")]


def found_in(files: list[TileFile]) -> list[tuple[str, str, str]]:
    return [(files[pair.first].relative, files[pair.second].relative, pair.how) for pair in same_pictures(files)]


def test_copies_flips_turns_and_encodings_are_paired_and_others_are_not(tmp_path: Path) -> None:
    first, second, third = window(0, 0), window(5000, 0), window(0, 5000)
    jpeg = encoded(first, quality=90)
    decoded = decode_tile(jpeg, "a.jpg").pixels
    files = write_files(
        tmp_path,
        {
            "a.jpg": jpeg,
            "b.png": lossless(decoded),
            "c.png": lossless(turned(decoded, 6)),
            "d.png": lossless(second),
            "e.jpg": encoded(turned(second, 3), brightness=0.85),
            "f.png": lossless(third),
            "g.png": b"no image",
        },
    )
    assert found_in(files) == [
        ("a.jpg", "b.png", "pixels"),
        ("a.jpg", "c.png", "pixels"),
        ("d.png", "e.jpg", "hash"),
    ]


def test_many_copies_of_a_placeholder_are_a_star_of_pairs_also_if_it_is_of_one_color(tmp_path: Path) -> None:
    blank, grey = lossless(np.full((64, 64, 3), 240, np.uint8)), lossless(np.full((64, 64, 3), 128, np.uint8))
    files = write_files(tmp_path, {f"{number}.png": blank for number in range(8)} | {"8.png": grey, "9.png": grey})
    expected = [("0.png", f"{number}.png", "pixels") for number in range(1, 8)]
    assert found_in(files) == [*expected, ("8.png", "9.png", "pixels")]


def test_a_picture_that_is_a_copy_and_a_flip_is_connected_with_its_encoding(tmp_path: Path) -> None:
    pixels = window(0, 0)
    pictures = {
        "a.png": lossless(turned(pixels, 5)),
        "b.png": lossless(pixels),
        "c.png": lossless(pixels),
        "d.jpg": encoded(pixels, quality=60),
    }
    found = found_in(write_files(tmp_path, pictures))
    assert found == [("a.png", "b.png", "pixels"), ("a.png", "c.png", "pixels"), ("a.png", "d.jpg", "hash")]


def test_progress_reaches_the_total_and_no_tiles_are_no_pairs(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    files = write_files(tmp_path, {f"{number}.png": lossless(window(0, 0, 32)) for number in range(20)})
    same_pictures(files, lambda *call: calls.append(call))
    assert calls == [(16, 20), (20, 20)]
    assert same_pictures([]) == []


def test_certain_pairs_are_answered_yes_and_candidates_are_left_to_a_person(
    tmp_path: Path, files: list[TileFile]
) -> None:
    path = tmp_path / "pairs.csv"
    write_pairs(path, [Pair(0, 3, "features", 0.8123), Pair(0, 1, "overlap", 0.5), Pair(1, 2, "hash", 0.999)], files)
    assert path.read_text().splitlines() == [
        "first,second,how,score,same_ground",
        "a.jpg,d.jpg,features,0.812,",
        "a.jpg,b.jpg,overlap,0.500,yes",
        "b.jpg,c.jpg,hash,0.999,yes",
    ]
    assert read_confirmed(path, files) == [Pair(0, 1, "confirmed", 1.0), Pair(1, 2, "confirmed", 1.0)]


def test_answers_are_kept_when_the_table_is_written_again(tmp_path: Path, files: list[TileFile]) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text(
        "second;first;how;score;same_ground\nd.jpg;a.jpg;features;0.8;NO\nb.jpg;a.jpg;features;0.7;Yes\n"
        "c.jpg;b.jpg;hash;0.9;no\nc.jpg;a.jpg;features;0.6;\ngone.jpg;a.jpg;features;0.6;yes\n\n"
    )
    rows = write_pairs(path, [Pair(0, 3, "features", 0.8), Pair(1, 2, "hash", 0.99)], files)
    assert [(row.first, row.second, row.is_same) for row in rows] == [
        ("a.jpg", "d.jpg", False),
        ("b.jpg", "c.jpg", False),
        ("a.jpg", "b.jpg", True),
    ]
    assert read_rows(path) == rows
    assert read_answers(path, files) == {(0, 3): False, (1, 2): False, (0, 1): True}
    assert read_confirmed(path, files) == [Pair(0, 1, "confirmed", 1.0)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("first,second,how,score,same_ground\na.jpg,x.jpg,hash,1,yes\n", r"line 2: expected two tiles .*'x.jpg'"),
        ("first,second,how,score,same_ground\na.jpg,b.jpg,hash,1,maybe\n", r"line 2: expected yes, no .*'maybe'"),
        (
            "first,second,how,score,same_ground\na.jpg,a.jpg,hash,1,yes\n",
            r"line 2: expected two tiles, got a.jpg twice",
        ),
        ("first,second,how,score,same_ground\na.jpg,,hash,1,yes\n", r"line 2: expected two tiles, got 'a.jpg'"),
        (
            "first,second,how,score,same_ground\na.jpg,b.jpg,hash,1,yes\nb.jpg,a.jpg,hash,1,no\n",
            r"line 3: b.jpg and a.jpg have the answers yes and no",
        ),
        ("path,label\na.jpg,school\n", r"got no first, second, same_ground"),
        ("", r"got no first, second, same_ground"),
    ],
)
def test_a_wrong_table_is_refused_with_the_line(tmp_path: Path, files: list[TileFile], text: str, said: str) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=said):
        read_confirmed(path, files)


def test_a_missing_table_and_one_in_other_bytes_are_refused(tmp_path: Path, files: list[TileFile]) -> None:
    with pytest.raises(DataError, match="`satx data pairs` writes"):
        read_confirmed(tmp_path / "none.csv", files)
    (tmp_path / "pairs.csv").write_bytes(b"first,second,same_ground\n\xff,b,yes\n")
    with pytest.raises(DataError, match="UTF-8"):
        read_confirmed(tmp_path / "pairs.csv", files)


def test_a_file_of_another_kind_is_never_replaced(tmp_path: Path, files: list[TileFile]) -> None:
    path = tmp_path / "schools.csv"
    path.write_text("lon,lat\n1,2\n")
    with pytest.raises(DataError, match="pass another file"):
        write_pairs(path, [Pair(0, 1, "hash", 1.0)], files)
    assert path.read_text() == "lon,lat\n1,2\n"
