"""Decisions about pictures of a session, as a CSV: to keep, drop or relabel one, or that nobody can tell what it shows."""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from datetime import datetime
from pathlib import Path

from satx.errors import DataError, nearest_name
from satx.tiles.walk import first_few

KEEP, DROP, RELABEL, UNRECOGNISED = "keep", "drop", "relabel", "unrecognised"
KINDS = (KEEP, DROP, RELABEL, UNRECOGNISED)
LEAVING = (DROP, UNRECOGNISED)  # after which a picture is in the session no more

_SEPARATORS = ",;\t"  # spreadsheets write semicolons where the comma is the decimal point
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Decision:
    """What somebody decided about one picture.

    Attributes:
        pixel_sha256: The picture, see `pictures.pixel_sha256`.
        decision: One of `KINDS`.
        label: The new class, with `relabel`; not read otherwise.
        reason: Why.
        author: Who decided.
        decided_at: When, in ISO 8601.
        session_digest: Digest of the session that the author looked at.
    """

    pixel_sha256: str
    decision: str
    label: str
    reason: str
    author: str
    decided_at: str
    session_digest: str


COLUMNS = tuple(field.name for field in fields(Decision))


def read_decisions(path: Path, *, session: str, session_digest: str) -> dict[int, Decision]:
    """Read a table of decisions about the pictures of a session.

    Accepts commas, semicolons and tabs, columns in any order, and other columns.

    Args:
        path: The table.
        session: Name of the session, for messages.
        session_digest: Its digest, which each decision must name.

    Returns:
        The decisions by line number, in the order of the file.

    Raises:
        DataError: The file cannot be read, or a decision is incomplete, unknown, or about another session.
    """
    header, lines = _table(path)
    names = [name.lower() for name in header]
    missing = [name for name in COLUMNS if name not in names]
    if missing:
        raise DataError(
            f"{path}: expected the columns {','.join(COLUMNS)}, got no {', '.join(missing)}. Correct the first line."
        )
    decisions = {}
    for line, cells in lines:
        values = dict(zip(names, cells, strict=False))
        decision = Decision(**{name: values.get(name, "") for name in COLUMNS})
        where = f"{path}, line {line}"
        _check(where, decision)
        if decision.session_digest != session_digest:
            raise DataError(
                f"{where}: expected a decision about session {session}, whose digest is {session_digest[:12]}…, got one about "
                f"a session with {decision.session_digest[:12] or 'no digest'}…. Pass the decisions that were made on session "
                f"{session}, or name their session with --from."
            )
        decisions[line] = decision
    if not decisions:
        raise DataError(f"{path}: expected a line for each decision, got none. Leave --decisions out.")
    return decisions


def decided(
    path: Path, decisions: Mapping[int, Decision], *, pictures: Collection[str], classes: Collection[str]
) -> dict[str, Decision]:
    """Return the decision about each picture.

    Args:
        path: Where they were read from, for messages.
        decisions: From `read_decisions`.
        pictures: `pixel_sha256` of the pictures that there are.
        classes: The classes that there are.

    Raises:
        DataError: A picture or class is unknown, or two decisions contradict each other.
    """
    lines: dict[str, int] = {}
    for line, decision in decisions.items():
        where = f"{path}, line {line}"
        if decision.pixel_sha256 not in pictures:
            raise DataError(
                f"{where}: expected a picture of the session or of --add, got {decision.pixel_sha256[:12]}…, which neither has. "
                f"Remove the line."
            )
        if decision.decision == RELABEL and decision.label not in classes:
            raise DataError(
                f"{where}: expected a class to relabel to, got {decision.label!r}. {nearest_name(decision.label, classes)}"
            )
        earlier = lines.setdefault(decision.pixel_sha256, line)
        before = decisions[earlier]
        if _meaning(before) != _meaning(decision):
            raise DataError(
                f"{where}: {decision.author} decided {_meaning(decision)!r} about the picture {decision.pixel_sha256[:12]}…, and "
                f"{before.author} on line {earlier} {_meaning(before)!r}. Keep one of the two lines."
            )
    return {picture: decisions[line] for picture, line in lines.items()}


def decisions_text(decisions: Sequence[Decision]) -> str:
    """Return the CSV of decisions, sorted, so that git shows what changed."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(sorted(astuple(decision) for decision in decisions))
    return stream.getvalue()


def text_sha256(text: str) -> str:
    """Return the SHA-256 of a text in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()


def _table(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the first line of a table, and number and cells of each other line that is not empty."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: expected text in UTF-8, got other bytes ({error}). Save it as UTF-8.") from error
    except OSError as error:
        raise DataError(
            f"{path}: expected a table of decisions, but it cannot be read ({error.strerror}). Pass another."
        ) from error
    separator = max(_SEPARATORS, key=text.split("\n", 1)[0].count)
    reader = csv.reader(io.StringIO(text), delimiter=separator, strict=True)
    try:
        lines = [(reader.line_num, [" ".join(cell.split()) for cell in cells]) for cells in reader]
    except csv.Error as error:
        raise DataError(
            f"{path}, line {reader.line_num}: expected cells separated by {separator!r}, but {error}. Correct that line."
        ) from error
    filled = [(line, cells) for line, cells in lines if any(cells)]
    return (filled[0][1], filled[1:]) if filled else ([], [])


def _check(where: str, decision: Decision) -> None:
    """Raise a DataError for a decision that is unknown or incomplete."""
    if not _SHA256.fullmatch(decision.pixel_sha256):
        raise DataError(
            f"{where}: expected 64 hex digits for pixel_sha256, got {decision.pixel_sha256[:80]!r}. Correct that line."
        )
    if decision.decision not in KINDS:
        raise DataError(
            f"{where}: expected a decision, got {decision.decision[:80]!r}. {nearest_name(decision.decision, KINDS)}"
        )
    needed = ("label", "reason", "author") if decision.decision == RELABEL else ("reason", "author")
    empty = [name for name in needed if not getattr(decision, name)]
    if empty:
        raise DataError(
            f"{where}: expected {' and '.join(needed)} of the decision to {decision.decision}, got no {first_few(empty)}. "
            f"Complete that line."
        )
    try:
        datetime.fromisoformat(decision.decided_at)
    except ValueError as error:
        raise DataError(
            f"{where}: expected a time such as 2026-01-31T12:00:00+00:00 for decided_at, got {decision.decided_at[:80]!r}. "
            f"Correct that line."
        ) from error


def _meaning(decision: Decision) -> str:
    return f"{RELABEL} to {decision.label}" if decision.decision == RELABEL else decision.decision
