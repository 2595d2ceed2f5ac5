"""Overhead of satx per trial: its worker around an empty objective, against bare Optuna with one batched MLflow call.

    make bench NAME=overhead

All variants draw from the same space with the same sampler on SQLite, report 15 epochs, ask after each whether to prune
(never true, so that all have 15 epochs), and log them to MLflow's SQLite store. Bare Optuna is measured twice: with the
database as Optuna opens it, and with satx's settings for it (a write-ahead log), which are part of satx. satx is
measured as its whole worker without the training. Scores are random, so that a few trials lead and keep their trained
values. The variants alternate in blocks of trials, so that a busy machine slows all of them. Prints medians and writes
overhead.json.
"""

from __future__ import annotations

import itertools
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

if TYPE_CHECKING:
    from optuna.storages import RDBStorage

NUM_EPOCHS, NUM_TRIALS, NUM_BLOCKS, WARM_UP = 15, 20, 6, 3
UNUSED_RUNGS = {"name": "rungs", "keep": 0.5, "num_startup_trials": 10_000}  # evaluated, but never active


def main() -> None:
    """Run all three variants in a temporary `SATX_HOME`."""
    seconds: dict[str, list[float]] = {"bare": [], "write-ahead": [], "satx": []}
    from satx.testing.changed_environment import changed_environment

    with tempfile.TemporaryDirectory(prefix="satx-overhead-") as folder, changed_environment(SATX_HOME=folder):
        from optuna.storages import RDBStorage

        from satx.study.database import open_storage

        runs = {
            "bare": _bare(RDBStorage(f"sqlite:///{folder}/bare.db")),
            "write-ahead": _bare(open_storage()),
            "satx": _satx(Path(folder)),
        }
        for _ in range(NUM_BLOCKS):
            for name, run in runs.items():
                seconds[name] += run(NUM_TRIALS)[WARM_UP:]
    from report import publish

    medians = {name: statistics.median(values) * 1000 for name, values in seconds.items()}
    what = {
        "bare": "Optuna and one batched MLflow call",
        "write-ahead": "the same, Optuna's database with a write-ahead log",
        "satx": "satx around an empty objective",
    }
    rows = [
        {
            "what": what[name],
            "median ms a trial": milliseconds,
            "satx adds ms": medians["satx"] - milliseconds,
            "ratio": milliseconds / medians["bare"],
        }
        for name, milliseconds in medians.items()
    ]
    publish("overhead", rows, num_trials=len(seconds["satx"]))


def _epochs(value: float) -> list[Any]:
    from satx.training.checkpoint import Epoch

    return [
        Epoch(step, "head", 0.5, 0.5, 0.5, 0.5, value - 0.001 * (NUM_EPOCHS - step), 1e-3, 0.0)
        for step in range(1, NUM_EPOCHS + 1)
    ]


def _sweep() -> Any:
    from satx.search.space import SweepConfig, load_sweep

    parts = {"start": [], "trials": NUM_TRIALS * NUM_BLOCKS, "pruner": UNUSED_RUNGS}
    return SweepConfig.model_validate(load_sweep("quick").model_dump() | parts)


def _bare(storage: RDBStorage) -> Callable[[int], list[float]]:
    import optuna
    from mlflow.entities import Metric, Param

    from satx.config import Configuration
    from satx.search.pruner import pruner_for
    from satx.search.sampler import BackboneSampler
    from satx.search.space import suggest
    from satx.tracking.client import experiment_id, open_tracker
    from satx.tracking.runs import CURVES

    sweep, client = _sweep(), open_tracker()
    experiment = experiment_id(client, "bare")
    study = optuna.create_study(
        study_name="bare",
        storage=storage,
        direction="maximize",
        sampler=BackboneSampler(sweep, Configuration()),
        pruner=pruner_for(sweep, Configuration()),
    )

    def objective(trial: optuna.Trial) -> float:
        configuration = suggest(trial, sweep, Configuration())
        value = random.Random(trial.number).uniform(0.7, 0.9)
        for epoch in _epochs(value):
            trial.report(epoch.val_auc, epoch.step)
            trial.should_prune()
        run = client.create_run(experiment)
        now_ms = int(time.time() * 1000)
        metrics = [
            Metric(name, getattr(epoch, field), now_ms, epoch.step)
            for epoch in _epochs(value)
            for field, name in CURVES.items()
        ]
        params = [Param(name, str(setting)) for name, setting in configuration.flat().items()]
        client.log_batch(run.info.run_id, metrics=metrics, params=params)
        client.set_terminated(run.info.run_id)
        return value

    def run(count: int) -> list[float]:
        times = []
        for _ in range(count):
            started = time.perf_counter()
            study.optimize(objective, n_trials=1)
            times.append(time.perf_counter() - started)
        return times

    return run


def _satx(folder: Path) -> Callable[[int], list[float]]:
    import numpy as np

    from satx.execution.cache_fill import fill_trunk
    from satx.execution.driver import open_sweep
    from satx.execution.engine import Engine
    from satx.execution.worker import run_worker
    from satx.sample.sample import render_sample
    from satx.session_config import load_session
    from satx.sessions.prepare import SessionRequest, prepare_folder
    from satx.tiles.layout import read_layout
    from satx.training.contract import TrainingResult

    tiles = read_layout(render_sample(folder / "sample", session=2, num_tiles=60, workers=1))
    config = _sweep()
    request = SessionRequest("2", weights="none", image_size_px=71)
    prepared = prepare_folder(tiles, load_session("2"), request, config.backbones)
    sweep = open_sweep(prepared, config, 1, git_commit="0" * 40)
    valid = len(prepared.store.rows("valid"))
    started, numbers = list[float](), itertools.count()

    def empty(*_: Any, on_epoch: Callable[[Any, bool], None], **__: Any) -> TrainingResult:
        started.append(time.perf_counter())
        history = _epochs(random.Random(next(numbers)).uniform(0.7, 0.9))
        for epoch in history:
            on_epoch(epoch, True)
        probabilities = np.full((valid, 2), 0.5, np.float32)
        return TrainingResult(
            tuple(history), history[-1], probabilities, "not needed", [np.zeros(1, np.float32)], lambda: None
        )

    def run(count: int) -> list[float]:
        del started[:-1]
        sweep.study.set_user_attr("trials", len(sweep.study.trials) + count)
        run_worker(sweep.job.study_name, Engine(fill_trunk, empty, "cpu"), stop=lambda: False)
        return [later - earlier for earlier, later in itertools.pairwise(started)]

    return run


if __name__ == "__main__":
    main()
