"""Configurations per hour with 1 to 4 workers on this machine, for the same sweep.

    make bench NAME=scaling ARGS="--data DIR --weights DIR --size 96 --trials 24"

The trunk cache is filled beforehand. Each number of workers runs a separate study over the same random draws, in a
`SATX_HOME` that is removed afterwards. Workers share the machine's cores, so on two cores more than two workers cannot
help; the results beyond two show the cost of sharing. Writes scaling.json.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def main() -> None:
    """Run the sweep with each number of workers."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path)
    parser.add_argument("--weights", type=str)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2, 3, 4])
    options = parser.parse_args()
    from satx.testing.changed_environment import changed_environment

    with tempfile.TemporaryDirectory(prefix="satx-scaling-") as folder, changed_environment(SATX_HOME=folder):
        seconds = [_seconds(options, count) for count in options.workers]
    from report import publish

    rows = [
        {
            "workers": count,
            "seconds": took,
            "an hour": 3600 * options.trials / took,
            "times the first": seconds[0] / took,
        }
        for count, took in zip(options.workers, seconds, strict=True)
    ]
    publish("scaling", rows, cores=os.cpu_count())


def _seconds(options: Any, num_workers: int) -> float:
    from satx.execution.cache_fill import fill_trunk
    from satx.execution.driver import close_sweep, open_sweep
    from satx.execution.worker_pool import run_workers
    from satx.search.space import SweepConfig, load_sweep
    from satx.sessions.prepare import SessionRequest, prepare
    from satx.tracking.server import local_server

    parts = load_sweep("quick").model_dump() | {"trials": options.trials, "start": [], "pruner": {"name": "none"}}
    parts |= {"name": f"scaling{num_workers}", "sampler": {"name": "random", "seed": 1}}
    config = SweepConfig.model_validate(parts)
    prepared = prepare(SessionRequest("2", options.data, options.weights, options.size), config.backbones)
    with local_server() as uri:
        sweep = open_sweep(prepared, config, options.trials, git_commit="0" * 40, tracking_uri=uri)
        for backbone in config.backbones:
            fill_trunk(sweep.study, sweep.job, backbone, on_progress=lambda done, total: None)
        started = time.monotonic()
        run_workers(sweep, num_workers=num_workers, ends_at=float("inf"), on_tick=lambda sweep: None)
        took = time.monotonic() - started
        close_sweep(sweep, status="FINISHED")
    return took


if __name__ == "__main__":
    main()
