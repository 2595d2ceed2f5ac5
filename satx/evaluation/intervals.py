"""How sure a figure is: bootstrap, Wilson and Newcombe intervals, and the exact paired test.

Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13 (percentile interval).
Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", JASA 22, 1927.
Newcombe, "Improved confidence intervals for the difference between binomial proportions based on paired data",
Statistics in Medicine 17, 1998, method 10.
McNemar, "Note on the sampling error of the difference between correlated proportions", Psychometrika 12, 1947.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from satx.errors import DataError
from satx.evaluation.arrays import Floats, Labels, Probabilities, checked

Statistic = Callable[[Labels, Probabilities], float]

NUM_RESAMPLES = 2000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A figure and the range it may well lie in.

    Attributes:
        value: The figure itself; always within `low` and `high`.
        low: Lower end.
        high: Upper end.
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """`0.941 (0.902 to 0.973)`."""
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
    """Percentile bootstrap over tiles, each class resampled on its own, so that an AUC is always defined.

    A figure that no resample can change (an AUC of exactly 1) gets an interval of no width: too sure on few tiles.

    Args:
        statistic: Takes labels and probabilities, returns a number; `partial(roc_auc, positive_index=1)`.
        labels: Class indices, (N,).
        probabilities: One column a class, (N, C).
        seed: Equal seeds draw equal resamples.
        num_resamples: How many.
        confidence: Of the interval.

    Raises:
        DataError: The statistic is undefined on some resample.
    """
    labels, probabilities = checked(labels, probabilities)
    value = statistic(labels, probabilities)
    draws = [
        statistic(labels[rows], probabilities[rows]) for rows in _resamples(labels, seed=seed, times=num_resamples)
    ]
    return _percentile_interval(value, np.array(draws), confidence=confidence)


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
    """The statistic of A minus that of B, where both answered the same tiles: each resample draws tiles for both.

    Raises:
        DataError: The statistic is undefined on some resample.
    """
    labels, first = checked(labels, probabilities_a)
    _, second = checked(labels, probabilities_b)
    value = statistic(labels, first) - statistic(labels, second)
    draws = [
        statistic(labels[rows], first[rows]) - statistic(labels[rows], second[rows])
        for rows in _resamples(labels, seed=seed, times=num_resamples)
    ]
    return _percentile_interval(value, np.array(draws), confidence=confidence)


def _resamples(labels: Labels, *, seed: int, times: int) -> Iterator[NDArray[np.int64]]:
    """Row numbers drawn with replacement, (N,) a resample, with as many of each class as there are."""
    random = np.random.default_rng(seed)
    strata = [np.flatnonzero(labels == index) for index in np.unique(labels)]
    for _ in range(times):
        yield np.concatenate([rows[random.integers(len(rows), size=len(rows))] for rows in strata])


def _percentile_interval(value: float, draws: Floats, *, confidence: float) -> Interval:
    _check_confidence(confidence)
    undefined = int((~np.isfinite(draws)).sum())
    if undefined or not math.isfinite(value) or len(draws) < 2:
        raise DataError(
            f"Expected a statistic that is a number on every resample, got {undefined} of {len(draws)} undefined and "
            f"{value} on the tiles themselves. Add tiles, or report the figure without an interval."
        )
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    # A biased statistic (calibration error) can fall outside its own resamples; its interval then reaches out to it.
    return Interval(value=value, low=min(float(low), value), high=max(float(high), value))


def wilson_interval(successes: int, total: int, *, confidence: float = CONFIDENCE) -> Interval:
    """Wilson's score interval of a proportion: stays within 0 and 1 and is right for few tiles too.

    Args:
        successes: How many of them.
        total: Of how many, at least 1.
        confidence: Of the interval.

    Raises:
        DataError: The counts are no proportion.
    """
    _check_confidence(confidence)
    if not 0 <= successes <= total or total == 0:
        raise DataError(
            f"Expected 0 <= successes <= total and total > 0, got {successes} of {total}. Count tiles again."
        )
    low, high = binomtest(successes, total).proportion_ci(confidence, method="wilson")
    share = successes / total
    return Interval(value=share, low=min(float(low), share), high=max(float(high), share))


def paired_difference_interval(
    a_flags: NDArray[np.bool_], b_flags: NDArray[np.bool_], *, confidence: float = CONFIDENCE
) -> Interval:
    """The share that A flags minus the share that B flags, of the same tiles: Newcombe's score interval.

    Keeps a width where every tile of a few behaves alike, which a bootstrap does not.

    Args:
        a_flags: What A says of each tile, (N,), N at least 1.
        b_flags: What B says of the same tiles, (N,).
        confidence: Of the interval.

    Raises:
        DataError: The two do not speak of the same tiles, or of none.
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
        joint = max(joint - total / 2, 0.0)  # his continuity correction
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
    """Two-sided exact p-value that A and B flag the same tiles equally often; 1.0 where they never disagree.

    Args:
        a_flags: What A says of each tile, (N,).
        b_flags: What B says of the same tiles, (N,).

    Raises:
        DataError: The two do not speak of the same tiles.
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
            f"Expected two flags a tile, got shapes {a_flags.shape} and {b_flags.shape}. Pair the tiles first."
        )
    return a_flags, b_flags


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise DataError(f"Expected a confidence between 0 and 1, got {confidence}. Use 0.95.")
