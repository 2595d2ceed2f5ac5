"""The engine killed at random moments: the files that are left are whole, and the rest gives the same bytes."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from bulk_played import PlayedImagery, PlayedScorer

from satx.bulk.engine import predict_blocks
from satx.bulk.ledger import open_ledger
from satx.bulk.plan import plan_files

NUM_FILES, NUM_KILLS = 3000, 10
# Each batch takes 2 ms, so that a run lasts long enough to be killed in it.
RUN = f"""
import sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
from bulk_played import PlayedImagery, PlayedScorer
from satx.bulk.engine import predict_blocks
from satx.bulk.ledger import open_ledger
from satx.bulk.plan import plan_files
plan, ledger = plan_files([f"{{number:05d}}.png" for number in range({NUM_FILES})]), open_ledger(sys.argv[1])
finished = ledger.finished()
left = [block for block in plan.blocks if block.name not in finished]
scorer = PlayedScorer(batch_size=16)
scorer.before = lambda number: time.sleep(0.002)
print("ready", flush=True)
predict_blocks(plan, left, PlayedImagery(), scorer, ledger)
print("done", flush=True)
"""


def start(out: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", RUN, str(out)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
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
        assert sorted(open_ledger(str(tmp_path / name)).finished()) == [block.name for block in plan.blocks]
        for block in plan.blocks:
            path = Path("blocks") / f"{block.name}.parquet"
            assert (tmp_path / name / path).read_bytes() == (tmp_path / "whole" / path).read_bytes()
