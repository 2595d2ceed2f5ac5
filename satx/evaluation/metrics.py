"""Metrics of one model on one split.

With two classes, metrics are those of the class of interest, `positive_index`; with more, the macro average over all
classes, each against the rest. `labels` are class indices (N,), `probabilities` have shape (N, C).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from satx.evaluation.arrays import Floats, Labels, Probabilities, checked, classes_of_interest, require_every_class
from satx.evaluation.calibration import SMALLEST_PROBABILITY, expected_calibration_error


def roc_auc(labels: Labels, probabilities: Probabilities, *, positive_index: int) -> float:
    """Return the area under the ROC curve: the share of correctly ranked positive-negative pairs; ties count half.

    Args:
        labels: Class indices, (N,).
        probabilities: One column per class, (N, C).
        positive_index: Index of the class of interest if there are two; with more, the areas of all are averaged.

    Raises:
        DataError: A class has no tiles, so the area is undefined.
    """
    labels, probabilities = checked(labels, probabilities)
    require_every_class(labels, probabilities.shape[1])
    classes = classes_of_interest(probabilities.shape[1], positive_index)
    return float(np.mean([_area(probabilities[:, index], labels == index) for index in classes]))


def _area(scores: Floats, is_positive: NDArray[np.bool_]) -> float:
    """Compute the Mann-Whitney statistic by sorting, which is fast enough for every bootstrap resample."""
    positives, negatives = np.sort(scores[is_positive]), np.sort(scores[~is_positive])
    below = np.searchsorted(negatives, positives, side="left").sum()
    not_above = np.searchsorted(negatives, positives, side="right").sum()
    return float(below + not_above) / (2 * len(positives) * len(negatives))


def accuracy(labels: Labels, probabilities: Probabilities) -> float:
    """Return the share of tiles whose most probable class is the true one."""
    labels, probabilities = checked(labels, probabilities)
    return float(np.mean(probabilities.argmax(axis=1) == labels))


def log_loss(labels: Labels, probabilities: Probabilities) -> float:
    """Return the mean cross-entropy in nats."""
    labels, probabilities = checked(labels, probabilities)
    of_the_truth = probabilities[np.arange(len(labels)), labels]  # (N,) float64
    return float(-np.log(of_the_truth.clip(SMALLEST_PROBABILITY, 1.0)).mean())


def brier_score(labels: Labels, probabilities: Probabilities) -> float:
    """Return the mean squared error of the probabilities: that of the class of interest, or summed over many classes.

    Brier, "Verification of Forecasts Expressed in Terms of Probability", Monthly Weather Review 78, 1950. Its sum over both
    of two classes is halved, as is usual, which gives a number from 0 to 1; with more classes it is 0 to 2.
    """
    labels, probabilities = checked(labels, probabilities)
    num_classes = probabilities.shape[1]
    squared = (probabilities - np.eye(num_classes)[labels]) ** 2  # (N, C) float64
    return float(squared.sum(axis=1).mean()) / (2 if num_classes == 2 else 1)


def average_precision(labels: Labels, probabilities: Probabilities, *, positive_index: int) -> float:
    """Return the mean precision over the recall steps, without interpolation.

    Raises:
        DataError: A class has no tiles.
    """
    labels, probabilities = checked(labels, probabilities)
    require_every_class(labels, probabilities.shape[1])
    classes = classes_of_interest(probabilities.shape[1], positive_index)
    return float(np.mean([average_precision_score(labels == index, probabilities[:, index]) for index in classes]))


def positives_over_threshold(
    probabilities: Probabilities, *, positive_index: int, threshold: float
) -> NDArray[np.bool_]:
    """Return which tiles reach a fixed threshold, (N,); a tile exactly on it is positive."""
    classes_of_interest(probabilities.shape[1], positive_index)
    return np.asarray(probabilities[:, positive_index] >= threshold, dtype=np.bool_)


def summary(labels: Labels, probabilities: Probabilities, *, positive_index: int) -> dict[str, float]:
    """Compute every metric that is reported for a model, by name.

    `precision`, `recall`, `f1` and `false_positive_rate` use the most probable class as the prediction, and are 0 where
    their denominator is 0.

    Args:
        labels: Class indices, (N,).
        probabilities: One column per class, (N, C).
        positive_index: Index of the class of interest if there are two; with more, metrics are averaged over all.

    Returns:
        `auc accuracy loss precision recall f1 false_positive_rate average_precision ece`.

    Raises:
        DataError: A class has no tiles.
    """
    labels, probabilities = checked(labels, probabilities)
    num_classes = probabilities.shape[1]
    pairs = labels * num_classes + probabilities.argmax(axis=1)
    counts = np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)  # (C, C), rows true
    hits = counts.diagonal()
    false_alarms, misses = counts.sum(axis=0) - hits, counts.sum(axis=1) - hits
    others = counts.sum() - counts.sum(axis=1)
    per_class = {
        "precision": _share(hits, hits + false_alarms),
        "recall": _share(hits, hits + misses),
        "f1": _share(2 * hits, 2 * hits + false_alarms + misses),
        "false_positive_rate": _share(false_alarms, others),
    }
    classes = classes_of_interest(num_classes, positive_index)
    return {
        "auc": roc_auc(labels, probabilities, positive_index=positive_index),
        "accuracy": accuracy(labels, probabilities),
        "loss": log_loss(labels, probabilities),
        **{name: float(values[classes].mean()) for name, values in per_class.items()},
        "average_precision": average_precision(labels, probabilities, positive_index=positive_index),
        "ece": expected_calibration_error(labels, probabilities),
    }


def _share(part: NDArray[np.int64], whole: NDArray[np.int64]) -> Floats:
    return part / np.maximum(whole, 1)
