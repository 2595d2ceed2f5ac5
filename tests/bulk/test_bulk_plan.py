from __future__ import annotations

import hashlib
import re
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from unittest import mock

import mercantile
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from satx.bulk import plan as plan_module
from satx.bulk.block_file import ModelIdentity, block_table
from satx.bulk.plan import (
    MAX_BLOCK_FILES,
    MAX_BLOCK_TILES,
    Block,
    Plan,
    place_in_name,
    plan_files,
    plan_grid,
    verify_digest,
)
from satx.errors import DataError
from satx.grid.tiles import keys_of
from satx.imagery.contract import MISSING, UNKNOWN, Tile, Unscored

MODEL = ModelIdentity("schools", 3, "d" * 64, ("no", "yes"), "yes", 0.5, 32, False)
Place = tuple[int, int, int]


def plan_of(places: list[Place]) -> Plan:
    z, x, y = np.array(places).T
    return plan_grid(keys_of(z, x, y))


def square(edge: int, z: int = 18, x: int = 158_000, y: int = 131_100) -> Plan:
    columns, rows = np.meshgrid(np.arange(edge) + x, np.arange(edge) + y)
    return plan_grid(np.sort(keys_of(z, columns.ravel(), rows.ravel())))


def parent_of(block: Block) -> mercantile.Tile:
    z, x, y = (int(part) for part in block.name.split("-")[:3])
    return mercantile.Tile(x, y, z)


@st.composite
def clusters(draw: st.DrawFn) -> list[Place]:
    """Draw tiles of one or several zooms, some of them close together, in any order, some twice."""
    places: list[Place] = []
    for z in draw(st.lists(st.sampled_from([0, 3, 9, 18, 24]), min_size=1, max_size=3)):
        last = (1 << z) - 1
        for _ in range(draw(st.integers(1, 3))):
            x, y = draw(st.integers(0, last)), draw(st.integers(0, last))
            near = st.tuples(st.integers(0, 9), st.integers(0, 9))
            places += [
                (z, min(x + right, last), min(y + down, last)) for right, down in draw(st.lists(near, max_size=40))
            ]
            places.append((z, x, y))
    return places


@settings(max_examples=60)
@given(clusters(), st.sampled_from([1, 2, 4, 16, 64]))
def test_every_tile_is_in_exactly_one_block_under_one_parent(places: list[Place], max_tiles: int) -> None:
    with mock.patch.object(plan_module, "MAX_BLOCK_TILES", max_tiles):
        plan = plan_of(places)
    expected = set(places)
    assert plan.num_tiles == len(expected)
    blocks = {block: plan.tiles(block) for block in plan.blocks}
    assert [tile for tiles in blocks.values() for tile in tiles] == plan.tiles(Block("all", 0, plan.num_tiles))
    assert Counter(tile[1:] for tiles in blocks.values() for tile in tiles) == dict.fromkeys(expected, 1)
    assert len({block.name for block in plan.blocks}) == len(plan.blocks)
    num_zooms = len({z for z, _, _ in places})
    for block, tiles in blocks.items():
        assert 1 <= len(tiles) == block.num_tiles <= max_tiles
        assert all(tile.tile_id == f"{tile.z}-{tile.x}-{tile.y}" for tile in tiles)
        (zoom,) = {tile.z for tile in tiles}
        assert block.name.count("-") == 2 if num_zooms == 1 else block.name.endswith(f"-zoom-{zoom}")
        parent = parent_of(block)
        below = [place for place in expected if place[0] == zoom and is_below(place, parent)]
        assert len(below) == len(tiles), "the block has all tiles under its parent"
        if parent.z:
            above = [place for place in expected if place[0] == zoom and is_below(place, mercantile.parent(parent))]
            assert len(above) == len(tiles) or len(above) > max_tiles, "not divided more than needed"


def is_below(place: Place, parent: mercantile.Tile) -> bool:
    z, x, y = place
    levels = z - parent.z
    return levels >= 0 and (x >> levels, y >> levels) == (parent.x, parent.y)


def test_a_full_parent_is_one_block_and_is_named_after_it() -> None:
    full = square(64, x=158_016, y=131_136)
    assert [(block.name, block.num_tiles) for block in full.blocks] == [("12-2469-2049", MAX_BLOCK_TILES)]
    more = square(65, x=158_016, y=131_136)
    assert [block.num_tiles for block in more.blocks] == [4096, 64, 64, 1]
    assert [block.name for block in more.blocks[-1:]] == ["18-158080-131200"], "a single tile is its own parent"


@settings(max_examples=40)
@given(clusters(), st.randoms())
def test_order_and_repetition_of_the_tiles_change_nothing(places: list[Place], random: Random) -> None:
    plan = plan_of(places)
    shuffled = places + places[:3]
    random.shuffle(shuffled)
    again = plan_of(shuffled)
    assert again.blocks == plan.blocks
    assert again.digest == plan.digest
    assert again.table.equals(plan.table)
    fewer = [place for place in places if place != places[0]]
    if fewer:
        assert plan_of(fewer).digest != plan.digest


