from __future__ import annotations

from pathlib import Path

from satx.splits.leaks import same_ground_problems
from satx.splits.pairs import Pair
from satx.tiles.layout import TileFile


def tiles(*places: str) -> list[TileFile]:
    """Return tiles of splits and labels such as `train/school`, each with its number as its name."""
    files = []
    for number, place in enumerate(places):
        split, label = place.split("/")
        files.append(TileFile(Path(f"{place}/{number}.jpg"), f"{place}/{number}.jpg", label, split, ""))
    return files


def problems(files: list[TileFile], *pairs: Pair) -> list[tuple[str, str, str, str]]:
    return [tuple(vars(problem).values()) for problem in same_ground_problems(Path("my tiles"), files, pairs)]


def test_a_pair_across_splits_is_a_warning_at_the_earlier_tile() -> None:
    files = tiles("valid/school", "train/school", "train/school")
    assert problems(files, Pair(0, 1, "overlap", 0.625), Pair(1, 2, "overlap", 0.9)) == [
        (
            "warning",
            "same-ground",
            "train/school/1.jpg",
            "the same ground as valid/school/0.jpg: their squares on the map overlap by 62%; pairs like this one connect 3 tiles "
            "of train and valid; `satx data split 'my tiles'` puts them into one split",
        )
    ]


def test_tiles_that_a_third_one_connects_across_splits_are_one_finding() -> None:
    files = tiles("train/school", "train/school", "test/school", "valid/school", "valid/school")
    found = problems(files, Pair(0, 1, "pixels", 1.0), Pair(1, 2, "hash", 0.99), Pair(3, 4, "pixels", 1.0))
    assert [(kind, relative) for _, kind, relative, _ in found] == [("same-ground", "train/school/1.jpg")]
    assert "the same picture, encoded again" in found[0][3] and "3 tiles of train and test" in found[0][3]


def test_pairs_within_a_split_and_a_label_are_no_finding() -> None:
    files = tiles("train/school", "train/school", "train/not-school")
    assert problems(files, Pair(0, 1, "pixels", 1.0), Pair(1, 2, "overlap", 0.5)) == []


def test_one_picture_with_two_labels_is_a_warning_also_within_a_split() -> None:
    files = tiles("train/school", "train/not-school")
    assert problems(files, Pair(0, 1, "pixels", 1.0)) == [
        (
            "warning",
            "same-picture",
            "train/school/0.jpg",
            "labelled school, and train/not-school/1.jpg not-school: the same picture, flipped or turned; correct the wrong "
            "label",
        )
    ]
