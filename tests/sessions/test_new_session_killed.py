"""`satx session new`, killed before each of its writes: no session, or the whole one; the same call completes it."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from satx.errors import SatxError
from satx.sessions.lineage import open_manifest
from satx.sessions.session_file import remove_leftovers
from satx.sessions.verified import verified_files
from satx.tiles.layout import read_layout
from sessions.small_sessions import decision, first_session, made, write_folder, write_table

# the killed process is a fork, since it must not import everything again for each write
pytestmark = pytest.mark.filterwarnings("ignore:os.fork")

WRITES: list[tuple[Any, str]] = [
    (os, "link"),
    (os, "mkdir"),
    (Path, "replace"),
    (Path, "rename"),
    (Path, "write_text"),
    (shutil, "rmtree"),
]


def killed_before(number: int, command: Callable[[], object]) -> bool:
    """Run a command in a fork that is killed before its write of this number; return False if it has fewer.

    Writes of the same kind that follow each other count as two: the kill comes before the first, or amid them.
    """
    process = os.fork()
    if not process:
        seen: list[str] = []

        def counted(name: str, write: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **options: Any) -> Any:
                if seen[-2:] != [name, name]:
                    seen.append(name)
                    if len(seen) > number:
                        os.kill(os.getpid(), signal.SIGKILL)
                return write(*arguments, **options)

            return call

        for owner, name in WRITES:
            setattr(owner, name, counted(name, getattr(owner, name)))
        code = 1
        try:
            command()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(process, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def check_whole(project: Path, name: str) -> None:
    """Check that a session is there as a whole, and nothing is left beside it."""
    session, manifest = open_manifest(name)
    folder = read_layout(project / session.data_dir)
    assert len(verified_files(folder, manifest)) == len(folder.files) == len(manifest.rows)
    assert not list((project / "data").glob(".session*")) and not list((project / "experiments").glob(".session*"))


@pytest.fixture
def command(project: Path) -> Callable[..., object]:
    """Return a call that makes session 3 of a tile to add and a decision."""
    first = first_session(project).manifest
    add = write_folder(project / "more", {"train/school/new.png": 900})
    picture = next(one.pixel_sha256 for one in first.rows if one.path == "train/school/0.png")
    lines = [decision(picture, session_digest=first.digest)]
    decisions = write_table(project, lines, "decisions.csv")
    return lambda **options: made("3", add=add, decisions=decisions, **options)


def test_killed_before_any_write_it_is_not_there_and_the_same_call_makes_it(
    project: Path, command: Callable[..., object]
) -> None:
    numbers = 0
    while killed_before(numbers, command):
        if not (project / "experiments/session3.yaml").exists():
            command()
        else:  # the kill came after its last rename
            remove_leftovers(project / "experiments", ".session3*")
        check_whole(project, "3")
        for path in (project / "experiments").glob("session3*"):
            path.unlink()
        shutil.rmtree(project / "data/session3")
        numbers += 1
    check_whole(project, "3")
    assert numbers > 12  # links, a folder, and three files with a folder of their own


def test_a_replacement_that_is_killed_never_passes_for_either_session_and_is_completed(
    project: Path, command: Callable[..., object]
) -> None:
    other = write_folder(project / "other", {"train/school/x.png": 950, "train/school/y.png": 951})
    numbers, refused = 0, 0
    while True:
        made("3", add=other)
        before = open_manifest("3")[1]
        if not killed_before(numbers, lambda: command(replaces=True)):
            break
        try:
            check_whole(project, "3")
            assert open_manifest("3")[1] == before
        except (SatxError, AssertionError):
            refused += 1
        command(replaces=True)
        assert open_manifest("3")[1] != before
        check_whole(project, "3")
        aside = list((project / "data").glob("session3-replaced-*"))
        assert aside and all(len(read_layout(folder).files) for folder in aside)
        for folder in [*aside, project / "data/session3"]:
            shutil.rmtree(folder)
        for path in (project / "experiments").glob("session3*"):
            path.unlink()
        numbers += 1
    assert numbers > 12 and refused
