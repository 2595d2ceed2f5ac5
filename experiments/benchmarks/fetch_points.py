"""Points fetched from a tile server that throttles, fails and lies, while the command is killed: is every point accounted for?

    make bench NAME=fetch_points
    make bench NAME=fetch_points ARGS="--points 2000 --kills 2"

`satx data fetch` runs as a process of its own, is killed with SIGKILL at random moments, and is repeated. The server, on
loopback, decides by the place of a tile what becomes of it: a picture, one color, a page of HTML with status 200, half a file,
404, 400, 500 each time, or 500 or a reset at the first request only. It refuses what is above its limit (a token bucket) with
`Retry-After: 1`. At the end its own log has to count the tiles by the same answers, and the status of each point in `tiles.csv`
has to be the worst of the tiles around it.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from report import publish

from satx.grid.points import Points, read_points, write_points
from satx.grid.tiles import bounds_of, tile_of
from satx.imagery.contract import STATUSES
from satx.points.fetch_plan import CHUNK_POINTS
from satx.points.fetched_table import LEDGER
from satx.tiles.decode import decode_tile

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "imagery"))
from hostile_tiles import ONCE, STATUS_OF, Behavior, running_tile_server

ZOOM, WEST, NORTH = 18, 150_000, 130_000
SHARES = {
    "blank": 0.02,
    "missing": 0.02,
    "bad request": 0.005,
    "html": 0.01,
    "damaged": 0.005,
    "error": 0.002,
    "error once": 0.05,
    "reset once": 0.02,
}
Place = tuple[int, int, int]


def main() -> None:
    """Fetch, kill, repeat, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=10_000)
    parser.add_argument("--side", type=int, default=120, help="edge of the square in which the points lie, in tiles")
    parser.add_argument("--limit", type=float, default=300.0, help="requests a second that the server accepts")
    parser.add_argument("--kills", type=int, default=6)
    parser.add_argument("--seed", type=int, default=22)
    arguments = parser.parse_args()
    behavior = Behavior(shares=SHARES, seed=arguments.seed, limit_per_second=arguments.limit, burst=arguments.limit / 4)
    with TemporaryDirectory() as temporary, running_tile_server(behavior) as server:
        file, out = Path(temporary) / "points.geojson", Path(temporary) / "out"
        write_points(file, _scattered(arguments.points, arguments.side, arguments.seed))
        around = _tiles_around(read_points(file))
        needed = {tile for tiles in around for tile in tiles}
        command = [sys.executable, "-m", "satx", "data", "fetch", str(file), "--out", str(out), "--json"]
        command += ["--url", server.url + "/{z}/{x}/{y}.jpg"]
        num_chunks = -(-arguments.points // CHUNK_POINTS)
        began = time.perf_counter()
        killed_at = _kill_often(command, out, arguments.kills, num_chunks, random.Random(arguments.seed))
        last = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        seconds = time.perf_counter() - began
        peak_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024  # of the largest command
        log = server.log()
        rows = _compare(out, around, needed, behavior, log)
    publish(
        "fetch_points",
        rows,
        points=arguments.points,
        **{
            "kills, chunks finished at each": killed_at,
            "chunks": num_chunks,
            "points fetched by the last call": json.loads(last.stdout)["num_fetched"],
            "different tiles": len(needed),
            "requests answered other than by 429": log["requests"] - log["answers"].get("429", 0),
            "requests refused by 429": log["answers"].get("429", 0),
            "seconds": round(seconds, 1),
            "peak memory of a command, MB": round(peak_mb),
        },
    )


def _scattered(number: int, side: int, seed: int) -> Points:
    """Return points with labels: half of them anywhere in a square, half near one of twenty centers."""
    drawn = np.random.default_rng(seed)
    places = drawn.uniform(0, side, (2, number))
    centers = drawn.uniform(0.1 * side, 0.9 * side, (2, 20))
    is_near = np.arange(number) % 2 == 0
    near = centers[:, drawn.integers(0, 20, number)] + drawn.normal(0, 0.03 * side, (2, number))
    places = np.where(is_near, near, places)
    west, _, _, north = (float(value) for value in bounds_of(ZOOM, WEST, NORTH))
    _, south, east, _ = (float(value) for value in bounds_of(ZOOM, WEST + side - 1, NORTH + side - 1))
    longitude, latitude = west + (east - west) * places[0] / side, north + (south - north) * places[1] / side
    labels = tuple(("school", "not-school")[place % 2] for place in range(number))
    return Points(longitude, latitude, labels, ("",) * number, 0)


def _tiles_around(points: Points) -> list[list[Place]]:
    """Return the tiles that the window of each point meets, by the pixels of the window's corners."""
    columns, rows = tile_of(points.longitude, points.latitude, ZOOM + 8)
    return [
        sorted({(ZOOM, x >> 8, y >> 8) for x in (left, left + 255) for y in (top, top + 255)})
        for left, top in zip((columns - 128).tolist(), (rows - 128).tolist(), strict=True)
    ]


def _kill_often(command: list[str], out: Path, kills: int, num_chunks: int, chance: random.Random) -> list[int]:
    """Run the command and kill it, several times, at random moments; return the number of chunks with a file at each kill."""
    finished = [0]
    for _ in range(kills):
        until = finished[-1] + chance.uniform(0, 1.6) * num_chunks / (kills + 1)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        while _num_finished(out) < until and process.poll() is None:
            time.sleep(0.05)
        time.sleep(chance.uniform(0, 1))
        process.send_signal(signal.SIGKILL)
        if process.wait() != -signal.SIGKILL:
            raise SystemExit("Expected a command to kill, but it ended before. Pass more --points or fewer --kills.")
        finished.append(_num_finished(out))
    return finished[1:]


def _num_finished(out: Path) -> int:
    return sum(1 for _ in (out / LEDGER).glob("*.csv"))


def _compare(
    out: Path, around: list[list[Place]], needed: set[Place], behavior: Behavior, log: dict[str, Any]
) -> list[dict[str, Any]]:
    """Compare the table with what the server did; return the counts by status, or stop with what differs."""
    kinds = {tile: "good" if (kind := behavior.kind_of(tile)).endswith(ONCE) else kind for tile in needed}
    if log["final"] != Counter(kinds.values()):
        raise SystemExit(f"Expected the answers {Counter(kinds.values())}, the server's log has {log['final']}.")
    with (out / "tiles.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    expected = [max((STATUS_OF[kinds[tile]] for tile in tiles), key=STATUSES.index) for tiles in around]
    if [row["status"] for row in rows] != expected:
        differing = sum(row["status"] != wanted for row, wanted in zip(rows, expected, strict=True))
        raise SystemExit(
            f"Expected the status of each point from its tiles, {differing} of {len(expected)} have another."
        )
    paths = {row["path"] for row in rows if row["path"]}
    files = {str(path.relative_to(out)) for path in (out / "tiles").rglob("*.png")}
    for path in files:
        if decode_tile((out / path).read_bytes(), path).pixels.shape != (256, 256, 3):
            raise SystemExit(f"Expected a window of 256 px, got another in {path}.")
    if paths != files or len(paths) != expected.count("done"):
        raise SystemExit(f"Expected the files of the table, got {len(files)} files for {len(paths)} paths.")
    counted, found = Counter(expected), Counter(row["status"] for row in rows)
    rows_shown = [
        {"status": status, "points in tiles.csv": found[status], "points by the server's log": counted[status]}
        for status in STATUSES
    ]
    return [*rows_shown, {"status": "all", **dict.fromkeys(list(rows_shown[0])[1:], len(rows))}]


if __name__ == "__main__":
    main()
