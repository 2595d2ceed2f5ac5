"""The search space: conditional draws, and sweeps that are refused before anything is trained."""

from __future__ import annotations

import warnings
from copy import deepcopy
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from projects import ROOT, make_project

from satx.catalogue import BACKBONES, NONE
from satx.config import Configuration, validated
from satx.errors import ConfigError
from satx.search.space import (
    BACKBONE,
    TAIL_ONLY,
    UNFREEZE,
    Dimension,
    SweepConfig,
    fixed_settings,
    load_sweep,
    start_params,
    suggest,
)

SHIPPED = sorted(path.stem for path in (ROOT / "sweeps").glob("*.yaml"))
VALID: dict[str, Any] = {
    "name": "both",
    "trials": 3,
    "set": {"train.head_epochs": 2},
    "start": [{BACKBONE: "mobilenetv2", UNFREEZE: "none"}],
    "space": {
        BACKBONE: {"choices": ["xception", "mobilenetv2"]},
        UNFREEZE: {"xception": {"choices": ["none", "block14"]}, "mobilenetv2": {"choices": ["none", "block16"]}},
        "model.dropout": {"low": 0.0, "high": 0.5, "step": 0.1},
        "train.batch_size": {"low": 16, "high": 64, "step": 16},
        TAIL_ONLY: {"low": 1e-5, "high": 1e-3, "log": True},
    },
}


def draw(
    values: dict[str, Any], defaults: Configuration | None = None
) -> tuple[Configuration, optuna.trial.FixedTrial]:
    trial = optuna.trial.FixedTrial({"model.dropout": 0.1, "train.batch_size": 32} | values)
    return suggest(trial, SweepConfig.model_validate(VALID), defaults or Configuration()), trial


def refusal(change: Any) -> str:
    value = deepcopy(VALID)
    change(value)
    with pytest.raises(ConfigError) as caught:
        validated(SweepConfig, value, source="both.yaml")
    return str(caught.value)


def test_cuts_are_drawn_for_the_drawn_backbone_only() -> None:
    configuration, trial = draw({BACKBONE: "mobilenetv2", f"{UNFREEZE}@mobilenetv2": "block16", TAIL_ONLY: 1e-4})
    assert configuration.model.unfreeze == "block16"
    assert f"{UNFREEZE}@xception" not in trial.params
    assert trial.distributions[f"{UNFREEZE}@mobilenetv2"].choices == ("none", "block16")


def test_no_tail_learning_rate_is_drawn_for_a_frozen_backbone() -> None:
    configuration, trial = draw({BACKBONE: "xception", f"{UNFREEZE}@xception": "none"})
    assert configuration.model.unfreeze == NONE
    assert TAIL_ONLY not in trial.params
    assert configuration.train.finetune_learning_rate == Configuration().train.finetune_learning_rate


def test_a_sweeps_fixed_settings_override_the_sessions_and_draws_override_both() -> None:
    defaults = Configuration().with_values({"train.head_epochs": 7, "train.seed": 5}, source="test")
    configuration, _ = draw({BACKBONE: "xception", f"{UNFREEZE}@xception": "none"}, defaults)
    assert (configuration.train.head_epochs, configuration.train.seed) == (2, 5)
    assert configuration.train.batch_size == 32


def test_every_real_draw_is_a_valid_configuration_with_distinct_distributions() -> None:
    sweep = SweepConfig.model_validate(VALID)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    for _ in range(60):
        trial = study.ask()
        configuration = suggest(trial, sweep, Configuration())
        assert (TAIL_ONLY in trial.params) == (configuration.model.unfreeze != NONE)
        other = {"xception": "mobilenetv2", "mobilenetv2": "xception"}[configuration.model.backbone]
        assert f"{UNFREEZE}@{other}" not in trial.params
        study.tell(trial, 0.5)


def test_a_start_becomes_the_configuration_it_names() -> None:
    sweep = SweepConfig.model_validate(VALID)
    study = optuna.create_study()
    study.enqueue_trial(start_params(sweep, sweep.start[0]))
    configuration = suggest(study.ask(), sweep, Configuration())
    assert (configuration.model.backbone, configuration.model.unfreeze) == ("mobilenetv2", "none")


def test_the_settings_that_a_sweep_does_not_draw_are_its_fixed_ones() -> None:
    fixed = fixed_settings(SweepConfig.model_validate(VALID), Configuration())
    assert fixed["train.head_epochs"] == 2
    assert "train.batch_size" not in fixed
    costs_only = {"cache", "cache_gb"}
    assert set(fixed) | set(VALID["space"]) == set(Configuration().flat()) - costs_only


