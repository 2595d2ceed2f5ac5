"""Search methods that `peers` compares with satx: Optuna with a pruner, and three KerasTuner tuners."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras_tuner
import optuna
from plain import Score

from satx.config import Configuration
from satx.search.space import BACKBONE, TAIL_ONLY, UNFREEZE, SweepConfig, suggest
from satx.sessions.prepare import PreparedSession

Train = Callable[..., Score]  # takes a configuration, a callback for every epoch, and the range of epochs


def search_with_optuna(
    _method: str, *, seed: int, sweep: SweepConfig, prepared: PreparedSession, train: Train, folder: Path
) -> None:
    """Search with Optuna's TPE and median pruner until `train` raises."""
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

        return float(max(train(suggest(trial, sweep, prepared.defaults), report).aucs))

    study.optimize(objective, n_trials=None)


def search_with_kerastuner(
    method: str, *, seed: int, sweep: SweepConfig, prepared: PreparedSession, train: Train, folder: Path
) -> None:
    """Search with KerasTuner's RandomSearch, Hyperband or BayesianOptimization until `train` raises.

    Hyperband continues a promoted trial from its best weights; a trial without an epoch left to train keeps its score.
    """
    kinds = {
        "random": keras_tuner.RandomSearch,
        "hyperband": keras_tuner.Hyperband,
        "bayesian": keras_tuner.BayesianOptimization,
    }
    settings = sweep.set
    total = int(settings["train.head_epochs"]) + int(settings["train.finetune_epochs"])
    hyperband = {"max_epochs": total, "hyperband_iterations": 1000}
    limits = hyperband if method == "hyperband" else {"max_trials": 100_000}
    best: dict[str, Any] = {}  # score and weights by trial id, from which Hyperband continues

    class Tuner(kinds[method]):
        def run_trial(self, trial: Any, *_: Any, **__: Any) -> dict[str, float]:
            values, part = trial.hyperparameters.values, dict[str, Any]()
            known, start = best.get(values.get("tuner/trial_id"), (0.0, None))
            if method == "hyperband":
                part = {
                    "first_epoch": values["tuner/initial_epoch"],
                    "last_epoch": values["tuner/epochs"],
                    "start": start,
                }
            score = train(_from_kerastuner(trial.hyperparameters, sweep, prepared), lambda step, auc: None, **part)
            found = max([known, *score.aucs])
            if method == "hyperband":
                best[trial.trial_id] = found, score.best if score.best is not None else start
            return {"score": found}

    objective = keras_tuner.Objective("score", "max")

    def build(hp: Any) -> Any:
        _from_kerastuner(hp, sweep, prepared)  # registers the space with KerasTuner

    tuner = Tuner(
        hypermodel=build, objective=objective, seed=seed, directory=str(folder / "tuner"), project_name=method, **limits
    )
    tuner.search()


def _from_kerastuner(hp: Any, sweep: SweepConfig, prepared: PreparedSession) -> Configuration:
    """Draw a configuration through KerasTuner's API; dimensions that depend on the backbone get a conditional scope."""

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
    return prepared.defaults.with_values(values, source="space")
