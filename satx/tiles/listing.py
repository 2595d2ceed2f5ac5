"""Read `tiles.csv`, a table with the columns path, label, split and optionally slice, as people and programs write it.

Two more columns are read where they exist: `status`, with which `satx data fetch` says whether it got a tile, and `left_out`, in
which `satx data split` says why a tile is in no split.
"""

from __future__ import annotations

import csv
import io
import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from satx.errors import DataError
from satx.tiles.walk import exists

SPLIT_COLUMNS = ("path", "label", "split")
DONE = "done"  # the status of a tile that is there

_COLUMNS = (*SPLIT_COLUMNS, "slice", "status", "left_out")
_WINDOWS_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
_SEPARATOR_LINE = re.compile(r"sep=(.)\r?\n")
_SEPARATORS = ",;\t"  # spreadsheets write semicolons where the comma is the decimal point


@dataclass(frozen=True)
class ListedTile:
    """One line of the table, with surrounding spaces removed.

    Attributes:
        line: Line number in the file.
        relative: Path within the folder, with `/` and without `..`.
        label: As written.
        split: As written.
        slice: As written, "" if there is none.
        left_out: Why the tile is in no split, "" if it is not left out.
    """

    line: int
    relative: str
    label: str
    split: str
    slice: str
    left_out: str


def read_listing(table: Path, *, required: Iterable[str] = SPLIT_COLUMNS) -> list[ListedTile]:
    r"""Read the table of a folder of tiles.

    Accepts commas, semicolons and tabs as separators, empty cells at the end of a line, empty lines, columns in any
    order and case, other columns, `\` in paths, and absolute paths that lie inside the folder. Lines whose status is
    neither `done` nor empty have no tile and are skipped.

    Args:
        table: Path of the table; tiles are relative to its folder.
        required: The columns that it must have.

    Raises:
        DataError: The table cannot be read, a column is missing or there twice, a line is too long or too short, or a
            path leads out of the folder or is listed twice.
    """
    required = tuple(required)
    rows = _rows(table, _text(table))
    header_line, header = next(rows, (1, []))
    positions = _positions(table, header, required)
    lines = list(rows)
    there = [(line, cells) for line, cells in lines if _is_there(cells, positions)]
    tiles = [_tile(table, line, cells, header, positions, required) for line, cells in there]
    if lines and not tiles:
        raise DataError(
            f"{table} lists {len(lines)} tiles, none of them with the status {DONE!r}. Repeat `satx data fetch`; its column "
            f"reason says why."
        )
    if not tiles:
        raise DataError(
            f"{table} lists no tiles below line {header_line}. Add a line per tile, or remove the file so that the folders "
            f"are read."
        )
    seen: dict[str, int] = {}
    for tile in tiles:
        if tile.relative in seen:
            raise DataError(
                f"{table} lists {tile.relative} twice, on lines {seen[tile.relative]} and {tile.line}. Keep one of them."
            )
        seen[tile.relative] = tile.line
    return tiles


def read_columns(table: Path, columns: Iterable[str]) -> dict[str, tuple[int, dict[str, str]]]:
    """Return line number and cells of some columns, by the relative path of the tile, "" where a cell is missing.

    Raises:
        DataError: The table cannot be read, has no column path, or has one of the columns twice.
    """
    columns = tuple(columns)
    rows = _rows(table, _text(table))
    _, header = next(rows, (1, []))
    positions = _positions(table, header, ("path",), read=(*_COLUMNS, *columns))
    found = {}
    for line, cells in rows:
        if _is_there(cells, positions):
            relative = _relative(table.parent, _cell(cells, positions["path"]), f"{table}, line {line}")
            found[relative] = line, {name: _cell(cells, positions.get(name)) for name in columns}
    return found


def with_cells(table: Path, cells_of: Mapping[int, Mapping[str, str]]) -> str:
    """Return the text of a table with some cells set; all other cells, and the order of lines and columns, stay.

    Args:
        table: Path of the table.
        cells_of: New values by line number, as in `ListedTile`, and column. Columns that the table lacks are added.

    Raises:
        DataError: The table cannot be read.
    """
    text = _text(table)
    rows = _rows(table, text)
    _, header = next(rows, (1, []))
    names = [name.lower() for name in header]
    added = dict.fromkeys(name for values in cells_of.values() for name in values if name not in names)
    names += added
    written = io.StringIO()
    writer = csv.writer(written, delimiter=_separator(text)[0], lineterminator="\n")
    writer.writerow([*header, *added])
    for line, cells in rows:
        values = cells_of.get(line, {})
        row = [values.get(name, _cell(cells, position)) for position, name in enumerate(names)]
        writer.writerow(row)
    return written.getvalue()


