"""Configurations an hour with 1 to 4 workers on this machine, the same sweep each time.

    make bench NAME=scaling ARGS="--data DIR --weights DIR --size 96 --trials 24"

The trunk cache is filled before; each count of workers runs a study of its own over the same space and seed. Workers share
the machine's cores, so on two cores more than two cannot help; what is seen beyond is what sharing costs. Writes
scaling.json.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def main() -> None:
    """Run the sweep with each count of workers."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path)
    parser.add_argument("--weights", type=str)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2, 4])
    options = parser.parse_args()
    from report import publish

    from satx.search.crew import run_workers
    from satx.search.driver import open_sweep
    from satx.search.prepare import Request, prepare
    from satx.search.space import SweepConfig, load_sweep
    from satx.search.trunks import fill_trunk
    from satx.tracking.server import local_server

    parts = load_sweep("quick").model_dump() | {"trials": options.trials, "pruner": {"name": "none"}}
    rows: list[dict[str, Any]] = []
    for count in options.workers:
        config = SweepConfig.model_validate(parts | {"name": f"scaling{count}"})
        ready = prepare(Request("2", options.data, options.weights, options.size), config.backbones)
        with local_server() as uri:
            os.environ["MLFLOW_TRACKING_URI"] = uri
            sweep = open_sweep(ready, config, options.trials, git_commit="0" * 40)
            for backbone in config.backbones:
                fill_trunk(sweep.job, backbone, on_progress=lambda done, total: None)
            started = time.monotonic()
            run_workers(sweep, num_workers=count, ends_at=float("inf"), on_tick=lambda sweep: None)
            seconds = time.monotonic() - started
            del os.environ["MLFLOW_TRACKING_URI"]
        first = rows[0]["seconds"] if rows else seconds
        an_hour = 3600 * options.trials / seconds
        rows.append({"workers": count, "seconds": seconds, "an hour": an_hour, "times one worker": first / seconds})
    publish("scaling", rows, cores=os.cpu_count())


if __name__ == "__main__":
    main()
