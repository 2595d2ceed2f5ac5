"""Findings about a folder of tiles, derived from what decoding told about each file."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from satx.tiles.formats import SERVED_FORMATS
from satx.tiles.layout import SPLITS, TileFile, TileFolder
from satx.tiles.report import CheckReport, DecodeOutcome, Problem, TileFacts
from satx.tiles.unread import NOT_AN_IMAGE, unread_elsewhere

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


def select_tiles(files: Sequence[TileFile], digests: Mapping[int, str]) -> Selection:
    """Choose the tiles to keep by their pixels, so that copies of a picture do not bias the evaluation.

    A picture with two different labels is left out entirely. A picture in two splits is kept only in the later one: a
    train tile that is also in test would make test scores too good, and one tile less in train costs almost nothing.
    Copies within one split are kept.

    Args:
        files: The files.
        digests: The pixel digests of those that were decoded, by index into `files`.

    Returns:
        The tiles to keep, and why the others are left out.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for index in sorted(digests):
        groups[digests[index]].append(index)
    left_out: dict[int, str] = {}
    problems: list[Problem] = []
    for group in (group for group in groups.values() if len(group) > 1):
        dropped, found = _judge_copies([files[index] for index in group])
        left_out |= {index: dropped[files[index].relative] for index in group if files[index].relative in dropped}
        problems += found
    return Selection(tuple(index for index in sorted(digests) if index not in left_out), left_out, tuple(problems))


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
    unused = _unused(folder, broken, selection, not_images)
    problems = [
        *broken,
        *selection.problems,
        *_class_problems(counts),
        *_shared_traits(folder.files, usable, image_size_px),
        *_unused_problems(unused),
    ]
    order = ("error", "warning", "note")
    problems.sort(key=lambda problem: (order.index(problem.severity), problem.kind, problem.relative))
    return CheckReport(
        root=folder.root,
        counts=counts,
        num_tiles=len(folder.files) - len(not_images),
        problems=tuple(problems),
        broken=tuple(sorted(problem.relative for problem in broken)),
        unused=unused,
        formats=dict(Counter(facts.format for facts in usable.values()).most_common()),
        sizes_px=dict(Counter(f"{facts.width_px}x{facts.height_px}" for facts in usable.values()).most_common()),
    )


def _unused(
    folder: TileFolder, broken: Sequence[Problem], selection: Selection, not_images: Sequence[int]
) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = defaultdict(list)
    for problem in broken:
        found[problem.kind].append(problem.relative)
    for index, kind in selection.left_out.items():
        found[kind].append(folder.files[index].relative)
    found[NOT_AN_IMAGE] = [folder.files[index].relative for index in not_images]
    for reason, relative in unread_elsewhere(folder):
        found[reason].append(relative)
    return {reason: tuple(sorted(names)) for reason, names in sorted(found.items()) if names}


def _unused_problems(unused: Mapping[str, tuple[str, ...]]) -> Iterator[Problem]:
    for reason, names in unused.items():
        if reason in ("broken", "refused", "leak", "conflict"):
            continue  # these are findings of their own
        severity = "note" if reason in (NOT_AN_IMAGE, "hidden") else "warning"
        are = "files are" if len(names) > 1 else "file is"
        yield Problem(severity, "not-read", names[0], f"{len(names)} {are} not read: {reason}")


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
            f"in {facts.format}: used here, but an exported model does not decode {facts.format}",
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


def _judge_copies(copies: Sequence[TileFile]) -> tuple[dict[str, str], list[Problem]]:
    """Return why to leave out which of several files with the same pixels, and the problems to report."""
    names = [file.relative for file in copies]
    labels = sorted({file.label for file in copies})
    if len(labels) > 1:
        detail = f"the same picture is labelled {' and '.join(labels)}: {_named(names)}; all are left out"
        return dict.fromkeys(names, "conflict"), [Problem("error", "conflict", names[0], detail)]
    latest = max((file.split for file in copies), key=SPLITS.index)
    stays = [file.relative for file in copies if file.split == latest]
    leaks = [file for file in copies if file.split != latest]
    problems = [
        Problem("error", "leak", leak.relative, f"the same picture as {stays[0]}; left out of {leak.split}")
        for leak in leaks
    ]
    if len(copies) >= MIN_PLACEHOLDER_COPIES:
        detail = f"the same picture {len(copies)} times: {_named(names)}; remove them if they show no place"
        problems.append(Problem("warning", "placeholder", stays[0], detail))
    elif len(stays) > 1:
        detail = f"the same picture {len(stays)} times in {latest}: {_named(stays)}"
        problems.append(Problem("note", "duplicate", stays[0], detail))
    return {file.relative: "leak" for file in leaks}, problems


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
