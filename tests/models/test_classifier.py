from __future__ import annotations

import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from satx.config import ModelConfig
from satx.errors import ConfigError, WeightsError
from satx.evaluation.calibration import calibrated
from satx.models.backbones import build_network
from satx.models.classifier import (
    TILES_PER_BATCH,
    Classifier,
    load_classifier,
    save_classifier,
    with_temperature,
)
from satx.storage import file_digest

PX = 32
CALIBRATION = ("temperature", "threshold", "threshold_rule")


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    keras.utils.set_random_seed(3)
    model = ModelConfig(backbone="mobilenetv2", unfreeze="block16", dense_units=8, activation="gelu")
    network = build_network(model, image_size_px=PX, num_classes=3, weights_file=None)
    for variable in network.head.trainable_variables:  # so that the outputs depend even on features that vanish
        variable.assign(keras.random.normal(variable.shape, seed=1))
    return Classifier(
        network=network,
        model=model,
        image_size_px=PX,
        classes=("clinic", "other", "school"),
        positive_class="school",
        task="school",
        sample=True,
        temperature=1.7,
        threshold=0.31,
        threshold_rule="f2",
    )


@pytest.fixture(scope="module")
def written(classifier: Classifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written") / "model"
    save_classifier(classifier, folder)
    return folder


@pytest.fixture
def saved(written: Path, tmp_path: Path) -> Path:
    """Return a copy of the saved classifier for the test to change."""
    return Path(shutil.copytree(written, tmp_path / "model"))


def rewrite(saved: Path, **changes: Any) -> None:
    path = saved / "classifier.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_loaded_classifier_returns_the_same_bits_as_the_saved_one(classifier: Classifier, saved: Path) -> None:
    loaded = load_classifier(saved)
    tiles = np.random.default_rng(0).integers(0, 256, (5, PX, PX, 3)).astype(np.uint8)
    answers = [keras.ops.convert_to_numpy(one.network(tiles)) for one in (classifier, loaded)]
    assert np.array_equal(*answers)
    for ours, theirs in zip(classifier.network.weights, loaded.network.weights, strict=True):
        assert np.array_equal(keras.ops.convert_to_numpy(ours), keras.ops.convert_to_numpy(theirs))
    for name in ("model", "image_size_px", "classes", "positive_class", "task", "sample", *CALIBRATION):
        assert getattr(loaded, name) == getattr(classifier, name)
    assert loaded.positive_index == 2


def test_a_saved_classifier_is_two_files_without_code(saved: Path) -> None:
    assert sorted(path.name for path in saved.iterdir()) == ["classifier.json", "model.weights.h5"]
    assert json.loads((saved / "classifier.json").read_text())["format"] == 1


def test_saving_again_replaces_the_whole_folder(classifier: Classifier, saved: Path) -> None:
    (saved / "stray").write_text("x")
    save_classifier(classifier, saved)
    assert not (saved / "stray").exists()


@pytest.mark.parametrize("place", [100, -1])
def test_one_changed_byte_of_the_weights_is_refused(saved: Path, place: int) -> None:
    content = bytearray((saved / "model.weights.h5").read_bytes())
    content[place] ^= 1
    (saved / "model.weights.h5").write_bytes(content)
    with pytest.raises(WeightsError, match=file_digest(saved / "model.weights.h5")[:12]):
        load_classifier(saved)


def test_missing_weights_are_refused(saved: Path) -> None:
    (saved / "model.weights.h5").unlink()
    with pytest.raises(WeightsError):
        load_classifier(saved)


def test_a_pickle_in_place_of_the_weights_is_never_loaded(saved: Path, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "sprung",))

    (saved / "model.weights.h5").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(WeightsError):
        load_classifier(saved)
    rewrite(saved, weights_sha256=file_digest(saved / "model.weights.h5"))
    with pytest.raises(WeightsError):
        load_classifier(saved)
    assert not (tmp_path / "sprung").exists()


def test_a_digest_recorded_elsewhere_must_match_too(saved: Path) -> None:
    recorded = file_digest(saved / "model.weights.h5")
    assert load_classifier(saved, weights_sha256=recorded).task == "school"
    with pytest.raises(WeightsError, match="0" * 12):
        load_classifier(saved, weights_sha256="0" * 64)


def test_a_folder_without_a_classifier_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        load_classifier(tmp_path)
    (tmp_path / "classifier.json").write_text("no json")
    with pytest.raises(ConfigError):
        load_classifier(tmp_path)


@pytest.mark.parametrize("text", ["[]", "{}", "3", '{"format": 2}', '{"model": {}}'])
def test_another_format_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "classifier.json").write_text(text)
    with pytest.raises(ConfigError, match="format 1,"):
        load_classifier(tmp_path)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"model": {"backbone": "resnet"}}, "'resnet'"),
        ({"image_size_px": "big"}, "image_size_px: "),
        ({"surprise": 1}, "'surprise'"),
        ({"classes": None}, "classes: "),
        ({"temperature": 0}, "temperature: "),
        ({"temperature": float("inf")}, "temperature: "),
        ({"threshold": 1.1}, "threshold: "),
    ],
)
def test_an_edited_description_is_refused_and_the_setting_is_named(
    saved: Path, changes: dict[str, Any], expected: str
) -> None:
    rewrite(saved, **changes)
    with pytest.raises(ConfigError) as caught:
        load_classifier(saved)
    assert "classifier.json" in str(caught.value)
    assert expected in str(caught.value)


def test_weights_of_another_network_with_a_matching_digest_are_refused(saved: Path) -> None:
    rewrite(saved, classes=["other", "school"])
    with pytest.raises(WeightsError):
        load_classifier(saved)


def test_a_classifier_from_before_calibration_loads_without_one(saved: Path) -> None:
    path = saved / "classifier.json"
    written = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in written.items() if name not in CALIBRATION}))
    loaded = load_classifier(saved)
    assert (loaded.temperature, loaded.threshold, loaded.threshold_rule) == (1.0, 0.5, "")


def test_any_number_of_tiles_is_predicted_with_calibrated_probabilities(classifier: Classifier) -> None:
    tiles = np.random.default_rng(1).integers(0, 256, (TILES_PER_BATCH + 3, PX, PX, 3)).astype(np.uint8)
    found = classifier.predict(tiles)
    raw = keras.ops.convert_to_numpy(classifier.network(tiles))
    assert (found.shape, found.dtype) == ((TILES_PER_BATCH + 3, 3), np.float32)
    assert np.abs(found - calibrated(raw, 1.7)).max() < 1e-6
    assert np.abs(found - raw).max() > 1e-3
    assert np.array_equal(
        replace(classifier, temperature=1.0).predict(tiles[:4]), classifier.network.predict_on_batch(tiles[:4])
    )
    assert classifier.predict(tiles[:0]).shape == (0, 3)


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    temperature=st.floats(0.05, 20),
    scale=st.sampled_from([0.1, 1.0, 30.0, 1000.0]),
    num_classes=st.integers(2, 5),
)
def test_a_network_is_calibrated_as_an_evaluation_is(
    seed: int, temperature: float, scale: float, num_classes: int
) -> None:
    logits = np.random.default_rng(seed).normal(0, scale, (6, num_classes))
    probabilities = keras.ops.convert_to_numpy(keras.ops.softmax(logits.astype(np.float32)))
    found = keras.ops.convert_to_numpy(with_temperature(probabilities, temperature))
    assert np.abs(found - calibrated(probabilities, temperature)).max() < 1e-6
    assert np.array_equal(found.argmax(axis=1), probabilities.argmax(axis=1))
    assert with_temperature(probabilities, 1.0) is probabilities
