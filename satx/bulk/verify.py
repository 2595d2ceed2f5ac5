"""Recount a bulk prediction from its files alone, and name every fault.

A fault is a file that does not have what the plan says, not a tile without imagery: that has its status. Pages of Parquet files
have checksums, so a changed byte in them is found by reading. A changed byte between the pages is found if the file cannot be
read any more, or if it changes a name, a type, a number of rows or a value; not if it changes statistics or an encoding only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from satx.bulk.block_file import PROBABILITY_PREFIX, ModelIdentity, block_schema, recorded_model
from satx.bulk.counts import Tally
from satx.bulk.ledger import BLOCKS_NAME, FOLDER, PLAN_NAME, RUN_NAME, Ledger
from satx.bulk.plan import identities, plan_digest, verify_digest
from satx.bulk.products import CANDIDATES_NAME, TILES_NAME
from satx.errors import DataError
from satx.grid.tiles import is_increasing
from satx.imagery.contract import DONE, STATUSES

SUM_TOLERANCE = 1e-3  # of the probabilities of a tile, which are rounded to float32 at the most
ENDING = ".parquet"
_PREDICT_AGAIN = "Delete it and repeat the prediction, which predicts the blocks that have no file."
_MAKE_AGAIN = "Delete it and repeat the prediction, which makes it from the blocks."


@dataclass(frozen=True)
class Fault:
    """What is wrong with one file.

    Attributes:
        file: Its name within the folder of the run.
        what: What was expected and what was found.
        next_step: What to do.
    """

    file: str
    what: str
    next_step: str

    def __str__(self) -> str:
        """Return the fault in one line."""
        return f"{self.file}: {self.what}. {self.next_step}"


@dataclass(frozen=True)
class Verified:
    """What the files of a run have.

    Attributes:
        num_blocks: Number of blocks in the plan.
        num_planned_tiles: Number of tiles in the plan.
        missing: Names of the blocks that have no file: the run is not finished.
        faults: Everything else that is wrong, in the order of the plan.
        counts: The record of `counts.Tally` over the blocks without fault.
    """

    num_blocks: int
    num_planned_tiles: int
    missing: tuple[str, ...]
    faults: tuple[Fault, ...]
    counts: dict[str, Any]

    @property
    def is_whole(self) -> bool:
        """Whether each tile of the plan is in the output exactly once, and the record of the run says the same."""
        return not self.missing and not self.faults


def verify(ledger: Ledger, on_block: Callable[[int, int], None] = lambda _done, _total: None) -> Verified:
    """Read all files of a run, and check them against its plan and its record.

    Memory does not grow with the number of tiles: the plan is sorted, so a tile that comes twice breaks the order.

    Args:
        ledger: The output.
        on_block: Called before each block and at the end, with the number of blocks that were checked, and that of all.

    Raises:
        DataError: The plan is missing, damaged or of another format, so there is nothing to compare with.
    """
    plan, blocks = _read_plan(ledger)
    model = recorded_model(plan)
    tally, previous = Tally(model), _Order()
    missing: list[str] = []
    faults: list[Fault] = []
    present = ledger.files.names(FOLDER)
    rows = zip(*(blocks[column].to_pylist() for column in blocks.column_names), strict=True)
    for number, (name, num_tiles, digest) in enumerate(rows):
        on_block(number, len(blocks))
        if name + ENDING not in present:
            missing.append(name)
            continue
        table, found = _block(ledger, name, num_tiles, digest, model)
        if table is not None and not found:
            found = previous.faults_of(name, table)
        faults += [Fault(f"{FOLDER}/{name}{ENDING}", what, _PREDICT_AGAIN) for what in found]
        if table is not None and not found:
            tally.add(table)
    on_block(len(blocks), len(blocks))
    strangers = sorted(present - {name + ENDING for name in blocks["name"].to_pylist()})
    faults += [Fault(f"{FOLDER}/{name}", "the plan has no such block", "Move it elsewhere.") for name in strangers]
    counts = tally.record()
    if not missing and not faults:
        faults += _record_faults(ledger, counts)
    return Verified(len(blocks), pc.sum(blocks["num_tiles"]).as_py() or 0, tuple(missing), tuple(faults), counts)


class _Order:
    """The last tile of the blocks so far, after which the next block must begin."""

    def __init__(self) -> None:
        self._name = ""
        self._last: Any = None

    def faults_of(self, name: str, table: pa.Table) -> list[str]:
        """Return whether the tiles of the next block are sorted and come after those of the blocks before."""
        tiles = identities(table)
        if not len(tiles):
            return []
        if not is_increasing(tiles):
            return ["expected each tile once and in order, got one twice or before another"]
        if self._last is not None and (type(self._last) is not type(tiles[0]) or tiles[0] <= self._last):
            return [f"expected tiles that come after those of block {self._name}, got {table['tile_id'][0].as_py()}"]
        self._name, self._last = name, tiles[-1]
        return []


def _read_plan(ledger: Ledger) -> tuple[dict[str, Any], pa.Table]:
    """Return plan.json, and name, number of tiles and digest of each block.

    Raises:
        DataError: They are missing, damaged or of another format, or do not belong together.
    """
    shown, plan = ledger.files.shown, ledger.read_plan()
    try:
        blocks = ledger.read_table(BLOCKS_NAME).select(["name", "num_tiles", "digest"])
    except (FileNotFoundError, KeyError) as error:
        raise DataError(
            f"{shown}/{BLOCKS_NAME}: expected the blocks of the plan, got none. Repeat the prediction, which writes it."
        ) from error
    if plan_digest(plan["kind"], blocks) != plan["identity"]["plan"]:
        raise DataError(
            f"{shown}/{BLOCKS_NAME}: expected the blocks of {PLAN_NAME}, got others. Repeat the prediction, which writes "
            f"both."
        )
    return plan, blocks


def _block(
    ledger: Ledger, name: str, num_tiles: int, digest: str, model: ModelIdentity
) -> tuple[pa.Table | None, list[str]]:
    """Return the table of a block, None if it cannot be read, and what is wrong with it."""
    try:
        table = ledger.read(name)
        table.validate(full=True)  # headers of pages have no checksum: a dictionary may have been lost
    except (DataError, pa.ArrowException, UnicodeDecodeError):
        return None, ["expected a Parquet file as satx wrote it, got a damaged one"]
    except FileNotFoundError:  # deleted since the folder was listed
        return None, ["expected the file of the block, got none any more"]
    found = list(_schema_faults(table, model))
    if not found and len(table) != num_tiles:
        found = [f"expected {num_tiles:,} tiles, got {len(table):,}"]
    if not found and verify_digest(table) != digest:
        found = ["expected the tiles of the plan in its order, got others"]
    return table, found or list(_row_faults(table, model))


def _schema_faults(table: pa.Table, model: ModelIdentity) -> Iterator[str]:
    """Yield whether the columns or the model are others."""
    expected = _comparable(block_schema(model.classes))
    found = _comparable(table.schema)
    if not found.equals(expected):
        yield f"expected the columns {_shown(expected)}, got {_shown(found)}"
    metadata = {b"positive_class": model.positive_class.encode(), b"threshold": repr(model.threshold).encode()}
    if (table.schema.metadata or {}) != metadata:
        yield f"expected the positive class {model.positive_class} with threshold {model.threshold}, got others"


def _comparable(schema: pa.Schema) -> pa.Schema:
    """Return a schema in which numbers of a dictionary have one size: not every version of pyarrow reads back the same."""
    wide = [
        field.with_type(pa.dictionary(pa.int32(), field.type.value_type))
        if pa.types.is_dictionary(field.type)
        else field
        for field in schema
    ]
    return pa.schema(wide)


def _shown(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} {field.type}" for field in schema)


def _row_faults(table: pa.Table, model: ModelIdentity) -> Iterator[str]:
    """Yield what is wrong with the status, probabilities and reasons of a block's tiles."""
    statuses = table["status"].cast(pa.string())
    unknown = sorted(set(pc.unique(statuses).to_pylist()) - set(STATUSES))
    if unknown:
        yield f"expected a status of {', '.join(STATUSES)}, got {', '.join(unknown)}"
    is_done = _flags(pc.equal(statuses, DONE))
    columns = [table[PROBABILITY_PREFIX + name] for name in model.classes]
    has_scores = np.stack([_flags(pc.is_valid(column)) for column in (*columns, table["above_threshold"])])
    scores = np.stack([column.to_numpy() for column in columns]).astype(np.float64)[:, is_done]
    is_valid = (scores >= 0).all(axis=0) & (scores <= 1).all(axis=0) & (abs(scores.sum(axis=0) - 1) <= SUM_TOLERANCE)
    above = scores[model.positive_index] >= np.float32(model.threshold)
    checks = {
        "probabilities if and only if the status is done": (has_scores == is_done).all(axis=0),
        "a reason if and only if the status is not done": _flags(pc.is_valid(table["reason"])) != is_done,
        "probabilities from 0 to 1 that add up to 1": is_valid,
        "above_threshold as the probability and the threshold say": above == _flags(table["above_threshold"])[is_done],
        f"version {model.version} of the model": table["model_version"].to_numpy() == model.version,
    }
    for expected, is_right in checks.items():
        if not is_right.all():
            yield f"expected {expected}, got something else for {np.count_nonzero(~is_right):,} tiles"


