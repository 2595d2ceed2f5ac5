from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pictured import WINDOW_PX, window

from satx.splits.neighbours import Looks, nearest_pairs
from satx.splits.pairs import Pair, fitting_pairs
from satx.splits.pictures import turned
from satx.splits.registration import MIN_FIT, best_fits, edges_of
from satx.tiles.layout import TileFile

NUM_LONE = 4
SHIFTS = (
    (64, 0),
    (0, -51),
    (36, 32),
    (-13, 0),
    (-38, 13),
    (19, -45),
    (0, 38),
    (26, 26),
)  # of 128 px: 50% to 90% in common


def unit(*rows: tuple[float, ...]) -> np.ndarray:
    vectors = np.array(rows, np.float64)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


@pytest.fixture(scope="module")
def planted() -> tuple[list[np.ndarray], set[tuple[int, int]]]:
    """Return windows far apart, and after them one for each of the last eight that overlaps it, flipped or turned."""
    apart = [window(1000 * number, 700 * number) for number in range(NUM_LONE + len(SHIFTS))]
    shifted = [
        turned(window(1000 * number + right, 700 * number + down), turn)
        for turn, (number, (right, down)) in enumerate(zip(range(NUM_LONE, len(apart)), SHIFTS, strict=True))
    ]
    return [*apart, *shifted], {(number, number + len(SHIFTS)) for number in range(NUM_LONE, len(apart))}


def looks(pictures: list[np.ndarray]) -> Looks:
    """Return looks in which every tile is a neighbour of every other."""
    features = np.ones((len(pictures), 1), np.float16)
    return Looks(np.arange(len(pictures)), features, np.stack([edges_of(pixels) for pixels in pictures]))


def files(*splits: str) -> list[TileFile]:
    return [TileFile(Path(f"{n}.jpg"), f"{n}.jpg", "school", split, "") for n, split in enumerate(splits)]


def test_windows_fit_on_each_other_where_they_overlap_under_any_flip_and_turn_and_others_do_not(
    planted: tuple[list[np.ndarray], set[tuple[int, int]]],
) -> None:
    pictures, pairs = planted
    edges = looks(pictures).edges
    scores = np.array([best_fits(one, edges) for one in edges])
    of_pairs = [scores[first, second] for first, second in pairs]
    by_chance = [
        scores[first, second]
        for first in range(len(edges))
        for second in range(first + 1, len(edges))
        if (first, second) not in pairs
    ]
    assert min(of_pairs) > 0.8
    assert max(by_chance) < 0.75
    assert np.diag(scores) == pytest.approx(1.0, abs=1e-3)


def test_a_brighter_picture_of_lower_contrast_fits_and_one_of_one_color_does_not() -> None:
    pixels = window(0, 0)
    dull = (pixels // 2 + 90).astype(np.uint8)
    flat = np.full((WINDOW_PX, WINDOW_PX, 3), 77, np.uint8)
    edges = np.stack([edges_of(picture) for picture in (dull, flat)])
    fit, none = best_fits(edges_of(pixels), edges)
    assert fit > 0.95
    assert abs(none) < 0.1
    assert abs(best_fits(edges[1], edges[1:])[0]) < 0.1


def test_each_tile_is_paired_with_its_nearest_neighbours_also_in_other_splits() -> None:
    features = unit((1, 0), (1, 0.1), (1, 0.2), (0, 1), (0.5, 1))
    splits = np.array(["train", "train", "train", "valid", "valid"])
    found = {(int(first), int(second)) for first, second in nearest_pairs(features, splits, num_neighbours=1)}
    assert found == {(0, 1), (1, 2), (3, 4), (0, 4), (1, 4), (2, 4), (2, 3)}
    everywhere = nearest_pairs(features, np.array([""] * 5), num_neighbours=1)
    assert {tuple(pair) for pair in everywhere.tolist()} <= {(0, 1), (1, 2), (3, 4)}


def test_one_tile_and_none_have_no_neighbours() -> None:
    assert nearest_pairs(unit((1, 0)), np.array([""])).shape == (0, 2)
    assert nearest_pairs(np.zeros((0, 4), np.float16), np.array([], str)).shape == (0, 2)


def test_planted_windows_are_found_without_coordinates_and_listed_before_chance(
    planted: tuple[list[np.ndarray], set[tuple[int, int]]],
) -> None:
    pictures, _ = planted
    chosen = [
        *range(1, 9),
        *range(NUM_LONE + len(SHIFTS), NUM_LONE + len(SHIFTS) + 3),
    ]  # so few that all are neighbours
    pictures, pairs = [pictures[number] for number in chosen], {(3, 8), (4, 9), (5, 10)}
    tiles = files(*[""] * len(pictures))
    found = fitting_pairs(tiles, np.full((len(tiles), 4), np.nan), looks(pictures))
    assert {(pair.first, pair.second) for pair in found[: len(pairs)]} == pairs
    assert all(pair.how == "features" and pair.score >= MIN_FIT for pair in found)


def test_pairs_across_splits_come_first_and_certain_ones_and_places_are_left_out() -> None:
    pixels = window(0, 0)
    pictures = [pixels, window(2, 0), window(40, 0), window(0, 3)]
    tiles = files("train", "train", "valid", "train")
    nowhere = np.full((4, 4), np.nan)
    found = fitting_pairs(tiles, nowhere, looks(pictures))
    assert [(pair.first, pair.second) for pair in found[:3]] == sorted(
        [(0, 2), (1, 2), (2, 3)], key=lambda pair: -{(p.first, p.second): p.score for p in found}[pair]
    )
    places = nowhere.copy()
    places[[0, 1]] = (0.1, 0.1, 0.2, 0.2)
    left = fitting_pairs(tiles, places, looks(pictures), certain=[Pair(2, 3, "hash", 1.0)])
    assert {(pair.first, pair.second) for pair in left} == {(0, 2), (1, 2), (0, 3), (1, 3)}
