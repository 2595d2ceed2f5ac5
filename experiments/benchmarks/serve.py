"""`satx serve` against direct prediction in one process, on real tiles: throughput, latency, reloads under load, memory.

    make bench NAME=serve ARGS="--data DIR --weights DIR"
    make bench NAME=serve ARGS="--data DIR --weights DIR --sizes 160 --soak-minutes 30"

Both sides start from the bytes of JPEG files and end with scores. The direct side decodes as the server does and predicts
in batches of 32. The served side has 32 clients, each with one connection and one tile a request, in one lean process
whose processor time is measured: `ratio` compares the tiles a second that are left after the clients' share of the
processors is deducted, `raw ratio` compares as measured. Both sides alternate; figures are medians. `adds ms` is the
difference between the medians of one client's latency and of a direct prediction of one tile.

Twenty reloads alternate between two versions while 32 clients send; `MB a reload` is the slope of a line through the
resident sizes after each, from the first on. With `--soak-minutes`, 32 clients send for that long; `soak spread` is the
largest minus the smallest mean of a minute after the first, divided by the smallest. Writes serve.json.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from satx.environment import num_processors

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

NUM_CLIENTS = 32
SAMPLE_SECONDS = 5.0


def main() -> None:
    """Measure each size, then reloads and the soak with the first size."""
    options = _options()
    from satx.testing.changed_environment import changed_environment

    rows, more = [], {}
    with tempfile.TemporaryDirectory(prefix="satx-serve-") as folder, changed_environment(SATX_HOME=f"{folder}/home"):
        from serve_setup import link_tiles, running_server, serve_version, write_versions

        files = sorted(path for path in options.data.rglob("*.jpg") if path.is_file())
        tiles = link_tiles(files, Path(folder) / "tiles")
        images = [path.read_bytes() for path in files]
        for size_px in options.sizes:
            config = Path(folder) / str(size_px) / "models.config"
            versions = write_versions(
                config.parent,
                backbone=options.backbone,
                size_px=size_px,
                weights=options.weights,
                golden_bytes=images[:8],
            )
            serve_version(config, versions, 1)
            with running_server(config, Path(folder) / f"{size_px}.log") as server:
                rows.append({"size px": size_px} | _compared(options, server, versions / "1", size_px, images, tiles))
                if size_px == options.sizes[0]:
                    more |= _reloads(options, server, config, versions, tiles)
                    more |= _soak(options, server, tiles)
    from report import publish

    publish("serve", rows, backbone=options.backbone, processors=num_processors(), **more)


def _options() -> Any:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of JPEG tiles")
    parser.add_argument("--weights", type=Path, required=True, help="folder of pretrained weights")
    parser.add_argument("--backbone", default="mobilenetv2")
    parser.add_argument("--sizes", type=int, nargs="*", default=[160, 256], help="edges of the model's input in pixels")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tiles", type=int, default=640, help="tiles of each side in a round")
    parser.add_argument("--singles", type=int, default=100, help="single predictions of each side in a round")
    parser.add_argument("--reloads", type=int, default=20, help="at least two, or none")
    parser.add_argument("--soak-minutes", type=int, default=0)
    return parser.parse_args()


def _compared(
    options: Any, server: Any, export: Path, size_px: int, images: Sequence[bytes], tiles: Path
) -> dict[str, float]:
    """Return the throughput and latency of both sides, measured in turn."""
    from serve_setup import direct_predictor

    predict = direct_predictor(export, size_px)
    batch = [images[number % len(images)] for number in range(options.tiles)]
    singles = batch[: options.singles]
    _warm_up(predict, server.port, tiles, images)
    many, few, direct_many, direct_few = [], [], list[float](), list[float]()
    for number in range(options.rounds):
        direct_many.append(_seconds(predict, batch))
        many.append(_served(server.port, tiles, num_clients=NUM_CLIENTS, num_requests=options.tiles))
        direct_few += [_seconds(predict, [image]) * 1000 for image in singles]
        few.append(_served(server.port, tiles, num_clients=1, num_requests=options.singles))
        print(f"{size_px} px, round {number + 1}: {options.tiles / direct_many[-1]:.1f} tiles/s direct, ", end="")
        print(f"{options.tiles / many[-1]['seconds']:.1f} served", flush=True)
    direct = options.tiles / statistics.median(direct_many)
    raw = options.tiles / statistics.median(one["seconds"] for one in many)
    deducted = options.tiles / statistics.median(_seconds_without_clients(one) for one in many)
    single = [value for one in few for value in one["latencies ms"]]
    return {
        "direct tiles/s": direct,
        "served tiles/s": raw,
        "raw ratio": raw / direct,
        "clients' share": statistics.median(_clients_share(one) for one in many),
        "ratio": deducted / direct,
        "p99 ms of 32": float(np.percentile([value for one in many for value in one["latencies ms"]], 99)),
        "direct ms of 1": statistics.median(direct_few),
        "served ms of 1": statistics.median(single),
        "adds ms": statistics.median(single) - statistics.median(direct_few),
        "direct p99 ms": float(np.percentile(direct_few, 99)),
        "served p99 ms": float(np.percentile(single, 99)),
    }


def _warm_up(predict: Callable[[Sequence[bytes]], np.ndarray], port: int, tiles: Path, images: Sequence[bytes]) -> None:
    """Predict with both sides once: all tiles, which brings the files into memory, and a single one."""
    predict(images)
    predict(images[:1])
    _served(port, tiles, num_clients=NUM_CLIENTS, num_requests=4 * NUM_CLIENTS)


def _served(port: int, tiles: Path, *, num_clients: int, num_requests: int) -> dict[str, Any]:
    """Send requests from new connections, and return what the clients measured."""
    from serve_setup import RunningClients

    clients = RunningClients(port, tiles, num_clients=num_clients, num_requests=num_requests)
    clients.start()
    results = clients.results()
    if results["statuses"] != {"200": num_requests}:
        raise SystemExit(f"Expected {num_requests} responses with status 200, got {results['statuses']}.")
    return results


def _clients_share(results: dict[str, Any]) -> float:
    """Return the share of all processors' time that the clients took."""
    return float(results["processor seconds"] / results["seconds"] / num_processors())


