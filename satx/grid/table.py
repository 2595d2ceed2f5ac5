"""Tables of tiles: CSV or Parquet with the columns z, x and y, or with one column of tile ids."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from satx.errors import DataError
from satx.grid.tiles import MAX_ZOOM, keys_of, sorted_keys

PLACE_COLUMNS, ID_COLUMNS = ("z", "x", "y"), ("tile_id", "tile")

_ID = r"^\s*(?P<z>\d{1,2})[-/](?P<x>\d{1,8})[-/](?P<y>\d{1,8})\s*$"
_INTEGER = r"^\s*-?\d{1,18}\s*$"
_BATCH_ROWS = 1 << 17
_BLOCK_BYTES = 1 << 22


@dataclass(frozen=True)
class TileTable:
    """The tiles of a table.

    Attributes:
        keys: Their keys, sorted, without duplicates, uint64.
        num_duplicates: Number of rows whose tile another row has too.
    """

    keys: np.ndarray
    num_duplicates: int


def read_table(path: Path) -> TileTable:
    """Return the tiles of a CSV or Parquet file.

    The columns `z`, `x` and `y` are integers. If they are missing, a column `tile_id` or `tile` has texts such as `18-1234-567`
    or `18/1234/567`. Names count in any case; other columns are not read. CSV has its names in the first line and is separated
    by commas, semicolons or tabs. Memory is some 10 bytes a tile, 18 with duplicates, and one batch of rows.

    Raises:
        DataError: The file cannot be read, columns are missing, there is no row, or a row is no tile; the message names the
            first such row, counted from 1 below the names.
    """
    try:
        with path.open("rb") as stream:
            is_parquet = stream.read(4) == b"PAR1"
        batches = _parquet_batches(path) if is_parquet else _csv_batches(path)
        keys, num_duplicates = sorted_keys(_keys_of_batches(batches, path))
    except (pa.ArrowException, OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{path}: expected a CSV or Parquet file with the columns z, x and y, but it cannot be read: {error}. "
            f"Export it again."
        ) from error
    if not len(keys):
        raise DataError(f"{path}: expected at least one tile, got a table without rows.")
    return TileTable(keys, num_duplicates)


def _parquet_batches(path: Path) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(path) as file:
        schema = file.schema_arrow
        names = _columns(schema.names, path)
        for name in names:
            kind = schema.field(name).type
            kind = kind.value_type if pa.types.is_dictionary(kind) else kind
            is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
            if not (is_text if len(names) == 1 else pa.types.is_integer(kind)):
                expected = "texts such as 18-1234-567" if len(names) == 1 else "integers"
                raise DataError(f"{path}: expected {expected} in column {name!r}, got {kind}. Convert the column.")
        for batch in file.iter_batches(_BATCH_ROWS, columns=names):
            yield batch.select(names)  # in this order, which `columns` does not promise


def _csv_batches(path: Path) -> Iterator[pa.RecordBatch]:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        first_line = stream.readline(1 << 16)
    delimiter = max(",;\t", key=first_line.count)
    names = _columns(next(csv.reader([first_line], delimiter=delimiter), []), path)
    # As text, because a conversion to numbers that fails does not say in which row.
    with pyarrow.csv.open_csv(
        path,
        read_options=pyarrow.csv.ReadOptions(block_size=_BLOCK_BYTES),
        parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter),
        convert_options=pyarrow.csv.ConvertOptions(
            include_columns=names, column_types=dict.fromkeys(names, pa.string())
        ),
    ) as reader:
        yield from reader


def _columns(found: Sequence[str], path: Path) -> list[str]:
    """Return the names of the columns to read, as they are written: those of z, x and y, or that of the tile id."""
    written = {name.strip().lower(): name for name in reversed(found)}
    if all(name in written for name in PLACE_COLUMNS):
        return [written[name] for name in PLACE_COLUMNS]
    for name in ID_COLUMNS:
        if name in written:
            return [written[name]]
    shown = ", ".join(repr(name) for name in found[:20]) + (", …" if len(found) > 20 else "")
    raise DataError(
        f"{path}: expected the columns z, x and y, or tile_id, got {shown or 'no names'}. Rename the columns; a CSV has their "
        f"names in its first line."
    )


def _keys_of_batches(batches: Iterator[pa.RecordBatch], path: Path) -> Iterator[np.ndarray]:
    """Yield the keys of each batch, which has the columns of z, x and y, or that of the tile id."""
    num_rows = 0
    for batch in batches:
        where = _Rows(path, num_rows)
        columns = _id_columns(batch.column(0), where) if batch.num_columns == 1 else batch.columns
        z, x, y = (_integers(column, name, where) for column, name in zip(columns, PLACE_COLUMNS, strict=True))
        where.refuse(~((z >= 0) & (z <= MAX_ZOOM)), f"z from 0 to {MAX_ZOOM}", z)
        for column, name in ((x, "x"), (y, "y")):
            where.refuse((column < 0) | (column >> z != 0), f"{name} from 0 to 2^z - 1", column)
        yield keys_of(z, x, y)
        num_rows += batch.num_rows


@dataclass(frozen=True)
class _Rows:
    """Rows of a batch, for messages: the file, and the number of rows before them."""

    path: Path
    num_before: int

    def refuse(self, is_wrong: np.ndarray, expected: str, values: np.ndarray | pa.Array) -> None:
        """Raise an error for the first row, if any, that is wrong."""
        if is_wrong.any():
            row = int(is_wrong.argmax())
            value = values[row].as_py() if isinstance(values, pa.Array) else int(values[row])
            raise DataError(
                f"{self.path}, data row {self.num_before + row + 1:,}: expected {expected}, got {value!r}. Correct or remove "
                f"the row."
            )


def _id_columns(ids: pa.Array, where: _Rows) -> list[pa.Array]:
    """Return z, x and y of tile ids, as texts."""
    ids = ids.cast(pa.string())
    parts = pc.extract_regex(ids, _ID)
    where.refuse(np.asarray(parts.is_null()), "z-x-y or z/x/y", ids)
    return [parts.field(name) for name in PLACE_COLUMNS]


def _integers(column: pa.Array, name: str, where: _Rows) -> np.ndarray:
    """Return a column of integers, or of their texts, as int64."""
    where.refuse(np.asarray(column.is_null()), f"an integer {name}", column)
    if pa.types.is_integer(column.type):
        column = column.cast(pa.int64(), safe=False)  # unsigned numbers beyond int64 become negative, which no tile is
    else:
        try:
            column = column.cast(pa.int64())
        except pa.ArrowInvalid:
            where.refuse(~np.asarray(pc.match_substring_regex(column, _INTEGER)), f"an integer {name}", column)
            column = pc.utf8_trim_whitespace(column).cast(pa.int64())
    return np.asarray(column)
