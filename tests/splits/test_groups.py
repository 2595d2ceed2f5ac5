"""Groups of the same ground, and blocks of the map that hold whole groups."""

from __future__ import annotations

import mercantile
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from satx.grid.tiles import tile_of
from satx.splits.groups import block_side_km, blocks_of, groups_of
from satx.splits.pairs import CERTAIN, Pair

ZOOM = 18
NOWHERE = (np.nan,) * 4


def squares(*corners: tuple[float, float], zoom: int = ZOOM) -> np.ndarray:
    """Return the footprints of tiles whose north-west corners count in tiles of a zoom."""
    west_north = np.array(corners, np.float64)
    return np.concatenate([west_north, west_north + 1], axis=1) / 2**zoom


def linked(*pairs: tuple[int, int], how: str = "overlap") -> list[Pair]:
    return [Pair(first, second, how, 1.0) for first, second in pairs]


def test_pairs_connect_through_others_and_the_rest_is_alone() -> None:
    assert groups_of(6, linked((1, 4), (2, 3), (4, 5))).tolist() == [0, 1, 2, 2, 1, 1]
    assert groups_of(3, []).tolist() == [0, 1, 2]


@pytest.mark.parametrize("how", CERTAIN)
def test_every_certain_kind_of_pair_connects(how: str) -> None:
    assert groups_of(2, linked((0, 1), how=how)).tolist() == [0, 0]


def test_a_pair_that_only_looks_alike_connects_nothing() -> None:
    assert groups_of(2, linked((0, 1), how="features")).tolist() == [0, 1]


@given(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=40))
def test_groups_are_the_smallest_sets_that_hold_both_tiles_of_each_pair(pairs: list[tuple[int, int]]) -> None:
    groups = groups_of(20, linked(*(pair for pair in pairs if pair[0] != pair[1])))
    assert all(groups[first] == groups[second] for first, second in pairs)
    assert groups.tolist() == [int(np.flatnonzero(groups == group).min()) for group in groups]
    reached = {number: {number} for number in range(20)}
    for first, second in pairs:
        joined = reached[first] | reached[second]
        for number in joined:
            reached[number] = joined
    assert len(set(groups.tolist())) == len({min(members) for members in reached.values()})


def test_tiles_under_one_parent_are_one_block() -> None:
    placed = squares((64, 64), (127, 127), (128, 64), (64, 128))
    assert blocks_of(placed, np.arange(4), 12).tolist() == [0, 0, 1, 2]


def test_a_group_on_a_border_is_in_one_block_and_joins_no_others() -> None:
    placed = squares((100, 64), (127.2, 64), (127.9, 64), (140, 64))
    assert blocks_of(placed, groups_of(4, []), 12).tolist() == [0, 0, 1, 1]
    assert blocks_of(placed, groups_of(4, linked((1, 2))), 12).tolist() == [0, 0, 0, 1]


def test_groups_without_a_place_are_blocks_of_their_own() -> None:
    placed = np.array([NOWHERE, NOWHERE, NOWHERE, *squares((64, 64), (65, 64))])
    groups = groups_of(5, linked((0, 2), (1, 3)))
    blocks = blocks_of(placed, groups, 12)
    assert blocks[0] == blocks[2]
    assert blocks[1] == blocks[3] == blocks[4], "a copy without coordinates goes with the tile that has them"
    assert len(set(blocks.tolist())) == 2
    assert blocks_of(np.full((3, 4), np.nan), np.array([0, 1, 0]), 0).tolist() == [0, 1, 0]


@given(st.integers(0, 2**32 - 1), st.integers(0, 18))
def test_the_blocks_do_not_depend_on_the_order_of_the_tiles(seed: int, zoom: int) -> None:
    rng = np.random.default_rng(seed)
    placed = squares(*(tuple(corner) for corner in rng.integers(0, 2**ZOOM, (30, 2))))
    pairs = linked(*(tuple(sorted(pair)) for pair in rng.integers(0, 30, (12, 2)) if pair[0] != pair[1]))
    order = rng.permutation(30)
    place_of = np.argsort(order)
    moved = [Pair(*sorted((int(place_of[p.first]), int(place_of[p.second]))), p.how, p.score) for p in pairs]
    blocks = blocks_of(placed, groups_of(30, pairs), zoom)
    again = blocks_of(placed[order], groups_of(30, moved), zoom)
    assert again.tolist() == blocks[order].tolist()


@given(st.floats(-179, 179), st.floats(-80, 80), st.integers(0, 18))
def test_a_tile_is_in_the_block_that_contains_its_middle(longitude: float, latitude: float, zoom: int) -> None:
    x, y = (int(value) for value in tile_of(longitude, latitude, ZOOM))
    own = squares((x, y))
    corner = x >> (ZOOM - zoom) << (ZOOM - zoom), y >> (ZOOM - zoom) << (ZOOM - zoom)
    other = squares(corner, (corner[0] + 2 ** (ZOOM - zoom) - 1, corner[1] + 2 ** (ZOOM - zoom) - 1))
    assert blocks_of(np.concatenate([own, other]), np.arange(3), zoom).tolist() == [0, 0, 0]


def test_the_last_bit_of_a_coordinate_decides_nothing() -> None:
    exact = squares((128 - 0.5, 64), (63, 64), (129, 64))  # the middle of the first is on the border of two blocks
    nudged = exact.copy()
    nudged[0, (0, 2)] = np.nextafter(exact[0, (0, 2)], 0)
    assert blocks_of(nudged, np.arange(3), 12).tolist() == blocks_of(exact, np.arange(3), 12).tolist() == [1, 0, 1]


def test_a_window_across_the_antimeridian_is_in_a_block_of_the_map() -> None:
    across = squares(
        (2**ZOOM - 0.4, 64), (0, 64), (-0.6, 64)
    )  # the middles of the first and third lie just east and west of it
    assert blocks_of(across, np.arange(3), 12).tolist() == [0, 0, 1]


@pytest.mark.parametrize(("y", "expected_km"), [(2**17, 9.784), (87_381, 6.12)])
def test_the_side_of_a_block_is_that_on_the_ground(y: int, expected_km: float) -> None:
    side = block_side_km(np.concatenate([squares((5, y)), [NOWHERE]]), 12)
    bounds = mercantile.bounds(mercantile.parent(mercantile.Tile(5, y, ZOOM), zoom=12))
    latitude = np.radians((bounds.north + bounds.south) / 2)
    assert side == pytest.approx(6378.137 * np.radians(bounds.east - bounds.west) * np.cos(latitude), rel=2e-3)
    assert side == pytest.approx(expected_km, rel=2e-3)
