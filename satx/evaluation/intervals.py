"""Confidence intervals (bootstrap, Wilson, Newcombe), and the exact paired test (McNemar).

Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13 (percentile interval).
Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", JASA 22, 1927.
Newcombe, "Improved confidence intervals for the difference between binomial proportions based on paired data",
Statistics in Medicine 17, 1998, method 10.
Newcombe, "Confidence intervals for an effect size measure based on the Mann-Whitney statistic. Part 2", Statistics in
Medicine 25, 2006, method 5.
McNemar, "Note on the sampling error of the difference between correlated proportions", Psychometrika 12, 1947.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import binomtest, norm

from satx.errors import DataError
from satx.evaluation.arrays import Floats, Labels, Probabilities, checked

Statistic = Callable[[Labels, Probabilities], float]

NUM_RESAMPLES = 2000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """An estimate and its confidence interval.

    Attributes:
        value: The estimate; always within `low` and `high`.
        low: Lower end.
        high: Upper end.
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """Format as `0.941 (0.902 to 0.973)`."""
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def bootstrap_interval(
    statistic: Statistic,
    labels: Labels,
    probabilities: Probabilities,
    *,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Compute a percentile bootstrap interval over tiles.

    Each class is resampled separately, so that an AUC is always defined. A value that no resample can change (an AUC of
    exactly 1) gets an interval of zero width, which is too narrow for few tiles.

    Args:
        statistic: Takes labels and probabilities and returns a number, such as `partial(roc_auc, positive_index=1)`.
        labels: Class indices, (N,).
        probabilities: One column per class, (N, C).
        seed: Equal seeds draw equal resamples.
        num_resamples: Number of resamples.
        confidence: Confidence level of the interval.

    Raises:
        DataError: The statistic is undefined on some resample.
    """
    labels, probabilities = checked(labels, probabilities)
    value = statistic(labels, probabilities)
    draws = [statistic(labels[rows], probabilities[rows]) for rows in resamples(labels, seed=seed, times=num_resamples)]
    return percentile_interval(value, np.array(draws), confidence=confidence)


def paired_bootstrap_difference(
    statistic: Statistic,
    labels: Labels,
    probabilities_a: Probabilities,
    probabilities_b: Probabilities,
    *,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Compute the statistic of A minus that of B on the same tiles; each resample draws the same tiles for both.

    Raises:
        DataError: The statistic is undefined on some resample.
    """
    labels, first = checked(labels, probabilities_a)
    _, second = checked(labels, probabilities_b)
    value = statistic(labels, first) - statistic(labels, second)
    draws = [
        statistic(labels[rows], first[rows]) - statistic(labels[rows], second[rows])
        for rows in resamples(labels, seed=seed, times=num_resamples)
    ]
    return percentile_interval(value, np.array(draws), confidence=confidence)


def resamples(labels: Labels, *, seed: int, times: int) -> Iterator[NDArray[np.int64]]:
    """Yield row numbers drawn with replacement, (N,) per resample; each class keeps its number of tiles."""
    random = np.random.default_rng(seed)
    strata = [np.flatnonzero(labels == index) for index in np.unique(labels)]
    for _ in range(times):
        yield np.concatenate([rows[random.integers(len(rows), size=len(rows))] for rows in strata])


def percentile_interval(value: float, draws: Floats, *, confidence: float = CONFIDENCE) -> Interval:
    """Compute a percentile interval from the values of a statistic on resamples, (R,), extended to include its value.

    Raises:
        DataError: The statistic is undefined on the tiles themselves or on some resample.
    """
    _check_confidence(confidence)
    undefined = int((~np.isfinite(draws)).sum())
    if undefined or not math.isfinite(value) or len(draws) < 2:
        raise DataError(
            f"Expected a statistic that is defined on every resample, got {undefined} of {len(draws)} undefined and "
            f"{value} on the tiles themselves. Add tiles, or report the value without an interval."
        )
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    # A biased statistic (calibration error) can lie outside its own resamples; then extend the interval to include it.
    return Interval(value=value, low=min(float(low), value), high=max(float(high), value))


def wilson_interval(successes: int, total: int, *, confidence: float = CONFIDENCE) -> Interval:
    """Compute Wilson's score interval of a proportion, which stays within 0 and 1 and is also valid for few tiles.

    Args:
        successes: Number of successes.
        total: Number of tiles, at least 1.
        confidence: Confidence level of the interval.

    Raises:
        DataError: The counts do not form a proportion.
    """
    _check_confidence(confidence)
    if not 0 <= successes <= total or total == 0:
        raise DataError(
            f"Expected 0 <= successes <= total and total > 0, got {successes} of {total}. Count tiles again."
        )
    low, high = binomtest(successes, total).proportion_ci(confidence, method="wilson")
    share = successes / total
    return Interval(value=share, low=min(float(low), share), high=max(float(high), share))


def auc_interval(value: float, *, num_positive: int, num_negative: int, confidence: float = CONFIDENCE) -> Interval:
    """Compute Newcombe's score interval of an area under the ROC curve, which has a positive width even for an area of 1.

    Args:
        value: The area, 0 to 1.
        num_positive: Number of positives, at least 1.
        num_negative: Number of negatives, at least 1.
        confidence: Confidence level of the interval.

    Raises:
        DataError: The area or the counts are out of range.
    """
    _check_confidence(confidence)
    if not 0 <= value <= 1 or min(num_positive, num_negative) < 1:
        raise DataError(
            f"Expected an area from 0 to 1 of at least one positive and one negative, got {value} of {num_positive} and "
            f"{num_negative}. Count tiles again."
        )
    quantile = norm.ppf((1 + confidence) / 2)
    mean_others = (num_positive + num_negative) / 2 - 1

    def excess(area: float) -> float:
        """Return by how much the distance of `area` from the estimate exceeds the interval's, squared."""
        spread = 1 + mean_others * ((1 - area) / (2 - area) + area / (1 + area))
        variance = area * (1 - area) * spread / (num_positive * num_negative)
        return float((area - value) ** 2 - quantile**2 * variance)

    edge = 1e-9  # at 0 and 1 the variance is 0, which would hide the other root of an area of 0 or 1
    low = brentq(excess, 0.0, min(value, 1 - edge)) if value > edge else 0.0
    high = brentq(excess, max(value, edge), 1.0) if value < 1 - edge else 1.0
    return Interval(value=value, low=min(float(low), value), high=max(float(high), value))


def paired_difference_interval(
    a_flags: NDArray[np.bool_], b_flags: NDArray[np.bool_], *, confidence: float = CONFIDENCE
) -> Interval:
    """Compute Newcombe's score interval of the share that A flags minus the share that B flags, of the same tiles.

    Unlike a bootstrap interval, it keeps a positive width if there are few tiles and all behave alike.

    Args:
        a_flags: Which tiles A flags, (N,), N at least 1.
        b_flags: Which of the same tiles B flags, (N,).
        confidence: Confidence level of the interval.

    Raises:
        DataError: The flags do not have the same shape (N,), or are empty.
    """
    a_flags, b_flags = _paired(a_flags, b_flags)
    total = len(a_flags)
    both, neither = int((a_flags & b_flags).sum()), int((~a_flags & ~b_flags).sum())
    only_a, only_b = int((a_flags & ~b_flags).sum()), int((~a_flags & b_flags).sum())
    first = wilson_interval(both + only_a, total, confidence=confidence)
    second = wilson_interval(both + only_b, total, confidence=confidence)
    margins = (both + only_a) * (only_b + neither) * (both + only_b) * (only_a + neither)
    joint = float(both * neither - only_a * only_b)
    if joint > 0:
        joint = max(joint - total / 2, 0.0)  # Newcombe's continuity correction
    correlation = joint / math.sqrt(margins) if margins else 0.0

    def reach(down: float, up: float) -> float:
        return math.sqrt(max(0.0, down * down - 2 * correlation * down * up + up * up))

    value = (only_a - only_b) / total
    return Interval(
        value=value,
        low=max(-1.0, value - reach(first.value - first.low, second.high - second.value)),
        high=min(1.0, value + reach(first.high - first.value, second.value - second.low)),
    )


def mcnemar_exact(a_flags: NDArray[np.bool_], b_flags: NDArray[np.bool_]) -> float:
    """Return the exact two-sided p-value of A and B flagging tiles equally often; 1.0 if they never disagree.

    Args:
        a_flags: Which tiles A flags, (N,).
        b_flags: Which of the same tiles B flags, (N,).

    Raises:
        DataError: The flags do not have the same shape (N,).
    """
    a_flags, b_flags = _paired(a_flags, b_flags)
    only_a, only_b = int((a_flags & ~b_flags).sum()), int((~a_flags & b_flags).sum())
    if only_a + only_b == 0:
        return 1.0
    return float(binomtest(only_a, only_a + only_b, 0.5).pvalue)


def _paired(a_flags: NDArray[np.bool_], b_flags: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    a_flags, b_flags = np.asarray(a_flags, dtype=np.bool_), np.asarray(b_flags, dtype=np.bool_)
    if a_flags.shape != b_flags.shape or a_flags.ndim != 1:
        raise DataError(
            f"Expected two flags per tile, got shapes {a_flags.shape} and {b_flags.shape}. Pair the tiles first."
        )
    return a_flags, b_flags


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise DataError(f"Expected a confidence between 0 and 1, got {confidence}. Use 0.95.")
