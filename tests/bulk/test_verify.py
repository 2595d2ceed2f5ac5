from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from satx.bulk.block_file import ModelIdentity, block_table
from satx.bulk.ledger import BLOCKS_NAME, LEDGER_FORMAT, PLAN_NAME, RUN_NAME, Ledger, open_ledger
from satx.bulk.plan import Plan, plan_digest, plan_files, plan_grid
from satx.bulk.products import products_of
from satx.bulk.verify import Verified, verify
from satx.errors import DataError
from satx.grid.tiles import keys_of
from satx.imagery.contract import BLANK, BROKEN, FAILED, MISSING, Unscored

MODEL = ModelIdentity("schools", 3, "d1", ("other", "house", "school"), "school", 0.75, 64, sample=True)
UNSCORED = (
    Unscored(BLANK, "one color"),
    Unscored(MISSING, "404"),
    Unscored(BROKEN, "HTML"),
    Unscored(FAILED, "timeout"),
)


def grid_plan() -> Plan:
    """300 tiles of three zooms, each a block."""
    zooms = np.repeat([12, 13, 14], 100)
    return plan_grid(keys_of(zooms, 1000 + np.arange(300) % 10, 2000 + np.arange(300) // 10))


def files_plan() -> Plan:
    return plan_files([f"photo {number:04d}.jpg" for number in range(1100)] + ["18/5/6.jpg", "19/5/6.jpg", "ä.jpg"])


def write_run(folder: Path, plan: Plan) -> Ledger:
    """Write what a finished prediction writes, with scores and statuses drawn with a seed."""
    ledger = open_ledger(str(folder))
    record = {"kind": plan.kind, "identity": {"plan": plan.digest, "model": asdict(MODEL)}}
    ledger.prepare(record, plan.table)
    generator = np.random.default_rng(1)
    for block in plan.blocks:
        scores: list[Any] = []
        for draw in generator.random(block.num_tiles).astype(np.float32):
            is_scored = generator.random() < 0.9
            others = (1 - draw) / 2
            scores.append(
                np.array([others, others, draw]) if is_scored else UNSCORED[generator.integers(len(UNSCORED))]
            )
        ledger.write(block.name, block_table(plan.tiles(block), scores, MODEL))
    products = products_of((ledger.read(block.name) for block in plan.blocks), MODEL)
    for name, write in products.files.items():
        ledger.files.put(name, write)
    ledger.write_json(RUN_NAME, {"counts": products.counts, "seconds": 1.5})
    return ledger


@pytest.fixture(params=[grid_plan, files_plan])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Ledger, Plan]:
    plan = request.param()
    return write_run(tmp_path, plan), plan


def faults(ledger: Ledger) -> list[str]:
    return [str(fault) for fault in verify(ledger).faults]


def block_path(folder: Path, plan: Plan, index: int = 1) -> Path:
    return folder / "blocks" / f"{plan.blocks[index].name}.parquet"


def test_a_finished_run_is_whole_and_its_counts_are_those_of_its_record(run: tuple[Ledger, Plan]) -> None:
    ledger, plan = run
    found = verify(ledger)
    assert found.is_whole
    assert (found.num_blocks, found.num_planned_tiles) == (len(plan.blocks), plan.num_tiles)
    assert (found.missing, found.faults) == ((), ())
    assert found.counts["num_tiles"] == plan.num_tiles
    recorded = json.loads(ledger.files.get(RUN_NAME, Path.read_text))["counts"]
    assert {name: recorded[name] for name in found.counts} == found.counts
    assert found.counts["status"]["done"] > found.counts["num_above_threshold"] > 0


def test_the_digest_of_the_plan_is_the_one_of_its_table() -> None:
    for plan in (grid_plan(), files_plan()):
        assert plan_digest(plan.kind, plan.table) == plan.digest


def test_progress_is_told_for_every_block(run: tuple[Ledger, Plan], tmp_path: Path) -> None:
    ledger, plan = run
    block_path(tmp_path, plan).unlink()
    told = list[tuple[int, int]]()
    verify(ledger, lambda done, total: told.append((done, total)))
    assert told == [(done, len(plan.blocks)) for done in range(len(plan.blocks) + 1)]


def test_an_unfinished_run_names_the_blocks_that_are_missing(run: tuple[Ledger, Plan], tmp_path: Path) -> None:
    ledger, plan = run
    block_path(tmp_path, plan).unlink()
    found = verify(ledger)
    assert (found.missing, found.faults, found.is_whole) == ((plan.blocks[1].name,), (), False)
    assert found.counts["num_tiles"] == plan.num_tiles - plan.blocks[1].num_tiles


def test_files_that_the_plan_does_not_have_are_faults_and_temporary_ones_are_not(
    run: tuple[Ledger, Plan], tmp_path: Path
) -> None:
    (tmp_path / "blocks" / ".half-written.parquet").write_bytes(b"")
    assert verify(run[0]).is_whole
    (tmp_path / "blocks" / "9-9-9.parquet").write_bytes(block_path(tmp_path, run[1]).read_bytes())
    (tmp_path / "blocks" / "notes.txt").write_text("")
    assert faults(run[0]) == [
        "blocks/9-9-9.parquet: the plan has no such block. Move it elsewhere.",
        "blocks/notes.txt: the plan has no such block. Move it elsewhere.",
    ]


def with_column(table: pa.Table, name: str, values: Any) -> pa.Table:
    index = table.schema.get_field_index(name)
    return table.set_column(
        index, table.schema.field(index), pa.chunked_array([values]).cast(table.schema.field(index).type)
    )


def changed_value(table: pa.Table, name: str, row: int, value: Any) -> pa.Table:
    values = table[name].to_pylist()
    values[row] = value
    return with_column(table, name, pa.array(values, pa.string() if name == "status" else table[name].type))


def first_row(table: pa.Table, status: str) -> int:
    return int(pc.index(table["status"].cast(pa.string()), status).as_py())


def change(name: str, status: str, value: Any) -> Callable[[pa.Table], pa.Table]:
    return lambda table: changed_value(table, name, first_row(table, status), value)


def lower_score(table: pa.Table) -> pa.Table:
    row = pc.index(table["above_threshold"], True).as_py()
    return changed_value(
        changed_value(table, "prob_school", row, 0.25), "prob_other", row, 0.75 - table["prob_house"][row].as_py()
    )


def scored(*probabilities: float) -> Callable[[pa.Table], pa.Table]:
    """Change the probabilities of the first scored tile."""

    def edit(table: pa.Table) -> pa.Table:
        for name, probability in zip(MODEL.classes, probabilities, strict=True):
            table = changed_value(table, f"prob_{name}", first_row(table, "done"), probability)
        return table

    return edit


def from_another_model(table: pa.Table) -> pa.Table:
    return table.replace_schema_metadata({"positive_class": "school", "threshold": "0.5"})


# each change of the rows of a block, and the words of the fault
ROW_CHANGES: list[tuple[Callable[[pa.Table], pa.Table], str]] = [
    (lambda table: table.slice(1), "tiles, got"),
    (lambda table: pa.concat_tables([table, table.slice(0, 1)]), "tiles, got"),
    (lambda table: pa.concat_tables([table.slice(1), table.slice(0, 1)]), "tiles of the plan in its order"),
    (lambda table: pa.concat_tables([table.slice(0, 1), table.slice(0, len(table) - 1)]), "tiles of the plan in its"),
    (change("tile_id", "done", "18-1-2"), "tiles of the plan in its order"),
    (change("status", "missing", "lost"), "expected a status of done, blank"),
    (change("status", "missing", "done"), "probabilities if and only if the status is done"),
    (change("status", "done", "missing"), "probabilities if and only if the status is done"),
    (change("prob_school", "done", None), "probabilities if and only if the status is done"),
    (change("prob_other", "missing", 0.5), "probabilities if and only if the status is done"),
    (change("above_threshold", "missing", False), "probabilities if and only if the status is done"),
    (change("above_threshold", "done", None), "probabilities if and only if the status is done"),
    (change("prob_school", "done", float("nan")), "probabilities from 0 to 1 that add up to 1"),
    (change("prob_school", "done", 1.5), "probabilities from 0 to 1 that add up to 1"),
    (change("prob_other", "done", -0.5), "probabilities from 0 to 1 that add up to 1"),
    (scored(-0.25, 0.5, 0.75), "probabilities from 0 to 1 that add up to 1"),
    (scored(0.9, 0.05, 0.9), "probabilities from 0 to 1 that add up to 1"),
    (scored(0.0, 0.0, 0.9), "probabilities from 0 to 1 that add up to 1"),
    (lower_score, "above_threshold as the probability and the threshold say"),
    (change("reason", "missing", None), "a reason if and only if the status is not done"),
    (change("reason", "done", "fine"), "a reason if and only if the status is not done"),
    (change("model_version", "done", 4), "version 3 of the model"),
    (from_another_model, "expected the positive class school with threshold 0.75"),
    (lambda table: table.drop_columns("reason"), "expected the columns"),
    (
        lambda table: table.cast(table.schema.set(4, pa.field("status", pa.string(), nullable=False))),
        "expected the columns",
    ),
    (lambda table: table.rename_columns({"prob_other": "prob_house"}), "expected the columns"),
    (lambda table: table.cast(table.schema.set(3, pa.field("y", pa.int64()))), "expected the columns"),
]


@pytest.mark.parametrize(("edit", "words"), ROW_CHANGES)
def test_a_block_with_other_rows_is_a_fault_of_this_block(
    run: tuple[Ledger, Plan], edit: Callable[[pa.Table], pa.Table], words: str
) -> None:
    ledger, plan = run
    name = plan.blocks[1].name
    table = ledger.read(name)
    ledger.write(name, edit(table))
    found = verify(ledger)
    assert {fault.file for fault in found.faults} == {f"blocks/{name}.parquet"}
    assert any(words in fault.what for fault in found.faults)
    assert "Delete it and repeat the prediction" in str(found.faults[0])
    assert found.counts["num_tiles"] == plan.num_tiles - plan.blocks[1].num_tiles
    ledger.write(name, table)
    assert verify(ledger).is_whole


def test_other_coordinates_than_the_tile_s_are_a_fault(tmp_path: Path) -> None:
    plan = grid_plan()
    ledger = write_run(tmp_path, plan)
    table = ledger.read(plan.blocks[0].name)
    ledger.write(plan.blocks[0].name, changed_value(table, "x", 5, 7))
    assert "tiles of the plan in its order" in faults(ledger)[0]


def test_two_blocks_that_were_swapped_are_two_faults(run: tuple[Ledger, Plan], tmp_path: Path) -> None:
    ledger, plan = run
    one, other = (block_path(tmp_path, plan, index) for index in (0, 1))
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    assert len(faults(ledger)) == 2


@pytest.mark.parametrize("plan", [grid_plan(), files_plan()], ids=["grid", "files"])
def test_a_tile_in_two_blocks_is_a_fault_even_if_the_plan_says_so(plan: Plan, tmp_path: Path) -> None:
    first, second = plan.blocks[:2]
    doubled = replace(plan, blocks=(first, second._replace(start=second.start - 1)))
    found = verify(write_run(tmp_path, doubled))
    assert [fault.what for fault in found.faults] == [
        f"expected tiles that come after those of block {first.name}, got {plan.tiles(first)[-1].tile_id}"
    ]


@pytest.mark.parametrize("plan", [grid_plan(), files_plan()], ids=["grid", "files"])
def test_a_tile_twice_in_a_block_is_a_fault_even_if_the_plan_says_so(plan: Plan, tmp_path: Path) -> None:
    rows = plan.rows[:3].tolist()
    doubled = np.array([*rows, rows[-1]], np.uint64) if plan.kind == "grid" else pa.array([*rows, rows[-1]])
    found = verify(write_run(tmp_path, replace(plan, rows=doubled, blocks=(plan.blocks[0]._replace(stop=4),))))
    assert [fault.what for fault in found.faults] == [
        "expected each tile once and in order, got one twice or before another"
    ]


def small_run(folder: Path) -> tuple[Ledger, Path]:
    plan = plan_grid(keys_of(np.full(40, 12), np.arange(1000, 1040), np.full(40, 2000)))
    return write_run(folder, plan), block_path(folder, plan, 0)


def counted(found: Verified) -> tuple[bool, dict[str, Any]]:
    return found.is_whole, found.counts


def test_a_truncated_block_is_a_fault(tmp_path: Path) -> None:
    ledger, path = small_run(tmp_path)
    content = path.read_bytes()
    for length in range(0, len(content), 97):
        path.write_bytes(content[:length])
        assert "got a damaged one" in faults(ledger)[0], length


def test_a_changed_byte_is_a_fault_or_changes_no_row(tmp_path: Path) -> None:
    ledger, path = small_run(tmp_path)
    content, table = path.read_bytes(), ledger.read(path.stem)
    choices = random.Random(1)
    num_found = 0
    for position in choices.sample(range(len(content)), 200):
        damaged = bytearray(content)
        damaged[position] ^= choices.randrange(1, 256)
        path.write_bytes(damaged)
        if faults(ledger):
            num_found += 1
        else:
            found = ledger.read(path.stem)  # the size of the numbers of a dictionary may differ: it changes no row
            assert found.to_pylist() == table.to_pylist(), position
            assert found.schema.metadata == table.schema.metadata, position
    assert num_found > 100


def test_a_changed_header_of_a_dictionary_is_a_fault_or_changes_no_row(tmp_path: Path) -> None:
    ledger, path = small_run(tmp_path)
    content, rows = path.read_bytes(), ledger.read(path.stem).to_pylist()
    metadata = pq.read_metadata(path)
    columns = [metadata.row_group(0).column(index) for index in range(metadata.num_columns)]
    (status,) = (column for column in columns if column.path_in_schema == "status")
    # A header has no checksum: the file is read, but its dictionary can be empty.
    for position in range(status.dictionary_page_offset, status.dictionary_page_offset + 16):
        for mask in (1, 0x80):
            damaged = bytearray(content)
            damaged[position] ^= mask
            path.write_bytes(damaged)
            if not faults(ledger):
                assert ledger.read(path.stem).to_pylist() == rows, position


def test_a_changed_byte_at_the_end_of_a_column_is_a_fault(tmp_path: Path) -> None:
    ledger, path = small_run(tmp_path)
    content = path.read_bytes()
    metadata = pq.read_metadata(path)
    columns = [metadata.row_group(0).column(index) for index in range(metadata.num_columns)]
    last_bytes = [  # the last byte of each column's last page, whose header is at its start
        (column.dictionary_page_offset or column.data_page_offset) + column.total_compressed_size - 1
        for column in columns
    ]
    for position in last_bytes:
        damaged = bytearray(content)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        assert faults(ledger), position


def test_a_record_with_other_counts_is_a_fault(run: tuple[Ledger, Plan]) -> None:
    ledger, _ = run
    record = ledger.read_json(RUN_NAME)
    assert record is not None
    record["counts"]["status"]["done"] += 1
    record["counts"]["status"]["missing"] -= 1
    ledger.write_json(RUN_NAME, record)
    assert faults(ledger) == [
        "run.json: expected the counts of the blocks, got another status. Delete it and repeat the prediction, which makes it "
        "from the blocks."
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [(None, "got none"), ("{}", "got none"), ("[1]", "got something else"), ('{"cou', "got something else")],
)
def test_a_run_without_readable_counts_is_not_whole(
    run: tuple[Ledger, Plan], tmp_path: Path, text: str | None, words: str
) -> None:
    (tmp_path / RUN_NAME).unlink()
    if text is not None:
        (tmp_path / RUN_NAME).write_text(text)
    (fault,) = verify(run[0]).faults
    assert fault.file == RUN_NAME and words in fault.what


@pytest.mark.parametrize("name", ["candidates.parquet", "tiles_above_threshold.parquet"])
def test_tables_made_from_the_blocks_are_read_and_counted(run: tuple[Ledger, Plan], tmp_path: Path, name: str) -> None:
    ledger, path = run[0], tmp_path / name
    content, table = path.read_bytes(), pq.read_table(path)
    path.unlink()
    assert "got no file" in faults(ledger)[0]
    pq.write_table(table.slice(1), path)
    assert f"expected {len(table)} rows as run.json says, got {len(table) - 1}" in faults(ledger)[0]
    metadata = pq.ParquetFile(path).metadata
    path.write_bytes(content)
    assert verify(ledger).is_whole
    column = pq.read_metadata(path).row_group(0).column(metadata.num_columns - 1)
    position = (column.dictionary_page_offset or column.data_page_offset) + column.total_compressed_size - 1
    path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
    assert "got a damaged file" in faults(ledger)[0]


def test_without_the_plan_nothing_can_be_verified(run: tuple[Ledger, Plan], tmp_path: Path) -> None:
    ledger, plan = run
    blocks = ledger.read_table(BLOCKS_NAME)
    ledger.write_table(BLOCKS_NAME, blocks.slice(1))
    with pytest.raises(DataError, match=r"expected the blocks of plan\.json, got others"):
        verify(ledger)
    (tmp_path / BLOCKS_NAME).unlink()
    with pytest.raises(DataError, match=r"expected the blocks of the plan, got none"):
        verify(ledger)
    ledger.write_table(BLOCKS_NAME, blocks)
    assert verify(ledger).is_whole
    written = ledger.read_json(PLAN_NAME)
    assert written is not None and written["format"] == LEDGER_FORMAT and plan.kind == written["kind"]
    ledger.write_json(PLAN_NAME, {"format": LEDGER_FORMAT + 1, "blocks": []})
    with pytest.raises(DataError, match=rf"expected format {LEDGER_FORMAT}, got {LEDGER_FORMAT + 1}"):
        verify(ledger)
    (tmp_path / PLAN_NAME).unlink()
    with pytest.raises(DataError, match="expected the output of satx predict"):
        verify(ledger)
