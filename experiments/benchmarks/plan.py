"""Seconds and memory for planning a bulk prediction: reading or covering, dividing into blocks, digests.

    make bench NAME=plan
    make bench NAME=plan ARGS="--country"

Makes an area with a ragged border of 2,000 corners and tables of its zoom-18 tiles in random order. Then plans each in processes
of their own, so that the peak of memory is that of the plan: it includes Python and its libraries, the bytes a tile do not.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from report import publish

COUNTRY_TILES = 52_000_000  # as many as the original's country had
FILES = ("tiles.parquet", "tiles.csv", "area.geojson")
# Both run in a process of their own: on Linux, a new process starts with the peak of the one that started it.
WRITE = """
import json, sys
from pathlib import Path
import numpy as np
import pyarrow as pa, pyarrow.csv, pyarrow.parquet
from satx.grid.area import read_area
from satx.grid.cover import cover
from satx.grid.tiles import places_of
folder, num_tiles = Path(sys.argv[1]), int(sys.argv[2])
random = np.random.default_rng(20)
angles = np.linspace(0, 2 * np.pi, 2000, endpoint=False)
waves = np.arange(1, 200)
heights = random.normal(0, 0.15, len(waves)) / waves
border = 1 + (heights * np.cos(angles[:, None] * waves + random.uniform(0, 7, len(waves)))).sum(axis=1)
border = np.maximum(border, 0.2)
border *= np.sqrt(1.01 * num_tiles / (np.pi * np.mean(border**2))) * 360 / 2**18
ring = np.column_stack([37.9 + border * np.cos(angles), 0.3 + border * np.sin(angles)])
(folder / "area.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [ring.tolist()]}))
keys = cover(read_area(folder / "area.geojson"), 18)
random.shuffle(keys)
assert len(keys) >= num_tiles, len(keys)
schema = pa.schema({"z": pa.int8(), "x": pa.int32(), "y": pa.int32()})
with (
    pa.parquet.ParquetWriter(folder / "tiles.parquet", schema) as parquet,
    pa.csv.CSVWriter(folder / "tiles.csv", schema) as text,
):
    for start in range(0, num_tiles, 1 << 20):
        places = places_of(keys[start : min(start + (1 << 20), num_tiles)])
        table = pa.table([pa.array(axis).cast(field.type) for axis, field in zip(places, schema)], schema=schema)
        parquet.write_table(table)
        text.write_table(table)
"""
MEASURE = """
import json, resource, sys, time
from pathlib import Path
from satx.bulk.plan import plan_grid
from satx.grid.area import read_area
from satx.grid.cover import cover
from satx.grid.table import read_table
path = Path(sys.argv[1])
def peak_bytes():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak_bytes()
started = time.perf_counter()
keys = cover(read_area(path), 18) if path.suffix == ".geojson" else read_table(path).keys
read = time.perf_counter()
plan = plan_grid(keys)
planned = time.perf_counter()
plan.digest
ended = time.perf_counter()
print(json.dumps({
    "tiles": plan.num_tiles,
    "blocks": len(plan.blocks),
    "read or cover s": read - started,
    "blocks s": planned - read,
    "digests s": ended - planned,
    "all s": ended - started,
    "peak GB": peak_bytes() / 1e9,
    "bytes a tile": (peak_bytes() - before) / plan.num_tiles,
}))
"""


def main() -> None:
    """Write the area and the tables, plan each in rounds, and print medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiles", type=int, default=1_000_000)
    parser.add_argument("--country", action="store_true", help=f"the same as --tiles {COUNTRY_TILES}")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    num_tiles = COUNTRY_TILES if arguments.country else arguments.tiles
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in FILES}
    with tempfile.TemporaryDirectory() as temporary:
        subprocess.run([sys.executable, "-c", WRITE, temporary, str(num_tiles)], check=True)
        for number in range(arguments.rounds):
            for name in FILES:
                command = [sys.executable, "-c", MEASURE, str(Path(temporary) / name)]
                once = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
                rounds[name].append(once)
                print(f"round {number + 1}, {name}: {once['all s']:.2f} s, {once['peak GB']:.2f} GB", flush=True)
    rows = [
        {"from": name, **{key: statistics.median(once[key] for once in several) for key in several[0]}}
        for name, several in rounds.items()
    ]
    publish("plan-country" if arguments.country else "plan", rows, zoom=18)


if __name__ == "__main__":
    main()
