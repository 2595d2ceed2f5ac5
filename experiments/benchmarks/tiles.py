"""Seconds and memory for checking, storing and splitting tiles and for planning a sweep over them, as many as the original had.

    make bench NAME=tiles
    git worktree add /tmp/older COMMIT && make bench NAME=tiles ARGS="--before /tmp/older"

Writes JPEG tiles to a temporary folder, then runs each measurement in a process of its own, in rounds. Rows that begin with
"only" are floors: the same files decoded, hashed and written in the same threads, and nothing else. Check and store are divided
by the floor of the same run that does as much. Memory is the largest RssAnon, which leaves out mapped files such as the store.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from report import publish

from satx.storage import project_root

DECODED = "only decode"
HASHED = "only decode, hash"
WRITTEN = "only decode, hash, write"


@dataclass(frozen=True)
class Measured:
    """What is measured.

    Attributes:
        code: What is timed.
        setup: What is done before, without being timed.
        floor: The row to divide by.
        is_new: Whether an older checkout may lack it; it is measured in this one only.
    """

    code: str
    setup: str = ""
    floor: str = ""
    is_new: bool = False


READ = """
import hashlib, simplejpeg
from satx.tiles.check import in_parallel
from satx.tiles.decode import pixel_digest
paths = [file.path for file in read_layout(root).files]
def decoded(path):
    return simplejpeg.decode_jpeg(path.read_bytes())
def hashed(path):
    data = path.read_bytes()
    pixels = simplejpeg.decode_jpeg(data)
    return pixels, hashlib.sha256(data).hexdigest(), pixel_digest(pixels)
def digests(path):
    return hashed(path)[1:]
"""
WRITE = """
with (cache / "pixels").open("wb") as stream:
    for _, (pixels, *_) in in_parallel(hashed, paths):
        stream.write(pixels.data)
    stream.flush()
    os.fsync(stream.fileno())
