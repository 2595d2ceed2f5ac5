"""What changed from one session to another: how many pictures of each class, slice and split."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from satx.sessions.manifest import Manifest, Row
from satx.tiles.layout import SPLITS


@dataclass(frozen=True)
class GroupDifference:
    """The pictures of one class, slice and split.

    Attributes:
        label: The class.
        slice: The slice, "" if unknown.
        split: The split.
        before: Pictures in the first session.
        kept: Pictures that are in both sessions, with the same class, slice and split.
        added: Pictures that the first session has not.
        dropped: Pictures that the second session has not.
        relabelled: Pictures here in the second session that had another class.
        moved: Pictures here in the second session that were in another split.
        resliced: Pictures here in the second session that had another slice.
        after: Pictures in the second session.
    """

    label: str
    slice: str
    split: str
    before: int
    kept: int
    added: int
    dropped: int
    relabelled: int
    moved: int
    resliced: int
    after: int


@dataclass(frozen=True)
class SessionDifference:
    """The difference of two sessions.

    Attributes:
        groups: One for each class, slice and split of either, in this order.
        same_test: Whether both have the same test tiles with the same classes, so that scores can be compared.
        reasons: For the pictures that are new or have another class: how many for which reason.
    """

    groups: tuple[GroupDifference, ...]
    same_test: bool
    reasons: dict[str, int]


_Place = tuple[str, str, str]  # class, slice, split


def session_difference(first: Manifest, second: Manifest) -> SessionDifference:
    """Compare two sessions picture by picture; neither must be an ancestor of the other."""
    counts: dict[str, Counter[_Place]] = {
        name: Counter() for name in ("before", "kept", "added", "dropped", "relabelled", "moved", "resliced", "after")
    }
    reasons: Counter[str] = Counter()
    for row in first.rows:
        counts["before"][_place(row)] += 1
        if row.pixel_sha256 not in second.by_picture:
            counts["dropped"][_place(row)] += 1
    for row in second.rows:
        counts["after"][_place(row)] += 1
        for what in _changes(first.by_picture.get(row.pixel_sha256), row):
            counts[what][_place(row)] += 1
            if what in ("added", "relabelled"):
                reasons[row.reason] += 1
    places = sorted(
        {place for counter in counts.values() for place in counter},
        key=lambda place: (place[0], place[1], SPLITS.index(place[2])),
    )
    groups = tuple(_group(place, {name: found[place] for name, found in counts.items()}) for place in places)
    return SessionDifference(groups, first.test_tiles() == second.test_tiles(), dict(reasons.most_common()))


def _group(place: _Place, counts: dict[str, int]) -> GroupDifference:
    label, slice_name, split = place
    return GroupDifference(label=label, slice=slice_name, split=split, **counts)


def _place(row: Row) -> _Place:
    return row.label, row.slice, row.split


def _changes(before: Row | None, after: Row) -> tuple[str, ...]:
    """Return what happened to a picture; several things can have."""
    if before is None:
        return ("added",)
    changed = {
        "relabelled": before.label != after.label,
        "moved": before.split != after.split,
        "resliced": before.slice != after.slice,
    }
    return tuple(what for what, happened in changed.items() if happened) or ("kept",)
