"""Tests of scoring the champion on a candidate's test tiles, and of the evaluation of a candidate."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from inference.tiny import fitted_classifier, open_tiles

from registry.conftest import PromotedHome
from registry.small_runs import NAME, candidate_of, make_run
from satx.errors import DataError
from satx.evaluation.assessment import assess
from satx.evaluation.calibration import calibrated, fit_temperature
from satx.evaluation.metrics import accuracy
from satx.evaluation.operating_point import ThresholdRule, choose_threshold
from satx.inference.predictor import predict_split
from satx.models.classifier import Classifier
from satx.registry.comparison import score_champion, seen_tiles, store_at
from satx.registry.evaluate import evaluate
from satx.tiles.store import TileStore
from satx.tracking.client import MlflowClient


def registered(client: MlflowClient, run_id: str) -> int:
    """Register a run without promoting it; return its version."""
    return int(client.create_model_version(NAME, f"runs:/{run_id}/model", run_id, await_creation_for=0).version)


def test_the_champion_is_calibrated_and_predicts_the_candidates_test_tiles(
    client: MlflowClient, store: TileStore, classifiers: dict[str, Classifier], promoted: PromotedHome
) -> None:
    scores = score_champion(client, candidate_of(classifiers["wrong"], store), NAME, 1)
    assert scores.problem == "" and scores.probabilities is not None
    raw = predict_split(classifiers["right"].network, store, "test")
    assert promoted.first.judgement is not None
    expected = calibrated(raw, promoted.first.judgement.evaluation.temperature)
    assert np.abs(scores.probabilities - expected).max() < 1e-5
    assert scores.text == ("The champion, version 1, was trained on the same tiles.",)


@pytest.mark.slow
def test_a_champion_of_another_image_size_is_scored_on_the_same_tiles(
    client: MlflowClient, store: TileStore, classifiers: dict[str, Classifier], tmp_path: Path
) -> None:
    larger = open_tiles(store.report.root, tmp_path / "cache", size_px=48)
    version = registered(client, make_run(client, fitted_classifier(larger), larger))
    scores = score_champion(client, candidate_of(classifiers["wrong"], store), NAME, version)
    assert scores.probabilities is not None
    assert accuracy(store.labels()[store.rows("test")], scores.probabilities) > 0.9


def test_a_champion_with_other_classes_cannot_be_compared(
    client: MlflowClient, store: TileStore, classifiers: dict[str, Classifier]
) -> None:
    others = replace(classifiers["right"], classes=("no", "school"))
    scores = score_champion(client, candidate_of(others, store), NAME, 1)
    assert scores.probabilities is None and "(not-school, school), got no, school" in scores.problem


def test_a_champion_whose_tile_store_is_missing_cannot_be_evaluated(
    client: MlflowClient, store: TileStore, classifiers: dict[str, Classifier], tiles: Path, tmp_path: Path
) -> None:
    gone = open_tiles(tiles, tmp_path / "gone")
    version = registered(client, make_run(client, classifiers["right"], gone))
    shutil.rmtree(gone.folder)
    scores = score_champion(client, candidate_of(classifiers["right"], store), NAME, version)
    assert scores.probabilities is None
    assert f"version {version}, cannot be evaluated" in scores.problem and "is missing" in scores.problem


def swapped(tiles: Path, folder: Path, num_swapped: int, *, split: str = "train") -> Path:
    """Copy tiles, with some of each of train/ (or another split) and test/ of a class in each other's place."""
    shutil.copytree(tiles, folder)
    others, test = (sorted((folder / name / "school").glob("*.jpg"))[:num_swapped] for name in (split, "test"))
    for first, second in zip(others, test, strict=True):
        other = first.read_bytes()
        first.write_bytes(second.read_bytes())
        second.write_bytes(other)
    return folder


def test_a_champion_that_has_seen_test_tiles_in_training_is_not_compared(
    client: MlflowClient,
    store: TileStore,
    classifiers: dict[str, Classifier],
    tiles: Path,
    tmp_path: Path,
) -> None:
    other = open_tiles(swapped(tiles, tmp_path / "swapped", 4), tmp_path / "cache")
    seen, num_test = seen_tiles(other, store), len(other.rows("test"))
    assert len(seen) == 4 and set(seen) <= set(other.index.iloc[other.rows("test")]["tile_id"])
    assert seen_tiles(store, store) == []
    scores = score_champion(client, candidate_of(classifiers["right"], other), NAME, 1)
    assert scores.probabilities is None
    assert scores.problem == f"the champion was trained or validated on 4 of the {num_test} test tiles"
    assert scores.text[-1] == (
        f"The champion, version 1, has seen 4 of this run's {num_test} test tiles in training or validation ({seen[0]}, "
        f"{seen[1]}, {seen[2]} and 1 more), so its scores there say nothing. Keep these tiles out of test/ and train again, or "
        f"pass `--force REASON`."
    )


def test_a_champion_that_was_validated_on_test_tiles_is_not_compared(
    client: MlflowClient, store: TileStore, classifiers: dict[str, Classifier], tiles: Path, tmp_path: Path
) -> None:
    other = open_tiles(swapped(tiles, tmp_path / "swapped", 2, split="valid"), tmp_path / "cache")
    scores = score_champion(client, candidate_of(classifiers["right"], other), NAME, 1)
    assert len(seen_tiles(other, store)) == 2
    assert scores.probabilities is None and "trained or validated on 2 of" in scores.problem


