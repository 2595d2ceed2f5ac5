from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from projects import TINY_SWEEP, copy_home, furnish

from satx.errors import ConfigError, OutOfMemory, SweepStopped, TrialFailed, WeightsError
from satx.execution.confirm import confirm_best, unconfirmed_leaders
from satx.execution.driver import Sweep, open_sweep
from satx.execution.engine import keras_engine
from satx.execution.finalists import best_run, log_finalists
from satx.execution.worker import run_worker
from satx.search.space import SweepConfig
from satx.study.outcomes import counted
from satx.testing.changed_environment import changed_environment
from satx.tracking.kept_models import drop_models
from satx.tracking.naming import NOTE
from satx.tracking.runs import CONFIRMED, WAITING, best_first, curve_of, log_numbers, start_run

Open = Callable[..., Sweep]
RATE = "train.head_learning_rate"
HEAD_ONLY: dict[str, Any] = {
    "start": [],
    "space": {"model.unfreeze": {"choices": ["none"]}, RATE: {"low": 1e-4, "high": 1e-2, "log": True}},
}
SWEPT: dict[str, Any] = HEAD_ONLY | {"keep_models_per_backbone": 2}


def quiet(_what: str, _done: int, _total: int) -> None:
    """Ignore the progress."""


@pytest.fixture(scope="module")
def swept_home(tiny_tiles: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train three configurations of a sweep in a home that the tests copy; return the home."""
    home = tmp_path_factory.mktemp("swept") / "home"
    with changed_environment(SATX_HOME=str(home), SATX_STUDY_URL=None, MLFLOW_TRACKING_URI=None):
        config = SweepConfig.model_validate(TINY_SWEEP | SWEPT)
        sweep = open_sweep(furnish(home, tiny_tiles), config, 3, git_commit="0" * 40)
        for rate in (0.0001, 0.01, 0.003):
            sweep.study.enqueue_trial({"model.unfreeze": "none", RATE: rate})
        run_worker(sweep.job.study_name, keras_engine(), stop=lambda: False)
    return home


@pytest.fixture
def swept(open_tiny: Open, swept_home: Path, home: Path) -> Open:
    """Return a function that opens this sweep in the test's home; it takes parts of the sweep's YAML."""
    copy_home(swept_home, home)
    return lambda **parts: open_tiny(trials=3, **SWEPT, **parts)


def runs_of(sweep: Sweep, query: str) -> list[Any]:
    return list(sweep.client.search_runs([sweep.job.experiment_id], filter_string=query))


def test_the_best_configurations_are_trained_with_more_seeds_and_ranked_by_their_mean(swept: Open) -> None:
    sweep = swept(confirm={"num_configurations": 2, "num_seeds": 2})
    told: list[tuple[int, int]] = []
    found = confirm_best(sweep, on_progress=lambda _, done, total: told.append((done, total)))
    again = runs_of(sweep, "tags.kind = 'confirm'")
    assert told[-1] == (4, 4) and found.compute_seconds > 0
    assert (found.num_confirmed, found.num_wanted) == (2, 2)
    assert len(again) == 4 and {run.info.status for run in again} == {"FINISHED"}
    assert {run.data.params["train.seed"] for run in again} == {"21", "22"}
    assert len(counted(sweep.study)) == 3, "confirming trainings do not count as configurations"
    confirmed = [run for run in runs_of(sweep, "tags.configuration LIKE '%'") if CONFIRMED in run.data.metrics]
    assert len(confirmed) == 2
    for run in confirmed:
        own = [one for one in again if one.data.tags["confirms"] == run.data.tags["configuration"]]
        assert {one.info.run_name for one in own} == {f"{run.info.run_name} seed {seed}" for seed in (21, 22)}
        assert all(run.info.run_id in one.data.tags[NOTE] for one in own)
        scores = [one.data.metrics["best_val_auc"] for one in [run, *own]]
        assert run.data.metrics[CONFIRMED] == pytest.approx(statistics.mean(scores))
        assert run.data.metrics[f"{CONFIRMED}_std"] == pytest.approx(statistics.stdev(scores))
    (winner,) = log_finalists(sweep, on_progress=quiet)
    assert winner.info.run_id == min(confirmed, key=best_first).info.run_id
    assert winner.data.metrics[CONFIRMED] == max(run.data.metrics[CONFIRMED] for run in confirmed)

    before = {run.info.run_id: run.info.end_time for run in again}
    assert confirm_best(sweep, on_progress=quiet).compute_seconds == pytest.approx(found.compute_seconds)
    assert {run.info.run_id: run.info.end_time for run in runs_of(sweep, "tags.kind = 'confirm'")} == before


def after_each_epoch(train: Callable[..., Any], call: Callable[[], None]) -> Callable[..., Any]:
    """Wrap `train` so that it calls `call` after each epoch is logged."""

    def patched(*args: Any, on_epoch: Callable[[Any, bool], None], **options: Any) -> Any:
        def both(epoch: Any, new: bool) -> None:
            on_epoch(epoch, new)
            call()

        return train(*args, on_epoch=both, **options)

    return patched


def test_an_interrupted_confirming_training_continues_in_its_run(swept: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    from satx.execution import confirm

    sweep = swept(confirm={"num_configurations": 1, "num_seeds": 1})

    def interrupt() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(confirm, "train", after_each_epoch(confirm.train, interrupt))
        with pytest.raises(KeyboardInterrupt):
            confirm_best(sweep, on_progress=quiet)
    confirm_best(sweep, on_progress=quiet)
    (run,) = runs_of(sweep, "tags.kind = 'confirm'")
    assert run.info.status == "FINISHED"
    steps = [metric.step for metric in curve_of(sweep.client, run.info.run_id, "val_auc")]
    assert steps == [1, 2]


def test_confirming_stops_at_the_sweeps_time_limit_and_continues_in_the_next_call(
    swept: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    from satx.execution import confirm

    sweep = swept(confirm={"num_configurations": 2, "num_seeds": 1})
    ends_at = time.monotonic() + 1000

    def end_time() -> None:
        monkeypatch.setattr(confirm.time, "monotonic", lambda: ends_at + 1)

    with monkeypatch.context() as patch:
        patch.setattr(confirm, "train", after_each_epoch(confirm.train, end_time))
        found = confirm_best(sweep, ends_at=ends_at, on_progress=quiet)
    assert (found.num_confirmed, found.num_wanted) == (0, 2)
    (run,) = runs_of(sweep, "tags.kind = 'confirm'")
    assert run.info.status == WAITING
    found = confirm_best(sweep, on_progress=quiet)
    assert (found.num_confirmed, found.num_wanted) == (2, 2)
    steps = [metric.step for metric in curve_of(sweep.client, run.info.run_id, "val_auc")]
    assert steps == [1, 2], "the first epoch is not trained again"


def test_out_of_memory_stops_confirming_without_failing_the_configuration(
    swept: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    from satx.execution import confirm

    sweep = swept(confirm={"num_configurations": 1, "num_seeds": 1})

    def hungry(*_: Any, **__: Any) -> Any:
        raise OutOfMemory("Memory ran out.")

    with monkeypatch.context() as patch:
        patch.setattr(confirm, "train", hungry)
        with pytest.raises(SweepStopped):
            confirm_best(sweep, on_progress=quiet)
    assert confirm_best(sweep, on_progress=quiet).num_confirmed == 1
    (run,) = runs_of(sweep, "tags.kind = 'confirm'")
    assert run.info.status == "FINISHED"


def test_the_mean_selects_the_best_run_and_a_later_unconfirmed_leader_is_reported(open_tiny: Open) -> None:
    sweep = open_tiny(trials=3, keep_models_per_backbone=3, **HEAD_ONLY)
    identity = {"study": sweep.job.study_name, "backbone": "mobilenetv2", "model": "kept"}
    made = {}
    for name, numbers in {
        "lucky": {"best_val_auc": 0.95, CONFIRMED: 0.90},
        "steady": {"best_val_auc": 0.94, CONFIRMED: 0.93},
        "poor": {"best_val_auc": 0.92},
    }.items():
        tags = identity | {"configuration": name}
        run = start_run(sweep.client, sweep.job.experiment_id, name=name, tags=tags, params={}, parent=None)
        log_numbers(sweep.client, run.info.run_id, numbers | {"best_val_loss": 0.1})
        sweep.client.set_terminated(run.info.run_id)
        made[name] = run.info.run_id
    best = best_run(sweep.client, sweep.job.experiment_id, sweep.job.study_name, "mobilenetv2")
    assert best is not None and best.info.run_id == made["steady"]
    assert unconfirmed_leaders(sweep, [best]) == []
    log_numbers(sweep.client, made["poor"], {"best_val_auc": 0.96})
    (said,) = unconfirmed_leaders(sweep, [best])
    assert said.startswith("poor ") and "0.9600" in said and "steady" in said


def test_a_failed_seed_counts_with_an_auc_of_one_half(swept: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    from satx.execution import confirm

    sweep = swept(confirm={"num_configurations": 1, "num_seeds": 1})

    def diverges(*_: Any, **__: Any) -> Any:
        raise TrialFailed("diverged")

    monkeypatch.setattr(confirm, "train", diverges)
    confirm_best(sweep, on_progress=quiet)
    (run,) = [run for run in runs_of(sweep, "tags.configuration LIKE '%'") if CONFIRMED in run.data.metrics]
    assert run.data.metrics[CONFIRMED] == pytest.approx((run.data.metrics["best_val_auc"] + 0.5) / 2)
    assert run.data.metrics["num_seeds"] == 2


def test_a_confirmed_run_and_a_later_better_run_both_keep_their_models(open_tiny: Open) -> None:
    sweep = open_tiny(
        trials=3, keep_models_per_backbone=1, confirm={"num_configurations": 1, "num_seeds": 1}, **HEAD_ONLY
    )
    identity = {"study": sweep.job.study_name, "backbone": "mobilenetv2", "model": "trained"}
    for name, numbers in {
        "confirmed": {"best_val_auc": 0.90, CONFIRMED: 0.88},
        "overtaken": {"best_val_auc": 0.91},
        "better": {"best_val_auc": 0.95},
    }.items():
        tags = identity | {"configuration": name}
        run_id = start_run(
            sweep.client, sweep.job.experiment_id, name=name, tags=tags, params={}, parent=None
        ).info.run_id
        log_numbers(sweep.client, run_id, numbers)
        sweep.client.set_terminated(run_id)
    drop_models(sweep.client, sweep.job.experiment_id, sweep.job.study_name, "mobilenetv2", keep=1)
    left = {run.data.tags["configuration"] for run in runs_of(sweep, "tags.model = 'trained'")}
    assert left == {"confirmed", "better"}


def test_models_are_written_at_the_end_of_a_sweep_for_the_leading_runs_only(swept: Open, tmp_path: Path) -> None:
    sweep = swept()
    states = {run.data.tags.get("model") for run in runs_of(sweep, "tags.configuration LIKE '%'")}
    assert states <= {"trained", "dropped", None} and "trained" in states
    log_finalists(sweep, on_progress=quiet)
    kept = runs_of(sweep, "tags.model = 'kept'")
    assert len(kept) == 2
    for run in kept:
        names = {item.path for item in sweep.client.list_artifacts(run.info.run_id)}
        assert {"model", "plots", "predictions", "slices", "config.json", "history.csv"} <= names
        assert "trained" not in names


def test_trained_values_with_another_digest_are_not_made_into_a_model(swept: Open) -> None:
    sweep = swept()
    run = runs_of(sweep, "tags.model = 'trained'")[0]
    sweep.client.set_tag(run.info.run_id, "trained_sha256", "0" * 64)
    with pytest.raises(WeightsError):
        log_finalists(sweep, on_progress=quiet)


def test_confirming_more_configurations_than_keep_their_models_is_refused(open_tiny: Open) -> None:
    with pytest.raises(ValueError, match=r"keep_models_per_backbone.* 3 > 2") as caught:
        SweepConfig.model_validate(
            {
                "name": "s",
                "trials": 1,
                "set": {"model.backbone": "mobilenetv2"},
                "confirm": {"num_configurations": 3},
                "space": {RATE: {"low": 1e-4, "high": 1e-2}},
            }
        )
    assert not isinstance(caught.value, ConfigError)
