"""Metrics compared with calculations by hand and with scikit-learn, and properties that must hold."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from satx.errors import DataError
from satx.evaluation import metrics
from satx.evaluation.calibration import expected_calibration_error, reliability_table

Answers = Callable[..., tuple[NDArray[np.int64], NDArray[np.float64]]]


def two_columns(scores: Any) -> NDArray[np.float64]:
    scores = np.asarray(scores, dtype=np.float64)
    return np.stack([1 - scores, scores], axis=1)


# Coarse scores have ties, where a computation of the area under the curve can go wrong.
scored_labels = st.integers(2, 60).flatmap(
    lambda size: st.tuples(
        arrays(np.int64, size, elements=st.integers(0, 1)).filter(lambda labels: 0 < labels.sum() < len(labels)),
        arrays(np.int64, size, elements=st.integers(0, 20)).map(lambda steps: steps / 20),
    )
)


@given(scored_labels)
def test_auc_of_two_classes_is_that_of_scikit_learn(case: tuple[Any, ...]) -> None:
    labels, scores = case
    expected = sklearn.metrics.roc_auc_score(labels, scores)
    assert metrics.roc_auc(labels, two_columns(scores), positive_index=1) == pytest.approx(expected, abs=1e-12)


@given(scored_labels)
def test_auc_does_not_change_under_a_monotone_transform(case: tuple[Any, ...]) -> None:
    labels, scores = case
    before = metrics.roc_auc(labels, two_columns(scores), positive_index=1)
    assert metrics.roc_auc(labels, two_columns(scores**3 / 2 + 0.1), positive_index=1) == before


@given(scored_labels)
def test_auc_of_the_other_class_is_the_same(case: tuple[Any, ...]) -> None:
    labels, scores = case
    probabilities = two_columns(scores)
    first = metrics.roc_auc(labels, probabilities, positive_index=1)
    reversed_scores = np.stack([1 - probabilities[:, 1], probabilities[:, 1]], axis=1)
    assert metrics.roc_auc(labels, reversed_scores, positive_index=0) == pytest.approx(first, abs=1e-12)


@given(st.integers(3, 6), st.integers(0, 1000))
def test_auc_of_many_classes_is_scikit_learns_one_vs_rest_macro_average(
    answers: Answers, num_classes: int, seed: int
) -> None:
    labels, probabilities = answers(num_tiles=40, num_classes=num_classes, seed=seed, skill=0.5)
    expected = sklearn.metrics.roc_auc_score(labels, probabilities, multi_class="ovr", average="macro")
    assert metrics.roc_auc(labels, probabilities, positive_index=0) == pytest.approx(expected, abs=1e-12)


def test_auc_counts_pairs_in_the_right_order_and_ties_by_half() -> None:
    # Pairs: 0.8 beats both, 0.4 beats 0.2 and ties with 0.4: 3.5 of 4.
    assert metrics.roc_auc(np.array([0, 0, 1, 1]), two_columns([0.2, 0.4, 0.4, 0.8]), positive_index=1) == 0.875


def test_auc_of_one_class_only_is_refused_with_its_name() -> None:
    with pytest.raises(DataError, match="class 0"):
        metrics.roc_auc(np.array([1, 1]), two_columns([0.3, 0.6]), positive_index=1)


def test_summary_of_ten_tiles_equals_a_calculation_by_hand() -> None:
    labels = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0])
    scores = [0.9, 0.8, 0.7, 0.1, 0.6, 0.2, 0.2, 0.2, 0.2, 0.2]  # 3 true positives, 1 false negative, 1 false positive
    found = metrics.summary(labels, two_columns(scores), positive_index=1)
    assert found["accuracy"] == pytest.approx(0.8)
    assert found["precision"] == pytest.approx(3 / 4)
    assert found["recall"] == pytest.approx(3 / 4)
    assert found["f1"] == pytest.approx(3 / 4)
    assert found["false_positive_rate"] == pytest.approx(1 / 6)
    assert found["auc"] == pytest.approx(18 / 24)
    of_truth = [0.9, 0.8, 0.7, 0.1, 0.4, 0.8, 0.8, 0.8, 0.8, 0.8]
    assert found["loss"] == pytest.approx(-np.mean(np.log(of_truth)))
    assert set(found) == {
        "auc", "accuracy", "loss", "precision", "recall", "f1", "false_positive_rate", "average_precision", "ece",
    }  # fmt: skip


@pytest.mark.parametrize("num_classes", [2, 5])
def test_summary_agrees_with_scikit_learn(answers: Answers, num_classes: int) -> None:
    labels, probabilities = answers(num_classes=num_classes, skill=1.0)
    found = metrics.summary(labels, probabilities, positive_index=1)
    average = {"average": "binary"} if num_classes == 2 else {"average": "macro"}
    predicted = probabilities.argmax(axis=1)
    assert found["precision"] == pytest.approx(sklearn.metrics.precision_score(labels, predicted, **average))
    assert found["recall"] == pytest.approx(sklearn.metrics.recall_score(labels, predicted, **average))
    assert found["f1"] == pytest.approx(sklearn.metrics.f1_score(labels, predicted, **average))
    assert found["loss"] == pytest.approx(sklearn.metrics.log_loss(labels, probabilities))


@given(scored_labels)
def test_the_brier_score_of_two_classes_is_that_of_scikit_learn(case: tuple[Any, ...]) -> None:
    labels, scores = case
    expected = sklearn.metrics.brier_score_loss(labels, scores)
    assert metrics.brier_score(labels, two_columns(scores)) == pytest.approx(expected, abs=1e-12)


def test_the_brier_score_of_many_classes_sums_over_them() -> None:
    probabilities = np.array([[0.5, 0.3, 0.2], [0.0, 1.0, 0.0]])
    expected = ((0.5**2 + 0.3**2 + 0.2**2) + 0.0) / 2
    assert metrics.brier_score(np.array([0, 1]), probabilities) == pytest.approx(expected)


def test_a_certain_mistake_has_a_large_but_finite_loss() -> None:
    assert metrics.log_loss(np.array([0]), two_columns([1.0])) == pytest.approx(-np.log(1e-7))


def test_a_tile_on_the_threshold_is_called_positive() -> None:
    flags = metrics.positives_over_threshold(two_columns([0.43, 0.44, 0.45]), positive_index=1, threshold=0.44)
    assert flags.tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("labels", "probabilities", "received"),
    [
        (np.array([], dtype=int), np.empty((0, 2)), "got none"),
        (np.array([0, 2]), two_columns([0.1, 0.2]), r"int64.*0\b.*2\b"),
        (np.array([0.0, 1.0]), two_columns([0.1, 0.2]), "float64"),
        (np.array([0, 1]), two_columns([0.1, np.nan]), "nan"),
        (np.array([0, 1]), two_columns([0.1, 3.0]), r"3\.0"),
        (np.array([0, 1]), np.array([0.1, 0.2]), r"\(2,\).*\(2,\)"),
        (np.array([0, 1, 1]), two_columns([0.1, 0.2]), r"\(3,\).*\(2, 2\)"),
    ],
)
def test_invalid_labels_or_probabilities_are_refused(labels: Any, probabilities: Any, received: str) -> None:
    with pytest.raises(DataError, match=received):
        metrics.accuracy(labels, probabilities)


def test_a_positive_class_that_does_not_exist_is_refused() -> None:
    with pytest.raises(DataError):
        metrics.roc_auc(np.array([0, 1]), two_columns([0.1, 0.2]), positive_index=2)


def test_calibration_error_weighs_each_bin_by_its_tiles() -> None:
    # Four tiles at confidence 0.9 of which three are right, one at 0.6 that is wrong.
    labels = np.array([1, 1, 1, 0, 0])
    error = expected_calibration_error(labels, two_columns([0.9, 0.9, 0.9, 0.9, 0.6]))
    assert error == pytest.approx((4 * abs(0.9 - 0.75) + 1 * 0.6) / 5)


def test_reliability_table_counts_every_tile_once_with_bins_closed_above(answers: Answers) -> None:
    labels, probabilities = answers(num_tiles=300)
    table = reliability_table(labels, probabilities, num_bins=10)
    assert table["num_tiles"].sum() == 300
    assert table.loc[table["num_tiles"] == 0, "accuracy"].isna().all()
    on_the_edge = reliability_table(np.array([1]), two_columns([1.0]), num_bins=10)
    assert on_the_edge["num_tiles"].tolist() == [0] * 9 + [1]


def test_certain_and_correct_predictions_are_perfectly_calibrated() -> None:
    assert expected_calibration_error(np.array([0, 1]), two_columns([0.0, 1.0])) == 0.0
