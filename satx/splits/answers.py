"""`pairs.csv`: pairs of tiles and what a person said of them, `first,second,how,score,same_ground`."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from satx.errors import DataError
from satx.splits.pairs import CERTAIN, CONFIRMED, Pair
from satx.storage import write_text
from satx.tiles.layout import TileFile

COLUMNS = ("first", "second", "how", "score", "same_ground")
_SAID = {"yes": True, "no": False, "": None}


class Row(NamedTuple):
    """One line of the table.

    Attributes:
        line: Line number in the file.
        first: Relative path of a tile.
        second: Relative path of another.
        how: How the pair was found.
        score: As written.
        is_same: What a person said, or satx itself for a pair that is certain; None without an answer.
    """

    line: int
    first: str
    second: str
    how: str
    score: str
    is_same: bool | None


def read_rows(path: Path) -> list[Row]:
    """Read the table.

    Accepts commas, semicolons and tabs, answers in any case, and an empty last cell.

    Raises:
        DataError: The file cannot be read, has other columns, or an answer is neither yes nor no nor empty.
    """
    text = _text(path)
    header = text.split("\n", 1)[0]
    reader = csv.reader(io.StringIO(text), delimiter=max(",;\t", key=header.count))
    names = [name.strip().lower() for name in next(reader, [])]
    missing = [name for name in ("first", "second", "same_ground") if name not in names]
    if missing:
        raise DataError(
            f"{path}: expected the columns {','.join(COLUMNS)}, got no {', '.join(missing)}. `satx data pairs` writes such a "
            f"table; pass another file if this one is yours."
        )
    rows = []
    for cells in reader:
        values = dict(zip(names, (cell.strip() for cell in cells), strict=False))
        if any(values.values()):
            rows.append(_row(path, reader.line_num, values))
    return rows


def read_answers(path: Path, files: Sequence[TileFile]) -> dict[tuple[int, int], bool]:
    """Return the answers in a table.

    Args:
        path: The table.
        files: The tiles.

    Returns:
        Whether two tiles show the same ground, by their indices into `files`, the smaller first.

    Raises:
        DataError: As in `read_rows`; or a tile is not in the folder, a pair is one tile twice, or has both answers.
    """
    places = {file.relative: number for number, file in enumerate(files)}
    answers: dict[tuple[int, int], bool] = {}
    for row in read_rows(path):
        if row.is_same is None:
            continue
        where = f"{path}, line {row.line}"
        unknown = [name for name in (row.first, row.second) if name not in places]
        if unknown:
            raise DataError(
                f"{where}: expected two tiles of the folder, got {unknown[0]!r}, which it does not have. Remove the line, or "
                f"run `satx data pairs` again."
            )
        first, second = sorted((places[row.first], places[row.second]))
        if first == second:
            raise DataError(f"{where}: expected two tiles, got {row.first} twice. Correct or remove that line.")
        if answers.setdefault((first, second), row.is_same) != row.is_same:
            raise DataError(
                f"{where}: {row.first} and {row.second} have the answers yes and no. Keep the right line of the two."
            )
    return answers


def read_confirmed(path: Path, files: Sequence[TileFile]) -> list[Pair]:
    """Return the pairs of a table that are answered yes, in the order of the tiles; see `read_answers`."""
    answers = read_answers(path, files)
    return [Pair(first, second, CONFIRMED, 1.0) for (first, second), is_same in sorted(answers.items()) if is_same]


def write_pairs(path: Path, pairs: Sequence[Pair], files: Sequence[TileFile]) -> list[Row]:
    """Write pairs as a table, and keep the answers that the file holds already.

    A pair that is certain is answered yes, unless a person said no. Answered pairs that are not among `pairs` are kept below
    them if both tiles are still there.

    Args:
        path: The table; written completely or not at all.
        pairs: What to list, in this order.
        files: The tiles.

    Returns:
        The rows as they were written.

    Raises:
        DataError: There is a file of another kind in that place.
    """
    before = read_rows(path) if path.exists() else []
    known = {frozenset((row.first, row.second)): row for row in before if row.is_same is not None}
    rows: list[Row] = []
    for pair in pairs:
        first, second = files[pair.first].relative, files[pair.second].relative
        earlier = known.pop(frozenset((first, second)), None)
        is_same = earlier.is_same if earlier else True if pair.how in CERTAIN else None
        rows.append(Row(len(rows) + 2, first, second, pair.how, f"{pair.score:.3f}", is_same))
    names = {file.relative for file in files}
    for row in known.values():
        if row.first in names and row.second in names:
            rows.append(row._replace(line=len(rows) + 2))
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    words = {is_same: word for word, is_same in _SAID.items()}
    writer.writerows([row.first, row.second, row.how, row.score, words[row.is_same]] for row in rows)
    write_text(path, stream.getvalue())
    return rows


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: expected text in UTF-8, got other bytes ({error}). Save it as UTF-8.") from error
    except OSError as error:
        raise DataError(
            f"{path}: expected the table that `satx data pairs` writes, and it cannot be read ({error.strerror}). Run it first."
        ) from error


def _row(path: Path, line: int, values: dict[str, str]) -> Row:
    said = values.get("same_ground", "").lower()
    if said not in _SAID:
        raise DataError(
            f"{path}, line {line}: expected yes, no or nothing for same_ground, got {values['same_ground']!r}. Correct that line."
        )
    first, second = values.get("first", ""), values.get("second", "")
    if not first or not second:
        raise DataError(
            f"{path}, line {line}: expected two tiles, got {first or second or 'none'!r}. Complete that line."
        )
    return Row(line, first, second, values.get("how", ""), values.get("score", ""), _SAID[said])
