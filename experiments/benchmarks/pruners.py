"""Compare pruners and rungs by replaying recorded curves, which takes seconds where sweeps take hours.

    make bench NAME=pruners ARGS="--record --data DIR --weights DIR --size 96 --trials 60"
    make bench NAME=pruners

The first command trains random draws from a sweep's space without a pruner. It can be stopped and continued like any
sweep, and writes the finished trials to `SATX_HOME/benchmarks/pruners-curves.json`. The second command replays the
curves in `experiments/benchmarks/results/`, or those of `--curves FILE`, with each pruner in many random orders.

Prints for each pruner the share of the training seconds that it lets through, how far the best configuration that it
lets finish is behind the best of all, and how often it keeps a configuration within 0.002 of that best. `resumed`
continues the best of the stopped configurations at the end, and adds their seconds. Writes pruners.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import optuna
import pandas as pd
from report import publish

from satx.config import Configuration
from satx.search.pruner import RungPruner, rung_step
from satx.search.space import SweepConfig, load_sweep, suggest
from satx.storage import satx_home, write_json
from satx.study.database import open_storage, open_study
from satx.study.outcomes import counted
from satx.tracking.client import open_tracker
from satx.tracking.runs import fetch_file, find_runs, runs_query

NEAR = 0.002
BEHIND = 0.05  # upper limit of the loss, used if no configuration finishes


@dataclass(frozen=True)
class Recorded:
    """One configuration trained to the end.

    Attributes:
        params: Parameters as Optuna drew them.
        curve: Step, validation AUC and seconds of every epoch.
    """

    params: dict[str, Any]
    curve: list[tuple[int, float, float]]

    @property
    def best(self) -> float:
        """Best validation AUC over both phases."""
        return max(auc for _, auc, _ in self.curve)

    def seconds(self, after: int = 0) -> float:
        """Return the seconds of the epochs after a step."""
        return sum(seconds for step, _, seconds in self.curve if step > after)


def main() -> None:
    """Record curves, or replay recorded ones."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--weights")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--sweep", default="seed200")
    parser.add_argument("--orders", type=int, default=30)
    parser.add_argument("--curves", type=Path, default=Path(__file__).parent / "results" / "pruners-curves.json")
    options = parser.parse_args()
    if options.record:
        try:
            record(options)
        finally:
            write_curves(options.sweep)
        return
    sweep, defaults, recorded = read_curves(options.curves)
    rows = []
    for name, (pruner, num_resumed) in candidates(sweep, defaults).items():
        results = [replayed(recorded, sweep, defaults, pruner, num_resumed, seed) for seed in range(options.orders)]
        shares, behind = zip(*results, strict=True)
        rows.append(
            {
                "pruner": name,
                "share of seconds": statistics.mean(shares),
                "behind the best": statistics.mean(behind),
                f"within {NEAR}": statistics.mean(value <= NEAR for value in behind),
            }
        )
    publish("pruners", rows, num_recorded=len(recorded), num_orders=options.orders)


def study_to_record(sweep_name: str) -> SweepConfig:
    """Return the sweep with random draws and without a pruner."""
    parts = load_sweep(sweep_name).model_dump()
    changes = {"name": f"{sweep_name}recorded", "start": [], "confirm": {}, "pruner": {"name": "none"}}
    return SweepConfig.model_validate(parts | changes | {"sampler": {"name": "random", "seed": 1}})


def record(options: Any) -> None:
    """Train the sweep to record, or continue training it."""
    from satx.commands.sweep import run_sweep
    from satx.errors import Interrupted
    from satx.sessions.prepare import SessionRequest, prepare

    sweep = study_to_record(options.sweep).model_copy(update={"trials": options.trials})
    prepared = prepare(SessionRequest("2", options.data, options.weights, options.size), sweep.backbones)
    try:
        run_sweep(prepared, sweep, minutes=None, workers=1, dry_run=False, as_json=False)
    except Interrupted as stopped:
        print(stopped)
        raise SystemExit(stopped.exit_code) from None


def read_recorded(sweep_name: str) -> tuple[SweepConfig, Configuration, list[Recorded]]:
    """Return the sweep, settings and curves of the newest recorded study of this sweep."""
    from satx.execution.job import read_job

    name = f"{sweep_name}recorded"
    studies = [found for found in optuna.get_all_study_summaries(open_storage()) if f"-{name}-" in found.study_name]
    if not studies:
        raise SystemExit("Expected recorded curves, found none. Record some first with --record.")
    study = open_study(open_storage(), max(studies, key=lambda found: str(found.datetime_start)).study_name)
    job, client = read_job(study), open_tracker()
    query = runs_query({"study": study.study_name}, having=("configuration",))
    found = find_runs(client, job.experiment_id, query)
    runs = {run.data.tags["configuration"]: str(run.info.run_id) for run in found}
    recorded = []
    for trial in counted(study):
        with tempfile.TemporaryDirectory() as folder:
            path = fetch_file(client, runs[trial.user_attrs["configuration"]], "history.csv", Path(folder))
            frame = pd.read_csv(path)
        numbers = frame.groupby("phase").cumcount() + 1
        head_epochs = int(job.sweep.set["train.head_epochs"])
        steps = [rung_step(phase, number, head_epochs) for phase, number in zip(frame["phase"], numbers, strict=True)]
        curve = list(zip(steps, frame["val_auc"], frame["epoch_seconds"], strict=True))
        recorded.append(Recorded(trial.params, curve))
    return job.sweep, job.defaults, recorded


