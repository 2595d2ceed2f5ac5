"""What `satx data check` says of tiles that show the same ground in different splits, or under different labels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from shlex import quote

from satx.splits.groups import groups_of
from satx.splits.pairs import HASH, OVERLAP, PIXELS, Pair
from satx.tiles.layout import SPLITS, TileFile
from satx.tiles.report import Problem

SAME_GROUND, SAME_PICTURE = "same-ground", "same-picture"


def same_ground_problems(root: Path, files: Sequence[TileFile], pairs: Sequence[Pair]) -> list[Problem]:
    """Return a warning for each group of tiles that shows the same ground in several splits, or one picture with several labels.

    Such tiles are not left out, as copies of the same pixels are: `satx data split` puts them into one split. Different labels of
    tiles that only overlap are no problem, since each shows ground that the other does not.

    Args:
        root: The folder of the tiles.
        files: The tiles, all with a split.
        pairs: Pairs that are certain.
    """
    pictures = [pair for pair in pairs if pair.how != OVERLAP]
    return [
        *(_leak(root, files, group) for group in _groups(files, pairs) if len(_splits(files, group)) > 1),
        *(_conflict(files, group) for group in _groups(files, pictures) if len(_labels(files, group)) > 1),
    ]


def _groups(files: Sequence[TileFile], pairs: Sequence[Pair]) -> Iterator[list[Pair]]:
    """Yield the pairs of each group of tiles that pairs connect."""
    numbers = groups_of(len(files), pairs)
    groups: dict[int, list[Pair]] = defaultdict(list)
    for pair in pairs:
        groups[int(numbers[pair.first])].append(pair)
    yield from groups.values()


def _members(group: Sequence[Pair]) -> list[int]:
    return sorted({index for pair in group for index in (pair.first, pair.second)})


def _splits(files: Sequence[TileFile], group: Sequence[Pair]) -> set[str]:
    return {files[index].split for index in _members(group)}


def _labels(files: Sequence[TileFile], group: Sequence[Pair]) -> set[str]:
    return {files[index].label for index in _members(group)}


def _leak(root: Path, files: Sequence[TileFile], group: Sequence[Pair]) -> Problem:
    # the pairs connect the group, so one of them at least is across splits
    across = [pair for pair in group if files[pair.first].split != files[pair.second].split]
    pair = max(across, key=lambda one: one.score)
    earlier, later = sorted(
        (files[pair.first], files[pair.second]), key=lambda file: (SPLITS.index(file.split), file.relative)
    )
    members = _members(group)
    detail = f"the same ground as {later.relative}: {_words(pair)}"
    if len(members) > 2:
        splits = sorted(_splits(files, group), key=SPLITS.index)
        detail += f"; pairs like this one connect {len(members)} tiles of {' and '.join(splits)}"
    detail += f"; `satx data split {quote(str(root))}` puts them into one split"
    return Problem("warning", SAME_GROUND, earlier.relative, detail)


def _conflict(files: Sequence[TileFile], group: Sequence[Pair]) -> Problem:
    pair = next(pair for pair in group if files[pair.first].label != files[pair.second].label)
    first, second = files[pair.first], files[pair.second]
    detail = f"labelled {first.label}, and {second.relative} {second.label}: {_words(pair)}; correct the wrong label"
    return Problem("warning", SAME_PICTURE, first.relative, detail)


def _words(pair: Pair) -> str:
    return {
        OVERLAP: f"their squares on the map overlap by {pair.score:.0%}",
        PIXELS: "the same picture, flipped or turned",
        HASH: "the same picture, encoded again",
    }[pair.how]
