from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from satx.search.keras_tuner_space import TrialHyperParameters
from satx.study.database import open_storage


def study(seed: int = 0) -> optuna.Study:
    return optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))


@given(st.integers(0, 10_000))
def test_every_kind_of_hyperparameter_is_drawn_within_its_range(seed: int) -> None:
    hp = TrialHyperParameters(study(seed).ask())
    assert hp.Choice("kind", ["a", "b"]) in ("a", "b")
    assert hp.Boolean("flag") in (True, False)
    assert hp.Int("width", 8, 64, step=8) in range(8, 65, 8)
    assert 1 <= hp.Int("log_width", 1, 100, sampling="log") <= 100
    assert hp.Int("power", 4, 64, step=2, sampling="log") in (4, 8, 16, 32, 64)
    assert 0.1 <= hp.Float("rate", 0.1, 0.5) <= 0.5
    assert round(hp.Float("tenths", 0.0, 0.5, step=0.1) * 10, 6) in range(6)
    assert 1e-5 <= hp.Float("log_rate", 1e-5, 1e-1, sampling="log") <= 1e-1
    stepped = hp.Float("stepped", 1e-3, 1.0, step=10, sampling="log")
    assert math.log10(stepped) == pytest.approx(round(math.log10(stepped)))
    assert 1.0 <= hp.Float("reversed", 1.0, 10.0, sampling="reverse_log") <= 10.0
    assert hp.Fixed("fixed", 7) == 7
    assert hp.values["width"] == hp.get("width") == hp.Int("width", 8, 64, step=8), "asked again, the answer stays"


def test_a_conditional_hyperparameter_is_drawn_only_if_its_condition_holds() -> None:
    seen: dict[str, set[Any]] = {"sgd": set(), "adam": set()}
    one = study()
    for _ in range(30):
        trial = one.ask()
        hp = TrialHyperParameters(trial)
        kind = hp.Choice("optimizer", ["sgd", "adam"])
        with hp.conditional_scope("optimizer", ["sgd"]):
            momentum = hp.Choice("detail", [0.0, 0.9])  # the same name under two conditions, with different values
        with hp.conditional_scope("optimizer", ["adam"]):
            beta = hp.Choice("detail", [0.99, 0.999])
        active, other = (momentum, beta) if kind == "sgd" else (beta, momentum)
        assert other is None and hp.get("detail") == active
        seen[kind].add(active)
        one.tell(trial, 0.0)
    assert seen == {"sgd": {0.0, 0.9}, "adam": {0.99, 0.999}}


def test_a_name_under_two_conditions_that_both_hold_has_one_value() -> None:
    trial = study().ask()
    hp = TrialHyperParameters(trial)
    hp.Boolean("hidden")
    hp.values["hidden"] = True
    units = hp.Int("units", 8, 64)
    with hp.conditional_scope("hidden", [True]):
        assert hp.Int("units", 8, 64) == units
    assert hp.get("units") == hp.copy().get("units") == units
    assert [name for name in trial.params if name.startswith("units")] == ["units"]


def test_a_name_in_a_scope_is_drawn_under_its_whole_name() -> None:
    trial = study().ask()
    hp = TrialHyperParameters(trial)
    with hp.name_scope("layer0"):
        width = hp.Int("width", 1, 1000)
    assert hp.get("layer0/width") == width == trial.params["layer0/width"]


def test_a_copy_keeps_drawn_values_and_gives_new_names_their_default() -> None:
    trial = study().ask()
    hp = TrialHyperParameters(trial)
    width = hp.Int("width", 1, 1000)
    twin = hp.copy()  # as KerasTuner does for a HyperModel with `tunable=False`
    assert twin.get("width") == twin.Int("width", 1, 1000) == width
    assert twin.Int("depth", 1, 1000, default=7) == 7 and "depth" not in trial.params and "depth" not in hp


def test_a_name_may_have_other_values_in_another_branch(tmp_path: Path) -> None:
    storage = open_storage(f"sqlite:///{tmp_path / 'studies.db'}")  # only a database refuses a changed distribution
    sampler = optuna.samplers.TPESampler(seed=1, n_startup_trials=5)
    one = optuna.create_study(sampler=sampler, storage=storage, direction="maximize")
    seen: dict[str, set[Any]] = {"a": set(), "b": set()}
    for _ in range(20):
        trial = one.ask()
        hp = TrialHyperParameters(trial)
        kind = hp.Choice("kind", ["a", "b"])
        units = hp.Choice("units", [1, 2]) if kind == "a" else hp.Choice("units", [3, 4])
        layers = hp.Int("layers", 1, hp.get("units"))
        rate = hp.Float("rate", 1e-3, 1e-1, sampling="log" if kind == "a" else "linear")
        assert 1 <= layers <= units and 1e-3 <= rate <= 1e-1
        seen[kind].add(units)
        one.tell(trial, units)
    assert seen == {"a": {1, 2}, "b": {3, 4}}


def test_a_range_that_ends_between_two_steps_is_drawn_up_to_the_last_step() -> None:
    hp = TrialHyperParameters(study().ask())
    assert hp.Int("layers", min_value=6, max_value=13, step=3) in (6, 9, 12)
    assert hp.Float("rate", 0, 2, step=0.75) in (0.0, 0.75, 1.5)
