from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import keras_tuner
import numpy as np
import optuna
import pytest

from satx.errors import ConfigError
from satx.search.hypermodel import FitArguments, TileHyperModel, fit_arguments, load_hypermodel, wants_one_hot
from satx.search.keras_tuner_space import TrialHyperParameters
from satx.training.tile_batches import TileBatches

ROOT = Path(__file__).resolve().parents[2]
ALL = ("validation_data", "callbacks", "epochs", "batch_size", "verbose")


def study() -> optuna.Study:
    return optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))


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


def _any(hp: Any, model: Any, *args: Any, **kwargs: Any) -> None: ...
def _named(hp: Any, model: Any, **kwargs: Any) -> None: ...
def _batches(hp: Any, model: Any, train: Any, epochs: int, callbacks: Any = None, shuffle: bool = True) -> None: ...
def _arrays(
    hp: Any, model: Any, x: Any, y: Any, validation_data: Any, callbacks: Any = None, **kwargs: Any
) -> None: ...
def _like_keras(hp: Any, model: Any, x: Any = None, y: Any = None, *, callbacks: Any) -> None: ...


@pytest.mark.parametrize(
    ("fit", "expected"),
    [
        (_any, FitArguments((), ALL)),
        (_named, FitArguments(("x",), ALL)),
        (_batches, FitArguments(("train",), ("callbacks", "epochs"))),
        (_arrays, FitArguments(("x", "y"), ALL)),
        (_like_keras, FitArguments(("x", "y"), ("callbacks",))),
    ],
)
def test_the_signature_of_fit_says_how_it_takes_the_tiles(fit: Callable[..., Any], expected: FitArguments) -> None:
    assert fit_arguments(fit, "own.py") == expected


def _no_callbacks(hp: Any, model: Any, x: Any, y: Any) -> None: ...
def _no_data(hp: Any, model: Any, callbacks: Any) -> None: ...
def _two_sets(hp: Any, model: Any, train: Any, valid: Any, callbacks: Any) -> None: ...
def _weights(hp: Any, model: Any, x: Any, y: Any, weights: Any, callbacks: Any) -> None: ...


@pytest.mark.parametrize("fit", [_no_callbacks, _no_data, _two_sets, _weights])
def test_a_fit_that_cannot_be_served_is_refused_with_what_was_expected(fit: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match=r"own.py: expected fit\(hp, model, x, y, .*got fit\(hp, model, "):
        fit_arguments(fit, "own.py")


def test_a_fit_gets_arrays_or_batches_and_its_own_settings_win(tiny_store: Any) -> None:
    got: dict[str, Any] = {}

    class Own(keras_tuner.HyperModel):
        def build(self, hp: Any) -> Any:
            model = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Flatten(), keras.layers.Dense(2)])
            model.compile("sgd", keras.losses.CategoricalCrossentropy(from_logits=True))
            return model

    class Arrays(Own):
        def fit(self, hp: Any, model: Any, x: Any, y: Any, validation_data: Any, **kwargs: Any) -> None:
            got.update(x=x, y=y, valid=validation_data, **kwargs)

    class Batches(Own):
        def fit(self, hp: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
            got.clear()  # it is called again without `epochs`, which it sets itself
            got.update(x=args[0], **kwargs)
            return model.fit(*args, batch_size=8, epochs=2, **kwargs)

    def trained(inner: Any) -> TileHyperModel:
        outer = TileHyperModel(inner, tiny_store, batch_size=16, seed=3, source="own.py")
        hp = TrialHyperParameters(study().ask())
        got.clear()
        outer.fit(hp, outer.build(hp), epochs=5, verbose=0, callbacks=[])
        return outer

    trained(Arrays())
    num_train, num_valid = len(tiny_store.rows("train")), len(tiny_store.rows("valid"))
    assert got["x"].shape == (num_train, 32, 32, 3) and got["x"].dtype == np.uint8
    assert got["y"].shape == (num_train, 2) and got["valid"][1].shape == (num_valid, 2)
    assert got["epochs"] == 5 and got["batch_size"] == 16
    labels = got["y"][:, 1]
    assert 0 < np.abs(np.diff(labels)).sum() != 1, "the order is random, not by class"
    outer = trained(Batches())
    assert isinstance(got["x"], TileBatches) and isinstance(got["validation_data"], TileBatches)
    assert "epochs" not in got and len(outer.returned.history["loss"]) == 2
    assert int(outer.model.optimizer.iterations) == 2 * -(-num_train // 8), "Keras ignores batch_size, satx does not"


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ("categorical_crossentropy", True),
        ("CategoricalCrossentropy", True),
        (keras.losses.CategoricalFocalCrossentropy(), True),
        (keras.losses.categorical_crossentropy, True),
        ("sparse_categorical_crossentropy", False),
        (keras.losses.SparseCategoricalCrossentropy(), False),
        ("binary_crossentropy", False),
        (lambda truth, outputs: keras.ops.mean(outputs), False),
        (None, False),
    ],
)
def test_labels_are_one_hot_for_categorical_losses_only(loss: Any, expected: bool) -> None:
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2)])
    model.compile("sgd", loss)
    assert wants_one_hot(model) == expected
    assert not wants_one_hot(keras.Sequential([keras.layers.Dense(2)]))
