"""Two models on the same tiles: false positives beside recall at two operating points, and how well each model ranks.

False positives at a fixed threshold say nothing alone: a model whose probabilities are lower raises fewer of them and finds fewer
tiles of the class of interest. So they are reported beside the recall, and a second time at the threshold with which each model
reaches the same recall on its own validation tiles. The area under the ROC curve depends on no threshold.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from satx.errors import DataError
from satx.evaluation.arrays import Floats
from satx.evaluation.intervals import (
    NUM_RESAMPLES,
    Interval,
    auc_interval,
    mcnemar_exact,
    paired_difference_interval,
    percentile_interval,
    resamples,
    wilson_interval,
)
from satx.evaluation.operating_point import threshold_at_recall
from satx.evaluation.slices import Slices, members_by_slice

FIXED, EQUAL_RECALL = "fixed", "equal_recall"  # in the column `point`
RECALL, FALSE_POSITIVE_RATE, AUC = "recall", "false_positive_rate", "auc"  # in the column `measure`
ALL_SLICES = ""  # in the column `slice`
KEPT_RECALL = 0.9  # on the validation tiles, at the second operating point
NUM_THRESHOLDS = 500  # resamples on which thresholds are chosen anew, which takes longer than all else
CHUNK_DRAWS = 4_000_000  # tiles that are drawn at a time, 32 MB

Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class ModelScores:
    """A model's scores of the class of interest.

    Attributes:
        test: Scores of the test tiles that both models predicted, (N,) float64.
        valid: Scores of the model's own validation tiles, (V,) float64.
        valid_positive: Which of these are of the class of interest, (V,).
        valid_tiles: Their identities, (V,); tiles that both models validated on have the same.
    """

    test: Floats
    valid: Floats
    valid_positive: Flags
    valid_tiles: Sequence[str]


class Members(NamedTuple):
    """Tiles of which a rate is reported: those of the class of interest, or the negatives of a slice."""

    measure: str
    slice: str
    flags: Flags


def compare_models(
    is_positive: Flags, slices: Slices, models: Mapping[str, ModelScores], *, threshold: float
) -> pd.DataFrame:
    """Compare two models on the same test tiles at a fixed threshold, at equal recall, and by their ranking.

    Intervals of 95%: Wilson's of a rate, and Newcombe's paired interval of a difference. At equal recall, the interval of a
    difference also covers a paired bootstrap that redraws the validation tiles and chooses both thresholds anew, because these
    thresholds depend on few tiles. Areas have Newcombe's interval, their differences a paired bootstrap.

    Args:
        is_positive: Which test tiles are of the class of interest, (N,).
        slices: The slice of each test tile, (N,).
        models: Two models by name, in the order of comparison.
        threshold: The fixed threshold; a tile exactly on it is positive.

    Returns:
        One row per point, measure and slice: `point measure slice num_tiles label_a label_b threshold_a threshold_b flagged_a
        flagged_b value_a value_a_low value_a_high value_b value_b_low value_b_high difference difference_low difference_high
        num_only_a num_only_b p_value`. Differences are B minus A. `slice` is empty for all slices together, which is left out
        if there is only one. Areas have no point, thresholds, counts and p-value. The slice with the largest decrease
        of false positives at the fixed threshold comes first.

    Raises:
        DataError: The number of models is not two, or the test tiles or a model's validation tiles are all of one kind.
    """
    if len(models) != 2:
        raise DataError(f"Expected two models to compare, got {len(models)}. Name exactly two.")
    if is_positive.all() or not is_positive.any():
        raise DataError(
            f"Expected test tiles of the class of interest and of others, got {int(is_positive.sum())} of it among "
            f"{len(is_positive)}. Compare sessions that share tiles of both."
        )
    names, pair = dict(zip(("label_a", "label_b"), models, strict=True)), list(models.values())
    positives = Members(RECALL, ALL_SLICES, is_positive)
    flags = [model.test >= threshold for model in pair]
    groups = _by_decrease(_negatives(is_positive, slices), flags)
    rows = []
    for members in (positives, *groups):
        at_fixed = {"point": FIXED, "threshold_a": threshold, "threshold_b": threshold}
        rows.append(at_fixed | _rates(members, flags))
    chosen = [_own_threshold(model, np.arange(len(model.valid))) for model in pair]
    flags = [model.test >= own for model, own in zip(pair, chosen, strict=True)]
    draws = _redrawn(pair, positives, groups)
    for members, of_members in zip((positives, *groups), draws.T, strict=True):
        at_equal = {"point": EQUAL_RECALL, "threshold_a": chosen[0], "threshold_b": chosen[1]}
        rows.append(at_equal | _widened(_rates(members, flags), of_members))
    rows += [{"point": ""} | row for row in _areas(is_positive, groups, pair)]
    return pd.DataFrame([names | row for row in rows])


def _negatives(is_positive: Flags, slices: Slices) -> list[Members]:
    """Return the negatives of all slices, if there are several, and then those of each."""
    found = [
        Members(FALSE_POSITIVE_RATE, name, members & ~is_positive)
        for name, members in members_by_slice(slices, num_tiles=len(is_positive))
        if (members & ~is_positive).any()
    ]
    return [*([Members(FALSE_POSITIVE_RATE, ALL_SLICES, ~is_positive)] if len(found) > 1 else []), *found]


def _by_decrease(groups: list[Members], flags: list[Flags]) -> list[Members]:
    def key(members: Members) -> tuple[bool, float]:
        first, second = (of_model[members.flags].mean() for of_model in flags)
        return members.slice != ALL_SLICES, second - first

    return sorted(groups, key=key)


def _rates(members: Members, flags: list[Flags]) -> dict[str, Any]:
    """Return how many of some tiles each model flags, and the difference."""
    flags_a, flags_b = (of_model[members.flags] for of_model in flags)
    return {
        "measure": members.measure,
        "slice": members.slice,
        "num_tiles": len(flags_a),
        "flagged_a": int(flags_a.sum()),
        "flagged_b": int(flags_b.sum()),
        **_columns("value_a", wilson_interval(int(flags_a.sum()), len(flags_a))),
        **_columns("value_b", wilson_interval(int(flags_b.sum()), len(flags_b))),
        **_columns("difference", paired_difference_interval(flags_b, flags_a)),
        "num_only_a": int((flags_a & ~flags_b).sum()),
        "num_only_b": int((~flags_a & flags_b).sum()),
        "p_value": mcnemar_exact(flags_a, flags_b),
    }


def _widened(row: dict[str, Any], draws: Floats) -> dict[str, Any]:
    """Widen the interval of a row's difference by that of its redrawn values, (R,)."""
    drawn = percentile_interval(row["difference"], draws)
    low, high = min(row["difference_low"], drawn.low), max(row["difference_high"], drawn.high)
    return row | {"difference_low": low, "difference_high": high}