def write_curves(sweep_name: str) -> None:
    """Write the curves recorded so far to one file."""
    sweep, defaults, recorded = read_recorded(sweep_name)
    path = satx_home() / "benchmarks" / "pruners-curves.json"
    found = {
        "sweep": sweep.model_dump(),
        "defaults": defaults.model_dump(),
        "recorded": [asdict(one) for one in recorded],
    }
    write_json(path, found)
    print(f"{len(recorded)} curves written to {path}")


def read_curves(path: Path) -> tuple[SweepConfig, Configuration, list[Recorded]]:
    """Read a file written by `write_curves`."""
    found = json.loads(path.read_text())
    recorded = [Recorded(one["params"], [tuple(point) for point in one["curve"]]) for one in found["recorded"]]
    return SweepConfig.model_validate(found["sweep"]), Configuration.model_validate(found["defaults"]), recorded


def candidates(
    sweep: SweepConfig, defaults: Configuration
) -> dict[str, tuple[Callable[[], optuna.pruners.BasePruner], int]]:
    """Return, by name, a pruner factory and the number of stopped configurations to resume at the end."""

    def rungs(keep: float, startup: int, tail_rungs: tuple[int, ...]) -> optuna.pruners.BasePruner:
        settings = {"name": "rungs", "keep": keep, "num_startup_trials": startup}
        pruner = RungPruner(SweepConfig.model_validate(sweep.model_dump() | {"pruner": settings}), defaults)
        pruner.tail_rungs_epochs = tail_rungs
        return pruner

    num_epochs = int(sweep.set["train.head_epochs"]) + int(sweep.set["train.finetune_epochs"])
    found: dict[str, tuple[Callable[[], optuna.pruners.BasePruner], int]] = {
        "none": (optuna.pruners.NopPruner, 0),
        "median": (partial(optuna.pruners.MedianPruner, 5, 3), 0),
        "hyperband": (partial(optuna.pruners.HyperbandPruner, 1, num_epochs, 3), 0),
    }
    for keep in (0.2, 0.33, 0.5):
        for tail_rungs in ((1, 3), (2, 4), (4,), ()):
            found[f"rungs keep {keep} at {tail_rungs}"] = partial(rungs, keep, 5, tail_rungs), 0
    found["rungs keep 0.33 at (1, 3), startup 10"] = partial(rungs, 0.33, 10, (1, 3)), 0
    for count in (1, 3):
        found[f"rungs keep 0.2 at (1, 3), {count} resumed"] = partial(rungs, 0.2, 5, (1, 3)), count
        found[f"rungs keep 0.33 at (1, 3), {count} resumed"] = partial(rungs, 0.33, 5, (1, 3)), count
    return found


def replayed(
    recorded: list[Recorded],
    sweep: SweepConfig,
    defaults: Configuration,
    pruner: Callable[[], optuna.pruners.BasePruner],
    num_resumed: int,
    seed: int,
) -> tuple[float, float]:
    """Replay the recorded trials with a pruner in a random order.

    Returns:
        The share of all seconds that was spent, and how far the best finished configuration is behind the best of all.
    """
    study = optuna.create_study(study_name=f"replay{seed}", direction="maximize", pruner=pruner())
    spent, finished, stopped = 0.0, [0.0], []
    for place in np.random.default_rng(seed).permutation(len(recorded)).tolist():
        one = recorded[place]
        study.enqueue_trial(one.params)
        trial = study.ask()
        suggest(trial, sweep, defaults)
        at = _trained_until_pruned(trial, one)
        spent += one.seconds() - one.seconds(after=at)
        if at == one.curve[-1][0]:
            finished.append(one.best)
            study.tell(trial, one.best)
        else:
            stopped.append((max(auc for step, auc, _ in one.curve if step <= at), at, one))
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    for _, at, one in sorted(stopped, key=lambda entry: -entry[0])[:num_resumed]:
        spent += one.seconds(after=at)
        finished.append(one.best)
    total, best = sum(one.seconds() for one in recorded), max(one.best for one in recorded)
    return spent / total, min(BEHIND, best - max(finished))


def _trained_until_pruned(trial: optuna.Trial, one: Recorded) -> int:
    """Return the step at which the pruner stopped the trial, or its last step."""
    last = one.curve[-1][0]
    for step, auc, _ in one.curve:
        trial.report(auc, step)
        if step < last and trial.should_prune():
            return step
    return last


if __name__ == "__main__":
    main()
