"""Seconds for `satx data check` and for building a tile store, for this checkout and, if given, an older one.

    make bench NAME=tiles
    git worktree add /tmp/older COMMIT && make bench NAME=tiles ARGS="--before /tmp/older"

Writes JPEG tiles to a temporary folder, then runs each measurement in a process of its own, alternating between the two
checkouts. The row "decode only" is the floor: the same files decoded in the same threads, and nothing else.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import simplejpeg
from report import publish

from satx.storage import project_root

MEASURED = {
    "decode only": "for _ in in_parallel(lambda path: simplejpeg.decode_jpeg(path.read_bytes()), paths): pass",
    "data check": "check_tiles(read_layout(root)).raise_if_unusable()",
    "tile store": "build_store(read_layout(root), image_size_px=size_px, cache_dir=cache)",
}
CODE = """
import sys, time
from pathlib import Path
import simplejpeg
from satx.tiles.check import check_tiles, in_parallel
from satx.tiles.layout import read_layout
from satx.tiles.store import build_store
root, cache, size_px = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
paths = [file.path for file in read_layout(root).files]
started = time.perf_counter()
{measured}
print(time.perf_counter() - started)
"""


def main() -> None:
    """Write the tiles, measure in rounds, and print medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="checkout of an older version")
    parser.add_argument("--tiles", type=int, default=20_000)
    parser.add_argument("--edge", type=int, default=256, help="edge of the JPEG tiles in pixels")
    parser.add_argument("--size", type=int, default=160, help="edge of the stored tiles in pixels")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    checkouts = {"now": project_root() or Path.cwd()}
    if arguments.before:
        checkouts["before"] = arguments.before
    seconds: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary) / "tiles"
        write_tiles(root, arguments.tiles, arguments.edge)
        for number in range(arguments.rounds):
            for what in MEASURED:
                for name in list(checkouts)[:: 1 if number % 2 else -1]:
                    if what != "decode only" or name == "now":
                        once = measure(checkouts[name], what, root, Path(temporary) / "cache", arguments.size)
                        seconds.setdefault((what, name), []).append(once)
                        print(f"round {number + 1}, {what}, {name}: {once:.1f} s", flush=True)
    medians = {key: statistics.median(values) for key, values in seconds.items()}
    rows = [
        {
            "what": what,
            "checkout": name,
            "seconds": median,
            "tiles per second": arguments.tiles / median,
            "times the floor": median / medians["decode only", "now"],
            "times before": median / medians[what, "before"] if (what, "before") in medians else None,
        }
        for (what, name), median in medians.items()
    ]
    publish("tiles", rows, num_tiles=arguments.tiles, edge_px=arguments.edge, image_size_px=arguments.size)


def write_tiles(root: Path, num_tiles: int, edge_px: int) -> None:
    """Write different JPEGs in two classes and three splits."""
    random = np.random.default_rng(20)
    coarse = random.integers(0, 256, (edge_px // 16, edge_px // 16, 3), dtype=np.uint8)  # (S/16, S/16, 3) uint8
    ground = np.kron(coarse, np.ones((16, 16, 1), np.uint8))  # (S, S, 3) uint8
    for number in range(num_tiles):
        folder = root / ("train", "valid", "test", "train")[number % 4] / ("school", "not-school")[number % 8 // 4]
        folder.mkdir(parents=True, exist_ok=True)
        grain = random.integers(0, 24, ground.shape, dtype=np.uint8)
        pixels = np.roll(ground // 2, number, axis=(0, 1)) + grain
        (folder / f"{number}.jpg").write_bytes(simplejpeg.encode_jpeg(pixels, quality=85))


def measure(checkout: Path, what: str, root: Path, cache: Path, size_px: int) -> float:
    """Return the seconds of one measurement in a new process, without its imports."""
    shutil.rmtree(cache, ignore_errors=True)
    cache.mkdir()
    command = [sys.executable, "-c", CODE.format(measured=MEASURED[what]), str(root), str(cache), str(size_px)]
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    done = subprocess.run(command, cwd=checkout, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout)


if __name__ == "__main__":
    main()
