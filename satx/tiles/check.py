"""Checks for a folder of tiles, run before any training.

There are two parallel passes: the first hashes every file and decides which files to leave out, the second decodes the
rest. The tile store uses the same functions, so building a store also checks the tiles, and no tile is decoded twice.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from satx.environment import num_processors
from satx.errors import DataError
from satx.storage import file_digest
from satx.tiles.decode import BrokenTile, DecodedTile, decode_tile, read_tile
from satx.tiles.layout import SPLITS, TileFile, TileFolder

MAX_BROKEN_SHARE = 0.05
MAX_IMBALANCE = 4.0  # a larger ratio of the largest to the smallest class in train gives a warning
UNREADABLE = ""  # the "digest" of a file that could not be read

_HASH_CHUNK = 64  # files per task: hashing one file takes less time than submitting a task

Item = TypeVar("Item")
Result = TypeVar("Result")
OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class Problem:
    """One finding about a folder of tiles.

    Attributes:
        severity: "error" (tiles are left out), "warning" (to be reviewed) or "note" (satx handles it).
        kind: broken, refused, leak, conflict, duplicate, converted, imbalance or empty-class.
        relative: The file concerned, or the first of several; a split or class if no file is concerned.
        detail: What was found, and its consequence.
    """

    severity: str
    kind: str
    relative: str
    detail: str


DecodeOutcome = str | Problem | None  # result of decoding: the original mode, a problem, or None


@dataclass(frozen=True)
class Selection:
    """Which tiles to decode, decided from file digests alone.

    Attributes:
        kept: Indices into the folder's files of the tiles to decode.
        problems: Leaks, conflicting labels and duplicates.
    """

    kept: tuple[int, ...]
    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class CheckReport:
    """The findings about one folder.

    Attributes:
        root: The folder.
        counts: Number of usable tiles per (split, label).
        num_tiles: Number of files found, usable or not.
        problems: Errors first, then warnings, then notes.
        broken: Relative paths of the files that are broken or refused.
    """

    root: Path
    counts: Mapping[tuple[str, str], int]
    num_tiles: int
    problems: tuple[Problem, ...]
    broken: tuple[str, ...]

    def raise_if_unusable(self) -> None:
        """Raise an error if the folder cannot be used even after leaving bad tiles out.

        Raises:
            DataError: Over 5% of the files are broken or refused, or a class has no usable tile left in a split.
        """
        advice = f"`satx data check {self.root}` lists them all."
        if len(self.broken) > MAX_BROKEN_SHARE * self.num_tiles:
            named = [f"{p.relative} ({p.detail})" for p in self.problems if p.kind in ("broken", "refused")][:3]
            raise DataError(
                f"{len(self.broken)} of {self.num_tiles} tiles in {self.root} cannot be used, over "
                f"{MAX_BROKEN_SHARE:.0%}: {'; '.join(named)}{'; …' if len(self.broken) > 3 else ''}. "
                f"Repair or remove them. {advice}"
            )
        empty = [problem.detail for problem in self.problems if problem.kind == "empty-class"]
        if empty:
            raise DataError(f"{self.root} cannot be used: {'; '.join(empty)}. Add tiles. {advice}")


def no_progress(done: int, total: int) -> None:
    """Do nothing; the default for `on_progress`."""


def check_tiles(folder: TileFolder, on_progress: OnProgress = no_progress) -> CheckReport:
    """Hash and decode every tile of a folder and report the problems.

    Only names and digests are kept in memory, however many tiles there are.

    Args:
        folder: The tiles.
        on_progress: Called with (done, total), first while hashing, then again from 0 while decoding.

    Returns:
        The report. Its `raise_if_unusable` decides whether the folder can be used.
    """
    digests = digest_files(folder.files, on_progress)
    selection = select_tiles(folder.files, digests)

    def outcome(index: int) -> DecodeOutcome:
        tile = read_and_decode(folder.files[index], digests[index])
        return tile if isinstance(tile, Problem) else tile.converted_from

    outcomes: dict[int, DecodeOutcome] = {}
    for done, (index, found) in enumerate(in_parallel(outcome, selection.kept), start=1):
        if found is not None:
            outcomes[index] = found
        on_progress(done, len(selection.kept))
    return make_report(folder, selection, outcomes)


def digest_files(files: Sequence[TileFile], on_progress: OnProgress = no_progress) -> list[str]:
    """Return the SHA-256 of every file's bytes, or `UNREADABLE` for a file that cannot be read.

    Args:
        files: The files.
        on_progress: Called with (done, total).

    Returns:
        Digests in the order of `files`.
    """

    def digest_chunk(start: int) -> list[str]:
        return [_digest(file.path) for file in files[start : start + _HASH_CHUNK]]

    digests: list[str] = []
    for _, chunk in in_parallel(digest_chunk, range(0, len(files), _HASH_CHUNK)):
        digests += chunk
        on_progress(len(digests), len(files))
    return digests


def select_tiles(files: Sequence[TileFile], digests: Sequence[str]) -> Selection:
    """Choose the tiles to keep by their content, so that duplicates do not bias the evaluation.

    An image with two different labels is left out entirely. An image in two splits is kept only in the later one: a
    train tile that is also in test would make test scores too good, and one tile less in train costs almost nothing.
    Duplicates within one split are kept.

    Args:
        files: The files.
        digests: Their digests, in the same order.

    Returns:
        The tiles to keep, and why the others are left out.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for index, digest in enumerate(digests):
        if digest != UNREADABLE:
            groups[digest].append(index)
    left_out: set[int] = set()
    problems: list[Problem] = []
    for group in (group for group in groups.values() if len(group) > 1):
        dropped, found = _judge_copies([files[index] for index in group])
        left_out.update(index for index in group if files[index].relative in dropped)
        problems += found
    return Selection(tuple(index for index in range(len(files)) if index not in left_out), tuple(problems))


