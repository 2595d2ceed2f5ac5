from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from satx.errors import DataError
from satx.splits.footprints import read_footprints
from satx.splits.pairs import TOUCH_SHARE, Pair, overlapping
from satx.tiles.layout import TileFile

SIDE = 2.0**-18
HEADER = "path,label,split,lon,lat,z,x,y,window_px"


def tile_file(root: Path, relative: str) -> TileFile:
    return TileFile(root / relative, relative, "school", "", "", is_listed=True)


def squares(*corners: tuple[float, float], side: float = SIDE) -> np.ndarray:
    west, north = np.array(corners, np.float64).T
    return np.stack([west, north, west + side, north + side], axis=1)


def write_table(root: Path, *lines: str) -> list[TileFile]:
    (root / "tiles.csv").write_text("\n".join([HEADER, *lines]) + "\n")
    return [tile_file(root, line.split(",")[0]) for line in lines]


def test_a_map_tile_a_window_and_a_named_tile_have_their_squares(tmp_path: Path) -> None:
    files = write_table(
        tmp_path,
        "a.jpg,school,,12.5,41.9,18,140174,97355,",
        "b.jpg,school,,0,0,18,131072,131072,256",
        "18-5-7.jpg,school,,,,,,,",
        "c.jpg,school,,,,,,,",
    )
    found = read_footprints(tmp_path, files)
    assert found[0].tolist() == [140174 * SIDE, 97355 * SIDE, 140175 * SIDE, 97356 * SIDE]
    assert found[1].tolist() == [0.5 - SIDE / 2, 0.5 - SIDE / 2, 0.5 + SIDE / 2, 0.5 + SIDE / 2]
    assert found[2].tolist() == [5 * SIDE, 7 * SIDE, 6 * SIDE, 8 * SIDE]
    assert np.isnan(found[3]).all()


def test_without_a_table_only_names_of_tiles_that_exist_tell_a_place(tmp_path: Path) -> None:
    names = ["train/school/18-131072-99999.jpg", "3_4_5.png", "2-4-0.jpg", "25-1-1.jpg", "school_12.jpg"]
    found = read_footprints(tmp_path, [tile_file(tmp_path, name) for name in names])
    assert (~np.isnan(found).any(axis=1)).tolist() == [True, True, False, False, False]


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("a.jpg,school,,200,0,18,1,1,256", "lon"),
        ("a.jpg,school,,0,86,18,1,1,256", "lat"),
        ("a.jpg,school,,east,0,18,1,1,256", "lon"),
        ("a.jpg,school,,nan,0,18,1,1,256", "lon"),
        ("a.jpg,school,,0,0,25,1,1,256", "z"),
        ("a.jpg,school,,0,0,18,1,1,0", "window_px"),
        ("a.jpg,school,,0,0,3,8,1,", "x"),
        ("a.jpg,school,,0,0,3,1,-1,", "y"),
        ("a.jpg,school,,0,0,3.5,1,1,", "z"),
    ],
)
def test_a_wrong_coordinate_is_named_with_its_line(tmp_path: Path, line: str, named: str) -> None:
    files = write_table(tmp_path, line)
    with pytest.raises(DataError, match=rf"line 2: expected .* for {named}, got"):
        read_footprints(tmp_path, files)


def test_windows_that_overlap_are_paired_with_their_common_share() -> None:
    places = squares((0.3, 0.4), (0.3 + SIDE / 2, 0.4), (0.3 + SIDE / 4, 0.4 + SIDE / 4), (0.9, 0.1))
    found = overlapping(places)
    assert [(pair.first, pair.second, pair.how) for pair in found] == [
        (0, 1, "overlap"),
        (0, 2, "overlap"),
        (1, 2, "overlap"),
    ]
    assert [pair.score for pair in found] == pytest.approx([0.5, 0.5625, 0.5625], abs=1e-6)


def test_tiles_of_a_map_that_touch_do_not_overlap_and_a_parent_overlaps_each_child() -> None:
    x, y = (grid.ravel() for grid in np.meshgrid(np.arange(140170, 140180), np.arange(97350, 97360)))
    tiles = squares(*zip(x * SIDE, y * SIDE, strict=True))
    assert overlapping(tiles) == []
    parent = squares((140172 * SIDE, 97352 * SIDE), side=4 * SIDE)
    pairs = overlapping(np.concatenate([tiles, parent]))
    assert len(pairs) == 16
    assert {pair.score for pair in pairs} == {1.0}


def test_windows_that_touch_do_not_overlap_whatever_their_coordinates_are_rounded_by(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    longitude = random.uniform(-170, 170, 200)
    latitude = random.uniform(-60, 60, 200)
    lines = []
    for number, (west, north) in enumerate(zip(longitude, latitude, strict=True)):
        for part in range(2):
            lines.append(f"{number}-{part}.jpg,school,,{west + part * 360 * SIDE:.7f},{north:.7f},18,0,0,256")
    assert overlapping(read_footprints(tmp_path, write_table(tmp_path, *lines))) == []


def test_squares_that_share_two_pixels_of_256_touch_and_with_a_third_they_overlap() -> None:
    pixel = SIDE / 256
    assert overlapping(squares((0.25, 0.25), (0.25 + 254 * pixel, 0.25))) == []
    (pair,) = overlapping(squares((0.25, 0.25), (0.25 + 253 * pixel, 0.25)))
    assert pair.score == 3 / 256


def test_the_antimeridian_separates_nothing() -> None:
    places = squares((-SIDE / 4, 0.4), (1 - SIDE / 2, 0.4), (0.0, 0.4), (1 - SIDE / 4, 0.4), (0.5, 0.4))
    found = {(pair.first, pair.second): pair.score for pair in overlapping(places)}
    assert sorted(found) == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    assert found[0, 3] == pytest.approx(1.0)
    assert found[1, 2] == pytest.approx(0.5)


def test_a_tile_without_a_place_is_in_no_pair_and_no_tiles_have_no_pairs() -> None:
    places = squares((0.3, 0.4), (0.3, 0.4))
    places[1] = np.nan
    assert overlapping(places) == []
    assert overlapping(places[:0]) == []


@given(
    st.lists(st.tuples(st.integers(-40, 4095), st.integers(0, 600)), min_size=2, max_size=25, unique=True),
    st.sampled_from([64, 256]),
)
def test_pairs_are_those_of_a_comparison_of_all_with_all(corners: list[tuple[int, int]], size_px: int) -> None:
    world_px = 4096  # small, so that squares meet across the antimeridian
    places = np.array([(x, y, x + size_px, y + size_px) for x, y in corners]) / world_px
    expected = []
    for first in range(len(corners)):
        for second in range(first + 1, len(corners)):
            (x0, y0), (x1, y1) = corners[first], corners[second]
            apart_x = abs((x0 - x1 + world_px // 2) % world_px - world_px // 2)
            common_x, common_y = size_px - apart_x, size_px - abs(y0 - y1)
            if min(common_x, common_y) > size_px * TOUCH_SHARE:
                expected.append(Pair(first, second, "overlap", common_x * common_y / size_px**2))
    found = overlapping(places)
    assert [pair[:3] for pair in found] == [pair[:3] for pair in expected]
    assert [pair.score for pair in found] == pytest.approx([pair.score for pair in expected], abs=1e-6)


def test_fifty_thousand_windows_are_compared() -> None:
    random = np.random.default_rng(0)
    places = squares(*random.uniform(0.4, 0.41, (50_000, 2)))
    found = overlapping(places)
    assert len(found) > 100
    assert all(pair.first < pair.second and 0 < pair.score <= 1 for pair in found)