def test_digests_are_what_the_documentation_says() -> None:
    plan = plan_of([(3, 5, 2), (3, 5, 3)])
    (block,) = plan.blocks
    assert block.name == "2-2-1"
    keys = struct.pack("<QQ", 3 << 58 | 0b011001, 3 << 58 | 0b011011)
    digest = hashlib.sha256(keys).hexdigest()
    assert plan.block_digest(block) == digest
    assert plan.digest == hashlib.sha256(f"grid\n2-2-1 2 {digest}\n".encode()).hexdigest()
    files = plan_files(["b.jpg", "a.jpg", "ä.jpg"])
    digest = hashlib.sha256("a.jpg\nb.jpg\nä.jpg\n".encode()).hexdigest()
    assert files.block_digest(files.blocks[0]) == digest
    assert files.digest == hashlib.sha256(f"files\nfiles-000000 3 {digest}\n".encode()).hexdigest()


def test_another_process_plans_the_same() -> None:
    code = (
        "import numpy as np; from satx.bulk.plan import plan_grid; from satx.grid.tiles import keys_of; "
        "x = np.arange(9000) * 7; print(plan_grid(keys_of(18, x % 4000 + 158_000, x // 4000 + 131_100)).digest)"
    )
    x = np.arange(9000) * 7
    plan = plan_grid(keys_of(18, x % 4000 + 158_000, x // 4000 + 131_100))
    assert len(plan.blocks) > 1
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == plan.digest


def test_the_table_has_a_row_for_each_block() -> None:
    plan = square(150)
    table = plan.table
    assert table.column_names == ["name", "num_tiles", "digest"]
    assert table["name"].to_pylist() == [block.name for block in plan.blocks]
    assert sum(table["num_tiles"].to_pylist()) == plan.num_tiles == 150 * 150
    assert table["digest"].to_pylist() == [plan.block_digest(block) for block in plan.blocks]
    assert len(set(table["digest"].to_pylist())) == len(plan.blocks) > 1


def written(plan: Plan, block: Block, folder: Path) -> pa.Table:
    """Return the table of a block as it comes back from its Parquet file; half of its tiles have no score."""
    tiles = plan.tiles(block)
    scores = [np.array([0.25, 0.75], np.float32) if row % 2 else Unscored(MISSING, "404") for row in range(len(tiles))]
    pq.write_table(block_table(tiles, scores, MODEL), folder / f"{block.name}.parquet")
    return pq.read_table(folder / f"{block.name}.parquet")


NAMES = [*(f"18/158000/{131_000 + row}.jpg" for row in range(1500)), *(f"school/ü {row}.png" for row in range(700))]


@pytest.mark.parametrize("plan", [square(90), plan_files(NAMES)], ids=["grid", "files"])
def test_the_file_of_a_block_gives_the_digest_of_the_plan(plan: Plan, tmp_path: Path) -> None:
    assert len(plan.blocks) > 2
    for block in plan.blocks:
        table = written(plan, block, tmp_path)
        assert verify_digest(table) == plan.block_digest(block)
        parts = [table.slice(0, 3), table.slice(3)]
        assert verify_digest(pa.concat_tables(parts)) == plan.block_digest(block), "however the rows are held in memory"


def with_value(name: str, row: int, value: object) -> Callable[[pa.Table], pa.Table]:
    def changed(table: pa.Table) -> pa.Table:
        values = table[name].to_pylist()
        values[row] = value
        place = table.column_names.index(name)
        return table.set_column(place, table.schema.field(place), pa.array(values, table[name].type))

    return changed


CHANGES: dict[str, Callable[[pa.Table], pa.Table]] = {
    "a row is missing": lambda table: table.slice(1),
    "a row is there twice": lambda table: pa.concat_tables([table, table.slice(0, 1)]),
    "a row replaced another": lambda table: pa.concat_tables([table.slice(0, 1), table.slice(0, 1), table.slice(2)]),
    "two rows are swapped": lambda table: table.take([1, 0, *range(2, table.num_rows)]),
    "no row is left": lambda table: table.slice(0, 0),
    "another id": with_value("tile_id", 2, "18-1-1"),
}
PLACE_CHANGES = {
    "another column": with_value("x", 2, 1),
    "no place": with_value("y", 2, None),
    "a zoom that is none": with_value("z", 2, 99),
    "another tile": lambda table: with_value("tile_id", 2, "18-1-1")(
        with_value("x", 2, 1)(with_value("y", 2, 1)(table))
    ),
    "a tile that is none": lambda table: with_value("tile_id", 2, "9-99999-0")(
        with_value("z", 2, 9)(with_value("x", 2, 99_999)(with_value("y", 2, 0)(table)))
    ),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("plan", [square(90), plan_files(NAMES)], ids=["grid", "files"])
def test_other_rows_have_another_digest(plan: Plan, change: str, tmp_path: Path) -> None:
    table = written(plan, plan.blocks[0], tmp_path)
    assert verify_digest(CHANGES[change](table)) != plan.block_digest(plan.blocks[0])


@pytest.mark.parametrize("change", PLACE_CHANGES)
def test_rows_of_other_places_have_another_digest(change: str, tmp_path: Path) -> None:
    plan = square(90)
    table = written(plan, plan.blocks[0], tmp_path)
    assert verify_digest(PLACE_CHANGES[change](table)) != plan.block_digest(plan.blocks[0])


@settings(max_examples=30)
@given(
    st.sets(st.text(st.characters(exclude_characters="\n", codec="utf-8"), min_size=1, max_size=8), min_size=1),
    st.randoms(),
)
def test_files_are_planned_sorted_each_in_one_block(names: set[str], random: Random) -> None:
    given_names = list(names)
    random.shuffle(given_names)
    with mock.patch.object(plan_module, "MAX_BLOCK_FILES", 4):
        plan = plan_files(iter(given_names))
    assert [tile.tile_id for block in plan.blocks for tile in plan.tiles(block)] == sorted(names)
    assert [block.name for block in plan.blocks] == [f"files-{number:06d}" for number in range(len(plan.blocks))]
    assert {block.num_tiles for block in plan.blocks[:-1]} <= {4}
    assert 1 <= plan.blocks[-1].num_tiles <= 4


def test_a_block_of_files_has_at_most_1024() -> None:
    plan = plan_files(NAMES)
    assert MAX_BLOCK_FILES == 1024
    assert [block.num_tiles for block in plan.blocks] == [1024, 1024, 152]
    assert plan.num_tiles == len(NAMES)
    assert plan.tiles(plan.blocks[0])[0] == Tile("18/158000/131000.jpg", 18, 158_000, 131_000)
    assert plan.tiles(plan.blocks[-1])[-1] == Tile("school/ü 99.png", UNKNOWN, UNKNOWN, UNKNOWN)


def test_names_of_blocks_are_safe_file_names() -> None:
    several_zooms = plan_of([(18, 158_000, 131_100), (17, 79_000, 65_550), (0, 0, 0)])
    for plan in (square(90), several_zooms, plan_files(NAMES)):
        assert all(re.fullmatch(r"[a-z0-9-]+", block.name) for block in plan.blocks)
        assert len({block.name for block in plan.blocks}) == len(plan.blocks)


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("18-158000-131100.jpg", (18, 158_000, 131_100)),
        ("kenya/18-158000-131100.jpg", (18, 158_000, 131_100)),
        ("18/158000/131100.png", (18, 158_000, 131_100)),
        ("kenya/18/158000/131100.webp", (18, 158_000, 131_100)),
        ("18_158000_131100.JPG", (18, 158_000, 131_100)),
        ("0-0-0.jpg", (0, 0, 0)),
        ("24-16777215-0.jpg", (24, 16_777_215, 0)),
    ],
)
def test_a_name_tells_its_place(name: str, place: Place) -> None:
    assert place_in_name(name) == place


@pytest.mark.parametrize(
    "name",
    [
        "school.jpg",
        "18-158000.jpg",
        "18-158000-131100",
        "18-158000_131100.jpg",
        "158000-131100-18.jpg",
        "3-8-0.jpg",
        "3-0-8.jpg",
        "25-0-0.jpg",
        "2020-10-12-13.jpg",
        "01-02-03.jpg",
        "09-10-13.jpg",
        "10-02-13.jpg",
        "IMG_10-12-13.jpg",
        "-1-0-0.jpg",
        "1١-0-0.jpg",
        "18/158000/131100.jpg/readme",
        "18-158000-131100.jpg\n",
    ],
)
def test_a_name_that_tells_no_place_is_not_given_one(name: str) -> None:
    assert place_in_name(name) == (UNKNOWN, UNKNOWN, UNKNOWN)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([], "at least one file"),
        (["b.jpg", "a.jpg", "b.jpg"], "got 'b.jpg' at least twice"),
        (["a.jpg", "b\nc.jpg"], r"in one line, got 'b\nc.jpg'"),
        (["a.jpg", "b\udc80.jpg"], "in UTF-8"),
    ],
)
def test_names_that_cannot_be_planned_are_refused(names: list[str], said: str) -> None:
    with pytest.raises(DataError) as caught:
        plan_files(names)
    assert said in str(caught.value)


def test_no_tile_is_no_plan() -> None:
    with pytest.raises(DataError, match="at least one tile"):
        plan_grid(np.empty(0, np.uint64))
