"""satx against what people use, by the clock: plain Optuna with a pruner, KerasTuner's RandomSearch, Hyperband and Bayesian.

    make bench NAME=peers ARGS="--data DIR --weights DIR --size 160 --minutes 10 --seeds 3"

Same space, tiles, weights, seeds and wall-clock budget, and nobody is told where to start: a sweep's `start` is left out.
The peers train the plain way (`plain.py`), satx with everything it has; filling its caches counts, decoding the tiles into
the store that satx reads does not (the peers read the files). A score counts once its model could be taken: satx's at the end
of a trial, a peer's after every epoch. KerasTuner's Hyperband goes on with a promoted trial from its best weights, as it does
by itself. Each run is a process of its own and is kept in `SATX_HOME/benchmarks/peers-<digest of what was asked for>/`, so
the whole can be done in parts, and a run that was stopped is simply done again; one that is suspended does not age.

Printed: best validation AUC at the end, when satx and the best peer reached what the best peer ended with, and the test AUC of
each one's validation winner with a paired bootstrap against satx's; drawn: best validation AUC against time. Writes peers.json
and peers.png.
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
    """Run what is not on record yet, one process after another, and print all."""
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
        raise SystemExit(f"Not run yet: {', '.join(missing)}.")
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
    parser.add_argument("--methods", nargs="*", default=METHODS, help="run these now")
    parser.add_argument("--run", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


LONGEST_STALL_SECONDS = 5.0  # of this process by its own doing; what is beyond was a suspension


class TimeIsUp(BaseException):
    """The budget is spent; no Exception, since KerasTuner takes those for failed trials and goes on."""


class Clock:
    """A wall-clock budget, and the best validation AUC as time goes by; it stands still while the process is suspended."""

    def __init__(self, minutes: float) -> None:
        """Start now."""
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
        """Since the start."""
        return self._seconds

    def check(self) -> None:
        """Is there time left?

        Raises:
            TimeIsUp: No.
        """
        if self._seconds > self.budget_seconds:
            raise TimeIsUp

    def note(self, auc: float) -> bool:
        """Take a score; True if it is the best so far.

        Raises:
            TimeIsUp: After the budget.
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
    os.environ["SATX_HOME"] = str(folder)  # its caches are to be filled within the budget
    from satx.errors import Interrupted
    from satx.execution.driver import open_sweep
    from satx.execution.engine import keras_engine
    from satx.execution.finalists import log_finalists
    from satx.execution.worker import run_worker
    from satx.tracking.runs import fetch_file

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
        while True:  # a worker that has grown ends, and another would go on
            timing = dataclasses.replace(engine, train=timed)
            run_worker(opened.job.study_name, timing, stop=lambda: clock.seconds() > clock.budget_seconds)
    finalists = log_finalists(opened, on_progress=lambda what, done, total: None)
    if not finalists:  # the budget went into the caches
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
    """The answers of whoever has trained nothing."""
    return [0.5] * len(prepared.store.rows("test"))


if __name__ == "__main__":
    main()
