"""Read `tiles.csv`, a table with the columns path, label, split and optionally slice, as people and programs write it."""

from __future__ import annotations

import csv
import io
import posixpath
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from satx.errors import DataError
from satx.tiles.walk import exists

_REQUIRED = ("path", "label", "split")
_COLUMNS = (*_REQUIRED, "slice")
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
    """

    line: int
    relative: str
    label: str
    split: str
    slice: str


def read_listing(table: Path) -> list[ListedTile]:
    r"""Read the table of a folder of tiles.

    Accepts commas, semicolons and tabs as separators, empty cells at the end of a line, empty lines, columns in any
    order and case, other columns, `\` in paths, and absolute paths that lie inside the folder.

    Args:
        table: Path of the table; tiles are relative to its folder.

    Raises:
        DataError: The table cannot be read, a column is missing or there twice, a line is too long or too short, or a
            path leads out of the folder or is listed twice.
    """
    rows = _rows(table)
    header_line, header = next(rows, (1, []))
    positions = _positions(table, header)
    tiles = [_tile(table, line, cells, header, positions) for line, cells in rows]
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


def _rows(table: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and cells of every line that is not empty."""
    try:
        text = table.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{table}: expected text in UTF-8, got other bytes ({error}). Save it as UTF-8.") from error
    except OSError as error:
        raise DataError(f"{table} cannot be read ({error.strerror}). Make it readable.") from error
    if "\0" in text:
        raise DataError(f"{table}: expected text in UTF-8, got bytes that are 0, as UTF-16 has. Save it as UTF-8.")
    if found := _SEPARATOR_LINE.match(text):  # of a spreadsheet
        text = text[found.end() :]
    first = next((line for line in text.split("\n") if line.strip()), "")
    separator = found[1] if found else max(_SEPARATORS, key=first.count)
    reader = csv.reader(io.StringIO(text), delimiter=separator, strict=True, skipinitialspace=True)
    try:
        for cells in reader:
            stripped = [cell.strip() for cell in cells]
            if any(stripped):
                yield reader.line_num + (1 if found else 0), stripped
    except csv.Error as error:
        raise DataError(
            f"{table}, line {reader.line_num}: expected cells separated by {separator!r}, but {error}. Correct that line."
        ) from error


def _positions(table: Path, header: list[str]) -> dict[str, int]:
    """Return the position of each column that satx reads."""
    names = [name.lower() for name in header]
    missing = [name for name in _REQUIRED if name not in names]
    if missing:
        raise DataError(
            f"{table} has no column {', '.join(missing)}: found {', '.join(header) or 'nothing'}. "
            f"Expected path,label,split,slice as its first line."
        )
    for name in (name for name, count in Counter(names).items() if count > 1 and name in _COLUMNS):
        written = [one for one in header if one.lower() == name]
        raise DataError(f"{table} has the column {name} {len(written)} times: {', '.join(written)}. Keep one of them.")
    return {name: names.index(name) for name in _COLUMNS if name in names}


def _tile(table: Path, line: int, cells: list[str], header: list[str], positions: dict[str, int]) -> ListedTile:
    where = f"{table}, line {line}"
    if any(cells[len(header) :]):
        raise DataError(
            f"{where}: expected {len(header)} cells, got {len(cells)}. Put quotation marks around cells that contain the "
            f"separator."
        )
    short = [name for name in _REQUIRED if positions[name] >= len(cells)]
    if short:
        raise DataError(f"{where}: expected {', '.join(_REQUIRED)}, got no {', '.join(short)}. Complete that line.")
    values = {name: cells[position] if position < len(cells) else "" for name, position in positions.items()}
    return ListedTile(
        line, _relative(table.parent, values["path"], where), values["label"], values["split"], values.get("slice", "")
    )


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
