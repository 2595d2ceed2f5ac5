"""Points fetched from a tile server that throttles, fails and lies, killed in between: each point gets what the server did."""

from __future__ import annotations

import csv
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from imagery.hostile_tiles import STATUS_OF, Behavior, running_tile_server

from satx.grid.points import Points, read_points, write_points
from satx.grid.tiles import bounds_of, tile_of
from satx.imagery.contract import STATUSES

NUM_POINTS, NUM_KILLS, ZOOM, WEST, NORTH, SIDE = 300, 2, 18, 150_000, 130_000, 16
KEY = "s3cretK3y9"
BEHAVIOR = Behavior(
    shares={**dict.fromkeys(list(STATUS_OF)[1:], 0.02), "error once": 0.05},
    limit_per_second=150,
    burst=2,  # fewer than there are requests at a time, so that some are refused however slow the machine is
    key=KEY,
)
# Waits are short, so that what fails does so soon. The process kills itself, since from outside it could be done before.
RUN = """
import os, signal, sys
from contextlib import closing
from pathlib import Path
from satx.grid.points import read_points
from satx.imagery.http import open_http
from satx.imagery.http_requests import Patience
from satx.points import fetch_plan
from satx.points.fetch import fetch_points
from satx.points.fetch_plan import FetchPlan
fetch_plan.CHUNK_POINTS = 16
points, url, out, kill_at = sys.argv[1:]
patience = Patience(first_wait_seconds=0.01, longest_wait_seconds=0.02, jitter_seconds=0.01)
with closing(open_http(url, patience=patience)) as imagery:
    found = fetch_points(
        FetchPlan(read_points(Path(points)), 18, 256), imagery, Path(out), source=imagery.identity["template"],
        on_progress=lambda done, total: os.kill(os.getpid(), signal.SIGKILL) if done == int(kill_at) else None,
    )
print("counts", found["num_fetched"], {name: number for name, number in found["status"].items() if number}, flush=True)
"""


def scattered() -> Points:
    drawn = np.random.default_rng(3).uniform(0, 1, (2, NUM_POINTS))
    west, _, _, north = (float(value) for value in bounds_of(ZOOM, WEST, NORTH))
    _, south, east, _ = (float(value) for value in bounds_of(ZOOM, WEST + SIDE, NORTH + SIDE))
    labels = tuple(("school", "not-school")[number % 2] for number in range(NUM_POINTS))
    return Points(west + (east - west) * drawn[0], north + (south - north) * drawn[1], labels, ("",) * NUM_POINTS, 0)


def kind_at_last(tile: tuple[int, int, int]) -> str:
    kind = BEHAVIOR.kind_of(tile)
    return "good" if kind.endswith(" once") else kind


def tiles_around(points: Points) -> list[list[tuple[int, int, int]]]:
    """Return the tiles within 128 px of each point, by the pixels of the corners of its window."""
    columns, rows = tile_of(points.longitude, points.latitude, ZOOM + 8)
    return [
        sorted({(ZOOM, x >> 8, y >> 8) for x in (left, left + 255) for y in (top, top + 255)})
        for left, top in zip((columns - 128).tolist(), (rows - 128).tolist(), strict=True)
    ]


def fetched(points: Path, url: str, out: Path, kill_at: int = -1) -> tuple[int, str]:
    """Fetch in a process that is killed when so many points are done; return its exit code, and what it said."""
    command = [sys.executable, "-c", RUN, str(points), url, str(out), str(kill_at)]
    environ = os.environ | {"TILES_KEY": KEY}
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environ)
    return done.returncode, done.stdout


def rows_of(out: Path) -> list[dict[str, str]]:
    with (out / "tiles.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_each_point_gets_what_the_server_did_in_spite_of_kills(tmp_path: Path) -> None:
    file, out, chance, said = tmp_path / "points.geojson", tmp_path / "out", random.Random(22), ""
    write_points(file, scattered())
    kept: dict[Path, bytes] = {}
    with running_tile_server(BEHAVIOR) as server:
        url = f"{server.url}/{{z}}/{{x}}/{{y}}.jpg?key=${{TILES_KEY}}"
        for _ in range(NUM_KILLS):
            code, text = fetched(file, url, out, kill_at=chance.randint(40, 110))
            said += text
            assert code == -signal.SIGKILL and not (out / "tiles.csv").exists(), text
            chunks = {path: path.read_bytes() for path in (out / ".fetch").glob("*.csv")}
            settled = {path: data for path, data in kept.items() if b",failed," not in data}
            assert len(chunks) > len(kept) and all(chunks[path] == data for path, data in settled.items())
            kept = chunks
        code, text = fetched(file, url, out)
        said += text
        assert code == 0, text
        log = server.log()
    points = read_points(file)
    around, rows = tiles_around(points), rows_of(out)
    kinds = Counter(kind_at_last(tile) for tile in {tile for tiles in around for tile in tiles})
    assert set(kinds) == set(STATUS_OF) and log["final"] == kinds and log["answers"]["429"] > 0
    for row, tiles in zip(rows, around, strict=True):
        assert row["status"] == max((STATUS_OF[kind_at_last(tile)] for tile in tiles), key=STATUSES.index)
        assert bool(row["path"]) == (row["status"] == "done") and bool(row["reason"]) != (row["status"] == "done")
    assert {str(path.relative_to(out)) for path in (out / "tiles").rglob("*.*")} == {row["path"] for row in rows} - {""}
    assert not (out / ".writing").exists()
    num_kept = 16 * len(kept)
    statuses = Counter(row["status"] for row in rows)
    num_again = sum(b",failed," in line for data in kept.values() for line in data.splitlines())
    assert f"counts {NUM_POINTS - num_kept + num_again} " in said
    assert sum(statuses.values()) == NUM_POINTS and set(statuses) == set(STATUS_OF.values())
    texts = [path.read_bytes() for path in out.rglob("*") if path.is_file()]
    assert not any(KEY.encode() in text for text in (*texts, said.encode()))
    assert {row["source"] for row in rows} == {url}
