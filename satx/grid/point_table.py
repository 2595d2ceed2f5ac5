"""Tables of points: CSV or Parquet with the columns lon and lat, or longitude and latitude."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from satx.errors import DataError

LONGITUDE_NAMES, LATITUDE_NAMES = ("lon", "longitude"), ("lat", "latitude")

_BATCH_ROWS = 1 << 17
_BLOCK_BYTES = 1 << 22


class PointRows(NamedTuple):
    """Some rows of a table.

    Attributes:
        longitude: (num_rows,) float64 as written, not checked; NaN where the cell is null.
        latitude: The same.
        texts: A list of num_rows texts for each name that was asked for; "" where the cell, or the whole column, is missing.
    """

    longitude: np.ndarray
    latitude: np.ndarray
    texts: dict[str, list[str]]


def read_point_rows(path: Path, texts: Sequence[str] = ()) -> Iterator[PointRows]:
    """Yield the rows of a CSV or Parquet file, batch by batch, so that memory does not grow with the file.

    Names of columns count in any case; other columns are not read. CSV has its names in the first line and is separated by
    commas, semicolons or tabs.

    Args:
        path: The file.
        texts: Names of columns with texts that are read where they exist.

    Raises:
        DataError: The file cannot be read, the columns are missing, or a cell is no number; the message names the first such
            row, counted from 1 below the names.
    """
    try:
        with path.open("rb") as stream:
            is_parquet = stream.read(4) == b"PAR1"
        num_rows = 0
        for batch in _parquet_batches(path, texts) if is_parquet else _csv_batches(path, texts):
            columns = dict(zip(batch.schema.names, batch.columns, strict=True))
            longitude, latitude = (_numbers(columns[name], name, path, num_rows) for name in ("lon", "lat"))
            found = {name: _texts(columns.get(name), name, path, batch.num_rows) for name in texts}
            yield PointRows(longitude, latitude, found)
            num_rows += batch.num_rows
    except (pa.ArrowException, OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{path}: expected a CSV or Parquet file with the columns lon and lat, but it cannot be read: {error}. Export it "
            f"again."
        ) from error


def _parquet_batches(path: Path, texts: Sequence[str]) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(path) as file:
        written = _columns(file.schema_arrow.names, texts, path)
        for batch in file.iter_batches(_BATCH_ROWS, columns=list(written.values())):
            yield batch.select(list(written.values())).rename_columns(list(written))


def _csv_batches(path: Path, texts: Sequence[str]) -> Iterator[pa.RecordBatch]:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        first_line = stream.readline(1 << 16)
    delimiter = max(",;\t", key=first_line.count)
    written = _columns(next(csv.reader([first_line], delimiter=delimiter), []), texts, path)
    # As text, because a conversion to numbers that fails does not say in which row.
    with pyarrow.csv.open_csv(
        path,
        read_options=pyarrow.csv.ReadOptions(block_size=_BLOCK_BYTES),
        parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter),
        convert_options=pyarrow.csv.ConvertOptions(
            include_columns=list(written.values()), column_types=dict.fromkeys(written.values(), pa.string())
        ),
    ) as reader:
        for batch in reader:
            yield batch.rename_columns(list(written))


def _columns(found: Sequence[str], texts: Sequence[str], path: Path) -> dict[str, str]:
    """Return the columns to read, as they are written, by what they are: `lon`, `lat`, or a name of `texts`."""
    written = {name.strip().lower(): name for name in reversed(found)}
    longitude, latitude = (
        next((written[name] for name in names if name in written), None) for names in (LONGITUDE_NAMES, LATITUDE_NAMES)
    )
    if longitude is None or latitude is None:
        shown = ", ".join(repr(name) for name in found[:20]) + (", …" if len(found) > 20 else "")
        raise DataError(
            f"{path}: expected the columns lon and lat, or longitude and latitude, got {shown or 'no names'}. Rename the "
            f"columns; a CSV has their names in its first line."
        )
    return {"lon": longitude, "lat": latitude, **{name: written[name] for name in texts if name in written}}


def _numbers(column: pa.Array, name: str, path: Path, num_before: int) -> np.ndarray:
    """Return a column of numbers, or of their texts, as float64; NaN for null."""
    if _is_text(column.type):
        column = pc.utf8_trim_whitespace(column.cast(pa.string()))
        try:
            column = column.cast(pa.float64())
        except pa.ArrowInvalid as error:
            row = _first_that_fails(column)
            raise DataError(
                f"{path}, data row {num_before + row + 1:,}: expected degrees such as -1.2921 in the column {name}, got "
                f"{column[row].as_py()!r}. Correct or remove the row."
            ) from error
    elif not (
        pa.types.is_floating(column.type) or pa.types.is_integer(column.type) or pa.types.is_decimal(column.type)
    ):
        raise DataError(f"{path}: expected degrees in the column {name}, got {column.type}. Convert the column.")
    return np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False), np.float64)


def _texts(column: pa.Array | None, name: str, path: Path, num_rows: int) -> list[str]:
    if column is None:
        return [""] * num_rows
    if not (_is_text(column.type) or pa.types.is_null(column.type)):
        raise DataError(f"{path}: expected texts in the column {name}, got {column.type}. Convert the column.")
    return [(cell or "").strip() for cell in column.to_pylist()]


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _first_that_fails(column: pa.Array) -> int:
    """Return the first row, by bisection, whose text Arrow does not convert to a number; one is there."""
    start, stop = 0, len(column)
    while stop - start > 1:
        middle = (start + stop) // 2
        try:
            column[start:middle].cast(pa.float64())
            start = middle
        except pa.ArrowInvalid:
            stop = middle
    return start