"""
STORE = "build_store(read_layout(root), image_size_px=size_px, cache_dir=cache)"
PLAN = f"""
from satx.session_config import load_session
from satx.models.weights_file import Weights
from satx.planning.plan import plan_sweep
from satx.search.space import load_sweep
from satx.sessions.prepare import PreparedSession
store, session, sweep = {STORE}, load_session("2"), load_sweep("seed200")
weights = cache / "weights"
weights.write_bytes(bytes(1_000_000))
weights = {{name: Weights(name, str(weights), "0" * 64, "file") for name in sweep.backbones}}
os.environ["SATX_HOME"] = str(cache)
prepared = PreparedSession(session, session.defaults, store, weights, ())
"""
# Windows of 256 px of zoom 18 around towns of a country; many overlap, as those around the schools of a town do.
PLACES = """
import numpy as np, shapely, sklearn.model_selection
from satx.splits.assignment import assign, ground_of
from satx.splits.pairs import overlapping
files = read_layout(root).files
random, side = np.random.default_rng(20), 2.0**-18
towns = random.uniform([0.55, 0.48], [0.58, 0.51], (len(files) // 40 + 1, 2))
corners = towns[random.integers(len(towns), size=len(files))] + random.normal(0, 12 * side, (len(files), 2))
footprints = np.hstack([corners, corners + side])
"""
MEASURED = {
    DECODED: Measured("for _ in in_parallel(decoded, paths): pass", READ),
    HASHED: Measured("for _ in in_parallel(digests, paths): pass", READ, DECODED),
    WRITTEN: Measured(WRITE, READ, DECODED),
    "check": Measured("check_tiles(read_layout(root)).raise_if_unusable()", floor=HASHED),
    "satx data check": Measured(
        "checked(read_layout(root), None, lambda done, total: None).raise_if_unusable()",
        "from satx.commands.data import checked",
        HASHED,
        is_new=True,
    ),
    "store": Measured(STORE, floor=WRITTEN),
    "plan of a sweep": Measured("plan_sweep(prepared, sweep, sweep.trials)", PLAN),
    "overlapping windows": Measured("overlapping(footprints)", PLACES, is_new=True),
    "split": Measured(
        "assign(ground_of(files, footprints, pairs, 12, (7, 2, 1)), (7, 2, 1), seed=1)",
        f"{PLACES}pairs = overlapping(footprints)",
        is_new=True,
    ),
}
CODE = """
import json, os, sys, threading, time
from pathlib import Path
from satx.tiles.check import check_tiles
from satx.tiles.layout import read_layout
from satx.tiles.store import build_store
root, cache, size_px = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
done, peak_bytes = threading.Event(), 0
def sample():
    global peak_bytes
    is_last = False
    while not is_last:
        is_last = done.wait(0.02)
        (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon")]
        peak_bytes = max(peak_bytes, 1024 * int(line.split()[1]))
{setup}
sampler = threading.Thread(target=sample)
sampler.start()
started = time.perf_counter()
{code}
seconds = time.perf_counter() - started
done.set()
sampler.join()
print(json.dumps({{"seconds": seconds, "GB": peak_bytes / 1e9}}))
"""


def main() -> None:
    """Write the tiles, measure in rounds, and print medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="checkout of an older version")
    parser.add_argument("--tiles", type=int, default=20_000)
    parser.add_argument("--edge", type=int, default=256, help="edge of the JPEG tiles in pixels, a multiple of 16")
    parser.add_argument(
        "--size", type=int, help="edge of the stored tiles in pixels; by default that of the JPEG tiles"
    )
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    size_px = arguments.size or arguments.edge
    checkouts = {"now": project_root() or Path.cwd()}
    if arguments.before:
        checkouts["before"] = arguments.before
    measured: dict[tuple[str, str], list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary) / "tiles"
        write_tiles(root, arguments.tiles, arguments.edge)
        for number in range(arguments.rounds):
            for what, how in MEASURED.items():
                for name in list(checkouts)[:: 1 if number % 2 else -1]:
                    if name == "before" and (how.is_new or how.setup == READ):
                        continue
                    once = measure(checkouts[name], how, root, Path(temporary) / "cache", size_px)
                    measured.setdefault((what, name), []).append(once)
                    print(
                        f"round {number + 1}, {what}, {name}: {once['seconds']:.2f} s, {once['GB']:.2f} GB", flush=True
                    )
    rows = rows_of(measured, arguments.tiles)
    publish("tiles", rows, num_tiles=arguments.tiles, edge_px=arguments.edge, image_size_px=size_px)


def rows_of(measured: dict[tuple[str, str], list[dict[str, float]]], num_tiles: int) -> list[dict[str, Any]]:
    """Return one row per measurement: medians over rounds, and the ratio to the floor and to an older checkout."""
    medians = {key: statistics.median(once["seconds"] for once in several) for key, several in measured.items()}
    rows = []
    for (what, name), seconds in medians.items():
        floor = MEASURED[what].floor
        rows.append(
            {
                "what": what,
                "checkout": name,
                "seconds": seconds,
                "tiles per second": num_tiles / seconds,
                "floor": floor.removeprefix("only "),
                "times the floor": seconds / medians[floor, "now"] if floor else None,
                "times before": seconds / medians[what, "before"] if (what, "before") in medians else None,
                "GB": statistics.median(once["GB"] for once in measured[what, name]),
            }
        )
    return rows


def write_tiles(root: Path, num_tiles: int, edge_px: int) -> None:
    """Write JPEGs in two classes and three splits that differ so much that none looks like another encoded again."""
    random = np.random.default_rng(20)
    for number in range(num_tiles):
        folder = root / ("train", "valid", "test", "train")[number % 4] / ("school", "not-school")[number % 8 // 4]
        folder.mkdir(parents=True, exist_ok=True)
        coarse = random.integers(0, 128, (edge_px // 16, edge_px // 16, 3), dtype=np.uint8)  # (S/16, S/16, 3) uint8
        grain = random.integers(0, 24, (edge_px, edge_px, 3), dtype=np.uint8)
        pixels = np.kron(coarse, np.ones((16, 16, 1), np.uint8)) + grain
        (folder / f"{number}.jpg").write_bytes(simplejpeg.encode_jpeg(pixels, quality=85))


def measure(checkout: Path, how: Measured, root: Path, cache: Path, size_px: int) -> dict[str, Any]:
    """Return seconds and memory of one measurement in a new process, without its imports."""
    shutil.rmtree(cache, ignore_errors=True)
    cache.mkdir()
    code = CODE.format(setup=how.setup, code=how.code)
    command = [sys.executable, "-c", code, str(root), str(cache), str(size_px)]
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    done = subprocess.run(command, cwd=checkout, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    measured: dict[str, Any] = json.loads(done.stdout)
    return measured


if __name__ == "__main__":
    main()
