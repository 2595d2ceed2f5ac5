"""Findings about a folder of tiles, derived from what decoding told about each file."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from satx.tiles.formats import SERVED_FORMATS
from satx.tiles.layout import SPLITS, TileFile, TileFolder
from satx.tiles.report import LEFT_OUT, NOT_READ, CheckReport, DecodeOutcome, Problem, TileFacts
from satx.tiles.unread import HIDDEN, NOT_AN_IMAGE, unread_elsewhere
from satx.tiles.walk import first_few

MAX_IMBALANCE = 4.0  # a larger ratio of the largest to the smallest class in train gives a warning
TINY_PX = 32  # smaller than any input that a backbone accepts
MIN_PLACEHOLDER_COPIES = 5  # one picture this often is rarely a place: map servers answer so where they have no image


@dataclass(frozen=True)
class Selection:
    """Which tiles to use, decided from their pixels alone.

    Attributes:
        kept: Indices into the folder's files, in ascending order.
        left_out: "leak" or "conflict" for every other decoded tile, by index.
        problems: Leaks, conflicting labels, duplicates and placeholders.
    """

    kept: tuple[int, ...]
    left_out: Mapping[int, str]
    problems: tuple[Problem, ...]


def select_tiles(files: Sequence[TileFile], outcomes: Mapping[int, DecodeOutcome]) -> Selection:
    """Choose the tiles to keep by their pixels, so that copies of a picture do not bias the evaluation.

    A picture with two different labels is left out entirely. A picture in two splits is kept only in the later one: a
    train tile that is also in test would make test scores too good, and one tile less in train costs almost nothing.
    Copies within one split are kept.

    Args:
        files: The files.
        outcomes: The results of decoding, by index into `files`.

    Returns:
        The tiles to keep, and why the others are left out.
    """
    decoded = {index: facts for index, facts in sorted(outcomes.items()) if isinstance(facts, TileFacts)}
    groups: dict[str, list[int]] = defaultdict(list)
    for index, facts in decoded.items():
        groups[facts.pixel_digest].append(index)
    left_out: dict[int, str] = {}
    problems: list[Problem] = []
    for copies in (indices for indices in groups.values() if len(indices) > 1):
        dropped, found = _judge_copies(files, copies)
        left_out |= dropped
        problems += found
    return Selection(tuple(index for index in decoded if index not in left_out), left_out, tuple(problems))


def make_report(
    folder: TileFolder,
    outcomes: Mapping[int, DecodeOutcome],
    selection: Selection,
    *,
    not_images: Sequence[int],
    image_size_px: int | None,
) -> CheckReport:
    """Combine all findings.

    Args:
        folder: The tiles.
        outcomes: The results of decoding, by index into the folder's files.
        selection: Which of the decoded tiles are kept.
        not_images: Indices of the files that are no images and do not claim to be.
        image_size_px: Size that the tiles will be resized to, if it is known.

    Returns:
        The report, errors first.
    """
    broken = [found for found in outcomes.values() if isinstance(found, Problem)]
    usable = {index: facts for index in selection.kept if isinstance(facts := outcomes[index], TileFacts)}
    splits = [split for split in SPLITS if any(file.split == split for file in folder.files)]
    counts = {(split, label): 0 for split in splits for label in folder.classes}
    counts.update(Counter((folder.files[index].split, folder.files[index].label) for index in usable))
    unread = _unread_files(folder, not_images)
    problems = [
        *broken,
        *selection.problems,
        *_class_problems(counts),
        *_shared_traits(folder.files, usable, image_size_px),
        *_unread_problems(unread),
    ]
    return CheckReport(
        root=folder.root,
        counts=counts,
        num_tiles=len(folder.files) - len(not_images),
        problems=_sorted(problems),
        unused=_left_out(folder, broken, selection) | unread,
        formats=dict(Counter(facts.format for facts in usable.values()).most_common()),
        sizes_px=dict(Counter(f"{facts.width_px}x{facts.height_px}" for facts in usable.values()).most_common()),
    )


def with_problems(report: CheckReport, problems: Sequence[Problem]) -> CheckReport:
    """Return a report with more findings, which leave out no tile."""
    return replace(report, problems=_sorted([*report.problems, *problems]))


def with_current_files(report: CheckReport, folder: TileFolder, not_images: Sequence[int]) -> CheckReport:
    """Return the report of an existing store for the folder as it is now: its place, and the files that are not tiles."""
    unread = _unread_files(folder, not_images)
    kept = [problem for problem in report.problems if problem.kind != NOT_READ]
    left_out = {kind: names for kind, names in report.unused.items() if kind in LEFT_OUT}
    return replace(
        report, root=folder.root, problems=_sorted([*kept, *_unread_problems(unread)]), unused=left_out | unread
    )


def _unread_files(folder: TileFolder, not_images: Sequence[int]) -> dict[str, tuple[str, ...]]:
    """Return the relative paths of the files that are not read, by reason.

    Args:
        folder: The tiles.
        not_images: Indices of the files in class folders that are no images and do not claim to be.
    """
    found: dict[str, list[str]] = defaultdict(list)
    for index in not_images:
        found[NOT_AN_IMAGE].append(folder.files[index].relative)
    for reason, relative in unread_elsewhere(folder):
        found[reason].append(relative)
    return {reason: tuple(sorted(names)) for reason, names in sorted(found.items())}


def _unread_problems(unread: Mapping[str, tuple[str, ...]]) -> list[Problem]:
    """Return one finding for each reason."""
    problems = []
    for reason, names in unread.items():
        severity = "note" if reason in (NOT_AN_IMAGE, HIDDEN) else "warning"
        are = "files or folders are" if len(names) > 1 else "file or folder is"
        problems.append(Problem(severity, NOT_READ, names[0], f"{len(names)} {are} not read: {reason}"))
    return problems


def _left_out(folder: TileFolder, broken: Sequence[Problem], selection: Selection) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = defaultdict(list)
    for problem in broken:
        found[problem.kind].append(problem.relative)
    for index, kind in selection.left_out.items():
        found[kind].append(folder.files[index].relative)
    return {kind: tuple(sorted(names)) for kind, names in sorted(found.items())}


def _sorted(problems: list[Problem]) -> tuple[Problem, ...]:
    order = ("error", "warning", "note")
    return tuple(sorted(problems, key=lambda one: (order.index(one.severity), one.kind, one.relative)))


def _shared_traits(
    files: Sequence[TileFile], usable: Mapping[int, TileFacts], image_size_px: int | None
) -> Iterator[Problem]:
    """Yield one finding for each trait that tiles share, such as a format or a small size."""
    having: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for index, facts in usable.items():
        for trait in _traits(facts, image_size_px):
            having[trait].append(index)
    for (severity, kind, detail), indices in having.items():
        tiles = f"{len(indices)} tile{'s' * (len(indices) > 1)}"
        yield Problem(severity, kind, files[indices[0]].relative, f"{tiles} {detail}")


def _traits(facts: TileFacts, image_size_px: int | None) -> Iterator[tuple[str, str, str]]:
    """Yield severity, kind and detail of everything that is worth a word about one tile."""
    edge_px = min(facts.width_px, facts.height_px)
    if facts.converted_from:
        yield "note", "converted", f"converted to RGB from {facts.converted_from}"
    if facts.format not in SERVED_FORMATS:
        yield (
            "note",
            "not-served",
            f"in {facts.format}: used here, but not every server of an exported model decodes {facts.format}",
        )
    if facts.has_more_images:
        yield "note", "sequence", "with several images in the file; the first is used"
    if facts.width_px != facts.height_px:
        yield "note", "not-square", "not square; stretched to a square"
    if facts.is_one_color:
        yield "warning", "one-color", "of one color; remove those that show no place"
    if edge_px < TINY_PX:
        yield "warning", "tiny", f"under {TINY_PX} px"
    elif image_size_px is not None and edge_px < image_size_px / 2:
        detail = f"smaller than half of the {image_size_px} px they are resized to; choose a smaller image size"
        yield "warning", "enlarged", detail


def _judge_copies(files: Sequence[TileFile], copies: Sequence[int]) -> tuple[dict[int, str], list[Problem]]:
    """Return why to leave out which of several tiles with the same pixels, by index, and the problems to report."""
    names = [files[index].relative for index in copies]
    labels = sorted({files[index].label for index in copies})
    is_placeholder = len(copies) >= MIN_PLACEHOLDER_COPIES
    if len(labels) > 1:
        detail = f"the same picture is labelled {' and '.join(labels)}: {first_few(names)}; all are left out"
        detail += f"; {len(copies)} copies look like a placeholder" if is_placeholder else ""
        return dict.fromkeys(copies, "conflict"), [Problem("error", "conflict", names[0], detail)]
    latest = max((files[index].split for index in copies), key=SPLITS.index)
    stays = [files[index].relative for index in copies if files[index].split == latest]
    leaks = [index for index in copies if files[index].split != latest]
    problems = []
    for leak in (files[index] for index in leaks):
        detail = f"the same picture as {stays[0]}; left out of {leak.split}"
        problems.append(Problem("error", "leak", leak.relative, detail))
    if is_placeholder:
        detail = f"the same picture {len(copies)} times: {first_few(names)}; remove them if they show no place"
        problems.append(Problem("warning", "placeholder", stays[0], detail))
    elif len(stays) > 1:
        detail = f"the same picture {len(stays)} times in {latest}: {first_few(stays)}"
        problems.append(Problem("note", "duplicate", stays[0], detail))
    return dict.fromkeys(leaks, "leak"), problems


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
