"""The engine killed at random moments: the files that are left are whole, and the rest gives the same bytes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from bulk_played import PlayedImagery, PlayedScorer

from satx.bulk.engine import predict_blocks
from satx.bulk.ledger import open_ledger
from satx.bulk.plan import plan_files

NUM_FILES, NUM_KILLS = 3000, 10
NUM_KILLS_WITH_KERAS = 5  # each takes seconds
# Each batch of the played scorer takes 2 ms, so that a run lasts long enough to be killed in it. A run with Keras is a fork of a
# process that has imported it, and computed nothing.
RUN = f"""
import os, sys, time
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from bulk_played import PlayedImagery, PlayedScorer
from satx.bulk.engine import predict_blocks
from satx.bulk.ledger import open_ledger
from satx.bulk.plan import plan_files

def played():
    scorer = PlayedScorer(batch_size=16)
    scorer.before = lambda number: time.sleep(0.002)
    return scorer

def run(out, open_scorer):
    plan, ledger = plan_files([f"{{number:05d}}.png" for number in range({NUM_FILES})]), open_ledger(out)
    finished, scorer = ledger.finished(), open_scorer()
    left = [block for block in plan.blocks if block.name not in finished]
    print("ready", os.getpid(), flush=True)
    predict_blocks(plan, left, PlayedImagery(), scorer, ledger)
    print("done", flush=True)

if sys.argv[1] == "played":
    run(sys.argv[2], played)
else:
    from satx.bulk.local_scorer import open_local_scorer
    open_keras = lambda: open_local_scorer(
        Path(sys.argv[1]), name="school", version=3, weights_sha256=None, precision="float32"
    )
    while out := sys.stdin.readline():
        process = os.fork()
        if not process:
            run(out.strip(), open_keras)
            os._exit(0)
        sys.stdin.readline()  # until then, the id belongs to nobody else
        os.waitpid(process, 0)
        print("ended", flush=True)
"""


def start(out: Path) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", RUN, "played", str(out)]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == f"ready {process.pid}\n"
    return process


def test_ten_kills_lose_nothing_and_change_no_byte(tmp_path: Path) -> None:
    plan = plan_files([f"{number:05d}.png" for number in range(NUM_FILES)])
    whole = open_ledger(str(tmp_path / "whole"))
    predict_blocks(plan, plan.blocks, PlayedImagery(), PlayedScorer(batch_size=16), whole)
    process = start(tmp_path / "killed")
    began = time.perf_counter()
    output, _ = process.communicate()
    assert output == "done\n" and process.returncode == 0
    seconds = time.perf_counter() - began

    chance = random.Random(20)
    killed, num_killed = tmp_path / "killed-often", 0
    for _ in range(NUM_KILLS):
        process = start(killed)
        time.sleep(chance.uniform(0, 2 * seconds / NUM_KILLS))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        num_killed += process.returncode == -signal.SIGKILL
    assert num_killed >= NUM_KILLS / 2  # the last ones may have been done before
    process = start(killed)
    assert process.communicate()[0] == "done\n"
    for name in ("killed", "killed-often"):
        check_same(tmp_path / name, tmp_path / "whole")


@pytest.mark.slow
def test_kills_of_a_run_with_keras_change_no_byte(tmp_path: Path) -> None:
    from inference.tiny import fitted_classifier, open_tiles, render_tiles  # imports Keras

    from satx.models.classifier import save_classifier

    tiles = open_tiles(render_tiles(tmp_path / "sample"), tmp_path / "cache")
    save_classifier(replace(fitted_classifier(tiles), temperature=2.5), tmp_path / "model")
    with forking(tmp_path / "model") as forks:
        forks.begin(tmp_path / "whole")
        began = time.perf_counter()
        assert forks.rest() == ["done", "ended"]
        seconds = time.perf_counter() - began
        chance, num_killed = random.Random(20), 0
        for _ in range(NUM_KILLS_WITH_KERAS):
            run = forks.begin(tmp_path / "killed")
            time.sleep(chance.uniform(0, 2 * seconds / NUM_KILLS_WITH_KERAS))
            os.kill(run, signal.SIGKILL)
            num_killed += forks.rest() == ["ended"]
        assert num_killed >= NUM_KILLS_WITH_KERAS / 2
        forks.begin(tmp_path / "killed")
        assert forks.rest() == ["done", "ended"]
    check_same(tmp_path / "killed", tmp_path / "whole")


class Forks:
    """Runs of the engine in forks of one process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def begin(self, out: Path) -> int:
        """Begin a run; return its process id once it has opened its model. It is this run's until `rest`."""
        self._write(str(out))
        word, pid = self._read().split()
        assert word == "ready"
        return int(pid)

    def rest(self) -> list[str]:
        """Wait until the run has ended; return what was printed since it began."""
        self._write("wait")
        lines = [self._read()]
        while lines[-1] != "ended":
            lines.append(self._read())
        return lines

    def _write(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the process that forks has ended"
        return line.strip()


@contextmanager
def forking(model: Path) -> Iterator[Forks]:
    arguments = [sys.executable, "-c", RUN, str(model)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Forks(process)
        assert process.stdin is not None
        process.stdin.close()


def check_same(out: Path, expected: Path) -> None:
    names = sorted(path.name for path in (expected / "blocks").iterdir())
    assert len(names) == 3 and sorted(open_ledger(str(out)).finished()) == [name.split(".")[0] for name in names]
    for name in names:
        assert (out / "blocks" / name).read_bytes() == (expected / "blocks" / name).read_bytes()
