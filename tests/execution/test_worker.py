"""The worker, run in the process of the test with actual tiles, an actual study and actual runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest
from logged_runs import curves_of
from optuna.trial import TrialState

from satx.errors import ConfigError, Interrupted, OutOfMemory, StateMismatch, SweepStopped, TrialFailed
from satx.execution.cache_fill import fill_trunk, trunk_of
from satx.execution.driver import Sweep
from satx.execution.engine import keras_engine
from satx.execution.finalists import best_run, log_baselines
from satx.execution.worker import MAX_DUPLICATES_IN_A_ROW, run_worker
from satx.execution.worker_pool import is_exhausted
from satx.search.space import suggest
from satx.study.admission import known_value, refuse_surplus
from satx.study.outcomes import Outcome, counted, num_duplicates_in_a_row, num_failures_in_a_row
from satx.study.owner import owner_of_this_process
from satx.study.reconcile import reconcile
from satx.tracking.kept_models import drop_models
from satx.tracking.machine_load import PREFIX
from satx.tracking.naming import NOTE, run_color
from satx.tracking.runs import CURVES, WAITING, curve_of, fetch_file, log_files, log_numbers, start_run
from satx.training.cache_room import entry_gb
from satx.training.contract import TRAINER_VERSION
from satx.training.trunk import is_cached

Open = Callable[..., Sweep]
HEAD_ONLY: dict[str, Any] = {
    "start": [],
    "space": {
        "model.unfreeze": {"choices": ["none"]},
        "train.head_learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
    },
}
RATE = "train.head_learning_rate"
MEMORY = f"{PREFIX}system_memory_usage_percentage"


def never() -> bool:
    return False


def work(sweep: Sweep, stop: Callable[[], bool] = never) -> None:
    run_worker(sweep.job.study_name, keras_engine(), stop=stop)


def runs_of(sweep: Sweep, **tags: str) -> list[Any]:
    wanted = {"study": sweep.job.study_name} | tags
    query = " and ".join(f"tags.{name} = '{value}'" for name, value in wanted.items())
    query += " and tags.configuration LIKE '%'"
    return list(sweep.client.search_runs([sweep.job.experiment_id], filter_string=query))


def queue(sweep: Sweep, *rates: float) -> None:
    for rate in rates:
        sweep.study.enqueue_trial({"model.unfreeze": "none", RATE: rate})


def curves_best(sweep: Sweep, run: Any) -> int:
    """Return the epoch of a run with the highest validation AUC, the first of equal ones with the lowest loss."""
    curves = curves_of(sweep.client, run.info.run_id)
    return int(curves.sort_values(["val_auc", "val_loss"], ascending=[False, True], kind="stable")["step"].iloc[0])


def states(sweep: Sweep) -> list[str]:
    return [trial.state.name for trial in sweep.study.get_trials()]


def test_a_configuration_that_is_queued_twice_is_trained_once_and_its_value_reused(open_tiny: Open) -> None:
    sweep = open_tiny(trials=2, **HEAD_ONLY)
    queue(sweep, 0.001, 0.001, 0.002)
    work(sweep)
    trials = sweep.study.get_trials()
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 3
    assert trials[1].user_attrs["duplicate_of"] == 0
    assert trials[1].value == trials[0].value
    assert trials[1].intermediate_values == trials[0].intermediate_values
    assert [trial.number for trial in counted(sweep.study)] == [0, 2]
    assert len(runs_of(sweep)) == 2
    assert {run.data.tags["trial_numbers"] for run in runs_of(sweep)} == {"0", "2"}


def test_a_trial_that_lags_behind_good_ones_is_pruned(open_tiny: Open) -> None:
    sweep = open_tiny(
        trials=4,
        **HEAD_ONLY,
        set={"model.backbone": "mobilenetv2", "train.head_epochs": 4, "augmentation.num_flips": 1},
        pruner={"name": "median", "num_startup_trials": 3, "num_warmup_epochs": 2},
    )
    distribution = {
        "model.unfreeze": optuna.distributions.CategoricalDistribution(("none",)),
        RATE: optuna.distributions.FloatDistribution(1e-4, 1e-2, log=True),
    }
    for number in range(3):
        trial = sweep.study.ask(fixed_distributions=distribution)
        for step in range(1, 5):
            trial.report(2.0, step)  # higher than any AUC
        trial.set_user_attr("configuration", f"good-{number}")
        sweep.study.tell(trial, 2.0)
    work(sweep)
    pruned = sweep.study.get_trials()[-1]
    (run,) = runs_of(sweep)
    assert pruned.state == TrialState.PRUNED
    assert len(counted(sweep.study)) == 4
    assert run.info.status == "KILLED"
    assert run.data.tags["pruned"] == "true"
    assert run.data.tags["trunk_cache"] == "read"
    stopped_at = max(pruned.intermediate_values)
    assert stopped_at == 2
    curves = curves_of(sweep.client, run.info.run_id)
    assert list(curves["step"]) == list(range(1, stopped_at + 1))
    assert curves.notna().all(axis=None)
    assert {item.path for item in sweep.client.list_artifacts(run.info.run_id)} == {"config.json", "history.csv"}
    sweep.study.enqueue_trial(pruned.params)
    sweep.study.set_user_attr("trials", 5)
    work(sweep)
    again = sweep.study.get_trials()[4]
    assert (again.state, again.user_attrs["duplicate_of"]) == (TrialState.PRUNED, pruned.number)


def test_a_trial_stopped_between_its_last_head_epoch_and_the_rung_is_still_pruned_there(open_tiny: Open) -> None:
    start = [{"model.unfreeze": "block16", RATE: 0.001}]
    parts = {"start": start, "pruner": {"name": "rungs", "num_startup_trials": 3, "keep": 0.33}}
    sweep, engine = open_tiny(trials=4, **parts), keras_engine()

    def stopped(*arguments: Any, on_epoch: Any, **named: Any) -> Any:
        def before_it_is_told(epoch: Any, new: bool) -> None:
            if epoch.step == 2:
                raise Interrupted("stopped")
            on_epoch(epoch, new)

        return engine.train(*arguments, on_epoch=before_it_is_told, **named)

    with pytest.raises(Interrupted):
        run_worker(sweep.job.study_name, replace(engine, train=stopped), stop=never)
    drawn = sweep.study.get_trials()[0]
    for number in range(3):
        trial = sweep.study.ask(fixed_distributions=drawn.distributions)
        trial.report(2.0, 2)  # higher than any AUC
        trial.set_user_attr("configuration", f"good-{number}")
        sweep.study.tell(trial, 2.0)
    again = open_tiny(trials=4, **parts)
    work(again)
    pruned = again.study.get_trials()[-1]
    assert pruned.state == TrialState.PRUNED and pruned.params == drawn.params
    assert max(pruned.intermediate_values) == 2, "no epoch of its tail was trained"


def test_an_exhausted_space_ends_the_worker(open_tiny: Open) -> None:
    sweep = open_tiny(
        trials=50, start=[], space={"model.unfreeze": {"choices": ["none"]}, "model.dense_units": {"choices": [0]}}
    )
    work(sweep)
    assert len(counted(sweep.study)) == 1
    assert len(runs_of(sweep)) == 1
    assert num_duplicates_in_a_row(sweep.study) == MAX_DUPLICATES_IN_A_ROW
    assert is_exhausted(sweep)
    sweep.study.enqueue_trial({"model.dense_units": 0})
    assert not is_exhausted(sweep), "queued configurations are still tried"


def test_a_surplus_trial_is_refused_without_training_and_queued_again(open_tiny: Open) -> None:
    sweep = open_tiny(trials=1, **HEAD_ONLY)
    queue(sweep, 0.001, 0.002)
    first, second = sweep.study.ask(), sweep.study.ask()
    first.set_user_attr("owner", owner_of_this_process())
    refuse_surplus(sweep.study.get_trials(), first, 1)
    configuration = suggest(second, sweep.job.sweep, sweep.job.defaults)
    second.set_user_attr("configuration", configuration.digest())
    with pytest.raises(TrialFailed):
        refuse_surplus(sweep.study.get_trials(), second, 1)
    assert sweep.study.get_trials()[1].user_attrs["outcome"] == Outcome.SURPLUS
    sweep.study.tell(second, state=TrialState.FAIL)
    reconcile(sweep.study, sweep.client, sweep.job.experiment_id)
    assert states(sweep) == ["RUNNING", "FAIL", "WAITING"]
    assert runs_of(sweep) == []


def test_of_two_trials_that_draw_the_same_configuration_the_later_one_is_refused(open_tiny: Open) -> None:
    sweep = open_tiny(trials=3, **HEAD_ONLY)
    queue(sweep, 0.001, 0.001, 0.001)
    drawn = [sweep.study.ask() for _ in range(2)]
    for trial in drawn:
        trial.set_user_attr("owner", owner_of_this_process())
        digest = suggest(trial, sweep.job.sweep, sweep.job.defaults).digest()
        trial.set_user_attr("configuration", digest)
    assert known_value(sweep.study.get_trials(), drawn[0], digest) is None
    with pytest.raises(TrialFailed):
        known_value(sweep.study.get_trials(), drawn[1], digest)
    assert sweep.study.get_trials()[1].user_attrs["outcome"] == Outcome.DUPLICATE


def test_a_draw_of_a_configuration_whose_retry_is_queued_is_refused(open_tiny: Open) -> None:
    sweep = open_tiny(trials=3, **HEAD_ONLY)
    sweep.study.enqueue_trial({"model.unfreeze": "none", RATE: 0.001}, user_attrs={"configuration": "abc"})
    fresh = _fresh_trial(sweep)
    with pytest.raises(TrialFailed):
        known_value(sweep.study.get_trials(), fresh, "abc")
    assert sweep.study.get_trials()[1].user_attrs["outcome"] == Outcome.DUPLICATE


def _fresh_trial(sweep: Sweep) -> optuna.Trial:
    number = sweep.study._storage.create_new_trial(sweep.study._study_id)
    return optuna.Trial(sweep.study, number)


def test_a_configuration_that_crashed_twice_is_not_drawn_a_third_time(open_tiny: Open) -> None:
    sweep = open_tiny(trials=3, **HEAD_ONLY)
    for _ in range(2):
        trial = sweep.study.ask()
        trial.set_user_attr("configuration", "abc")
        trial.set_user_attr("outcome", Outcome.LOST)
        sweep.study.tell(trial, state=TrialState.FAIL)
    with pytest.raises(TrialFailed):
        known_value(sweep.study.get_trials(), sweep.study.ask(), "abc")


def test_an_interrupted_trial_continues_in_its_run_without_missing_or_repeated_steps(open_tiny: Open) -> None:
    sweep = open_tiny(trials=1, start=[{"model.unfreeze": "block16"}])
    with pytest.raises(Interrupted):
        work(sweep, stop=lambda: any(trial.last_step == 2 for trial in sweep.study.get_trials()))
    assert states(sweep) == ["FAIL"]
    (run,) = runs_of(sweep)
    assert run.info.status == WAITING
    again = open_tiny(trials=1, start=[{"model.unfreeze": "block16"}])
    assert states(again) == ["FAIL", "WAITING"]
    work(again)
    assert states(again) == ["FAIL", "COMPLETE"]
    (run,) = runs_of(again)
    assert run.info.status == "FINISHED"
    assert run.data.tags["trial_numbers"] == "0,1"
    assert (run.info.run_name, run.data.tags["best_epoch"]) == ("mobilenetv2 block16 #0", str(curves_best(again, run)))
    assert run.data.tags["mlflow.runColor"] == run_color("mobilenetv2", 0)
    sampled = [metric.step for metric in again.client.get_metric_history(run.info.run_id, MEMORY)]
    assert sampled and sampled == sorted(set(sampled)) and sampled[-1] == 3, "the load of the machine, once a batch"
    for name in CURVES:
        steps = [metric.step for metric in curve_of(again.client, run.info.run_id, name)]
        assert steps == [1, 2, 3], name
    trial = again.study.get_trials()[1]
    curves = curves_of(again.client, run.info.run_id)
    assert list(trial.intermediate_values) == [1, 2, 3], "every epoch is reported"
    assert list(trial.intermediate_values.values()) == pytest.approx(list(curves["val_auc"]))
    assert trial.value == pytest.approx(curves["val_auc"].max())
    assert run.data.metrics["best_val_auc"] == pytest.approx(trial.value)
    assert not again.job.checkpoint_dir(trial.user_attrs["configuration"]).exists()


def test_a_checkpoint_that_does_not_match_stops_the_sweep_and_never_counts_as_a_crash(open_tiny: Open) -> None:
    start = [{"model.unfreeze": "block16"}]
    sweep = open_tiny(trials=1, start=start)
    with pytest.raises(Interrupted):
        work(sweep, stop=lambda: any(trial.last_step == 2 for trial in sweep.study.get_trials()))
    folder = sweep.job.checkpoint_dir(sweep.study.get_trials()[0].user_attrs["configuration"])
    state = json.loads((folder / "state.json").read_text())
    path = folder / state["arrays"]["current"]
    with np.load(path) as archive:
        arrays = [archive[name] for name in archive.files]
    np.savez(path, *arrays[1:])  # as if a tail with other variables had written it
    for _ in range(3):  # more often than the two crashes after which a configuration is given up
        sweep = open_tiny(trials=1, start=start)
        with pytest.raises(StateMismatch):
            work(sweep)
        assert sweep.study.get_trials()[-1].user_attrs["outcome"] == Outcome.INTERRUPTED
    shutil.rmtree(folder)
    sweep = open_tiny(trials=1, start=start)
    work(sweep)
    assert states(sweep)[-1] == "COMPLETE"
    (run,) = runs_of(sweep)
    assert run.info.status == "FINISHED"
    assert run.data.params["backbone_trainable_parameters"] == "886080"
    assert run.data.tags["trainer"] == str(TRAINER_VERSION)


def test_a_stop_while_the_first_trial_fills_the_trunk_cache_queues_the_trial_again(
    open_tiny: Open,
) -> None:
    sweep = open_tiny(trials=1, **HEAD_ONLY)
    source = trunk_of(sweep.job, "mobilenetv2")
    assert not source.folder.exists()
    with pytest.raises(Interrupted):
        work(sweep, stop=lambda: bool(states(sweep)))
    assert sweep.study.get_trials()[0].user_attrs["outcome"] == Outcome.INTERRUPTED
    assert not runs_of(sweep)
    again = open_tiny(trials=1, **HEAD_ONLY)
    assert states(again) == ["FAIL", "WAITING"]
    work(again)
    assert states(again) == ["FAIL", "COMPLETE"]
    assert len(runs_of(again)) == 1
    assert is_cached(source, "none")
    told: list[int] = []
    fill_trunk(again.study, again.job, "mobilenetv2", on_progress=lambda done, total: told.append(done))
    assert not told, "there was nothing to fill"


def test_a_batch_that_did_not_fit_in_memory_is_not_tried_again_and_the_sweep_goes_on(open_tiny: Open) -> None:
    sizes = {"train.batch_size": {"choices": [16, 32, 64]}, "model.unfreeze": {"choices": ["none", "block16", "all"]}}
    sweep = open_tiny(trials=2, start=[], space=sizes)
    engine, tried = keras_engine(), []

    def small_memory(configuration: Any, *arguments: Any, **named: Any) -> Any:
        tried.append((configuration.model.unfreeze, configuration.train.batch_size))
        if tried[-1] == ("block16", 32):
            raise OutOfMemory("Memory ran out")
        return engine.train(configuration, *arguments, **named)

    wanted = [("block16", 32), ("block16", 64), ("all", 32), ("none", 64), ("block16", 16)]
    for unfreeze, size in wanted:
        sweep.study.enqueue_trial({"model.unfreeze": unfreeze, "train.batch_size": size})
    run_worker(sweep.job.study_name, replace(engine, train=small_memory), stop=never)
    assert tried == [("block16", 32), ("none", 64), ("block16", 16)]
    outcomes = [trial.user_attrs.get("outcome") for trial in sweep.study.get_trials()]
    assert outcomes == [Outcome.OUT_OF_MEMORY, Outcome.TOO_LARGE, Outcome.TOO_LARGE, None, None]
    reconcile(sweep.study, sweep.client, sweep.job.experiment_id)
    assert TrialState.WAITING not in {trial.state for trial in sweep.study.get_trials()}


def test_five_failures_in_a_row_stop_the_sweep_until_it_is_called_again(open_tiny: Open) -> None:
    sweep = open_tiny(trials=9, **HEAD_ONLY)
    for number in range(5):
        trial = sweep.study.ask()
        trial.set_user_attr("configuration", str(number))
        trial.set_user_attr("outcome", Outcome.FAILED)
        sweep.study.tell(trial, state=TrialState.FAIL)
    with pytest.raises(SweepStopped):
        work(sweep)
    again = open_tiny(trials=9, **HEAD_ONLY)
    assert num_failures_in_a_row(again.study) == 0, "their common cause may have been fixed"


@pytest.mark.slow
def test_only_the_best_of_a_backbone_keep_their_models(open_tiny: Open, tmp_path: Any) -> None:
    sweep = open_tiny(trials=3, **HEAD_ONLY)
    queue(sweep, 0.0001, 0.01, 0.003)
    work(sweep)
    runs = runs_of(sweep)
    kept = [run for run in runs if run.data.tags.get("model") == "trained"]
    assert len(kept) == 1
    best = max(run.data.metrics["best_val_auc"] for run in runs)
    assert kept[0].data.metrics["best_val_auc"] == best
    for run in runs:
        names = {item.path for item in sweep.client.list_artifacts(run.info.run_id)}
        assert {"config.json", "history.csv"} <= names
        assert ("trained" in names) == (run is kept[0])
        path = fetch_file(sweep.client, run.info.run_id, "history.csv", tmp_path)
        assert path is not None and len(pd.read_csv(path)) == 2


def test_of_runs_with_the_same_auc_the_one_with_the_lowest_loss_keeps_its_model(open_tiny: Open) -> None:
    sweep = open_tiny(trials=3, **HEAD_ONLY)
    identity = {"study": sweep.job.study_name, "backbone": "mobilenetv2", "model": "kept"}
    made = []
    for loss in (0.1, 0.2, 0.3):  # the best is the oldest, and MLflow lists the newest first
        tags = identity | {"configuration": str(loss)}
        run = start_run(sweep.client, sweep.job.experiment_id, name="r", tags=tags, params={}, parent=None)
        log_numbers(sweep.client, run.info.run_id, {"best_val_auc": 1.0, "best_val_loss": loss})
        log_files(sweep.client, run, {"model/a": Path.touch, "plots/b": Path.touch, "predictions/c": Path.touch})
        sweep.client.set_terminated(run.info.run_id)
        made.append(run.info.run_id)
    best = best_run(sweep.client, sweep.job.experiment_id, sweep.job.study_name, "mobilenetv2")
    assert best is not None and best.info.run_id == made[0]
    drop_models(sweep.client, sweep.job.experiment_id, sweep.job.study_name, "mobilenetv2", keep=1)
    assert [run.info.run_id for run in runs_of(sweep, model="kept")] == made[:1]
    left = [{item.path for item in sweep.client.list_artifacts(run_id)} for run_id in made]
    assert left == [{"model", "plots", "predictions"}, {"predictions"}, {"predictions"}]


def test_a_worker_whose_memory_grew_too_much_ends_and_another_continues(
    open_tiny: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    from satx.execution import worker

    sweep = open_tiny(trials=3, **HEAD_ONLY)
    queue(sweep, 0.001, 0.002, 0.003)
    with monkeypatch.context() as patch:
        patch.setattr(worker, "MAX_GROWTH_GB", -1.0)
        work(sweep)
    assert states(sweep) == ["COMPLETE", "COMPLETE", "WAITING"]
    work(sweep)
    assert states(sweep) == ["COMPLETE"] * 3


def test_a_run_that_is_not_finished_yet_keeps_its_trained_values(open_tiny: Open) -> None:
    sweep = open_tiny(trials=3, **HEAD_ONLY)
    identity = {"study": sweep.job.study_name, "backbone": "mobilenetv2", "model": "trained", "configuration": "c"}
    made = [
        start_run(sweep.client, sweep.job.experiment_id, name="r", tags=identity, params={}, parent=None).info.run_id
        for _ in range(2)
    ]
    log_numbers(sweep.client, made[0], {"best_val_auc": 0.9, "best_val_loss": 0.1})
    sweep.client.set_terminated(made[0])
    drop_models(sweep.client, sweep.job.experiment_id, sweep.job.study_name, "mobilenetv2", keep=1)
    assert {run.info.run_id for run in runs_of(sweep, model="trained")} == set(made)


def test_all_cuts_that_the_trunk_cache_keeps_fit_together_into_cache_gb(open_tiny: Open) -> None:
    choices = {"model.unfreeze": {"choices": ["none", "block16", "block14", "block11", "block7"]}}

    def kept(**settings: Any) -> tuple[str, ...]:
        fixed = {"model.backbone": "mobilenetv2", "train.finetune_epochs": 4, "augmentation.num_flips": 1} | settings
        return open_tiny(trials=40, start=[], space=choices, set=fixed).job.kept["mobilenetv2"]

    every = kept()
    assert set(every) == {"none", "block16", "block14", "block11", "block7"}
    job = open_tiny(trials=40, start=[], space=choices).job
    sizes = {cut: entry_gb("mobilenetv2", cut, job.store, 1) for cut in every}
    limit_gb = sum(sizes.values()) * 0.9
    some = kept(cache_gb=limit_gb)
    assert "none" in some and set(some) < set(every)
    assert sum(sizes[cut] for cut in some) <= limit_gb < sum(sizes.values())
    assert kept(cache="off") == ()


def test_a_trial_whose_cut_is_not_kept_does_not_evict_the_cuts_that_are_kept(open_tiny: Open) -> None:
    choices = {"model.unfreeze": {"choices": ["none", "block16", "block14"]}, "train.batch_size": {"choices": [16, 32]}}
    fixed = {"model.backbone": "mobilenetv2", "train.finetune_epochs": 2, "augmentation.num_flips": 1}
    store = open_tiny(trials=2, start=[], space=choices, set=fixed).job.store
    sizes = {cut: entry_gb("mobilenetv2", cut, store, 1) for cut in ("none", "block16", "block14")}
    # either cut fits together with the features, but not both
    limit_gb = sizes["none"] + max(sizes["block16"], sizes["block14"])
    sweep = open_tiny(trials=2, start=[], space=choices, set=fixed | {"cache_gb": limit_gb})
    assert len(sweep.job.kept["mobilenetv2"]) == 2
    for cut in ("block16", "block14"):
        sweep.study.enqueue_trial({"model.unfreeze": cut, "train.batch_size": 32})
    work(sweep)
    source = trunk_of(sweep.job, "mobilenetv2")
    assert all(is_cached(source, cut) for cut in sweep.job.kept["mobilenetv2"])
    (left_out,) = set(sizes) - set(sweep.job.kept["mobilenetv2"])
    said = {run.data.params["model.unfreeze"]: run.data.tags["trunk_cache"] for run in runs_of(sweep)}
    assert said.pop(left_out).startswith("does not fit") and set(said.values()) == {"read"}
    assert not is_cached(source, left_out)


def test_a_worker_on_a_study_of_another_trainer_version_is_refused(open_tiny: Open) -> None:
    sweep = open_tiny(trials=1, **HEAD_ONLY)
    sweep.study.set_user_attr("identity", sweep.study.user_attrs["identity"] | {"trainer": 6})
    with pytest.raises(ConfigError) as caught:
        work(sweep)
    assert "version 6" in str(caught.value) and "satx sweep" in str(caught.value)
    assert not [trial for trial in sweep.study.trials if trial.state != TrialState.WAITING]


def test_a_worker_on_another_backend_is_refused(open_tiny: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = open_tiny(trials=1, **HEAD_ONLY)
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    with pytest.raises(ConfigError, match="KERAS_BACKEND=tensorflow"):
        work(sweep)
    assert states(sweep) == []
    assert open_tiny(trials=1, **HEAD_ONLY).job.study_name != sweep.job.study_name


def test_a_backbone_that_is_never_cached_has_its_baseline(open_tiny: Open) -> None:
    random = {"augmentation.mode": "random", "train.head_epochs": 1, "model.backbone": "mobilenetv2"}
    sweep = open_tiny(trials=1, **HEAD_ONLY, set=random)
    work(sweep)
    log_baselines(sweep, on_progress=lambda what, done, total: None)
    query = f"tags.study = '{sweep.job.study_name}' and tags.kind = 'baseline'"
    (baseline,) = sweep.client.search_runs([sweep.job.experiment_id], filter_string=query)
    assert baseline.info.status == "FINISHED" and baseline.data.metrics["test_auc"] >= 0
    assert baseline.info.run_name == "mobilenetv2 baseline" and baseline.data.tags[NOTE]
