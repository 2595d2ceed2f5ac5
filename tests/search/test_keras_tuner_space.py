from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from satx.errors import ConfigError
from satx.search.keras_tuner_space import TrialHyperParameters, load_hypermodel

ROOT = Path(__file__).resolve().parents[2]


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


def test_name_scopes_and_copies_draw_from_the_same_trial() -> None:
    trial = study().ask()
    hp = TrialHyperParameters(trial)
    with hp.name_scope("layer0"):
        width = hp.Int("width", 1, 1000)
    twin = hp.copy()
    assert twin.get("layer0/width") == width == trial.params["layer0/width"]
    assert twin.Int("depth", 1, 1000) == trial.params["depth"]


def test_the_example_hypermodel_builds_with_any_draw() -> None:
    kind = load_hypermodel(ROOT / "sweeps" / "hypermodel.py")
    one = study()
    for _ in range(4):
        trial = one.ask()
        hp = TrialHyperParameters(trial)
        model = kind(image_size_px=32, num_classes=3).build(hp)
        assert model.output_shape == (None, 3)
        assert ("dense_units" in hp) == hp.get("has_hidden_layer")
        one.tell(trial, 0.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "expected one class derived from keras_tuner.HyperModel, found none"),
        (
            "import keras_tuner\nclass A(keras_tuner.HyperModel): pass\nclass B(keras_tuner.HyperModel): pass",
            "found A, B",
        ),
        ("import keras_tuner\nclass A(keras_tuner.HyperModel): pass", r"expected A\(image_size_px, num_classes\)"),
    ],
)
def test_a_file_without_a_usable_hypermodel_is_refused_with_what_was_expected(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "own.py"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_hypermodel(path)
    with pytest.raises(ConfigError, match="expected a Python file"):
        load_hypermodel(tmp_path / "absent.py")
