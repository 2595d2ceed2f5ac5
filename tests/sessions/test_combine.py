"""Tests of what a new session consists of: the algebra of decisions, and what may not change."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from satx.errors import ConfigError, DataError
from satx.sessions.combine import additions, check_classes, check_test_split, combined
from satx.sessions.decisions import DROP, KEEP, KINDS, RELABEL, UNRECOGNISED, Decision
from satx.sessions.difference import SessionDifference, session_difference
from satx.sessions.manifest import Manifest, Row
from sessions.small_sessions import decision, manifest, row

LABELS = ("not-school", "school")
ROWS = st.lists(
    st.builds(
        row,
        st.integers(0, 40),
        label=st.sampled_from(LABELS),
        slice=st.sampled_from(["", "urban"]),
        split=st.sampled_from(["train", "valid", "test"]),
        reason=st.sampled_from(["first", "second"]),
    ),
    min_size=1,
    max_size=12,
    unique_by=lambda one: one.pixel_sha256,
)


def decided(picture: str, kind: str, label: str = "") -> Decision:
    return Decision(**decision(picture, kind, label=label))


def total(difference: SessionDifference, name: str) -> int:
    return sum(getattr(group, name) for group in difference.groups)


@given(ROWS)
def test_keep_changes_nothing(rows: list[Row]) -> None:
    before = manifest(*rows)
    keeps = {one.pixel_sha256: decided(one.pixel_sha256, KEEP) for one in rows}
    assert combined(before, {}, keeps) == before.rows


@settings(max_examples=60)
@given(ROWS, st.data())
def test_every_decision_shows_in_the_difference_and_nothing_else_does(rows: list[Row], data: st.DataObject) -> None:
    before = manifest(*rows)
    about = {}
    for one in rows:
        kind = data.draw(st.sampled_from([None, *KINDS]))
        if kind is not None:
            about[one.pixel_sha256] = decided(one.pixel_sha256, kind, data.draw(st.sampled_from(LABELS)))
    after = Manifest(combined(before, {}, about))
    gone = {picture for picture, one in about.items() if one.decision in (DROP, UNRECOGNISED)}
    other = {
        picture
        for picture, one in about.items()
        if one.decision == RELABEL and one.label != before.by_picture[picture].label
    }
    difference = session_difference(before, after)
    assert (total(difference, "dropped"), total(difference, "relabelled")) == (len(gone), len(other))
    assert (total(difference, "added"), total(difference, "moved"), total(difference, "resliced")) == (0, 0, 0)
    assert (total(difference, "before"), total(difference, "after")) == (len(rows), len(rows) - len(gone))
    for picture, after_row in after.by_picture.items():
        expected = before.by_picture[picture]
        if picture in other:
            made = about[picture]
            expected = replace(expected, label=made.label, reason="blurred", author="Grace", decided_at=made.decided_at)
        assert after_row == expected
    assert difference.same_test == (before.test_tiles() == after.test_tiles())


@settings(max_examples=60)
@given(ROWS, ROWS)
def test_a_difference_is_its_own_reverse_and_its_counts_add_up(first: list[Row], second: list[Row]) -> None:
    before, after = manifest(*first), manifest(*second)
    there, back = session_difference(before, after), session_difference(after, before)
    assert total(there, "added") == total(back, "dropped") and total(there, "kept") == total(back, "kept")
    assert total(there, "before") + total(there, "added") - total(there, "dropped") == total(there, "after")
    for name in ("relabelled", "moved", "resliced"):
        assert total(there, name) == total(back, name)
    for group in there.groups:
        assert group.kept + group.added <= group.after and group.kept + group.dropped <= group.before


def test_a_picture_that_the_parent_has_stays_where_the_parent_has_it() -> None:
    parent = manifest(row(1), row(2, split="test"), row(3, split="valid"))
    candidates = [row(1), row(2), row(3, split="test"), row(4)]
    added, left_out = additions(parent, candidates, {}, session="2")
    assert list(added) == [row(4).pixel_sha256]
    assert left_out == {f"in {split} of session 2 already": 1 for split in ("train", "test", "valid")}


def test_another_class_is_refused_unless_somebody_decided() -> None:
    parent, other = manifest(row(1), row(2)), row(1, label="not-school", path="new.png")
    with pytest.raises(
        DataError, match=r"got 1 of its pictures with another class: new.png is not-school, there 1.png is school"
    ):
        additions(parent, [other], {}, session="2")
    for kind in KINDS:
        about = {other.pixel_sha256: decided(other.pixel_sha256, kind, "not-school")}
        added, left_out = additions(parent, [other], about, session="2")
        assert (added, sum(left_out.values())) == ({}, 1)


def test_a_decision_about_a_tile_to_add_applies_to_it() -> None:
    parent, new = manifest(row(1)), {kind: row(10 + number) for number, kind in enumerate(KINDS)}
    about = {one.pixel_sha256: decided(one.pixel_sha256, kind, "not-school") for kind, one in new.items()}
    added, left_out = additions(parent, new.values(), about, session="2")
    rows = {one.pixel_sha256: one for one in combined(parent, added, about)}
    assert set(rows) == {one.pixel_sha256 for one in (row(1), new[KEEP], new[RELABEL])}
    assert (rows[new[KEEP].pixel_sha256].reason, rows[new[KEEP].pixel_sha256].label) == ("blurred", "school")
    assert rows[new[RELABEL].pixel_sha256].label == "not-school"
    assert left_out == {f"decided to be left out ({kind})": 1 for kind in (DROP, UNRECOGNISED)}


@pytest.mark.parametrize(
    ("after", "said"),
    [
        ([row(1)], r"1 taken out \(2.png\)"),
        ([row(1), row(2, split="test", label="not-school")], r"1 relabelled \(2.png\)"),
        ([row(1), row(2, split="test"), row(3, split="test")], r"1 added \(3.png\)"),
        ([row(1), row(2, split="valid")], r"1 taken out \(2.png\)"),
    ],
)
def test_the_test_split_changes_in_a_new_version_only(after: list[Row], said: str) -> None:
    parent, child = manifest(row(1), row(2, split="test")), manifest(*after)
    with pytest.raises(ConfigError, match=said) as refused:
        check_test_split(parent, child, is_new_version=False)
    assert "Scores on another test split cannot be compared" in str(refused.value)
    assert "--new-test-version" in str(refused.value)
    check_test_split(parent, child, is_new_version=True)
    check_test_split(parent, parent, is_new_version=False)
    with pytest.raises(ConfigError, match="expected a change of the test split, got none"):
        check_test_split(parent, parent, is_new_version=True)


def test_a_split_that_would_lack_a_class_is_refused() -> None:
    full = [
        row(number, label=LABELS[number % 2], split=split)
        for number, split in enumerate(["train", "train", "valid", "valid"])
    ]
    check_classes(full)  # without a test split
    with pytest.raises(DataError, match="got no school in valid"):
        check_classes(full[:3])
    with pytest.raises(DataError, match="got no not-school in test"):
        check_classes([*full, row(9, split="test")])