def read_and_decode(file: TileFile, digest: str) -> DecodedTile | Problem:
    """Read a file again and decode it.

    Args:
        file: The file.
        digest: Digest of its bytes from the first pass.

    Returns:
        The tile, or the problem that prevents its use.

    Raises:
        DataError: The file has changed since it was hashed.
    """
    try:
        data = read_tile(file.path)
        if hashlib.sha256(data).hexdigest() != digest:
            raise DataError(
                f"{file.path} changed while it was being read. Run the command again when it no longer changes."
            )
        return decode_tile(data, file.relative)
    except BrokenTile as broken:
        # Do not return the exception itself: its traceback would keep the file's bytes in memory.
        return Problem("error", broken.kind, file.relative, str(broken))


def in_parallel(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[tuple[Item, Result]]:
    """Apply a function to items in threads, a limited number ahead of the consumer, and yield results in order.

    Uses threads because Pillow and hashlib release the GIL while they work. Threads were as fast as processes when
    measured, and unlike forked processes they are safe once TensorFlow is loaded.
    """
    num_threads = num_processors() + 1  # one extra, since a thread may be waiting for the disk
    pending: deque[tuple[Item, Future[Result]]] = deque()
    with ThreadPoolExecutor(num_threads, thread_name_prefix="satx-tiles") as pool:
        for item in items:
            pending.append((item, pool.submit(function, item)))
            if len(pending) > 8 * num_threads:
                done, future = pending.popleft()
                yield done, future.result()
        for done, future in pending:
            yield done, future.result()


def make_report(folder: TileFolder, selection: Selection, outcomes: Mapping[int, DecodeOutcome]) -> CheckReport:
    """Combine the findings of both passes.

    Args:
        folder: The tiles.
        selection: The result of hashing.
        outcomes: The results of decoding, by index into the folder's files; tiles with nothing to report may be absent.

    Returns:
        The report, errors first.
    """
    broken = [found for found in outcomes.values() if isinstance(found, Problem)]
    usable = (folder.files[i] for i in selection.kept if not isinstance(outcomes.get(i), Problem))
    splits = [split for split in SPLITS if any(file.split == split for file in folder.files)]
    counts = {(split, label): 0 for split in splits for label in folder.classes}
    counts.update(Counter((file.split, file.label) for file in usable))
    problems = [*broken, *selection.problems, *_conversions(folder.files, outcomes), *_class_problems(counts)]
    order = ("error", "warning", "note")
    problems.sort(key=lambda problem: (order.index(problem.severity), problem.kind, problem.relative))
    return CheckReport(folder.root, counts, len(folder.files), tuple(problems), tuple(p.relative for p in broken))


def _digest(path: Path) -> str:
    try:
        return file_digest(path)
    except OSError:
        return UNREADABLE  # decoding will fail with the same error and report it


def _judge_copies(copies: Sequence[TileFile]) -> tuple[set[str], list[Problem]]:
    """Return which of several files with the same content to leave out, and the problems to report."""
    names = [file.relative for file in copies]
    labels = sorted({file.label for file in copies})
    if len(labels) > 1:
        detail = f"the same image is labelled {' and '.join(labels)}: {_named(names)}; all are left out"
        return set(names), [Problem("error", "conflict", names[0], detail)]
    latest = max((file.split for file in copies), key=SPLITS.index)
    stays = [file.relative for file in copies if file.split == latest]
    leaks = [file for file in copies if file.split != latest]
    problems = [
        Problem("error", "leak", leak.relative, f"the same image as {stays[0]}; left out of {leak.split}")
        for leak in leaks
    ]
    if len(stays) > 1:
        detail = f"the same image {len(stays)} times in {latest}: {_named(stays)}"
        problems.append(Problem("note", "duplicate", stays[0], detail))
    return {file.relative for file in leaks}, problems


def _conversions(files: Sequence[TileFile], outcomes: Mapping[int, DecodeOutcome]) -> Iterator[Problem]:
    firsts: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for index in sorted(outcomes):
        found = outcomes[index]
        if isinstance(found, str):
            firsts.setdefault(found, files[index].relative)
            counts[found] += 1
    for source, count in counts.items():
        detail = f"{count} tile{'s' * (count > 1)} converted to RGB from {source}"
        yield Problem("note", "converted", firsts[source], detail)


def _class_problems(counts: Mapping[tuple[str, str], int]) -> Iterator[Problem]:
    for (split, label), count in counts.items():
        if count == 0:
            yield Problem("error", "empty-class", f"{split}/{label}", f"{split} has no usable tile of {label}")
    train = {label: count for (split, label), count in counts.items() if split == "train" and count}
    if train and max(train.values()) > MAX_IMBALANCE * min(train.values()):
        ratio = max(train.values()) / min(train.values())
        named = ", ".join(f"{label} {count}" for label, count in train.items())
        detail = f"class sizes in train differ 1:{ratio:.1f} ({named}); class weights compensate for this"
        yield Problem("warning", "imbalance", "train", detail)


def _named(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