def test_a_backbone_without_the_default_cut_is_frozen_if_the_sweep_names_no_cut() -> None:
    sweep = SweepConfig.model_validate(
        {
            "name": "s",
            "trials": 1,
            "set": {BACKBONE: "efficientnetv2b0"},
            "space": {"model.dropout": {"low": 0.0, "high": 0.5}},
        }
    )
    assert fixed_settings(sweep, Configuration())[UNFREEZE] == NONE
    assert suggest(optuna.trial.FixedTrial({"model.dropout": 0.2}), sweep, Configuration()).model.unfreeze == NONE


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda v: v.update(trails=3), ("trails", "'trials'")),
        (lambda v: v.update(sampler={"nme": "tpe"}), ("sampler.nme", "'name'")),
        (lambda v: v["space"].update({"train.batchsize": {"choices": [1]}}), ("train.batchsize", "'train.batch_size'")),
        (lambda v: v["set"].update({"train.head_epoch": 1}), ("train.head_epoch", "'train.head_epochs'")),
        (lambda v: v["space"]["model.dropout"].update(hihg=0.4), ("model.dropout", "'hihg'", "'high'")),
        (lambda v: v["space"][UNFREEZE]["xception"].update(choice=[]), (UNFREEZE, "xception", "'choice'", "'choices'")),
        (lambda v: v["space"][BACKBONE].update(choices=["xceptoin"]), (BACKBONE, "'xceptoin'", "'xception'")),
        (lambda v: v["space"][UNFREEZE].update(xceptoin={"choices": ["none"]}), (UNFREEZE, "'xceptoin'", "'xception'")),
        (lambda v: v["space"][UNFREEZE].pop("xception"), (UNFREEZE, "xception")),
        (lambda v: v["space"][UNFREEZE]["xception"].update(choices=["block16"]), ("xception", "'block16'", "'block14'")),
        (lambda v: v["space"]["model.dropout"].update(high=1.0), ("model.dropout", "less than 1", "got 1.0")),
        (lambda v: v["space"]["train.batch_size"].update(low=0), ("train.batch_size", "got 0")),
        (lambda v: v["space"]["model.dropout"].update(low=0.6), ("model.dropout", "low < high", "0.6")),
        (lambda v: v["space"]["model.dropout"].update(low=0.5), ("model.dropout", "low < high", "0.5")),
        (lambda v: v["space"]["model.dropout"].update(choices=[0.1]), ("model.dropout", "either")),
        (lambda v: v["space"]["model.dropout"].pop("high"), ("model.dropout", "either")),
        (lambda v: v["space"]["model.dropout"].update(log=True), ("model.dropout", "`log`")),
        (lambda v: v["space"]["model.dropout"].update(step=0), ("model.dropout", "step=0")),
        (lambda v: v["space"]["train.batch_size"].update(step=0.5), ("train.batch_size", "step=0.5")),
        (lambda v: v["space"].update({"train.batch_size": 16}), ("train.batch_size", "16")),
        (lambda v: v["space"].update({"train.batch_size": {"choices": []}}), ("train.batch_size", "at least 1")),
        (lambda v: v["set"].update({"train.batch_size": 8}), ("train.batch_size", "`set:`", "`space:`")),
        (lambda v: v["space"].pop(BACKBONE), (BACKBONE, "`set:`", "`space:`")),
        (lambda v: v["set"].update({"train.head_epochs": 0}), ("train.head_epochs", "got 0")),
        (
            lambda v: (v["set"].clear(), v["space"].update({"train.head_epochs": {"choices": [2, 4]}})),
            ("train.head_epochs", "`set:`", "`rungs`"),
        ),
        (lambda v: v["start"][0].update({"train.optimizer": "sgd"}), ("start", "train.optimizer")),
        (lambda v: v["start"][0].update({UNFREEZE: "block14"}), ("start", UNFREEZE, "'block14'", "mobilenetv2")),
        (lambda v: v["start"][0].update({"model.dropout": 0.55}), ("start", "model.dropout", "0.55")),
        (lambda v: v["start"][0].update({"model.dropout": "much"}), ("start", "model.dropout", "'much'")),
        (lambda v: v["start"][0].pop(BACKBONE), ("start", BACKBONE)),
        (lambda v: v.update(trials="many"), ("trials", "'many'")),
        (lambda v: v.update(trials=0), ("trials", "got 0")),
        (lambda v: v.update(pruner={"name": "medain"}), ("pruner.name", "'median'", "'medain'")),
        (lambda v: v.pop("space"), ("space is missing",)),
    ],
)  # fmt: skip
def test_a_mistake_in_a_sweep_is_refused_with_its_name(change: Any, words: tuple[str, ...]) -> None:
    message = refusal(change)
    assert message.startswith("both.yaml: ")
    assert "\n" not in message
    for word in words:
        assert word in message, message


