"""Thresholds chosen by rules, compared with a search over all of them."""

from typing import Any

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from pydantic import ValidationError

from satx.errors import DataError
from satx.evaluation.metrics import positives_over_threshold
from satx.evaluation.operating_point import (
    ThresholdRule,
    choose_threshold,
    most_tiles,
    recall_at_fpr,
    threshold_at_recall,
)

YOUDEN, F2 = ThresholdRule(rule="youden"), ThresholdRule(rule="f2")


def two_columns(scores: Any) -> NDArray[np.float64]:
    scores = np.asarray(scores, dtype=np.float64)
    return np.stack([1 - scores, scores], axis=1)


def chosen(labels: Any, scores: Any, rule: ThresholdRule) -> float:
    return choose_threshold(np.asarray(labels), two_columns(scores), rule, positive_index=1)


def rates(labels: NDArray[np.int64], scores: NDArray[np.float64], threshold: float) -> dict[str, float]:
    flagged = positives_over_threshold(two_columns(scores), positive_index=1, threshold=threshold)
    recall, fpr = float(flagged[labels == 1].mean()), float(flagged[labels == 0].mean())
    precision = float(labels[flagged].mean()) if flagged.any() else 0.0
    f2 = 5 * precision * recall / (4 * precision + recall) if recall else 0.0
    return {"recall": recall, "false_positive_rate": fpr, "youden": recall - fpr, "f2": f2}


# Coarse scores have ties between tiles, and include 0 and 1.
scored_labels = st.integers(2, 40).flatmap(
    lambda size: st.tuples(
        arrays(np.int64, size, elements=st.integers(0, 1)).filter(lambda labels: 0 < labels.sum() < len(labels)),
        arrays(np.int64, size, elements=st.integers(0, 20)).map(lambda steps: steps / 20),
    )
)
given_rates = st.integers(0, 120).map(lambda part: part / 120)  # many are shares of these numbers of tiles


