"""Operating points: the threshold at which a tile counts as positive, chosen by a rule.

Youden, "Index for rating diagnostic tests", Cancer 3, 1950.
van Rijsbergen, "Information Retrieval", 1979, chapter 7 (F-beta).
"""

from __future__ import annotations

from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from satx.config import Frozen
from satx.errors import DataError
from satx.evaluation.arrays import Floats, Labels, Probabilities, checked, classes_of_interest

# A threshold keeps half of it as distance from the scores next to it: float32 rounds by up to 6e-8.
SMALLEST_GAP = 1e-6


class ThresholdRule(Frozen):
    """How to choose the threshold of the class of interest.

    `youden` maximizes the recall minus the false-positive rate, and `f2` the F-score that weighs recall twice as much as
    precision. `recall_at_fpr` takes the lowest threshold whose false-positive rate is at most `at`, `fpr_at_recall` the
    highest whose recall is at least `at`.
    """

    rule: Literal["youden", "f2", "recall_at_fpr", "fpr_at_recall"]
    at: float | None = Field(None, ge=0, le=1, description="the false-positive rate or the recall to keep")

    @model_validator(mode="after")
    def _at_belongs_to_the_rule(self) -> Self:
        if (self.at is None) == (self.rule in ("recall_at_fpr", "fpr_at_recall")):
            raise ValueError(
                f"expected `at` with recall_at_fpr and fpr_at_recall only, got rule={self.rule} with at={self.at}. "
                "Use for example {rule: recall_at_fpr, at: 0.05}, or {rule: youden}."
            )
        return self

    def __str__(self) -> str:
        """Format as `youden` or `recall_at_fpr(0.05)`."""
        return self.rule if self.at is None else f"{self.rule}({self.at:g})"


def choose_threshold(
    labels: Labels, probabilities: Probabilities, rule: ThresholdRule, *, positive_index: int
) -> float:
    """Choose the threshold of the class of interest by a rule; a tile exactly on the threshold is positive.

    Thresholds lie in the middle between two neighbouring scores (or 0 and the lowest, or the highest and 1), so that
    rounding moves no tile across. Where several are equally good, `youden` and `f2` take the one in the widest gap, and the
    lowest of equally wide ones.

    Args:
        labels: Class indices of tiles that took no part in training, (N,).
        probabilities: One column per class, (N, C), after calibration if there is one.
        rule: The rule.
        positive_index: Index of the class of interest; all others count as negative.

    Returns:
        A threshold between 0 and 1, neither included.

    Raises:
        DataError: The class of interest or the others have no tiles, or no threshold satisfies the rule.
    """
    scores, is_positive = _scores(labels, probabilities, positive_index)
    thresholds, gaps = _thresholds(scores)
    positives, negatives = np.sort(scores[is_positive]), np.sort(scores[~is_positive])
    hits = len(positives) - np.searchsorted(positives, thresholds)  # (thresholds,) int, number of true positives
    false_alarms = len(negatives) - np.searchsorted(negatives, thresholds)
    if rule.at is None:
        youden = hits * len(negatives) - false_alarms * len(positives)  # as integers, in which ties are exact
        f2 = 5 * hits / (4 * len(positives) + hits + false_alarms)
        return _best(youden if rule.rule == "youden" else f2, thresholds, gaps)
    if rule.rule == "recall_at_fpr":
        suitable = thresholds[false_alarms <= most_tiles(rule.at, len(negatives))]
        extreme = false_alarms.min() / len(negatives)
    else:
        suitable = thresholds[hits >= len(positives) - most_tiles(1 - rule.at, len(positives))]
        extreme = hits.max() / len(positives)
    if not suitable.size:
        raise DataError(
            f"Expected a threshold between 0 and 1 for {rule}, got none: the nearest rate that a threshold reaches is "
            f"{extreme:.3g}. Choose another rate, or the rule youden."
        )
    return float(suitable[0] if rule.rule == "recall_at_fpr" else suitable[-1])


def threshold_at_recall(labels: Labels, probabilities: Probabilities, *, positive_index: int, recall: float) -> float:
    """Return the highest threshold whose recall is at least the given one, as `choose_threshold` does by `fpr_at_recall`.

    Unlike there, the threshold is 0 if only that reaches the recall: it calls every tile positive.

    Args:
        labels: Class indices of tiles that took no part in training, (N,).
        probabilities: One column per class, (N, C).
        positive_index: Index of the class of interest; all others count as negative.
        recall: Recall to keep, 0 to 1.

    Raises:
        DataError: The class of interest or the others have no tiles.
    """
    _scores(labels, probabilities, positive_index)  # what it raises is an error here too
    try:
        rule = ThresholdRule(rule="fpr_at_recall", at=recall)
        return choose_threshold(labels, probabilities, rule, positive_index=positive_index)
    except DataError:
        return 0.0


def recall_at_fpr(
    labels: Labels, probabilities: Probabilities, *, positive_index: int, false_positive_rate: float
) -> float:
    """Return the highest recall of any threshold whose false-positive rate is at most the given one.

    It is read off the empirical ROC curve without interpolation, so a threshold with this recall exists.

    Args:
        labels: Class indices, (N,).
        probabilities: One column per class, (N, C).
        positive_index: Index of the class of interest; all others count as negative.
        false_positive_rate: Largest share of negatives over the threshold, 0 to 1.

    Raises:
        DataError: The class of interest or the others have no tiles.
    """
    scores, is_positive = _scores(labels, probabilities, positive_index)
    negatives = np.sort(scores[~is_positive])[::-1]
    allowed = most_tiles(false_positive_rate, len(negatives))
    if allowed >= len(negatives):
        return 1.0
    # Of the first negative that is one too many, all tiles with its score are below the threshold.
    return float((scores[is_positive] > negatives[allowed]).mean())


def _scores(labels: Labels, probabilities: Probabilities, positive_index: int) -> tuple[Floats, NDArray[np.bool_]]:
    """Return the scores of the class of interest, (N,), and which tiles belong to it."""
    labels, values = checked(labels, probabilities)
    classes_of_interest(values.shape[1], positive_index)
    is_positive = labels == positive_index
    if is_positive.all() or not is_positive.any():
        raise DataError(
            f"Expected tiles of the class of interest and of others, got {int(is_positive.sum())} of it among "
            f"{len(labels)}. Add tiles of the missing ones to the split."
        )
    return values[:, positive_index], is_positive


def _thresholds(scores: Floats) -> tuple[Floats, Floats]:
    """Return the middles between neighbouring scores that are far enough apart, ascending, and their gaps."""
    ends = np.unique(np.concatenate([[0.0, 1.0], scores.clip(0.0, 1.0)]))
    gaps = np.diff(ends)
    wide = gaps >= min(SMALLEST_GAP, gaps.max())
    return ends[:-1][wide] + gaps[wide] / 2, gaps[wide]


def _best(objective: NDArray[np.floating | np.integer], thresholds: Floats, gaps: Floats) -> float:
    best = np.flatnonzero(objective == objective.max())
    return float(thresholds[best[gaps[best].argmax()]])


def most_tiles(rate: float, total: int) -> int:
    """Return the largest number of tiles whose share is at most `rate`; 0.29 of 100 are 29, in spite of rounding."""
    return int(rate * total + 1e-9)
