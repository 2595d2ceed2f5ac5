"""Tests of the spool: operations are done in order once they can be, even after their process has exited."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from satx.tracking.spool import Operation, Spool


class Away(Exception):
    """Raised while MLflow is unavailable."""


class Impossible(Exception):
    """Raised by an operation that can never be done."""


class World:
    """Stand-in for MLflow that records the operations; can be made unavailable."""

    def __init__(self) -> None:
        self.done: list[Any] = []
        self.is_there, self.now = True, 0.0

    def perform(self, operation: Operation, files: Path | None) -> None:
        if not self.is_there:
            raise Away("away")
        if operation.get("never"):
            raise Impossible
        found = [path for path in files.rglob("*") if path.is_file()] if files else []
        texts = {path.name: path.read_text() for path in found}
        self.done.append((operation["n"], texts) if texts else operation["n"])

    def spool(self, folder: Path) -> Spool:
        def clock() -> float:
            self.now += 60.0  # more than RETRY_SECONDS after the last attempt
            return self.now

        return Spool(folder, self.perform, cannot_be_done_now=lambda error: isinstance(error, Away), clock=clock)


@pytest.fixture
def world() -> World:
    return World()


def left_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_nothing_is_left_on_disk_while_operations_succeed(world: World, tmp_path: Path) -> None:
    spool = world.spool(tmp_path)
    spool.do({"n": 1})
    spool.do({"n": 2}, {"deep/a.txt": lambda path: path.write_text("a")})
    assert world.done == [1, (2, {"a.txt": "a"})]
    assert left_in(tmp_path) == []
    spool.close()
    assert list(tmp_path.iterdir()) == []


def test_waiting_operations_are_done_in_order_once_they_can_be(world: World, tmp_path: Path) -> None:
    spool = world.spool(tmp_path)
    world.is_there = False
    for number in (1, 2, 3):
        spool.do({"n": number}, {"a.txt": lambda path, number=number: path.write_text(str(number))})
    assert (world.done, spool.num_waiting) == ([], 3)
    world.is_there = True
    spool.do({"n": 4})
    assert world.done == [(1, {"a.txt": "1"}), (2, {"a.txt": "2"}), (3, {"a.txt": "3"}), 4]
    assert spool.num_waiting == 0
    spool.close()
    assert list(tmp_path.iterdir()) == []


def test_operations_of_an_exited_process_are_done_first_and_those_of_a_live_one_are_left(
    world: World, tmp_path: Path
) -> None:
    world.is_there = False
    first, living = world.spool(tmp_path), world.spool(tmp_path)
    first.do({"n": 1})
    first.do({"n": 2})
    living.do({"n": 9})
    first.close()  # releases the lock, as the kernel does when a process exits
    second = world.spool(tmp_path)
    assert second.num_waiting == 2
    second.do({"n": 3})
    world.is_there = True
    second.do({"n": 4})
    assert world.done == [1, 2, 3, 4]
    assert living.drain()
    assert world.done[-1] == 9
    for spool in (second, living):
        spool.close()
    assert list(tmp_path.iterdir()) == []


def test_an_operation_that_can_never_be_done_is_skipped_and_blocks_no_other(world: World, tmp_path: Path) -> None:
    spool = world.spool(tmp_path)
    with pytest.raises(Impossible):
        spool.do({"n": 0, "never": True})
    world.is_there = False
    spool.do({"n": 1, "never": True})
    spool.do({"n": 2})
    world.is_there = True
    assert spool.drain()
    assert world.done == [2]
    assert [name.split("/")[1] for name in left_in(tmp_path) if name.endswith("deed.json")] == ["failed-00000001"]
    spool.close()


KILLED = """
import os, signal, sys
from pathlib import Path
from satx.tracking.spool import Spool
def perform(operation, files):
    raise OSError("away")
spool = Spool(Path(sys.argv[1]), perform, cannot_be_done_now=lambda error: True)
spool.do({"n": 1})
def last(path):
    path.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
spool.do({"n": 2}, {"a.txt": last})
"""


def test_a_kill_loses_only_the_operation_that_was_being_queued(world: World, tmp_path: Path) -> None:
    process = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], env=os.environ.copy())
    assert process.returncode == -signal.SIGKILL
    spool = world.spool(tmp_path)
    assert spool.drain()
    assert world.done == [1]
    spool.close()


@pytest.fixture
def folders(tmp_path: Path) -> Iterator[Iterator[Path]]:
    yield iter(tmp_path / str(number) for number in range(10_000))


@given(st.lists(st.sampled_from(["do", "away", "back", "die"]), max_size=30))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_after_any_sequence_of_outages_and_restarts_all_is_done_once_and_in_order(
    folders: Iterator[Path], story: list[str]
) -> None:
    world, folder, asked = World(), next(folders), 0
    spool = world.spool(folder)
    for event in [*story, "back"]:
        if event == "do":
            asked += 1
            spool.do({"n": asked})
        elif event == "die":
            spool.close()
            spool = world.spool(folder)
        else:
            world.is_there = event == "back"
    assert spool.drain()
    assert world.done == list(range(1, asked + 1))
    spool.close()
