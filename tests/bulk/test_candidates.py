from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from satx.bulk.candidates import CANDIDATES, group
from satx.bulk.counts import POSITIVES
from satx.grid.tiles import bounds_of, center_of

Row = tuple[str, int | None, int | None, int | None, float]


def positives(rows: list[Row]) -> pa.Table:
    columns = zip(*rows, strict=True) if rows else [[]] * 5
    return pa.table(
        [pa.array(list(column), field.type) for column, field in zip(columns, POSITIVES, strict=True)], POSITIVES
    )


def row(z: int, x: int, y: int, probability: float = 0.75) -> Row:
    return f"{z}-{x}-{y}", z, x, y, probability


def candidates_of(rows: list[Row]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = group(positives(rows)).candidates.to_pylist()
    return found


def slow_groups(rows: list[Row]) -> set[frozenset[str]]:
    """Compare every tile with every other one."""
    parent = {name: name for name, *_ in rows}

    def root(name: str) -> str:
        while parent[name] != name:
            name = parent[name]
        return name

    for one, z, x, y, _ in rows:
        for other, other_z, other_x, other_y, _ in rows:
            if None in (z, x, y, other_z, other_x, other_y) or z != other_z:
                continue
            around = abs(x - other_x)  # type: ignore[operator]
            if min(around, 2**z - around) <= 1 and abs(y - other_y) <= 1:  # type: ignore[operator]
                parent[root(one)] = root(other)
    groups = defaultdict(set)
    for name in parent:
        groups[root(name)].add(name)
    return {frozenset(names) for names in groups.values()}


@st.composite
def some_rows(draw: st.DrawFn) -> list[Row]:
    """Tiles in corners of the world at several zooms, some twice at one place, and files without a place."""
    rows = []
    for number in range(draw(st.integers(0, 25))):
        probability = draw(st.sampled_from([0.5, 0.625, 0.75, 0.875]))  # ties, and exact as float32
        if draw(st.integers(0, 9)) == 0:
            rows.append((f"file {number}.jpg", None, None, None, probability))
            continue
        z = draw(st.sampled_from([0, 1, 3, 18, 24]))
        x, y = (draw(st.integers(-3, 3)) % 2**z for _ in range(2))
        rows.append((f"{draw(st.sampled_from('ab'))}{number}/{z}-{x}-{y}", z, x, y, probability))
    return rows


@given(some_rows(), st.randoms(use_true_random=False))
def test_groups_are_those_of_a_slow_search_whatever_the_order(rows: list[Row], random: Any) -> None:
    found = group(positives(rows))
    assert found.candidates.schema == CANDIDATES
    groups = defaultdict(set)
    for tile in found.tiles.to_pylist():
        groups[tile["candidate_id"]].add(tile["tile_id"])
    assert {frozenset(names) for names in groups.values()} == slow_groups(rows)
    by_name = {name: (z, x, y, probability) for name, z, x, y, probability in rows}
    for candidate in found.candidates.to_pylist():
        names = groups[candidate["candidate_id"]]
        probabilities = [by_name[name][3] for name in names]
        best = min(names, key=lambda name: (-by_name[name][3], name))
        assert candidate["candidate_id"] == best
        assert (candidate["z"], candidate["x"], candidate["y"], candidate["probability"]) == by_name[best]
        assert candidate["num_tiles"] == len(names)
        assert candidate["mean_probability"] == pytest.approx(np.mean(probabilities), rel=1e-6)
    random.shuffle(rows)
    shuffled = group(pa.concat_tables([positives(rows[:7]), positives(rows[7:])]))
    assert shuffled.tiles.equals(found.tiles) and shuffled.candidates.equals(found.candidates)


@given(some_rows())
def test_bounds_are_the_smallest_that_hold_all_tiles_around_the_globe(rows: list[Row]) -> None:
    found = group(positives(rows))
    places: dict[str, list[tuple[int, int, int]]] = defaultdict(list)
    for tile in found.tiles.to_pylist():
        places[tile["candidate_id"]].append((tile["z"], tile["x"], tile["y"]))
    for candidate in found.candidates.to_pylist():
        here = [candidate[name] for name in ("longitude", "latitude", "west", "south", "east", "north")]
        if candidate["z"] is None:
            assert here == [None] * 6
            continue
        z, x, y = np.array(places[candidate["candidate_id"]]).T
        # Every way to cut the globe open in front of a column; the shortest span from west to east counts.
        spans = sorted(((x - first) % 2 ** z[0]).max() * 2**25 + first for first in x)
        west_column, num_further = spans[0] % 2**25, spans[0] // 2**25
        west, _, _, _ = bounds_of(z[0], west_column, 0)
        _, _, east, _ = bounds_of(z[0], (west_column + num_further) % 2 ** z[0], 0)
        assert here[:2] == [float(side) for side in center_of(candidate["z"], candidate["x"], candidate["y"])]
        if num_further < 2 ** z[0] - 1:  # else they go all around
            assert (candidate["west"], candidate["east"]) == (float(west), float(east))
        else:
            assert (candidate["west"], candidate["east"]) == (-180, 180)
        assert candidate["north"] == float(bounds_of(z[0], 0, y.min())[3])
        assert candidate["south"] == float(bounds_of(z[0], 0, y.max())[1])


def test_tiles_touch_at_corners_and_across_the_antimeridian_but_not_across_the_poles_or_zooms() -> None:
    last = 2**18 - 1
    assert [found["num_tiles"] for found in candidates_of([row(18, 5, 5), row(18, 6, 6)])] == [2]
    assert [found["num_tiles"] for found in candidates_of([row(18, 5, 5), row(18, 7, 5)])] == [1, 1]
    assert [found["num_tiles"] for found in candidates_of([row(18, last, 5), row(18, 0, 6)])] == [2]
    assert [found["num_tiles"] for found in candidates_of([row(18, 5, last), row(18, 5, 0)])] == [1, 1]
    assert [found["num_tiles"] for found in candidates_of([row(18, 5, 5), row(17, 5, 5)])] == [1, 1]


def test_bounds_across_the_antimeridian_begin_in_the_east() -> None:
    last = 2**18 - 1
    (found,) = candidates_of([row(18, last - 1, 5), row(18, last, 5), row(18, 0, 5, 0.875), row(18, 1, 5)])
    tile_degrees = 360 / 2**18
    assert (found["west"], found["east"]) == (180 - 2 * tile_degrees, -180 + 2 * tile_degrees)
    assert found["longitude"] == -180 + tile_degrees / 2


def test_the_most_probable_candidate_comes_first_and_ties_go_by_name() -> None:
    rows = [row(18, 5, 5), row(18, 50, 5), row(18, 500, 5, 0.875), row(18, 501, 5)]
    assert [found["candidate_id"] for found in candidates_of(rows)] == ["18-500-5", "18-5-5", "18-50-5"]
    assert [found["candidate_id"] for found in candidates_of([row(18, 10, 5), row(18, 9, 5)])] == ["18-10-5"]


def test_files_of_one_place_are_one_candidate() -> None:
    rows: list[Row] = [("2023/18-5-5.jpg", 18, 5, 5, 0.75), ("2024/18-5-5.jpg", 18, 5, 5, 0.875), row(18, 6, 5)]
    (found,) = candidates_of(rows)
    assert (found["candidate_id"], found["num_tiles"]) == ("2024/18-5-5.jpg", 3)


def test_files_without_a_place_are_candidates_of_their_own_without_coordinates() -> None:
    rows: list[Row] = [("b.jpg", None, None, None, 0.75), ("a.jpg", None, None, None, 0.75), row(18, 5, 5, 0.5)]
    assert [(found["candidate_id"], found["longitude"], found["num_tiles"]) for found in candidates_of(rows)] == [
        ("a.jpg", None, 1),
        ("b.jpg", None, 1),
        ("18-5-5", pytest.approx(-179.99245, abs=1e-5), 1),
    ]


def test_no_positives_are_no_candidates() -> None:
    found = group(positives([]))
    assert (len(found.tiles), len(found.candidates)) == (0, 0)
    assert found.candidates.schema == CANDIDATES