def every_threshold(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    ends = np.unique([0.0, 1.0, *scores])
    return (ends[:-1] + ends[1:]) / 2


@given(scored_labels, st.sampled_from([YOUDEN, F2]))
def test_no_other_threshold_is_better(case: tuple[Any, Any], rule: ThresholdRule) -> None:
    labels, scores = case
    best = max(rates(labels, scores, threshold)[rule.rule] for threshold in every_threshold(scores))
    found = chosen(labels, scores, rule)
    assert rates(labels, scores, found)[rule.rule] == pytest.approx(best, abs=1e-12)
    assert 0 < found < 1


@given(scored_labels, given_rates)
def test_recall_at_fpr_takes_the_lowest_threshold_within_the_rate(case: tuple[Any, Any], rate: float) -> None:
    labels, scores = case
    suitable = [t for t in every_threshold(scores) if rates(labels, scores, t)["false_positive_rate"] <= rate + 1e-9]
    rule = ThresholdRule(rule="recall_at_fpr", at=rate)
    if suitable:
        assert chosen(labels, scores, rule) == pytest.approx(min(suitable))
    else:
        with pytest.raises(DataError, match="recall_at_fpr"):
            chosen(labels, scores, rule)


@given(scored_labels, given_rates)
def test_fpr_at_recall_takes_the_highest_threshold_with_the_recall(case: tuple[Any, Any], recall: float) -> None:
    labels, scores = case
    suitable = [t for t in every_threshold(scores) if rates(labels, scores, t)["recall"] >= recall - 1e-9]
    rule = ThresholdRule(rule="fpr_at_recall", at=recall)
    if suitable:
        assert chosen(labels, scores, rule) == pytest.approx(max(suitable))
    else:
        with pytest.raises(DataError, match="fpr_at_recall"):
            chosen(labels, scores, rule)


@given(scored_labels, given_rates)
def test_threshold_at_recall_flags_every_tile_if_no_threshold_above_0_has_the_recall(
    case: tuple[Any, Any], recall: float
) -> None:
    labels, scores = case
    found = threshold_at_recall(labels, two_columns(scores), positive_index=1, recall=recall)
    assert rates(labels, scores, found)["recall"] >= recall - 1e-9
    higher = [t for t in every_threshold(scores) if t > found + 1e-6]  # not the same one, rounded otherwise
    assert all(rates(labels, scores, threshold)["recall"] < recall - 1e-9 for threshold in higher)
    assert (found == 0.0) == (rates(labels, scores, every_threshold(scores)[0])["recall"] < recall - 1e-9)


def test_threshold_at_recall_needs_tiles_of_both_kinds() -> None:
    with pytest.raises(DataError, match="got 2 of it among 2"):
        threshold_at_recall(np.ones(2, dtype=np.int64), two_columns([0.1, 0.9]), positive_index=1, recall=0.9)


@given(scored_labels, st.sampled_from([YOUDEN, F2]))
def test_a_threshold_is_far_from_every_score(case: tuple[Any, Any], rule: ThresholdRule) -> None:
    labels, scores = case
    assert np.abs(scores - chosen(labels, scores, rule)).min() >= 1 / 40 - 1e-12


def test_separated_classes_get_the_middle_between_them() -> None:
    for rule in (YOUDEN, F2, ThresholdRule(rule="fpr_at_recall", at=1)):
        assert chosen([0, 0, 1, 1], [0.1, 0.2, 0.6, 0.9], rule) == pytest.approx(0.4)


def test_of_equally_good_thresholds_the_one_in_the_widest_gap_is_chosen() -> None:
    # Youden's index is 1/2 between 0.1 and 0.2, and between 0.5 and 0.9.
    assert chosen([0, 1, 0, 1], [0.1, 0.2, 0.5, 0.9], YOUDEN) == pytest.approx(0.7)


def test_of_equally_wide_gaps_the_lowest_threshold_is_chosen() -> None:
    assert chosen([0, 1, 0, 1], [0.125, 0.375, 0.625, 0.875], YOUDEN) == pytest.approx(0.25)


def test_f2_weighs_recall_above_precision_where_youden_does_not() -> None:
    labels, scores = [0, 0, 0, 0, 0, 0, 0, 1, 1, 1], [0.1, 0.1, 0.3, 0.3, 0.3, 0.3, 0.3, 0.2, 0.8, 0.9]
    assert chosen(labels, scores, YOUDEN) == pytest.approx(0.55)
    assert chosen(labels, scores, F2) == pytest.approx(0.15)


def test_scores_that_differ_by_rounding_only_are_not_separated() -> None:
    below = np.float32(0.5)
    above = np.nextafter(below, np.float32(1))
    labels, scores = np.array([0, 0, 1, 1]), np.array([0.1, below, above, 0.9], dtype=np.float32)
    threshold = choose_threshold(labels, np.stack([1 - scores, scores], axis=1), YOUDEN, positive_index=1)
    assert np.abs(scores - threshold).min() > 1e-6
    as_served = np.stack([1 - scores, scores], axis=1)
    flags = positives_over_threshold(as_served, positive_index=1, threshold=threshold)
    assert flags[1] == flags[2]


def test_certain_scores_are_separated_in_the_middle() -> None:
    assert chosen([0, 1], [0.0, 1.0], YOUDEN) == pytest.approx(0.5)
    assert chosen([0, 1], [1.0, 1.0], YOUDEN) == pytest.approx(0.5)


def test_all_classes_but_the_one_of_interest_count_as_negative() -> None:
    probabilities = np.array([[0.8, 0.1, 0.1], [0.1, 0.7, 0.2], [0.3, 0.1, 0.6], [0.0, 0.0, 1.0]])
    threshold = choose_threshold(np.array([0, 1, 2, 2]), probabilities, YOUDEN, positive_index=2)
    assert threshold == pytest.approx(0.4)


def test_a_rate_that_no_threshold_reaches_is_refused() -> None:
    with pytest.raises(DataError, match=r"recall_at_fpr\(0\.1\).*0\.5"):
        chosen([0, 0, 1], [0.2, 1.0, 0.8], ThresholdRule(rule="recall_at_fpr", at=0.1))


@pytest.mark.parametrize("labels", [[0, 0], [1, 1]])
def test_tiles_of_one_kind_only_are_refused(labels: list[int]) -> None:
    with pytest.raises(DataError, match="class of interest"):
        chosen(labels, [0.1, 0.9], YOUDEN)
    with pytest.raises(DataError, match="class of interest"):
        recall_at_fpr(np.array(labels), two_columns([0.1, 0.9]), positive_index=1, false_positive_rate=0.1)


def test_a_class_of_interest_that_does_not_exist_is_refused() -> None:
    with pytest.raises(DataError, match="positive_index"):
        choose_threshold(np.array([0, 1]), two_columns([0.1, 0.9]), YOUDEN, positive_index=2)


@given(scored_labels, st.sampled_from([0.0, 0.01, 0.05, 0.1, 0.5, 1.0]))
def test_recall_at_a_false_positive_rate_is_read_off_the_roc_curve(case: tuple[Any, Any], rate: float) -> None:
    labels, scores = case
    fpr, tpr, _ = sklearn.metrics.roc_curve(labels, scores, drop_intermediate=False)
    found = recall_at_fpr(labels, two_columns(scores), positive_index=1, false_positive_rate=rate)
    assert found == pytest.approx(tpr[fpr <= rate + 1e-9].max())


def test_a_rate_that_is_exactly_reached_is_within_it() -> None:
    assert most_tiles(0.29, 100) == 29  # 0.29 * 100 is 28.999999999999996
    assert most_tiles(0.289, 100) == 28


@pytest.mark.parametrize(
    "values",
    [
        {"rule": "recall_at_fpr"},
        {"rule": "fpr_at_recall"},
        {"rule": "youden", "at": 0.1},
        {"rule": "f2", "at": 0.1},
        {"rule": "recall_at_fpr", "at": 1.5},
        {"rule": "fpr_at_recall", "at": -0.1},
        {"rule": "best"},
        {"rule": "youden", "beta": 2},
    ],
)
def test_a_rule_with_wrong_numbers_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ThresholdRule(**values)


def test_a_rule_is_printed_with_its_number() -> None:
    assert str(YOUDEN) == "youden"
    assert str(ThresholdRule(rule="recall_at_fpr", at=0.05)) == "recall_at_fpr(0.05)"
