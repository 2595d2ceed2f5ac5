"""Runs are selected by their scores on the validation tiles, whatever their scores on the test tiles."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from projects import TINY_SWEEP

from satx.execution.confirm import confirm_best, unconfirmed_leaders
from satx.execution.driver import Sweep
from satx.execution.finalists import best_run, log_finalists
from satx.search.space import SweepConfig
from satx.storage import write_json
from satx.tracking.kept_models import drop_models
from satx.tracking.runs import CONFIRMED, best_first, log_files, log_numbers, own_score_first, start_run

Open = Callable[..., Sweep]
# Validation AUC and test AUC, which rank the runs in opposite orders. Nothing was trained for them.
SCORES = {"a": (0.96, 0.80), "b": (0.95, 0.85), "c": (0.94, 0.90), "d": (0.93, 0.95), "e": (0.92, 0.99)}


def quiet(_what: str, _done: int, _total: int) -> None:
    """Ignore the progress."""


def logged(sweep: Sweep, name: str, numbers: Mapping[str, float], *, backbone: str = "mobilenetv2", **tags: str) -> str:
    """Create a finished run of the sweep with these scores, and return its id."""
    tags = {"study": sweep.job.study_name, "backbone": backbone, "weights": "random", "device": "cpu"} | tags
    tags = {"weights_digest": "0" * 64} | tags
    run = start_run(sweep.client, sweep.job.experiment_id, name=name, tags=tags, params={}, parent=None)
    configuration = sweep.job.defaults.model_dump()

    def write(path: Path) -> None:
        write_json(path, configuration)

    log_files(sweep.client, run, {"config.json": write})
    log_numbers(sweep.client, run.info.run_id, numbers)
    sweep.client.set_terminated(run.info.run_id)
    return str(run.info.run_id)


def configurations(sweep: Sweep) -> dict[str, str]:
    """Create a run for each configuration in `SCORES`, and return the run ids by name."""
    return {
        name: logged(
            sweep,
            name,
            {"best_val_auc": valid, "best_val_loss": 1 - valid, "test_auc": test},
            configuration=name,
            model="kept",
        )
        for name, (valid, test) in SCORES.items()
    }


def run_of(sweep: Sweep, run_id: str) -> Any:
    return sweep.client.get_run(run_id)


def test_the_best_run_is_the_best_on_validation_tiles(open_tiny: Open) -> None:
    sweep = open_tiny()
    made = configurations(sweep)
    runs = [run_of(sweep, run_id) for run_id in made.values()]
    for order in (best_first, own_score_first):
        assert [run.info.run_name for run in sorted(runs, key=order)] == list(SCORES)
    best = best_run(sweep.client, sweep.job.experiment_id, sweep.job.study_name, "mobilenetv2")
    assert best is not None and best.info.run_id == made["a"]
    (winner,) = log_finalists(sweep, on_progress=quiet)
    assert winner.info.run_id == made["a"]
    assert unconfirmed_leaders(sweep, [run_of(sweep, made["c"])]) == [], "it was not confirmed"


def test_the_configurations_to_confirm_are_the_best_on_validation_tiles(open_tiny: Open) -> None:
    """All five configurations have confirming runs already, so nothing is trained, whichever of them are chosen."""
    sweep = open_tiny(keep_models_per_backbone=5, confirm={"num_configurations": 3, "num_seeds": 2})
    made = configurations(sweep)
    for name, (valid, _) in SCORES.items():
        for seed in ("1", "2"):
            numbers = {"best_val_auc": valid - 0.01, "compute_seconds": 1.0}
            logged(sweep, f"{name}-{seed}", numbers, kind="confirm", confirms=name, seed=seed)
    found = confirm_best(sweep, on_progress=quiet)
    assert (found.num_confirmed, found.num_wanted, found.compute_seconds) == (3, 3, 6.0)
    means = {name: run_of(sweep, run_id).data.metrics.get(CONFIRMED) for name, run_id in made.items()}
    assert {name for name, mean in means.items() if mean is not None} == {"a", "b", "c"}
    assert means["a"] == pytest.approx(0.96 - 2 * 0.01 / 3)


def test_the_winner_among_the_best_of_each_backbone_is_the_best_on_validation_tiles(open_tiny: Open) -> None:
    sweep = open_tiny()
    both = SweepConfig.model_validate(
        TINY_SWEEP | {"set": {}, "start": [], "space": {"model.backbone": {"choices": ["mobilenetv2", "xception"]}}}
    )
    sweep = replace(sweep, job=replace(sweep.job, sweep=both))
    for backbone, valid, test in (("mobilenetv2", 0.90, 0.99), ("xception", 0.95, 0.80)):
        numbers = {"best_val_auc": valid, "best_val_loss": 0.1, "test_auc": test}
        logged(sweep, backbone, numbers, backbone=backbone, configuration=backbone, model="kept")
    finalists = log_finalists(sweep, on_progress=quiet)
    assert [run.info.run_name for run in finalists] == ["xception", "mobilenetv2"]


def test_the_models_kept_are_those_of_the_best_runs_on_validation_tiles(open_tiny: Open) -> None:
    sweep = open_tiny()
    made = configurations(sweep)
    drop_models(sweep.client, sweep.job.experiment_id, sweep.job.study_name, "mobilenetv2", keep=2)
    kept = {name for name, run_id in made.items() if run_of(sweep, run_id).data.tags["model"] == "kept"}
    assert kept == {"a", "b"}