def _flags(column: pa.ChunkedArray) -> np.ndarray:
    """Return a boolean column, False where it is null."""
    return np.asarray(pc.fill_null(column, False).to_numpy(), bool)


def _record_faults(ledger: Ledger, counts: dict[str, Any]) -> list[Fault]:
    """Return whether the record of the run and the tables made from the blocks have other numbers than the blocks."""
    try:
        run = ledger.read_json(RUN_NAME)
    except DataError:
        return [Fault(RUN_NAME, "expected a JSON object, got something else", _MAKE_AGAIN)]
    recorded = (run or {}).get("counts")
    if not isinstance(recorded, dict):
        return [
            Fault(RUN_NAME, "expected the counts of the run, got none", "Repeat the prediction, which writes them.")
        ]
    differing = sorted(name for name in counts if counts[name] != recorded.get(name))
    if differing:
        what = f"expected the counts of the blocks, got another {', '.join(differing)}"
        return [Fault(RUN_NAME, what, _MAKE_AGAIN)]
    num_rows = {CANDIDATES_NAME: recorded.get("num_candidates"), TILES_NAME: counts["num_above_threshold"]}
    found = {name: _num_rows(ledger, name) for name in num_rows}
    return [
        Fault(name, f"expected {num_rows[name]} rows as {RUN_NAME} says, got {found[name]}", _MAKE_AGAIN)
        for name in num_rows
        if found[name] != num_rows[name]
    ]


def _num_rows(ledger: Ledger, name: str) -> int | str:
    """Return the number of rows of a table, of which all pages are read; or what is wrong with it."""

    def read(path: Path) -> int:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            return sum(batch.num_rows for batch in file.iter_batches())

    try:
        return int(ledger.files.get(name, read))
    except FileNotFoundError:
        return "no file"
    except (pa.ArrowException, OSError):
        return "a damaged file"
