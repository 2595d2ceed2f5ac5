"""The output of fetching points: pictures, one file for each finished chunk of points, and `tiles.csv` made of them.

What became of a point is known when the file of its chunk has it, and each file appears whole, by renaming. So a run that was
killed continues with the points that no file has, and `tiles.csv` is written at the end.
"""

from __future__ import annotations

import csv
import io
import json
import mmap
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, NamedTuple

import numpy as np

from satx.errors import DataError, StateMismatch
from satx.imagery.contract import DONE, FAILED, STATUSES
from satx.points.fetch_plan import FetchPlan
from satx.storage import replacing, write_json, write_text

TABLE_NAME, RECORD_NAME = "tiles.csv", "fetch.json"
LEDGER, WRITING = ".fetch", ".writing"  # folders; hidden, because they are no tiles
RECORD_FORMAT = 1
COLUMNS = (
    *("path", "label", "split", "slice", "lon", "lat", "z", "x", "y", "window_px", "status", "reason", "source"),
    *("fetched_at", "attribution"),
)
ENDINGS = {"JPEG": ".jpg", "PNG": ".png", "GIF": ".gif", "BMP": ".bmp", "WebP": ".webp", "TIFF": ".tif"}
MAX_SHOWN_REASONS = 20
MAX_COUNTED_REASONS = 1000  # an error message with a changing number must not fill the memory
OTHER_REASONS = "other reasons"

_TILE_NAMED = re.compile(r" \(tile [\d-]+\)$")


class Outcome(NamedTuple):
    """What became of a point.

    Attributes:
        point: Its index.
        status: One of `STATUSES`.
        reason: Why it is not `done`, or why its context is not.
        path: The picture, within the folder; empty unless it is `done`.
        context: Status of its context; empty if none was asked for, or the point itself is not `done`.
        fetched_at: UTC, ISO 8601.
    """

    point: int
    status: str
    reason: str
    path: str
    context: str
    fetched_at: str


def is_complete(root: Path, record: Mapping[str, Any]) -> bool:
    """Return whether a folder has the table of this fetch, written after its last picture.

    Args:
        root: The folder.
        record: What is fetched, as JSON. Its member `identity` decides what is the same fetch; the others may change.

    Raises:
        StateMismatch: The folder has other files, or what other points, options or imagery gave.
        DataError: The record in the folder cannot be read.
    """
    written = _read_record(root)
    if written is not None:
        _check_same(root, written, record)
        return (root / TABLE_NAME).is_file() and written == _record(record, is_complete=True)
    found = sorted(path.name for path in root.iterdir() if not path.name.startswith("."))
    if found:
        raise StateMismatch(
            f"{root}: expected a new folder, or one with a {RECORD_NAME}, got {found[0]}. Pass another --out."
        )
    return False


@contextmanager
def changing(root: Path, record: Mapping[str, Any]) -> Iterator[None]:
    """Let the block write pictures and the table; the folder is complete after it, and not before."""
    write_json(root / RECORD_NAME, _record(record, is_complete=False))
    shutil.rmtree(root / WRITING, ignore_errors=True)  # of a run that was killed
    (root / WRITING).mkdir()
    yield
    (root / WRITING).rmdir()
    write_json(root / RECORD_NAME, _record(record, is_complete=True))


def put_picture(root: Path, stem: str, picture: tuple[str, bytes] | None) -> str:
    """Write a picture in place of an earlier one of this name, or remove that.

    Args:
        root: The folder.
        stem: Path within it, without an ending.
        picture: Ending and bytes; None for no picture.

    Returns:
        Path within the folder; empty for no picture.
    """
    path = stem + picture[0] if picture else ""
    for ending in ENDINGS.values():
        if stem + ending != path:
            (root / (stem + ending)).unlink(missing_ok=True)
    if picture:
        temporary = root / WRITING / path.replace("/", "_")
        temporary.write_bytes(picture[1])
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        temporary.replace(root / path)
    return path


def write_chunk(root: Path, plan: FetchPlan, number: int, outcomes: Mapping[int, Outcome]) -> None:
    """Write what became of the points of a chunk, by their index; some may be missing."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(Outcome._fields)
    writer.writerows(outcomes[point] for point in plan.chunk(number).tolist() if point in outcomes)
    write_text(_chunk_path(root, number), stream.getvalue())


def read_chunk(root: Path, plan: FetchPlan, number: int) -> list[Outcome]:
    """Return what became of the points of a chunk, as far as they were fetched, in the order of the chunk.

    Raises:
        DataError: The file is not as it was written.
    """
    path = _chunk_path(root, number)
    try:
        header, *rows = csv.reader(io.StringIO(path.read_text()))
        outcomes = [Outcome(int(row[0]), *row[1:]) for row in rows]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, IndexError):
        header, outcomes = [], []
    found = {one.point for one in outcomes}
    in_order = [point for point in plan.chunk(number).tolist() if point in found]
    is_whole = tuple(header) == Outcome._fields and [one.point for one in outcomes] == in_order
    if not is_whole or not all(one.status in STATUSES for one in outcomes):
        raise DataError(
            f"{path}: expected what became of points, as satx wrote it, got something else. Remove it, and repeat the "
            f"command, which fetches what is missing."
        )
    return outcomes


def points_left(root: Path, plan: FetchPlan, number: int) -> np.ndarray:
    """Return the indices of a chunk's points that are to be fetched: never settled, failed, or without their file."""
    settled = {one.point for one in read_chunk(root, plan, number) if _is_settled(root, one)}
    return np.array([point for point in plan.chunk(number).tolist() if point not in settled], np.int64)


