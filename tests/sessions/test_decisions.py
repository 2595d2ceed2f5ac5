"""Tests of tables of decisions: one clear error for each mistake, with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from satx.errors import DataError
from satx.sessions.decisions import COLUMNS, Decision, decided, decisions_text, read_decisions
from sessions.small_sessions import DIGEST, decision, write_table

ONE, TWO = "1" * 64, "2" * 64


def read(path: Path) -> dict[str, Decision]:
    decisions = read_decisions(path, session="2", session_digest=DIGEST)
    return decided(path, decisions, pictures={ONE, TWO}, classes={"school", "not-school"})


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"pixel_sha256": "3" * 64}, "expected a picture of the session or of --add, got 333333333333…"),
        ({"pixel_sha256": "beef"}, "expected 64 hex digits for pixel_sha256, got 'beef'"),
        ({"decision": "remove"}, "expected a decision, got 'remove'. Valid: drop, keep, relabel, unrecognised"),
        ({"decision": "kep"}, "Did you mean 'keep'?"),
        ({"decision": "relabel"}, "expected label and reason and author of the decision to relabel, got no label"),
        (
            {"decision": "relabel", "label": "scool"},
            "expected a class to relabel to, got 'scool'. Did you mean 'school'?",
        ),
        ({"reason": " "}, "got no reason"),
        ({"author": ""}, "got no author"),
        (
            {"decided_at": "yesterday"},
            "expected a time such as 2026-01-31T12:00:00+00:00 for decided_at, got 'yesterday'",
        ),
        (
            {"session_digest": "e" * 64},
            "expected a decision about session 2, whose digest is dddddddddddd…, got one about a",
        ),
        ({"session_digest": ""}, "a session with no digest…"),
    ],
)
def test_a_wrong_decision_is_refused_with_its_line(tmp_path: Path, parts: dict[str, str], said: str) -> None:
    path = write_table(tmp_path, [decision(ONE), decision(TWO) | parts], "d.csv")
    with pytest.raises(DataError) as refused:
        read(path)
    assert str(refused.value).startswith(f"{path}, line 3: ") and said in str(refused.value)


def test_two_decisions_that_contradict_each_other_name_both_authors(tmp_path: Path) -> None:
    lines = [
        decision(ONE, "relabel", label="school", author="Ada"),
        decision(TWO),
        decision(ONE, "relabel", label="not-school", author="Grace"),
    ]
    path = write_table(tmp_path, lines, "d.csv")
    said = "line 4: Grace decided 'relabel to not-school' about the picture 111111111111…, and Ada on line 2 'relabel to school'"
    with pytest.raises(DataError) as refused:
        read(path)
    assert said in str(refused.value)


def test_two_people_may_agree(tmp_path: Path) -> None:
    path = write_table(tmp_path, [decision(ONE, author="Ada"), decision(ONE, author="Grace")], "d.csv")
    assert read(path)[ONE].author == "Ada"


def test_a_table_is_read_however_it_was_written(tmp_path: Path) -> None:
    names = ["Label", "notes", *(name for name in reversed(COLUMNS) if name != "label")]
    values = decision(ONE, "relabel", label="school") | {"Label": "school", "notes": "x"}
    path = tmp_path / "d.csv"
    path.write_bytes(
        b"\xef\xbb\xbf" + (";".join(names) + "\r\n\r\n" + ";".join(values[name] for name in names)).encode()
    )
    (found,) = read(path).values()
    assert (found.label, found.reason) == ("school", "blurred")
    copy = tmp_path / "copy.csv"
    copy.write_text(decisions_text([found]))
    assert read(copy) == {ONE: found}


def test_the_copy_of_decisions_is_sorted() -> None:
    one, two = (Decision(**decision(picture)) for picture in (ONE, TWO))
    assert decisions_text([two, one]) == decisions_text([one, two])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            b"pixel_sha256,decision\n",
            "expected the columns .*, got no label, reason, author, decided_at, session_digest",
        ),
        (",".join(COLUMNS).encode(), "expected a line for each decision, got none"),
        (b"\xff\xfe", "expected text in UTF-8"),
        (",".join(COLUMNS).encode() + b'\n"open', "line 2: expected cells separated by ','"),
        (b"", "got no pixel_sha256"),
    ],
)
def test_a_file_that_is_no_table_of_decisions_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "d.csv").write_bytes(content)
    with pytest.raises(DataError, match=said):
        read(tmp_path / "d.csv")
    with pytest.raises(DataError, match="cannot be read"):
        read(tmp_path / "missing.csv")
