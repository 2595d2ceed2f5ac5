"""The scorer in this process: the classifier's own probabilities, in any batch and precision."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from inference.tiny import fitted_classifier, open_tiles, render_tiles

from satx.bulk import local_scorer
from satx.bulk.local_scorer import open_local_scorer
from satx.bulk.scorer import open_scorer
from satx.errors import ConfigError, WeightsError
from satx.models.classifier import Classifier, save_classifier


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    folder = tmp_path_factory.mktemp("tiles")
    fitted = fitted_classifier(open_tiles(render_tiles(folder / "sample"), folder / "cache"))
    return replace(fitted, temperature=2.5, threshold=0.3)


@pytest.fixture(scope="module")
def folder(classifier: Classifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model"
    save_classifier(classifier, path)
    return path


def random_tiles(classifier: Classifier, number: int) -> np.ndarray:
    size_px = classifier.image_size_px
    return np.random.default_rng(5).integers(0, 256, (number, size_px, size_px, 3), dtype=np.uint8)


def spec(folder: Path, precision: str = "float32") -> dict[str, object]:
    return {"folder": str(folder), "name": "school", "version": 3, "weights_sha256": None, "precision": precision}


@pytest.mark.parametrize("number", [1, 8, 9, 32])
def test_it_returns_the_calibrated_probabilities_of_the_classifier(
    classifier: Classifier, folder: Path, number: int
) -> None:
    scorer, tiles = open_scorer(spec(folder)), random_tiles(classifier, number)
    found = np.stack([np.asarray(score) for score in scorer.score(tiles, [b""] * number)])
    assert found.shape == (number, 2) and found.dtype == np.float32
    np.testing.assert_allclose(found, classifier.predict(tiles), atol=1e-5)
    raw = replace(classifier, temperature=1.0).predict(tiles)
    assert np.abs(found - raw).max() > 1e-3  # the temperature counts


def test_it_knows_the_model(classifier: Classifier, folder: Path) -> None:
    scorer = open_scorer(spec(folder))
    assert (scorer.model.name, scorer.model.version, scorer.model.threshold) == ("school", 3, 0.3)
    assert scorer.model.classes == classifier.classes and scorer.model.positive_class == "school"
    assert scorer.model.sample and len(scorer.model.digest) == 64
    assert scorer.about()["precision"] == "float32"


def test_bfloat16_is_compared_with_float32_on_the_first_batch(classifier: Classifier, folder: Path) -> None:
    scorer, tiles = open_scorer(spec(folder, "bfloat16")), random_tiles(classifier, 16)
    assert scorer.about()["difference_from_float32"] is None
    found = np.stack([np.asarray(score) for score in scorer.score(tiles, [b""] * 16)])
    difference = scorer.about()["difference_from_float32"]
    assert difference == pytest.approx(np.abs(found - classifier.predict(tiles)).max(), abs=1e-6)
    assert 0 < difference < local_scorer.MAX_DIFFERENCE


def test_bfloat16_that_differs_too_much_is_refused(
    classifier: Classifier, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_scorer, "MAX_DIFFERENCE", 1e-9)
    scorer = open_scorer(spec(folder, "bfloat16"))
    with pytest.raises(ConfigError, match=r"Pass --precision float32"):
        scorer.score(random_tiles(classifier, 4), [b""] * 4)


def test_weights_of_another_digest_are_not_loaded(folder: Path) -> None:
    with pytest.raises(WeightsError, match="not loaded"):
        open_local_scorer(folder, name="school", version=3, weights_sha256="0" * 64, precision="float32")