def write_table(root: Path, plan: FetchPlan, *, source: str, attribution: str) -> None:
    """Write `tiles.csv`: a row for each point, in the order of the points, with an empty split.

    Chunks are in another order than points. Rows go to a temporary file first, and memory has only where each begins.
    """
    begins = np.empty(plan.num_points, np.int64)
    with TemporaryFile(dir=root / WRITING) as scratch, replacing(root / TABLE_NAME) as temporary:
        for number in range(plan.num_chunks):
            for outcome in read_chunk(root, plan, number):
                begins[outcome.point] = scratch.tell()
                scratch.write(_line(_cells(plan, outcome, source, attribution)))
        scratch.flush()
        with temporary.open("wb") as table, mmap.mmap(scratch.fileno(), 0, access=mmap.ACCESS_READ) as rows:
            table.write(_line(COLUMNS))
            for begin in begins.tolist():
                table.write(rows[begin : rows.find(b"\n", begin) + 1])


def has_splits(root: Path) -> bool:
    """Return whether a `tiles.csv` is there in which a tile has a split."""
    try:
        with (root / TABLE_NAME).open(newline="") as stream:
            return any(row.get("split") for row in csv.DictReader(stream))
    except FileNotFoundError:
        return False


def count_outcomes(outcomes: Iterable[Outcome]) -> dict[str, Any]:
    """Return counts as JSON.

    `num_points`; `status` and `context`, the number of points of each; `reasons`, the most frequent ones of each status, counted
    without the name of a tile.
    """
    statuses: Counter[str] = Counter()
    contexts: Counter[str] = Counter()
    reasons: dict[str, Counter[str]] = {}
    for outcome in outcomes:
        statuses[outcome.status] += 1
        if outcome.context:
            contexts[outcome.context] += 1
        if outcome.reason:
            counted = reasons.setdefault(outcome.status, Counter())
            reason = _TILE_NAMED.sub("", outcome.reason)
            counted[reason if reason in counted or len(counted) < MAX_COUNTED_REASONS else OTHER_REASONS] += 1
    return {
        "num_points": statuses.total(),
        "status": {status: statuses[status] for status in STATUSES},
        "context": {status: contexts[status] for status in STATUSES if contexts},
        "reasons": {
            status: [
                {"reason": reason, "num_points": number}
                for reason, number in sorted(counted.items(), key=lambda item: (-item[1], item[0]))[:MAX_SHOWN_REASONS]
            ]
            for status, counted in sorted(reasons.items())
        },
    }


def all_outcomes(root: Path, plan: FetchPlan) -> Iterator[Outcome]:
    """Yield what became of all points, chunk by chunk."""
    for number in range(plan.num_chunks):
        yield from read_chunk(root, plan, number)


def _chunk_path(root: Path, number: int) -> Path:
    return root / LEDGER / f"points-{number:06d}.csv"


def _is_settled(root: Path, outcome: Outcome) -> bool:
    if FAILED in (outcome.status, outcome.context):
        return False
    return outcome.status != DONE or (root / outcome.path).is_file()


def _cells(plan: FetchPlan, outcome: Outcome, source: str, attribution: str) -> Sequence[object]:
    point, points = outcome.point, plan.points
    x, y = plan.places
    return (
        *(outcome.path, points.labels[point], "", points.slices[point]),
        *(repr(float(points.longitude[point])), repr(float(points.latitude[point]))),
        *(plan.zoom, int(x[point]), int(y[point]), plan.window_px or ""),
        *(outcome.status, outcome.reason, source, outcome.fetched_at, attribution),
    )


def _line(cells: Sequence[object]) -> bytes:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerow(cells)
    return stream.getvalue().encode()


def _record(record: Mapping[str, Any], *, is_complete: bool) -> dict[str, Any]:
    return {"format": RECORD_FORMAT, "is_complete": is_complete, **record}


def _read_record(root: Path) -> dict[str, Any] | None:
    path = root / RECORD_NAME
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict) or not isinstance(found.get("identity"), dict):
        raise DataError(f"{path}: expected the record of `satx data fetch`, got something else. Pass another --out.")
    return found


def _check_same(root: Path, written: Mapping[str, Any], record: Mapping[str, Any]) -> None:
    if written.get("format") != RECORD_FORMAT:
        raise StateMismatch(
            f"{root / RECORD_NAME}: expected format {RECORD_FORMAT}, got {written.get('format')}. Pass another --out, or "
            f"continue with the satx that wrote it."
        )
    there, now = written["identity"], json.loads(json.dumps(record["identity"]))
    differing = sorted(key for key in there.keys() | now.keys() if there.get(key) != now.get(key))
    if differing:
        rows = "; ".join(f"{key}: {there.get(key)} there, {now.get(key)} now" for key in differing)
        raise StateMismatch(
            f"{root} has what another fetch gave. {rows}. Pass another --out, or repeat the command that began it."
        )
