"""What a new session consists of: the pictures of its parent, those that are added, and what was decided about both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from satx.errors import ConfigError, DataError
from satx.sessions.decisions import KEEP, LEAVING, RELABEL, Decision
from satx.sessions.manifest import Manifest, Row, sorted_rows
from satx.tiles.layout import SPLITS
from satx.tiles.walk import first_few


def additions(
    parent: Manifest, candidates: Iterable[Row], decided: Mapping[str, Decision], *, session: str
) -> tuple[dict[str, Row], dict[str, int]]:
    """Return the rows to add, by picture, and how many candidates are left out for which reason.

    A picture that the parent has stays where the parent has it: a train tile that is also in valid or test would make scores
    too good.

    Args:
        parent: The parent's manifest.
        candidates: Rows of the folder to add.
        decided: The decision about each picture.
        session: Name of the parent.

    Raises:
        DataError: The parent has a picture with another class, and nobody decided which is right.
    """
    added: dict[str, Row] = {}
    left_out: Counter[str] = Counter()
    contradicting = []
    for row in candidates:
        earlier, decision = parent.by_picture.get(row.pixel_sha256), decided.get(row.pixel_sha256)
        if decision is not None and decision.decision in LEAVING:
            left_out[f"decided to be left out ({decision.decision})"] += 1
        elif earlier is None:
            added[row.pixel_sha256] = row
        elif earlier.label != row.label and decision is None:
            contradicting.append(f"{row.path} is {row.label}, there {earlier.path} is {earlier.label}")
        else:
            left_out[f"in {earlier.split} of session {session} already"] += 1
    if contradicting:
        raise DataError(
            f"Expected the classes of session {session}, got {len(contradicting)} of its pictures with another class: "
            f"{first_few(contradicting)}. Add a decision about each, to keep or to relabel, or remove the files."
        )
    return added, dict(left_out)


def combined(parent: Manifest, added: Mapping[str, Row], decided: Mapping[str, Decision]) -> tuple[Row, ...]:
    """Return the rows of a new session.

    `drop` and `unrecognised` take a picture out. `relabel` gives it another class, and the reason, author and time of the
    decision. `keep` changes nothing of a picture that the parent has, and says why one that is added is kept.

    Args:
        parent: The parent's manifest.
        added: Rows of other pictures, by picture.
        decided: The decision about each picture.
    """
    rows = {**parent.by_picture, **added}
    for picture, decision in decided.items():
        row = rows.get(picture)
        if row is None:  # of --add, and left out there
            continue
        if decision.decision in LEAVING:
            del rows[picture]
        elif decision.decision == RELABEL and decision.label != row.label:
            rows[picture] = _decided(replace(row, label=decision.label), decision)
        elif decision.decision == KEEP and picture in added:
            rows[picture] = _decided(row, decision)
    return sorted_rows(rows.values())


def check_classes(rows: Sequence[Row]) -> None:
    """Raise a DataError if a split lacks a class that another split has, since no sweep could use the session."""
    labels = {split: {row.label for row in rows if row.split == split} for split in SPLITS}
    classes = set().union(*labels.values())
    for split in SPLITS:
        lacking = sorted(classes - labels[split])
        if lacking and (labels[split] or split != "test"):
            raise DataError(
                f"Expected every class in every split, got no {' and no '.join(lacking)} in {split}. Add such tiles, or "
                f"change the decisions."
            )


def check_test_split(parent: Manifest, child: Manifest, *, is_new_version: bool) -> None:
    """Check that the test split stays, unless a new version of it was asked for.

    Raises:
        ConfigError: It changes without a new version, or a new version was asked for without a change.
    """
    before, after = parent.test_tiles(), child.test_tiles()
    if is_new_version and before == after:
        raise ConfigError(
            "--new-test-version: expected a change of the test split, got none. Leave the option out: with it, scores could not "
            "be compared with earlier ones."
        )
    if is_new_version or before == after:
        return
    lost = {picture for picture, _ in before - after}
    gained = {picture for picture, _ in after - before}
    kinds = {
        "added": [child.by_picture[picture].path for picture in sorted(gained - lost)],
        "relabelled": [parent.by_picture[picture].path for picture in sorted(gained & lost)],
        "taken out": [parent.by_picture[picture].path for picture in sorted(lost - gained)],
    }
    said = "; ".join(f"{len(names)} {kind} ({first_few(names)})" for kind, names in kinds.items() if names)
    raise ConfigError(
        f"Expected the test tiles of the parent, got others: {said}. Scores on another test split cannot be compared with "
        f"earlier ones. Leave these out, or open a new version of the test split with --new-test-version."
    )


def _decided(row: Row, decision: Decision) -> Row:
    return replace(row, reason=decision.reason, author=decision.author, decided_at=decision.decided_at)
