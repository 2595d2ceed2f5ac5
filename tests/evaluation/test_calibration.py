"""Temperature and calibration gap: known values, and properties that hold for any probabilities."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.special
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from satx.errors import DataError
from satx.evaluation import metrics
from satx.evaluation.calibration import (
    NUM_BINS,
    TEMPERATURE_BOUNDS,
    calibrated,
    calibration_gap,
    confidence_bins,
    fit_temperature,
)

Answers = Callable[..., tuple[NDArray[np.int64], NDArray[np.float64]]]


def two_columns(scores: Any) -> NDArray[np.float64]:
    scores = np.asarray(scores, dtype=np.float64)
    return np.stack([1 - scores, scores], axis=1)


temperatures = st.floats(*TEMPERATURE_BOUNDS)
coarse_scores = arrays(np.int64, st.integers(2, 40), elements=st.integers(1, 19)).map(lambda steps: steps / 20)
# Class probabilities that differ by at least 1%, so that rounding to float32 makes none of them equal.
distinct_rows = st.integers(2, 8).flatmap(
    lambda num_classes: st.lists(st.permutations(range(num_classes)), min_size=1, max_size=10).map(
        lambda orders: np.array([1.3 ** np.array(order) / sum(1.3 ** np.array(order)) for order in orders])
    )
)


def test_a_temperature_of_1_changes_no_bit() -> None:
    probabilities = np.random.default_rng(0).dirichlet([0.01] * 3, size=50).astype(np.float32)  # many are almost 0
    assert calibrated(probabilities, 1.0).tobytes() == probabilities.tobytes()


@given(distinct_rows, temperatures)
def test_calibration_divides_the_logits_of_a_softmax(probabilities: NDArray[np.float64], temperature: float) -> None:
    found = calibrated(probabilities, temperature)
    assert found.dtype == np.float32
    assert found == pytest.approx(scipy.special.softmax(np.log(probabilities) / temperature, axis=1), rel=1e-5)


@given(distinct_rows, temperatures)
def test_rows_add_up_to_1_and_keep_their_most_probable_class(
    probabilities: NDArray[np.float64], temperature: float
) -> None:
    found = calibrated(probabilities, temperature)
    assert found.sum(axis=1) == pytest.approx(np.ones(len(found)), abs=1e-6)
    assert found.argmax(axis=1).tolist() == probabilities.argmax(axis=1).tolist()


@given(coarse_scores, st.floats(0.5, TEMPERATURE_BOUNDS[1]))
def test_the_area_under_the_curve_of_two_classes_does_not_change(
    scores: NDArray[np.float64], temperature: float
) -> None:
    labels = np.arange(len(scores)) % 2
    before = metrics.roc_auc(labels, two_columns(scores), positive_index=1)
    assert metrics.roc_auc(labels, calibrated(two_columns(scores), temperature), positive_index=1) == before


@given(arrays(np.float32, st.integers(2, 40), elements=st.floats(0, 1, width=32)), temperatures)
def test_tiles_of_two_classes_never_change_their_order(scores: NDArray[np.float32], temperature: float) -> None:
    ordered = np.sort(scores)
    assert (np.diff(calibrated(two_columns(ordered), temperature)[:, 1]) >= 0).all()


@given(coarse_scores, st.floats(0.5, 4))
def test_the_inverse_temperature_restores_the_probabilities(scores: NDArray[np.float64], temperature: float) -> None:
    probabilities = two_columns(scores)
    assert calibrated(calibrated(probabilities, temperature), 1 / temperature) == pytest.approx(probabilities, abs=1e-4)


def test_certain_probabilities_stay_finite() -> None:
    found = calibrated(np.array([[0.0, 1.0], [1.0, 0.0]]), 20.0)
    share = 1 / (1 + 1e-37 ** (1 / 20))  # 0 counts as 1e-37
    assert found == pytest.approx(np.array([[1 - share, share], [share, 1 - share]]), abs=1e-7)


def test_the_surest_tiles_keep_their_order() -> None:
    negative = np.array([1e-12, 1e-10, 1e-8, 1e-6], np.float32)  # 1 minus each of the first three is 1 in float32
    found = calibrated(np.stack([negative, 1 - negative], axis=1), 3.0)
    assert (np.diff(found[:, 1]) < 0).all()


def test_no_tiles_are_calibrated_to_no_tiles() -> None:
    assert calibrated(np.zeros((0, 3), np.float32), 2.0).shape == (0, 3)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_a_temperature_that_is_not_above_0_is_refused(temperature: float) -> None:
    with pytest.raises(DataError, match=str(temperature)):
        calibrated(two_columns([0.5]), temperature)


@pytest.mark.parametrize("num_classes", [2, 4])
@pytest.mark.parametrize("factor", [0.6, 1.6])
def test_fitting_recovers_the_temperature_that_distorted_the_probabilities(
    answers: Answers, num_classes: int, factor: float
) -> None:
    labels, probabilities = answers(num_tiles=400, num_classes=num_classes, skill=0.7)
    fitted = calibrated(probabilities, fit_temperature(labels, probabilities))
    distorted = calibrated(fitted, 1 / factor)
    assert fit_temperature(labels, distorted) == pytest.approx(factor, rel=1e-3)


def test_the_fitted_temperature_has_the_lowest_loss_of_all(answers: Answers) -> None:
    labels, probabilities = answers(num_tiles=300, num_classes=3, skill=0.7)
    probabilities = calibrated(probabilities, 0.4)
    found = metrics.log_loss(labels, calibrated(probabilities, fit_temperature(labels, probabilities)))
    others = [metrics.log_loss(labels, calibrated(probabilities, t)) for t in np.geomspace(*TEMPERATURE_BOUNDS, 200)]
    assert found <= min(others) + 1e-6


def test_overconfident_tiles_need_a_temperature_above_1_and_underconfident_ones_below() -> None:
    labels = np.array([1] * 8 + [0] * 2)  # right in 8 of 10
    assert fit_temperature(labels, two_columns([0.99] * 10)) == pytest.approx(np.log(0.99 / 0.01) / np.log(4), rel=1e-3)
    assert fit_temperature(labels, two_columns([0.6] * 10)) == pytest.approx(np.log(0.6 / 0.4) / np.log(4), rel=1e-3)


def test_perfectly_separated_tiles_get_the_lowest_temperature_and_keep_their_order() -> None:
    labels, probabilities = np.array([0, 0, 1, 1]), two_columns([0.1, 0.3, 0.7, 0.9])
    temperature = fit_temperature(labels, probabilities)
    assert temperature == pytest.approx(TEMPERATURE_BOUNDS[0], rel=1e-3)
    assert (np.diff(calibrated(probabilities, temperature)[:, 1]) > 0).all()


def test_confident_tiles_without_any_skill_get_the_highest_temperature() -> None:
    labels, probabilities = np.array([0, 1, 0, 1]), two_columns([0.01, 0.01, 0.99, 0.99])
    assert fit_temperature(labels, probabilities) == pytest.approx(TEMPERATURE_BOUNDS[1], rel=1e-3)


def test_probabilities_that_no_temperature_improves_get_1() -> None:
    assert fit_temperature(np.array([0, 1]), two_columns([0.5, 0.5])) == 1.0


def test_the_calibration_gap_is_positive_if_the_model_is_overconfident() -> None:
    labels = np.array([1, 1, 1, 0])  # right in 3 of 4
    assert calibration_gap(labels, two_columns([0.95] * 4)) == pytest.approx(0.2)
    assert calibration_gap(labels, two_columns([0.55] * 4)) == pytest.approx(-0.2)


def test_the_calibration_gap_takes_the_confidence_in_the_predicted_class() -> None:
    assert calibration_gap(np.array([0, 2]), np.array([[0.7, 0.2, 0.1], [0.5, 0.3, 0.2]])) == pytest.approx(0.6 - 0.5)


def test_bins_are_open_below_and_closed_above() -> None:
    edges = np.linspace(0.0, 1.0, NUM_BINS + 1)
    assert confidence_bins(edges).tolist() == [0, *range(NUM_BINS)]
    assert confidence_bins(np.nextafter(edges[1:-1], 1.0)).tolist() == list(range(1, NUM_BINS))
