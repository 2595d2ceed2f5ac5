"""All scores of one model on one split, with intervals: whole, per class and per slice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from satx.errors import DataError, nearest_name
from satx.evaluation.arrays import Floats, Labels, Probabilities, checked, classes_of_interest
from satx.evaluation.calibration import NUM_BINS, SMALLEST_PROBABILITY, confidence_bins
from satx.evaluation.intervals import (
    NUM_RESAMPLES,
    Interval,
    auc_interval,
    percentile_interval,
    resamples,
    wilson_interval,
)
from satx.evaluation.metrics import positives_over_threshold
from satx.evaluation.operating_point import most_tiles
from satx.evaluation.slices import UNKNOWN, Slices, members_by_slice

RECALL_AT = (0.01, 0.05, 0.1)  # false-positive rates at which recall is reported
RANKING = ("auc", "average_precision", *(f"recall_at_fpr_{rate:g}" for rate in RECALL_AT))

FEWEST_RESAMPLES = 500
MOST_DRAWS = 20_000_000  # tiles in all resamples: 10,000 tiles are resampled 2,000 times, 40,000 and more 500 times
CHUNK_DRAWS = 500_000  # tiles in the resamples that are in memory at once, 4 MB an array


@dataclass(frozen=True)
class Assessment:
    """Scores of a model on a split.

    Attributes:
        table: One row per score: `scope` (`all`, `class` or `slice`), `name` (of the class or slice; empty for `all`),
            `metric`, `value`, `low`, `high` (NaN where the score or its interval is undefined) and `num_tiles` (of the
            split, class or slice).
    """

    table: pd.DataFrame

    def interval(self, metric: str, *, scope: str = "all", name: str = "") -> Interval:
        """Return one score with its interval, NaN if it is undefined.

        Raises:
            DataError: There is no such scope, name or metric.
        """
        rows = self.table
        for column, wanted in (("scope", scope), ("name", name), ("metric", metric)):
            known = rows[column].unique()
            if wanted not in known:
                raise DataError(f"Expected a {column} of the assessment, got {wanted!r}. {nearest_name(wanted, known)}")
            rows = rows[rows[column] == wanted]
        row = rows.iloc[0]
        return Interval(value=float(row["value"]), low=float(row["low"]), high=float(row["high"]))


def assess(
    labels: Labels,
    probabilities: Probabilities,
    *,
    classes: Sequence[str],
    positive_class: str,
    threshold: float,
    slices: Slices | None = None,
) -> Assessment:
    """Compute all scores of a model, with 95% intervals: on all tiles, and per class (if there are more than two) and slice.

    Metrics, for all tiles and for each slice:

    - `accuracy` of the most probable class; `recall`, `false_positive_rate` and `precision` of the class of interest against
      the rest at `threshold`. Intervals are Wilson's.
    - `auc`, `average_precision` and `recall_at_fpr_0.01`, `_0.05` and `_0.1` of the class of interest if there are two, else
      the mean over all classes, each against the rest; `brier`, `loss`, `calibration_gap` and `ece`. Intervals are those
      of the bootstrap over tiles within classes, of 2,000 resamples, and of fewer above 10,000 tiles.

    For a class, the ranking metrics, `brier`, `recall`, `false_positive_rate` and `precision` of this class against the rest;
    the last three take the most probable class as the prediction, since only the class of interest has a threshold.

    Perfectly ranked tiles are so in every resample. Where no resample changes them, `auc` has Newcombe's interval and
    `recall_at_fpr_…` Wilson's (with more than two classes, the mean of theirs), while that of `average_precision` has no
    width and is too narrow. Where no class has two tiles, the other bootstrap intervals are NaN. A score that is undefined,
    such as the recall of a slice without positives, is NaN with its interval.

    Equal labels and slices give equal resamples, so two models on the same tiles are compared on the same resamples. 20,000
    tiles of two classes in ten slices take about 5 s of processor time, 127 tiles less than one.

    Args:
        labels: Class indices, (N,).
        probabilities: One column per class, (N, C).
        classes: Names of the classes, in the order of the columns.
        positive_class: Name of the class of interest.
        threshold: Lowest probability of the class of interest at which a tile is called positive.
        slices: The slice of each tile, (N,); tiles without one are grouped under `(none)`.

    Raises:
        DataError: The arrays, classes and slices do not fit each other.
    """
    labels, values = checked(labels, probabilities)
    if len(classes) != values.shape[1] or positive_class not in classes:
        raise DataError(
            f"Expected {values.shape[1]} classes, one of them {positive_class!r}, got {', '.join(classes)}. "
            "Use the classes and the positive class of the model."
        )
    positive_index = list(classes).index(positive_class)
    flagged = positives_over_threshold(values, positive_index=positive_index, threshold=threshold)

    whole, by_class = _scores(labels, values, flagged, positive_index)
    rows = _rows("all", "", whole, num_tiles=len(labels))
    if len(classes) > 2:
        for index, name in enumerate(classes):
            rows += _rows("class", name, by_class[index], num_tiles=int((labels == index).sum()))
    for name, members in members_by_slice(slices, num_tiles=len(labels)) if slices is not None else ():
        of_slice, _ = _scores(labels[members], values[members], flagged[members], positive_index)
        rows += _rows("slice", name, of_slice, num_tiles=int(members.sum()))
    return Assessment(pd.DataFrame(rows))


def _rows(scope: str, name: str, scores: Mapping[str, Interval], *, num_tiles: int) -> list[dict[str, object]]:
    return [
        {
            "scope": scope,
            "name": name,
            "metric": metric,
            "value": found.value,
            "low": found.low,
            "high": found.high,
            "num_tiles": num_tiles,
        }
        for metric, found in scores.items()
    ]


def _scores(
    labels: NDArray[np.int64], probabilities: Floats, flagged: NDArray[np.bool_], positive_index: int
) -> tuple[dict[str, Interval], list[dict[str, Interval]]]:
    """Return the scores of some tiles, and those of each class (of the class of interest only, if there are two)."""
    num_classes = probabilities.shape[1]
    of_interest = classes_of_interest(num_classes, positive_index)
    means, ranking = _resampled(labels, probabilities, of_interest)
    squared, loss, gaps = means[:num_classes], means[num_classes], means[num_classes + 1 :]
    predicted = probabilities.argmax(axis=1)
    whole = {
        "accuracy": _share(predicted == labels),
        **_ranking_intervals(ranking, labels, of_interest),
        "brier": _bootstrap(squared.sum(axis=0) / (2 if num_classes == 2 else 1)),
        "loss": _bootstrap(loss),
        "calibration_gap": _bootstrap(gaps.sum(axis=0)),
        "ece": _bootstrap(np.abs(gaps).sum(axis=0)),
        **_rates(flagged, labels == positive_index),
    }
    by_class = [
        {
            **_ranking_intervals(ranking[[row]], labels, [index]),
            "brier": _bootstrap(squared[index]),
            **_rates(predicted == index, labels == index),
        }
        for row, index in enumerate(of_interest)
    ]
    return whole, by_class


def _rates(flagged: NDArray[np.bool_], is_positive: NDArray[np.bool_]) -> dict[str, Interval]:
    return {
        "recall": _share(flagged[is_positive]),
        "false_positive_rate": _share(flagged[~is_positive]),
        "precision": _share(is_positive[flagged]),
    }


def _share(flags: NDArray[np.bool_]) -> Interval:
    return wilson_interval(int(flags.sum()), len(flags)) if len(flags) else UNKNOWN


def _bootstrap(draws: Floats) -> Interval:
    """Return the interval of a score from its value on the tiles, which comes first, and on the resamples, (1 + R,)."""
    value = float(draws[0])
    if np.isnan(value):
        return UNKNOWN
    return percentile_interval(value, draws[1:]) if len(draws) > 1 else Interval(value=value, low=np.nan, high=np.nan)


def _ranking_intervals(ranking: Floats, labels: NDArray[np.int64], classes: Sequence[int]) -> dict[str, Interval]:
    """Return the means of the ranking metrics over classes, from (classes, metrics, 1 + R) values."""
    found = {}
    for metric, of_classes in zip(RANKING, ranking.swapaxes(0, 1), strict=True):
        draws = of_classes.mean(axis=0)
        if metric != "average_precision" and np.ptp(draws) < 1e-12:
            found[metric] = _unchanged_interval(metric, of_classes[:, 0], labels, classes)
        else:
            found[metric] = _bootstrap(draws)
    return found


def _unchanged_interval(metric: str, values: Floats, labels: NDArray[np.int64], classes: Sequence[int]) -> Interval:
    """Return the interval of a mean over classes that no resample changes, from the intervals of the classes."""
    bounds = []
    for value, index in zip(values, classes, strict=True):
        num_positive = int((labels == index).sum())
        if metric == "auc":
            found = auc_interval(float(value), num_positive=num_positive, num_negative=len(labels) - num_positive)
        else:
            found = wilson_interval(round(value * num_positive), num_positive)
        bounds.append((found.value, found.low, found.high))
    return Interval(*(float(mean) for mean in np.mean(bounds, axis=0)))


def _resampled(labels: NDArray[np.int64], probabilities: Floats, of_interest: Sequence[int]) -> tuple[Floats, Floats]:
    """Compute means over tiles and ranking metrics on the tiles themselves, which come first, and on R resamples.

    Returns:
        Means of the columns of `_terms`, (columns, 1 + R), and ranking metrics, (classes of interest, metrics, 1 + R).
    """
    terms = _terms(labels, probabilities)
    means, ranking = [], []
    for weights in _weights(labels):
        means.append((weights @ terms).T / len(labels))
        ranking.append([_ranking(probabilities[:, index], labels == index, weights) for index in of_interest])
    return np.concatenate(means, axis=1), np.concatenate(ranking, axis=2)


def _weights(labels: NDArray[np.int64]) -> Iterator[Floats]:
    """Yield how often each tile is drawn, (resamples, N) at a time; the very first row draws each tile once."""
    num_tiles = len(labels)
    times = max(FEWEST_RESAMPLES, min(NUM_RESAMPLES, MOST_DRAWS // num_tiles))
    if np.bincount(labels).max() == 1:
        times = 0  # without two tiles of a class, every resample would be the tiles themselves
    drawn = (np.bincount(rows, minlength=num_tiles) for rows in resamples(labels, seed=0, times=times))
    counts = chain([np.ones(num_tiles, dtype=np.int64)], drawn)
    while chunk := list(islice(counts, max(1, CHUNK_DRAWS // num_tiles))):
        yield np.stack(chunk).astype(np.float64)


def _terms(labels: NDArray[np.int64], probabilities: Floats) -> Floats:
    """Return what each tile adds to the scores that are means: squared error per class, loss, gap per bin; (N, C + 16)."""
    every = np.arange(len(labels))
    squared = (probabilities - np.eye(probabilities.shape[1])[labels]) ** 2
    loss = -np.log(probabilities[every, labels].clip(SMALLEST_PROBABILITY, 1.0))
    confidence = probabilities.max(axis=1)
    gaps = np.zeros((len(labels), NUM_BINS))
    gaps[every, confidence_bins(confidence)] = confidence - (probabilities.argmax(axis=1) == labels)
    return np.column_stack([squared, loss, gaps])


def _ranking(scores: Floats, is_positive: NDArray[np.bool_], weights: Floats) -> Floats:
    """Compute the ranking metrics of one class against the rest, for each row of weights, (metrics, rows)."""
    num_positive, num_negative = int(is_positive.sum()), int((~is_positive).sum())
    if not num_positive or not num_negative:
        return np.full((len(RANKING), len(weights)), np.nan)
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))  # of each group of equal scores, its last tile
    drawn = weights[:, order]
    hits = np.cumsum(drawn * is_positive[order], axis=1)[:, last]  # (rows, groups), true positives at or above a score
    false_alarms = np.cumsum(drawn, axis=1)[:, last] - hits
    new_hits = np.diff(hits, prepend=0.0, axis=1)
    new_false_alarms = np.diff(false_alarms, prepend=0.0, axis=1)
    area = (new_false_alarms * (hits - new_hits / 2)).sum(axis=1) / (num_positive * num_negative)
    precision = hits / np.maximum(hits + false_alarms, 1)
    average_precision = (new_hits * precision).sum(axis=1) / num_positive
    recalls = [
        (hits * (false_alarms <= most_tiles(rate, num_negative))).max(axis=1) / num_positive for rate in RECALL_AT
    ]
    return np.stack([area, average_precision, *recalls])
