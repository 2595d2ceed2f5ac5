"""satx against what people use, by the clock: plain Optuna with a pruner, KerasTuner's RandomSearch, Hyperband and Bayesian.

    make bench NAME=peers ARGS="--data DIR --weights DIR --size 160 --minutes 10 --seeds 3"

Same space, tiles, weights, seeds and wall-clock budget. The peers train the plain way (`plain.py`), satx with everything it
has; filling its caches counts. Each run is a process of its own and is kept in `SATX_HOME/benchmarks/peers/`, so the whole
can be done in parts, and a run that was stopped is simply done again. Printed: best validation AUC at the end, when satx
reached what the best peer ended with, and the test AUC of each one's validation winner with a paired bootstrap against
satx's; drawn: best validation AUC against time. Writes peers.json and peers.png.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
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
    from satx.storage import satx_home

    folder = satx_home() / "benchmarks" / "peers"
    for seed in range(options.seeds):
        for method in METHODS:
            path = folder / f"{method}-{seed}.json"
            if not path.exists():
                subprocess.run(
                    [sys.executable, __file__, *sys.argv[1:], "--run", method, str(seed), str(path)], check=True
                )
    report_peers(
        {(m, s): json.loads((folder / f"{m}-{s}.json").read_text()) for m in METHODS for s in range(options.seeds)}
    )


def _options() -> Any:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--sweep", default="seed200")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--run", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


class TimeIsUp(BaseException):
    """The budget is spent; no Exception, since KerasTuner takes those for failed trials and goes on."""


class Clock:
    """A wall-clock budget, and the best validation AUC as time goes by."""

    def __init__(self, minutes: float) -> None:
        """Start now."""
        self.started, self.budget_seconds = time.monotonic(), minutes * 60
        self.events: list[tuple[float, float]] = []

    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self.started

    def note(self, auc: float) -> bool:
        """Take a score; True if it is the best so far.

        Raises:
            TimeIsUp: After the budget.
        """
        if self.seconds() > self.budget_seconds:
            raise TimeIsUp
        best = not self.events or auc > self.events[-1][1]
        if best:
            self.events.append((self.seconds(), auc))
        return best


def _run_one(options: Any, method: str, seed_text: str, path: str) -> None:
    from satx.search.prepare import Request, prepare
    from satx.search.space import SweepConfig, load_sweep
    from satx.storage import write_json

    seed = int(seed_text)
    parts = load_sweep(options.sweep).model_dump()
    parts["sampler"]["seed"], parts["trials"] = seed, 100_000
    sweep = SweepConfig.model_validate(parts)
    ready = prepare(Request("2", options.data, str(options.weights), options.size), sweep.backbones)
    with tempfile.TemporaryDirectory() as folder:
        run = _satx if method == "satx" else _peer
        events, test = run(method, seed, sweep, ready, options.minutes, Path(folder))
    positive = ready.store.classes.index(ready.session.positive_class)
    truth = ready.store.labels()[ready.store.rows("test")] == positive
    write_json(Path(path), {"events": events, "test": test, "truth": truth.astype(int).tolist()})


def _satx(
    _method: str, _seed: int, sweep: Any, ready: Any, minutes: float, folder: Path
) -> tuple[list[tuple[float, float]], list[float]]:
    os.environ["SATX_HOME"] = str(folder)  # its caches are to be filled within the budget
    from satx.errors import Interrupted
    from satx.search import worker
    from satx.search.driver import open_sweep
    from satx.search.stages import log_finalists
    from satx.tracking.runs import fetch_file

    clock, train = Clock(minutes), worker.train

    def timed(*arguments: Any, on_epoch: Callable[[Any, bool], None], **named: Any) -> Any:
        def noted(epoch: Any, new: bool) -> None:
            clock.note(epoch.val_auc)
            on_epoch(epoch, new)

        return train(*arguments, on_epoch=noted, **named)

    worker.train = timed
    opened = open_sweep(ready, sweep, sweep.trials, git_commit="0" * 40)
    with contextlib.suppress(TimeIsUp, Interrupted):
        while True:  # a worker that has grown ends, and another would go on
            worker.run_worker(opened.job.study_name, stop=lambda: clock.seconds() > clock.budget_seconds)
    finalists = log_finalists(opened, notify=lambda what, done, total: None)
    if not finalists:  # the budget went into the caches
        return clock.events, undecided(ready)
    import pandas as pd

    run_id = finalists[0].info.run_id
    predictions = pd.read_parquet(fetch_file(opened.client, run_id, "predictions/test.parquet", folder))
    return clock.events, predictions[f"probability_{ready.session.positive_class}"].tolist()


def _peer(
    method: str, seed: int, sweep: Any, ready: Any, minutes: float, folder: Path
) -> tuple[list[tuple[float, float]], list[float]]:
    from plain import Score, dataset, fit_plainly, link_tiles, plain_model

    from satx.config import Configuration

    data = link_tiles(ready.store, folder / "tiles", ready.session.positive_class)
    clock, kept = Clock(minutes), dict[str, Any]()

    def train(
        configuration: Configuration, report: Callable[[int, float], None], epochs: tuple[int, int] | None = None
    ) -> float:
        def stop(score: Score) -> None:
            if clock.note(score.aucs[-1]):
                kept.update(configuration=configuration, weights=score.best)
            report(len(score.aucs), max(score.aucs))

        weights = Path(ready.weights[configuration.model.backbone].file)
        return max(fit_plainly(configuration, data, weights, epochs=epochs, stop=stop)[1].aucs)

    search = _with_optuna if method == "optuna" else _with_kerastuner
    with contextlib.suppress(TimeIsUp):
        search(method, seed, sweep, ready, train, folder)
    if not kept:
        return clock.events, undecided(ready)
    configuration = kept["configuration"]
    file = Path(ready.weights[configuration.model.backbone].file)
    model, _ = plain_model(configuration, len(data.classes), file)
    model.set_weights(kept["weights"])
    found = model.predict(dataset(data, "test", configuration, shuffle=False), verbose=0)[:, data.positive_index]
    as_read = sorted(
        (data.folder / "test").glob("*/*")
    )  # Keras reads class by class; files are named by the store's row
    rows = {int(path.stem): float(score) for path, score in zip(as_read, found, strict=True)}
    return clock.events, [rows[row] for row in ready.store.rows("test").tolist()]


def undecided(ready: Any) -> list[float]:
    """The answers of whoever has trained nothing."""
    return [0.5] * len(ready.store.rows("test"))


def _with_optuna(_m: str, seed: int, sweep: Any, ready: Any, train: Any, _folder: Path) -> None:
    import optuna

    from satx.search.space import suggest

    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=sweep.sampler.num_startup_trials, group=True),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=3),
    )

    def objective(trial: optuna.Trial) -> float:
        def report(step: int, auc: float) -> None:
            trial.report(auc, step)
            if trial.should_prune():
                raise optuna.TrialPruned

        return float(train(suggest(trial, sweep, ready.defaults), report))

    study.optimize(objective, n_trials=None)


def _with_kerastuner(method: str, seed: int, sweep: Any, ready: Any, train: Any, folder: Path) -> None:
    import keras_tuner

    kinds = {
        "random": keras_tuner.RandomSearch,
        "hyperband": keras_tuner.Hyperband,
        "bayesian": keras_tuner.BayesianOptimization,
    }
    settings = sweep.set
    total = int(settings["train.head_epochs"]) + int(settings["train.finetune_epochs"])
    limits = {"max_epochs": total} if method == "hyperband" else {"max_trials": 100_000}

    class Tuner(kinds[method]):
        def run_trial(self, trial: Any, *_: Any, **__: Any) -> float:
            hp = trial.hyperparameters
            configuration = _from_kerastuner(hp, sweep, ready)
            wanted = int(hp.values.get("tuner/epochs", total))
            head = min(wanted, configuration.train.head_epochs)
            return float(train(configuration, lambda step, auc: None, (head, max(0, wanted - head))))

    objective = keras_tuner.Objective("score", "max")

    def build(hp: Any) -> Any:
        _from_kerastuner(hp, sweep, ready)  # tells KerasTuner the space

    class Scored(Tuner):
        def run_trial(self, trial: Any, *arguments: Any, **named: Any) -> dict[str, float]:
            return {"score": super().run_trial(trial, *arguments, **named)}

    tuner = Scored(
        hypermodel=build, objective=objective, seed=seed, directory=str(folder / "tuner"), project_name=method, **limits
    )
    tuner.search()


def _from_kerastuner(hp: Any, sweep: Any, ready: Any) -> Any:
    """The same space in KerasTuner's words: a scope for what hangs on the backbone."""
    from satx.search.space import BACKBONE, TAIL_ONLY, UNFREEZE

    def ask(name: str, dimension: Any) -> Any:
        if dimension.choices is not None:
            return hp.Choice(name, dimension.choices)
        sampling = "log" if dimension.log else "linear"
        return hp.Float(name, float(dimension.low), float(dimension.high), step=dimension.step, sampling=sampling)

    values: dict[str, Any] = dict(sweep.set)
    values[BACKBONE] = ask(BACKBONE, sweep.space[BACKBONE])
    for name, dimension in sweep.space.items():
        if isinstance(dimension, dict):
            for backbone, own in dimension.items():
                with hp.conditional_scope(BACKBONE, [backbone]):
                    found = ask(f"{name}@{backbone}", own)
                    values |= {name: found} if backbone == values[BACKBONE] else {}
        elif name != BACKBONE:
            values[name] = ask(name, dimension)
    if values.get(UNFREEZE) == "none":
        values.pop(TAIL_ONLY, None)
    return ready.defaults.with_values(values, source="space")


if __name__ == "__main__":
    main()