def _text(table: Path) -> str:
    """Return the text of a table."""
    try:
        text = table.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{table}: expected text in UTF-8, got other bytes ({error}). Save it as UTF-8.") from error
    except OSError as error:
        raise DataError(f"{table} cannot be read ({error.strerror}). Make it readable.") from error
    if "\0" in text:
        raise DataError(f"{table}: expected text in UTF-8, got bytes that are 0, as UTF-16 has. Save it as UTF-8.")
    return text


def _separator(text: str) -> tuple[str, int]:
    """Return the separator of the cells, and the length of a first line that says which it is, as a spreadsheet's."""
    if found := _SEPARATOR_LINE.match(text):
        return found[1], found.end()
    first = next((line for line in text.split("\n") if line.strip()), "")
    return max(_SEPARATORS, key=first.count), 0


def _rows(table: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and cells of every line that is not empty."""
    separator, start = _separator(text)
    reader = csv.reader(io.StringIO(text[start:]), delimiter=separator, strict=True, skipinitialspace=True)
    try:
        for cells in reader:
            stripped = [cell.strip() for cell in cells]
            if any(stripped):
                yield reader.line_num + (1 if start else 0), stripped
    except csv.Error as error:
        raise DataError(
            f"{table}, line {reader.line_num}: expected cells separated by {separator!r}, but {error}. Correct that line."
        ) from error


def _positions(
    table: Path, header: list[str], required: tuple[str, ...], *, read: tuple[str, ...] = _COLUMNS
) -> dict[str, int]:
    """Return the position of each column that is read and there."""
    names = [name.lower() for name in header]
    missing = [name for name in required if name not in names]
    if missing:
        raise DataError(
            f"{table} has no column {', '.join(missing)}: found {', '.join(header) or 'nothing'}. "
            f"Expected path,label,split,slice as its first line."
        )
    for name in (name for name, count in Counter(names).items() if count > 1 and name in read):
        written = [one for one in header if one.lower() == name]
        raise DataError(f"{table} has the column {name} {len(written)} times: {', '.join(written)}. Keep one of them.")
    return {name: names.index(name) for name in read if name in names}


def _is_there(cells: list[str], positions: dict[str, int]) -> bool:
    """Return whether a line has a tile, as its status says."""
    return _cell(cells, positions.get("status")) in ("", DONE)


def _cell(cells: list[str], position: int | None) -> str:
    """Return a cell of a line, "" where the line or the table has none."""
    return "" if position is None or position >= len(cells) else cells[position]


def _tile(
    table: Path, line: int, cells: list[str], header: list[str], positions: dict[str, int], required: tuple[str, ...]
) -> ListedTile:
    where = f"{table}, line {line}"
    if any(cells[len(header) :]):
        raise DataError(
            f"{where}: expected {len(header)} cells, got {len(cells)}. Put quotation marks around cells that contain the "
            f"separator."
        )
    short = [name for name in required if positions[name] >= len(cells)]
    if short:
        raise DataError(f"{where}: expected {', '.join(required)}, got no {', '.join(short)}. Complete that line.")
    path, label, split, slice_name, _, left_out = (_cell(cells, positions.get(name)) for name in _COLUMNS)
    return ListedTile(line, _relative(table.parent, path, where), label, split, slice_name, left_out)


def _relative(root: Path, written: str, where: str) -> str:
    """Return a path within the folder; raise an error if it leads out of it."""
    is_there = exists(root / written)
    if not is_there and _WINDOWS_DRIVE.match(written):
        raise DataError(f"{where}: expected a path inside {root}, got the Windows path {written!r}. Make it relative.")
    text = written if is_there else written.replace("\\", "/")
    if text.startswith("/") or ".." in text.split("/"):
        text = _inside(root, root / text) or ""
    normal = posixpath.normpath(text) if text else "."
    if normal == "." or normal.startswith("../"):
        raise DataError(f"{where}: expected the path of a file inside {root}, got {written!r}. Correct that line.")
    return normal


def _inside(root: Path, path: Path) -> str | None:
    """Return a path relative to the folder, without `..`, with or without following links; None if it lies elsewhere."""
    if ".." not in path.parts and path.is_relative_to(root.absolute()):
        return path.relative_to(root.absolute()).as_posix()
    try:
        return path.resolve().relative_to(root.resolve()).as_posix()
    except (OSError, RuntimeError, ValueError):  # it lies elsewhere, or is a link to itself
        return None