def _seconds_without_clients(results: dict[str, Any]) -> float:
    return float(results["seconds"] * (1 - _clients_share(results)))


def _seconds(predict: Callable[[Sequence[bytes]], np.ndarray], files: Sequence[bytes]) -> float:
    started = time.perf_counter()
    predict(files)
    return time.perf_counter() - started


def _reloads(options: Any, server: Any, config: Path, versions: Path, tiles: Path) -> dict[str, Any]:
    """Alternate between versions 1 and 2 under load."""
    if options.reloads < 2:
        return {}
    from serve_setup import RunningClients, serve_version

    clients = RunningClients(server.port, tiles, num_clients=NUM_CLIENTS)
    clients.start()
    resident_mb, seconds = list[float](), list[float]()
    for number in range(options.reloads):
        version, started = 2 - number % 2, time.perf_counter()
        serve_version(config, versions, version)
        server.wait_for_version(version)
        seconds.append(time.perf_counter() - started)
        time.sleep(SAMPLE_SECONDS)
        resident_mb.append(server.resident_mb())
        print(f"reload {number + 1}: {seconds[-1]:.1f} s, {resident_mb[-1]:.0f} MB", flush=True)
    statuses = Counter(clients.finish()["statuses"])
    slope = np.polyfit(np.arange(len(resident_mb)), resident_mb, 1)[0]
    return {
        "reloads": options.reloads,
        "requests during reloads": statuses.total(),
        "failed requests during reloads": statuses.total() - statuses["200"],
        "seconds a reload": statistics.median(seconds),
        "MB a reload": float(slope),
        "MB after each reload": [round(value, 1) for value in resident_mb],
    }


def _soak(options: Any, server: Any, tiles: Path) -> dict[str, Any]:
    """Send for some minutes, and return the mean resident size in each."""
    if not options.soak_minutes:
        return {}
    from serve_setup import RunningClients

    clients = RunningClients(server.port, tiles, num_clients=NUM_CLIENTS)
    clients.start()
    minutes = []
    for number in range(options.soak_minutes):
        sizes, ends_at = list[float](), time.monotonic() + 60
        while time.monotonic() < ends_at:
            time.sleep(SAMPLE_SECONDS)
            sizes.append(server.resident_mb())
        minutes.append(statistics.mean(sizes))
        print(f"minute {number + 1}: {minutes[-1]:.1f} MB", flush=True)
    statuses = Counter(clients.finish()["statuses"])
    later = minutes[1:] or minutes
    return {
        "requests of the soak": statuses.total(),
        "failed requests of the soak": statuses.total() - statuses["200"],
        "soak spread": (max(later) - min(later)) / min(later),
        "MB by minute": [round(value, 1) for value in minutes],
    }


if __name__ == "__main__":
    main()