@given(
    st.floats(-1e6, 1e6),
    st.floats(-1e6, 1e6),
    st.one_of(st.none(), st.floats(1e-3, 1e5)),
    st.booleans(),
    st.integers(0, 2**31),
)
@settings(max_examples=60, deadline=None)
def test_a_dimension_contains_every_value_that_it_draws(
    low: float, high: float, step: float | None, log: bool, seed: int
) -> None:
    try:
        dimension = Dimension(low=low, high=high, step=None if log else step, log=log)
    except ValueError:
        assert not low < high or (log and low <= 0)
        return
    if step is not None and not log and (high - low) / step > 1e6:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna warns if a range is not a whole number of steps
        trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed)).ask()
        value = dimension.draw(trial, "x")
        assert low <= float(value) <= high
        assert dimension.contains(value)
        assert not dimension.contains(high + 1.0 + abs(high))


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_sweep_loads_and_its_file_begins_with_a_comment(name: str) -> None:
    sweep = load_sweep(name)
    assert sweep.name == name
    assert (ROOT / "sweeps" / f"{name}.yaml").read_text().startswith("#")
    assert set(sweep.backbones) <= set(BACKBONES)
    for start in sweep.start:
        trial = optuna.create_study()
        trial.enqueue_trial(start_params(sweep, start))
        configuration = suggest(trial.ask(), sweep, Configuration())
        assert start.items() <= configuration.flat().items()


def test_an_unknown_sweep_is_refused_with_the_known_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(make_project(tmp_path / "project", mine=VALID))
    with pytest.raises(ConfigError, match=r"sweeps/min\.yaml.*mine"):
        load_sweep("min")


def _random_configurations(sweep: SweepConfig, backbone: str, count: int) -> list[Configuration]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=3))
    found = []
    while len(found) < count:
        trial = study.ask(fixed_distributions={})
        configuration = suggest(trial, sweep, Configuration(image_size_px=32))
        found += [configuration] if configuration.model.backbone == backbone else []
        study.tell(trial, 0.0)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_sweep_trains_two_steps_of_each_backbone(name: str, tiny_tiles: Path, tmp_path: Path) -> None:
    from satx.models.weights import random_weights
    from satx.tiles.layout import read_layout
    from satx.tiles.store import build_store
    from satx.training.contract import TrainingData
    from satx.training.trainer import train

    sweep = load_sweep(name)
    for backbone in sweep.backbones:
        size_px = max(32, BACKBONES[backbone].min_size_px)
        store = build_store(read_layout(tiny_tiles), image_size_px=size_px, cache_dir=tmp_path)
        configurations = _random_configurations(sweep, backbone, 2)
        for start in sweep.start:
            if start.get(BACKBONE, backbone) == backbone:
                study = optuna.create_study()
                study.enqueue_trial(start_params(sweep, start))
                configurations.append(suggest(study.ask(), sweep, Configuration(image_size_px=32)))
        weights = random_weights(backbone, store.pixels(), store.rows("train"), seed=20, cache_dir=tmp_path)
        for number, configuration in enumerate(configurations):
            short = {"train.head_epochs": 1, "train.finetune_epochs": 1, "augmentation.num_flips": 1}
            short["image_size_px"] = size_px
            configuration = configuration.with_values(short, source="test")
            data = TrainingData(store, weights, store.classes.index("school"), tmp_path)
            result = train(configuration, data, checkpoint_dir=tmp_path / f"{backbone}-{number}")
            assert len(result.history) == (1 if configuration.model.unfreeze == NONE else 2)


@pytest.mark.parametrize("part", ["set", "space"])
def test_a_sweep_that_sets_or_draws_the_image_size_is_refused(part: str) -> None:
    value: dict[str, Any] = {"set": {"image_size_px": 64}, "space": {"image_size_px": {"choices": [64, 96]}}}
    asked: dict[str, Any] = {"name": "sized", "trials": 1, "set": {"model.backbone": "mobilenetv2"}, "space": {}}
    asked[part] = asked[part] | value[part]
    with pytest.raises(ConfigError, match="SIZE="):
        validated(SweepConfig, asked, source="sized.yaml")
