"""Blocks are dealt to train, valid and test: whole, with the classes in equal shares, and the same every time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_groups import linked, squares

from satx.errors import ConfigError, DataError
from satx.splits.assignment import (
    Ground,
    assign,
    check_every_class,
    check_splittable,
    ground_of,
    lacking_class,
    parse_shares,
    strata_of,
)
from satx.splits.buffer import NOWHERE
from satx.tiles.layout import SPLITS, TileFile

SHARES = (7, 2, 1)
RECORDED = "ttttttvtttvtttvtvtvttvttttTtvvtttttTtTtT"  # of each tile: train, valid, Test


def tile(number: int, label: str, slice_name: str = "") -> TileFile:
    name = f"{number:05d}.jpg"
    return TileFile(Path(name), name, label, "", slice_name)


def scattered(
    num_tiles: int, *, side: int = 1000, seed: int = 1, share: float = 0.3
) -> tuple[list[TileFile], np.ndarray]:
    """Return tiles at random places of a square of that many tiles of zoom 18, a share of them schools."""
    rng = np.random.default_rng(seed)
    files = [tile(number, "school" if rng.random() < share else "not-school") for number in range(num_tiles)]
    return files, squares(*(tuple(corner) for corner in rng.integers(0, side, (num_tiles, 2))))


def placed_ground(files: Sequence[TileFile], footprints: np.ndarray, block_zoom: int = 12) -> Ground:
    return ground_of(files, footprints, [], block_zoom, SHARES)


@pytest.mark.parametrize(
    ("text", "shares"),
    [("70:20:10", SHARES), ("8:1:1", (8, 1, 1)), (" 50 : 25:25", (2, 1, 1)), ("34:33:33", (34, 33, 33))],
)
def test_shares_are_folds(text: str, shares: tuple[int, int, int]) -> None:
    assert parse_shares(text) == shares


@pytest.mark.parametrize(
    "text", ["", "70:30", "70:20:10:0", "70:20:0", "0:0:0", "-70:20:10", "0.7:0.2:0.1", "701:200:100"]
)
def test_other_shares_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--shares"):
        parse_shares(text)


@settings(max_examples=20)
@given(st.integers(0, 2**31 - 1))
def test_a_block_is_in_one_split_and_near_tiles_are_left_out(seed: int) -> None:
    files, footprints = scattered(200)
    ground = placed_ground(files, footprints)
    found = assign(ground, SHARES, seed)
    is_left_out = found.splits == NOWHERE
    assert (is_left_out == (found.too_near != NOWHERE)).all()
    for block in range(ground.num_blocks):
        assert len(set(found.splits[(ground.blocks == block) & ~is_left_out].tolist())) <= 1


def test_the_shares_and_the_classes_are_as_asked() -> None:
    files, footprints = scattered(1500, side=1500)
    ground = placed_ground(files, footprints)
    found = assign(ground, SHARES, 20)
    kept = found.splits != NOWHERE
    for number, share in enumerate((0.7, 0.2, 0.1)):
        rows = found.splits == number
        assert rows.sum() / kept.sum() == pytest.approx(share, abs=0.02)
        assert ground.labels[rows].mean() == pytest.approx(ground.labels[kept].mean(), abs=0.02)


def test_each_slice_is_shared_out_too() -> None:
    files = [tile(number, "school", "urban" if number % 10 == 0 else "rural") for number in range(400)]
    files += [tile(number, "not-school") for number in range(400, 600)]
    ground = ground_of(files, np.full((600, 4), np.nan), [], None, SHARES)
    found = assign(ground, SHARES, 20)
    assert np.bincount(found.splits[:400:10]).tolist() == [28, 8, 4]


def test_a_slice_of_few_tiles_is_no_stratum_of_its_own() -> None:
    files = [tile(number, "school", "rural") for number in range(12)] + [tile(20, "school", "urban"), tile(21, "x")]
    assert strata_of(files, 10).tolist() == [1] * 12 + [0, 2]


def test_the_largest_blocks_are_in_any_split() -> None:
    corners = [(number // 2 * 128 + number % 2 * 9, 0) for number in range(60)]
    corners += [(9000 + number % 5 * 3, number // 5 * 3) for number in range(20)]  # one block with 20 schools
    labels = ["school", "not-school"] * 30 + ["school"] * 20
    files = [tile(number, label) for number, label in enumerate(labels)]
    ground = placed_ground(files, squares(*corners))
    assert {int(assign(ground, SHARES, seed).splits[-1]) for seed in range(40)} == {0, 1, 2}


def test_the_same_tiles_and_seed_give_the_same_split_and_another_seed_another() -> None:
    files, footprints = scattered(300)
    ground = placed_ground(files, footprints)
    first = assign(ground, SHARES, 20).splits
    assert first.tolist() == assign(placed_ground(files, footprints), SHARES, 20).splits.tolist()
    assert first.tolist() != assign(ground, SHARES, 21).splits.tolist()


def test_a_split_is_the_one_that_was_recorded() -> None:
    """The split of these tiles is the same on every machine; if a library changes it, the notes of a release must say so."""
    files, footprints = scattered(40, side=640, seed=5)
    found = assign(placed_ground(files, footprints), SHARES, 20)
    assert "".join("-tvT"[split + 1] for split in found.splits.tolist()) == RECORDED


def test_copies_without_coordinates_stay_together() -> None:
    files = [tile(number, ["school", "not-school"][number % 2]) for number in range(120)]
    pairs = linked(*((number, number + 60) for number in range(60)))
    ground = ground_of(files, np.full((120, 4), np.nan), pairs, None, SHARES)
    splits = assign(ground, SHARES, 20).splits
    assert (splits[:60] == splits[60:]).all()
    assert np.bincount(splits).tolist() == [84, 24, 12]


def test_fewer_blocks_than_folds_are_refused_with_zooms_that_have_more() -> None:
    files, footprints = scattered(200, side=256)
    with pytest.raises(DataError) as error:
        assign(placed_ground(files, footprints, 11), SHARES, 20)
    assert "at least 10 blocks for these shares, got 4 blocks of zoom 11" in str(error.value)
    assert "(12 has 16, 13 has 61, 14 has " in str(error.value)


def test_a_class_that_a_split_lacks_is_named_with_zooms_that_have_more_blocks() -> None:
    files, footprints = scattered(200, side=1000, share=0)
    files[:30] = [tile(number, "school") for number in range(30)]
    footprints[:30] = squares(*((number * 2, 1001) for number in range(30)))  # all in one block of zoom 12
    ground = placed_ground(files, footprints)
    found = assign(ground, SHARES, 20)
    assert lacking_class(ground, found.splits)
    with pytest.raises(DataError) as error:
        check_every_class(ground, found)
    assert f"in 1 of {ground.num_blocks} blocks of zoom 12" in str(error.value)
    assert "none of school in" in str(error.value) and "(13 has " in str(error.value)


def test_a_class_with_too_few_groups_is_named_without_zooms_where_nothing_has_a_place() -> None:
    files = [tile(number, "school" if number < 2 else "not-school") for number in range(60)]
    ground = ground_of(files, np.full((60, 4), np.nan), [], None, SHARES)
    with pytest.raises(DataError) as error:
        check_every_class(ground, assign(ground, SHARES, 20))
    assert "none of school in" in str(error.value) and "2 of 60 groups" in str(error.value)
    assert "--block-zoom" not in str(error.value)


def test_fewer_tiles_of_each_stratum_than_folds_are_split_nevertheless() -> None:
    files = [tile(number, f"class{number % 3}") for number in range(12)]
    ground = ground_of(files, np.full((12, 4), np.nan), [], None, (2, 1, 1))
    check_every_class(ground, assign(ground, (2, 1, 1), 20))
    assert np.bincount(assign(ground, (10, 1, 1), 20).splits).tolist() == [10, 1, 1]


@pytest.mark.parametrize(
    ("labels", "zoom", "named"),
    [
        (["school"] * 20, 12, ["'school' only"]),
        (["school", ""] * 10, 12, ["none for 10 of 20", "00001.jpg"]),
        (["school", "not-school"] * 4, 12, ["at least 10", "got 8"]),
        (["school", "not-school"] * 10, 19, ["--block-zoom", "up to 18", "got 19"]),
    ],
)
def test_tiles_that_cannot_be_split_are_refused(labels: list[str], zoom: int, named: list[str]) -> None:
    files = [tile(number, label) for number, label in enumerate(labels)]
    footprints = squares(*((number, 0) for number in range(len(files))))
    with pytest.raises((DataError, ConfigError)) as error:
        check_splittable(files, footprints, zoom, SHARES)
    assert [word for word in named if word not in str(error.value)] == []


def test_blocks_as_large_as_a_tile_are_the_smallest() -> None:
    files, footprints = scattered(20)
    check_splittable(files, footprints, 18, SHARES)
    assert len(SPLITS) == len(SHARES)
