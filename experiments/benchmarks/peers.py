"""satx against plain Optuna with a pruner and KerasTuner's RandomSearch, Hyperband and BayesianOptimization, by time.

    make bench NAME=peers ARGS="--data DIR --weights DIR --size 160 --minutes 10 --seeds 3"

All methods use the same space, tiles, weights, seeds and wall-clock budget, and none gets starting points: a sweep's
`start` is left out. The peers train in plain Keras (`plain.py`), satx with all its features. Filling satx's caches
counts towards the budget; decoding the tiles into its store does not (the peers read the files). A score counts once
its model is available: for satx at the end of a trial, for a peer after every epoch. KerasTuner's Hyperband continues a
promoted trial from its best weights, as it does by default. Each run is a separate process and its result is saved in
`SATX_HOME/benchmarks/peers-<digest of the options>/`, so the benchmark can be run in parts. An interrupted run is
repeated from the start; time during which a run is suspended does not count.

Prints the best validation AUC at the end, when satx and the best peer reached the best peer's final score, and the test
AUC of each method's validation winner with a paired bootstrap against satx. Plots best validation AUC against time.
Writes peers.json and peers.png.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from peers_report import METHODS, report_peers


def main() -> None:
    """Run what has not been run yet, one process after another, and print all results."""
    options = _options()
    if options.run:
        _run_one(options, *options.run)
        return
    from satx.storage import digest_of, satx_home

    asked = [str(options.data), str(options.weights), options.size, options.sweep, options.minutes]
    folder = satx_home() / "benchmarks" / f"peers-{digest_of(asked)[:8]}"
    files = {(m, s): folder / f"{m}-{s}.json" for s in range(options.seeds) for m in METHODS}
    for (method, seed), path in files.items():
        if method in options.methods and not path.exists():
            command = [sys.executable, __file__, *sys.argv[1:], "--run", method, str(seed), str(path)]
            subprocess.run(command, check=True)
    missing = [path.stem for path in files.values() if not path.exists()]
    if missing:
        raise SystemExit(f"Expected results of all methods, found none of {', '.join(missing)}. Run these too.")
    report_peers(
        {key: json.loads(path.read_text()) for key, path in files.items()}, budget_seconds=60 * options.minutes
    )


def _options() -> Any:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--sweep", default="seed200")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", nargs="*", default=METHODS, help="methods to run in this call")
    parser.add_argument("--run", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


LONGEST_STALL_SECONDS = 5.0  # pauses of this process beyond this length count as suspension


class TimeIsUp(BaseException):
    """The budget is spent; not an `Exception`, which KerasTuner would treat as a failed trial and continue."""


class Clock:
    """A wall-clock budget and the best validation AUC over time; the clock stops while the process is suspended."""

    def __init__(self, minutes: float) -> None:
        """Start the clock."""
        self.budget_seconds, self._seconds = minutes * 60, 0.0
        self.events: list[tuple[float, float]] = []
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        before = time.monotonic()
        while True:
            time.sleep(0.05)
            now = time.monotonic()
            self._seconds += min(now - before, LONGEST_STALL_SECONDS)
            before = now

    def seconds(self) -> float:
        """Return the seconds since the start."""
        return self._seconds

    def check(self) -> None:
        """Check that there is time left.

        Raises:
            TimeIsUp: The budget is spent.
        """
        if self._seconds > self.budget_seconds:
            raise TimeIsUp

    def note(self, auc: float) -> bool:
        """Record a score; return whether it is the best so far.

        Raises:
            TimeIsUp: The budget is spent.
        """
        self.check()
        best = not self.events or auc > self.events[-1][1]
        if best:
            self.events.append((self.seconds(), auc))
        return best


def _run_one(options: Any, method: str, seed_text: str, path: str) -> None:
    from satx.search.space import SweepConfig, load_sweep
    from satx.sessions.prepare import SessionRequest, prepare
    from satx.storage import write_json

    seed = int(seed_text)
    parts = load_sweep(options.sweep).model_dump()
    parts["sampler"]["seed"], parts["trials"], parts["start"] = seed, 100_000, []
    sweep = SweepConfig.model_validate(parts)
    prepared = prepare(SessionRequest("2", options.data, str(options.weights), options.size), sweep.backbones)
    with tempfile.TemporaryDirectory() as folder:
        run = _satx if method == "satx" else _peer
        events, test = run(method, seed, sweep, prepared, options.minutes, Path(folder))
    positive = prepared.store.classes.index(prepared.session.positive_class)
    truth = prepared.store.labels()[prepared.store.rows("test")] == positive
    write_json(Path(path), {"events": events, "test": test, "truth": truth.astype(int).tolist()})


def _satx(
    _method: str, _seed: int, sweep: Any, prepared: Any, minutes: float, folder: Path
) -> tuple[list[tuple[float, float]], list[float]]:
    os.environ["SATX_HOME"] = str(folder)  # an empty home, so that filling the caches counts towards the budget
    from satx.environment import environment
    from satx.errors import Interrupted
    from satx.execution.driver import open_sweep
    from satx.execution.engine import keras_engine
    from satx.execution.finalists import log_finalists
    from satx.execution.worker import run_worker
    from satx.tracking.runs import fetch_file

    environment.cache_clear()
    clock, engine = Clock(minutes), keras_engine()

    def timed(*arguments: Any, on_epoch: Callable[[Any, bool], None], **named: Any) -> Any:
        def checked(epoch: Any, new: bool) -> None:
            clock.check()
            on_epoch(epoch, new)

        result = engine.train(*arguments, on_epoch=checked, **named)
        clock.note(result.best.val_auc)
        return result

    opened = open_sweep(prepared, sweep, sweep.trials, git_commit="0" * 40)
    with contextlib.suppress(TimeIsUp, Interrupted):
        while True:  # a worker ends when its memory has grown; a sweep would start another
            timing = dataclasses.replace(engine, train=timed)
            run_worker(opened.job.study_name, timing, stop=lambda: clock.seconds() > clock.budget_seconds)
    finalists = log_finalists(opened, on_progress=lambda what, done, total: None)
    if not finalists:  # filling the caches took the whole budget
        return clock.events, undecided(prepared)
    import pandas as pd

    run_id = finalists[0].info.run_id
    predictions = pd.read_parquet(fetch_file(opened.client, run_id, "predictions/test.parquet", folder))
    return clock.events, predictions[f"probability_{prepared.session.positive_class}"].tolist()


def _peer(
    method: str, seed: int, sweep: Any, prepared: Any, minutes: float, folder: Path
) -> tuple[list[tuple[float, float]], list[float]]:
    from peers_search import search_with_kerastuner, search_with_optuna
    from plain import Score, dataset, fit_plainly, link_tiles, plain_model

    from satx.config import Configuration

    data = link_tiles(prepared.store, folder / "tiles", prepared.session.positive_class)
    clock, kept = Clock(minutes), dict[str, Any]()

    def train(configuration: Configuration, report: Callable[[int, float], None], **part: Any) -> Score:
        def stop(score: Score) -> None:
            if clock.note(score.aucs[-1]):
                kept.update(configuration=configuration, weights=score.best)
            report(len(score.aucs), max(score.aucs))

        weights = Path(prepared.weights[configuration.model.backbone].file)
        return fit_plainly(configuration, data, weights, stop=stop, **part)[1]

    search = search_with_optuna if method == "optuna" else search_with_kerastuner
    with contextlib.suppress(TimeIsUp):
        search(method, seed=seed, sweep=sweep, prepared=prepared, train=train, folder=folder)
    if not kept:
        return clock.events, undecided(prepared)
    configuration = kept["configuration"]
    file = Path(prepared.weights[configuration.model.backbone].file)
    model, _ = plain_model(configuration, len(data.classes), file)
    model.set_weights(kept["weights"])
    found = model.predict(dataset(data, "test", configuration, shuffle=False), verbose=0)[:, data.positive_index]
    rows = {int(path.stem): float(score) for path, score in zip(data.files("test"), found, strict=True)}
    return clock.events, [rows[row] for row in prepared.store.rows("test").tolist()]


def undecided(prepared: Any) -> list[float]:
    """Return the test predictions of a method that has trained nothing."""
    return [0.5] * len(prepared.store.rows("test"))


if __name__ == "__main__":
    main()
