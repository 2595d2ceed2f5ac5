"""Intervals: known values, and properties that hold for any tiles."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from satx.errors import DataError
from satx.evaluation import intervals, metrics
from satx.evaluation.calibration import expected_calibration_error

Answers = Callable[..., tuple[NDArray[np.int64], NDArray[np.float64]]]


AUC = partial(metrics.roc_auc, positive_index=1)


@settings(max_examples=30)
@given(st.integers(4, 80), st.integers(0, 1000), st.floats(-1, 4))
def test_a_bootstrap_interval_contains_its_value(answers: Answers, num_tiles: int, seed: int, skill: float) -> None:
    labels, probabilities = answers(num_tiles=num_tiles, seed=seed, skill=skill)
    for statistic in (AUC, metrics.accuracy, metrics.log_loss, expected_calibration_error):
        found = intervals.bootstrap_interval(statistic, labels, probabilities, seed=seed, num_resamples=40)
        assert found.low <= found.value <= found.high
        assert found.value == statistic(labels, probabilities)


def test_equal_seeds_give_equal_intervals_and_others_do_not(answers: Answers) -> None:
    case = answers()
    first, again, other = (intervals.bootstrap_interval(AUC, *case, seed=seed, num_resamples=200) for seed in (7, 7, 8))
    assert first == again
    assert first != other


def test_resamples_keep_the_number_of_tiles_of_each_class(answers: Answers) -> None:
    labels, probabilities = answers(num_tiles=30)
    labels = np.where(np.arange(30) < 2, 1, 0)  # two positives: a plain bootstrap would often miss both
    seen = []

    def remember(resampled: Any, _: object) -> float:
        seen.append(np.bincount(resampled).tolist())
        return 0.0

    intervals.bootstrap_interval(remember, labels, probabilities, num_resamples=50)
    assert seen == [[28, 2]] * 51


def test_the_interval_of_accuracy_is_as_wide_as_the_binomial_one(answers: Answers) -> None:
    labels, probabilities = answers(num_tiles=400, skill=1.0)
    found = intervals.bootstrap_interval(metrics.accuracy, labels, probabilities)
    standard_error = np.sqrt(found.value * (1 - found.value) / 400)
    assert found.high - found.low == pytest.approx(2 * 1.96 * standard_error, rel=0.1)


def test_a_higher_confidence_gives_a_wider_interval(answers: Answers) -> None:
    case = answers()
    narrow, wide = (intervals.bootstrap_interval(AUC, *case, num_resamples=300, confidence=c) for c in (0.5, 0.99))
    assert wide.low < narrow.low < narrow.high < wide.high


def test_a_statistic_that_is_undefined_on_a_resample_is_refused(answers: Answers) -> None:
    with pytest.raises(DataError):
        intervals.bootstrap_interval(lambda *_: float("nan"), *answers(), num_resamples=5)


@settings(max_examples=30)
@given(st.integers(4, 60), st.integers(0, 1000))
def test_a_model_differs_from_itself_by_exactly_zero(answers: Answers, num_tiles: int, seed: int) -> None:
    labels, probabilities = answers(num_tiles=num_tiles, seed=seed)
    found = intervals.paired_bootstrap_difference(AUC, labels, probabilities, probabilities.copy(), num_resamples=40)
    assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)


def test_swapping_the_models_negates_the_difference(answers: Answers) -> None:
    labels, first = answers(seed=1)
    _, second = answers(seed=2)
    forth = intervals.paired_bootstrap_difference(AUC, labels, first, second, num_resamples=200)
    back = intervals.paired_bootstrap_difference(AUC, labels, second, first, num_resamples=200)
    assert back.value == -forth.value
    assert (back.low, back.high) == (pytest.approx(-forth.high), pytest.approx(-forth.low))


def test_the_interval_for_a_much_better_model_is_above_zero(answers: Answers) -> None:
    labels, good = answers(num_tiles=400, skill=3.0)
    _, poor = answers(num_tiles=400, skill=0.3)
    assert intervals.paired_bootstrap_difference(AUC, labels, good, poor, num_resamples=300).low > 0


@given(
    st.integers(1, 5000).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))), st.floats(0.5, 0.999)
)
def test_wilson_bounds_lie_within_0_and_1_and_contain_the_share(case: tuple[Any, ...], confidence: float) -> None:
    found = intervals.wilson_interval(*case, confidence=confidence)
    assert 0 <= found.low <= found.value <= found.high <= 1


def test_wilson_of_a_published_example() -> None:
    """Newcombe, "Two-sided confidence intervals for the single proportion", 1998, table I: 81 of 263."""
    found = intervals.wilson_interval(81, 263)
    assert (found.low, found.high) == (pytest.approx(0.2553, abs=5e-5), pytest.approx(0.3662, abs=5e-5))


def test_wilson_of_no_tiles_or_an_invalid_confidence_is_refused() -> None:
    with pytest.raises(DataError):
        intervals.wilson_interval(0, 0)
    with pytest.raises(DataError):
        intervals.wilson_interval(1, 2, confidence=95)


@given(st.floats(0, 1), st.integers(1, 500), st.integers(1, 500))
def test_the_interval_of_an_area_contains_it_and_is_mirrored_for_the_other_class(
    area: float, num_positive: int, num_negative: int
) -> None:
    found = intervals.auc_interval(area, num_positive=num_positive, num_negative=num_negative)
    mirrored = intervals.auc_interval(1 - area, num_positive=num_negative, num_negative=num_positive)
    assert 0 <= found.low <= area <= found.high <= 1
    assert found.low < found.high
    assert (1 - mirrored.high, 1 - mirrored.low) == (
        pytest.approx(found.low, abs=1e-6),
        pytest.approx(found.high, abs=1e-6),
    )


@pytest.mark.parametrize("area", [0.0, 0.3, 0.9, 1.0])
def test_an_area_lies_as_far_from_its_bounds_as_their_standard_errors_say(area: float) -> None:
    """The variance is that of Newcombe 2006, method 4, at the bound."""
    found = intervals.auc_interval(area, num_positive=12, num_negative=30)
    for bound in {found.low, found.high} - {0.0, 1.0}:
        spread = 1 + (12 + 30 - 2) / 2 * ((1 - bound) / (2 - bound) + bound / (1 + bound))
        assert (bound - area) ** 2 == pytest.approx(1.959964**2 * bound * (1 - bound) * spread / (12 * 30), rel=1e-5)


def test_the_interval_of_a_perfect_area_narrows_with_more_tiles() -> None:
    lows = [intervals.auc_interval(1.0, num_positive=size, num_negative=size).low for size in (5, 20, 100)]
    assert lows == pytest.approx([0.643, 0.899, 0.980], abs=5e-4)


def test_the_interval_of_an_area_of_many_tiles_agrees_with_the_bootstrap(answers: Answers) -> None:
    labels, probabilities = answers(num_tiles=600, skill=1.0)
    drawn = intervals.bootstrap_interval(AUC, labels, probabilities)
    found = intervals.auc_interval(drawn.value, num_positive=300, num_negative=300)
    assert (found.low, found.high) == (pytest.approx(drawn.low, abs=0.01), pytest.approx(drawn.high, abs=0.01))


def test_an_area_of_no_tiles_or_out_of_range_is_refused() -> None:
    for area, num_negative in ((1.1, 3), (0.5, 0)):
        with pytest.raises(DataError):
            intervals.auc_interval(area, num_positive=3, num_negative=num_negative)


flags = st.integers(1, 60).flatmap(
    lambda size: st.tuples(*[st.lists(st.booleans(), min_size=size, max_size=size).map(np.array) for _ in "ab"])
)


@given(flags)
def test_mcnemar_is_symmetric_and_a_probability(pair: tuple[Any, Any]) -> None:
    first, second = pair
    p_value = intervals.mcnemar_exact(first, second)
    assert p_value == intervals.mcnemar_exact(second, first)
    assert 0 < p_value <= 1
    assert intervals.mcnemar_exact(first, first) == 1.0


def test_mcnemar_of_nine_against_one_is_twice_the_binomial_tail() -> None:
    first = np.array([True] * 9 + [False] * 11)
    second = np.array([False] * 9 + [True] + [False] * 10)
    assert intervals.mcnemar_exact(first, second) == pytest.approx(2 * (1 + 10) / 2**10)


def test_mcnemar_of_unpaired_tiles_is_refused() -> None:
    with pytest.raises(DataError, match=r"\(1,\).*\(2,\)"):
        intervals.mcnemar_exact(np.array([True]), np.array([True, False]))


def test_an_interval_is_printed_as_value_and_range() -> None:
    assert str(intervals.Interval(0.94123, 0.9, 0.97)) == "0.941 (0.900 to 0.970)"


Flags = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60)


@settings(max_examples=100)
@given(Flags)
def test_a_paired_difference_contains_its_value_and_is_negated_with_swapped_models(
    flags: list[tuple[bool, bool]],
) -> None:
    first, second = np.array(flags).T
    found = intervals.paired_difference_interval(first, second)
    back = intervals.paired_difference_interval(second, first)
    assert found.value == pytest.approx(first.mean() - second.mean())
    assert -1 <= found.low <= found.value <= found.high <= 1
    assert (back.low, back.high) == (pytest.approx(-found.high), pytest.approx(-found.low))
    assert found.low < found.high


def test_a_paired_difference_of_three_tiles_that_agree_has_a_wide_interval() -> None:
    found = intervals.paired_difference_interval(np.ones(3, bool), np.zeros(3, bool))
    assert found.value == 1.0
    assert found.low < 0.3


def test_a_paired_difference_of_many_tiles_agrees_with_the_bootstrap() -> None:
    random = np.random.default_rng(3)
    first = random.random(3000) < 0.3
    second = np.where(random.random(3000) < 0.7, first, random.random(3000) < 0.2)
    found = intervals.paired_difference_interval(first, second)
    drawn = intervals.paired_bootstrap_difference(
        lambda _, probabilities: float(probabilities[:, 1].mean()),
        np.zeros(3000, np.int64),
        *(np.stack([~flags, flags], axis=1).astype(float) for flags in (first, second)),
    )
    assert (found.low, found.high) == (pytest.approx(drawn.low, abs=0.003), pytest.approx(drawn.high, abs=0.003))


@pytest.mark.parametrize("paired", [False, True])
def test_every_tile_is_drawn_about_as_often_as_any_other(paired: bool) -> None:
    """Also the first and the last tile of a class: a draw that leaves out one row makes every interval wrong."""
    labels = np.array([0] * 7 + [1] * 4)
    number = np.arange(len(labels)) / 100
    probabilities = np.column_stack([1 - number, number])  # its probability identifies a tile
    drawn = np.zeros(len(labels), dtype=np.int64)

    def count(_: object, resampled: NDArray[np.float64]) -> float:
        np.add.at(drawn, np.rint(resampled[:, 1] * 100).astype(int), 1)
        return 0.0

    if paired:
        intervals.paired_bootstrap_difference(count, labels, probabilities, probabilities, num_resamples=2000)
    else:
        intervals.bootstrap_interval(count, labels, probabilities, num_resamples=2000)
    a_resample = drawn / (drawn[labels == 0].sum() / 7)
    assert a_resample == pytest.approx(np.ones(len(labels)), abs=0.1)