def test_tiles_that_were_changed_since_are_not_read_at_another_size(tiles: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiles, tmp_path / "changed")
    store = open_tiles(folder, tmp_path / "cache")
    first, second, *_ = sorted((folder / "train" / "school").glob("*.jpg"))
    first.write_bytes(second.read_bytes())
    with pytest.raises(DataError, match=f"48 px, but {folder} no longer contains"):
        store_at(store, 48)


def test_a_champion_of_other_tiles_is_compared_on_the_candidates_and_the_text_says_so(
    client: MlflowClient, store: TileStore, classifiers: dict[str, Classifier], tiles: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiles, tmp_path / "fewer")
    gone = next(iter((folder / "train" / "school").glob("*.jpg")))
    gone.unlink()
    lines = (folder / "tiles.csv").read_text().splitlines(keepends=True)
    (folder / "tiles.csv").write_text(
        "".join(line for line in lines if gone.relative_to(folder).as_posix() not in line)
    )
    fewer = open_tiles(folder, tmp_path / "cache")
    scores = score_champion(client, candidate_of(classifiers["right"], fewer), NAME, 1)
    num_train, num_test = len(store.rows("train")), len(store.rows("test"))
    assert scores.problem == "" and scores.probabilities is not None
    (sentence,) = scores.text
    assert f"tiny-sample: {num_train} train tiles" in sentence and f"this run: {num_train - 1}" in sentence
    assert f"{num_test} test tiles, {num_test} of which are also the champion's" in sentence


def test_a_temperature_is_kept_only_where_it_helps_on_the_validation_tiles(
    store: TileStore, classifiers: dict[str, Classifier], monkeypatch: pytest.MonkeyPatch
) -> None:
    candidate, youden = candidate_of(classifiers["right"], store), ThresholdRule(rule="youden")
    helped = evaluate(candidate, youden)
    assert helped.temperature != 1 and helped.valid_loss_after < helped.valid_loss_before
    assert np.array_equal(helped.probabilities, calibrated(helped.raw_probabilities, helped.temperature))
    assert helped.before.interval("loss") != helped.after.interval("loss")
    assert (helped.threshold_rule, 0 < helped.threshold < 1) == ("youden", True)
    monkeypatch.setattr("satx.registry.evaluate.fit_temperature", lambda *_: 0.25)
    harmed = evaluate(candidate, youden)
    assert (harmed.temperature, harmed.valid_loss_after) == (1.0, harmed.valid_loss_before)
    assert np.array_equal(harmed.probabilities, harmed.raw_probabilities)


def test_the_threshold_is_chosen_on_the_calibrated_validation_tiles(
    store: TileStore, classifiers: dict[str, Classifier]
) -> None:
    rule = ThresholdRule(rule="fpr_at_recall", at=1.0)
    evaluation = evaluate(candidate_of(classifiers["right"], store), rule)
    labels, raw = store.labels()[store.rows("valid")], predict_split(classifiers["right"].network, store, "valid")
    index = store.classes.index("school")
    of_calibrated, of_raw = (
        choose_threshold(labels, calibrated(raw, temperature), rule, positive_index=index)
        for temperature in (evaluation.temperature, 1.0)
    )
    assert evaluation.threshold == of_calibrated != of_raw
    assert evaluation.threshold_rule == "fpr_at_recall(1)"


def test_temperature_and_threshold_come_from_the_validation_tiles_only(
    store: TileStore, classifiers: dict[str, Classifier]
) -> None:
    youden = ThresholdRule(rule="youden")
    evaluation = evaluate(candidate_of(classifiers["right"], store), youden)
    index, found = store.classes.index("school"), {}
    for split in ("valid", "test"):
        labels, raw = store.labels()[store.rows(split)], predict_split(classifiers["right"].network, store, split)
        temperature = fit_temperature(labels, raw)
        threshold = choose_threshold(labels, calibrated(raw, temperature), youden, positive_index=index)
        found[split] = temperature, threshold
    assert found["valid"] == (evaluation.temperature, evaluation.threshold)
    assert found["valid"][0] != found["test"][0] and found["valid"][1] != found["test"][1]


def test_scores_before_and_after_calibration_each_have_their_own_threshold_and_every_slice(
    store: TileStore, classifiers: dict[str, Classifier], monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = predict_split(classifiers["right"].network, store, "valid")
    monkeypatch.setattr(
        "satx.registry.evaluate.choose_threshold",
        lambda _labels, probabilities, _rule, **_: 0.99 if np.array_equal(probabilities, raw) else 0.01,
    )
    evaluation = evaluate(candidate_of(classifiers["right"], store), ThresholdRule(rule="youden"))
    slices = store.index.iloc[store.rows("test")]["slice"]
    assert evaluation.threshold == 0.01 and slices.nunique() > 1
    for scores, probabilities, threshold in (
        (evaluation.before, evaluation.raw_probabilities, 0.99),
        (evaluation.after, evaluation.probabilities, 0.01),
    ):
        expected = assess(
            evaluation.labels,
            probabilities,
            classes=store.classes,
            positive_class="school",
            threshold=threshold,
            slices=slices,
        )
        pd.testing.assert_frame_equal(scores.table, expected.table)
    assert evaluation.before.interval("recall").value < evaluation.after.interval("recall").value
