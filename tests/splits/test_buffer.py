"""Tiles within one window of another split are left out of the larger one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_groups import squares

from satx.splits.buffer import NOWHERE, TEST, TRAIN, VALID, left_out


def test_the_larger_split_gives_way() -> None:
    placed = squares((0, 0), (1.9, 0), (10, 0), (11, 0), (20, 0), (21.5, 1.5))
    assert left_out(placed, np.array([TRAIN, TEST, VALID, TRAIN, TEST, VALID])).tolist() == [
        TEST,
        NOWHERE,
        NOWHERE,
        VALID,
        NOWHERE,
        TEST,
    ]


@pytest.mark.parametrize(
    ("corner", "is_near"), [((1, 0), True), ((1.99, 1.99), True), ((2, 0), False), ((0, 2), False), ((3, 3), False)]
)
def test_nearer_than_one_window_is_too_near(corner: tuple[float, float], is_near: bool) -> None:
    found = left_out(squares((0, 0), corner), np.array([TEST, TRAIN]))
    assert found.tolist() == [NOWHERE, TEST if is_near else NOWHERE]


def test_a_tile_beside_one_that_is_left_out_stays() -> None:
    placed = squares((0, 0), (1.5, 0), (3, 0))
    assert left_out(placed, np.array([TEST, VALID, TRAIN])).tolist() == [NOWHERE, TEST, NOWHERE]


def test_a_tile_too_near_to_test_and_to_valid_is_said_to_be_near_test() -> None:
    assert left_out(squares((1, 0), (0, 0), (2, 0)), np.array([TRAIN, VALID, TEST])).tolist()[0] == TEST


def test_the_antimeridian_separates_nothing() -> None:
    east, west = squares((0, 7)), squares((2**18 - 1, 7))
    assert left_out(np.concatenate([east, west]), np.array([TEST, TRAIN])).tolist() == [NOWHERE, TEST]
    assert left_out(np.concatenate([west, east]), np.array([TEST, TRAIN])).tolist() == [NOWHERE, TEST]


def test_the_larger_of_two_windows_counts_and_tiles_without_a_place_stay() -> None:
    placed = np.concatenate([squares((0, 0), zoom=17), squares((3.5, 0)), np.full((1, 4), np.nan)])
    assert left_out(placed, np.array([TEST, TRAIN, TRAIN])).tolist() == [NOWHERE, TEST, NOWHERE]


@given(st.integers(0, 2**32 - 1), st.integers(2, 60))
def test_what_stays_is_one_window_apart_and_nothing_else_is_left_out(seed: int, num_tiles: int) -> None:
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 25, (num_tiles, 2))
    splits = rng.integers(0, 3, num_tiles)
    near = left_out(squares(*map(tuple, corners)), splits)
    gaps = np.abs(corners[:, None] - corners).max(axis=2) - 1
    stays = near == NOWHERE
    apart = gaps[np.ix_(stays, stays)] >= 1 - 1e-5
    assert (apart | (splits[stays, None] == splits[stays])).all()
    for row in np.flatnonzero(~stays):
        others = (splits == near[row]) & stays
        assert splits[row] < near[row]
        assert gaps[row, others].min() < 1