def _areas(is_positive: Flags, groups: Sequence[Members], pair: list[ModelScores]) -> list[dict[str, Any]]:
    """Return the area under the ROC curve of each model, positives against the negatives of a group, and the difference."""
    drawn = np.concatenate([_drawn_areas(is_positive, groups, pair, rows) for rows in _chunks(is_positive, groups)])
    found = []
    for number, members in enumerate(groups):
        first, second = drawn[:, number].T  # the first row is that of the tiles themselves
        counts = {"num_positive": int(is_positive.sum()), "num_negative": int(members.flags.sum())}
        found.append(
            {
                "measure": AUC,
                "slice": members.slice,
                "num_tiles": counts["num_negative"],
                **_columns("value_a", auc_interval(float(first[0]), **counts)),
                **_columns("value_b", auc_interval(float(second[0]), **counts)),
                **_columns("difference", percentile_interval(float(second[0] - first[0]), (second - first)[1:])),
            }
        )
    return found


def _chunks(is_positive: Flags, groups: Sequence[Members]) -> Iterator[NDArray[np.int64]]:
    """Yield rows of the test tiles, drawn with replacement, (resamples, N) at a time; the very first row has each tile once."""
    drawn = resamples(_kinds_of_tests(is_positive, groups), seed=0, times=NUM_RESAMPLES)
    every = chain([np.arange(len(is_positive))], drawn)
    while chunk := list(islice(every, max(1, CHUNK_DRAWS // len(is_positive)))):
        yield np.stack(chunk)


def _drawn_areas(
    is_positive: Flags, groups: Sequence[Members], pair: list[ModelScores], rows: NDArray[np.int64]
) -> Floats:
    """Return areas on resamples, (resamples, groups, models), from the rows of each, (resamples, N)."""
    weights = np.stack([np.bincount(of_one, minlength=len(is_positive)) for of_one in rows]).astype(np.float64)
    areas = np.zeros((len(rows), len(groups), len(pair)))
    for position, model in enumerate(pair):
        order = np.argsort(model.test, kind="stable")
        starts = np.flatnonzero(
            np.diff(model.test[order], prepend=-1.0)
        )  # of each group of equal scores, its first tile
        hits = np.add.reduceat(weights[:, order] * is_positive[order], starts, axis=1)
        for number, members in enumerate(groups):
            alarms = np.add.reduceat(weights[:, order] * members.flags[order], starts, axis=1)
            below = np.cumsum(alarms, axis=1) - alarms / 2  # equal scores count half
            areas[:, number, position] = (hits * below).sum(axis=1) / (hits.sum(axis=1) * alarms.sum(axis=1))
    return areas


def _kinds_of_tests(is_positive: Flags, groups: Sequence[Members]) -> NDArray[np.int64]:
    """Return a number for each test tile: 0 for positives, and another one for the negatives of each slice."""
    kinds = np.zeros(len(is_positive), dtype=np.int64)
    by_name = sorted(groups, key=lambda members: members.slice)  # so that draws depend on no order of the models
    for number, members in enumerate(by_name, start=1):
        if members.slice != ALL_SLICES:
            kinds[members.flags] = number
    return kinds


def _redrawn(pair: list[ModelScores], positives: Members, groups: Sequence[Members]) -> Floats:
    """Return differences of rates on redrawn test tiles, at thresholds chosen on redrawn validation tiles, (R, 1 + groups).

    A validation tile that both models have is drawn for both or for neither. Each kind of tiles keeps its number: the positives
    and the negatives of each slice among the test tiles, and positives and negatives that one model or both have in valid.
    """
    places = _places(pair)
    draws = []
    for rows, valid_rows in zip(
        resamples(_kinds_of_tests(positives.flags, groups), seed=0, times=NUM_THRESHOLDS),
        resamples(_kinds_of_valid(pair, places), seed=1, times=NUM_THRESHOLDS),
        strict=True,
    ):
        own = [_own_threshold(model, of_model[valid_rows]) for model, of_model in zip(pair, places, strict=True)]
        flags_a, flags_b = (model.test[rows] >= chosen for model, chosen in zip(pair, own, strict=True))
        difference = flags_b.astype(np.float64) - flags_a
        draws.append([difference[members.flags[rows]].mean() for members in (positives, *groups)])
    return np.array(draws)


def _places(pair: list[ModelScores]) -> list[NDArray[np.int64]]:
    """Return, for each model, the row of every validation tile that either has, (U,); -1 where the model does not have it."""
    union = {tile: number for number, tile in enumerate(dict.fromkeys([*pair[0].valid_tiles, *pair[1].valid_tiles]))}
    places = []
    for model in pair:
        of_model = np.full(len(union), -1, dtype=np.int64)
        of_model[[union[tile] for tile in model.valid_tiles]] = np.arange(len(model.valid_tiles))
        places.append(of_model)
    return places


def _kinds_of_valid(pair: list[ModelScores], places: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Return a number for each validation tile that stands for its label in both models, (U,); absent is a third label."""
    labels = [
        np.where(of_model < 0, 2, model.valid_positive[of_model]) for model, of_model in zip(pair, places, strict=True)
    ]
    return np.asarray(3 * labels[0] + labels[1], dtype=np.int64)


def _own_threshold(model: ModelScores, rows: NDArray[np.int64]) -> float:
    """Return the threshold that keeps the recall on some of a model's validation tiles; rows below 0 are left out."""
    rows = rows[rows >= 0]
    return threshold_at_recall(
        model.valid_positive[rows].astype(np.int64),
        _two_columns(model.valid[rows]),
        positive_index=1,
        recall=KEPT_RECALL,
    )


def _two_columns(scores: Floats) -> Floats:
    """Return probabilities of the other classes together and of the class of interest, (N, 2)."""
    return np.stack([1 - scores, scores], axis=1)


def _columns(name: str, interval: Interval) -> dict[str, float]:
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
