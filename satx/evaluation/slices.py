"""Metrics per slice, for one model and for two models on the same tiles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from satx.errors import DataError
from satx.evaluation.arrays import Labels, Probabilities, checked
from satx.evaluation.intervals import Interval, mcnemar_exact, paired_difference_interval, wilson_interval
from satx.evaluation.metrics import positives_over_threshold

NO_SLICE = "(none)"
UNKNOWN = Interval(value=np.nan, low=np.nan, high=np.nan)

Slices = Sequence[Any] | NDArray[Any] | pd.Series


def slice_table(
    labels: Labels, probabilities: Probabilities, slices: Slices, *, positive_index: int, threshold: float = 0.5
) -> pd.DataFrame:
    """Compute recall and false-positive rate of each slice at a fixed threshold, with Wilson intervals.

    Args:
        labels: Class indices, (N,).
        probabilities: One column per class, (N, C).
        slices: The slice of each tile, (N,); tiles without one are grouped under `(none)`.
        positive_index: Index of the class of interest.
        threshold: Lowest probability at which a tile is called positive.

    Returns:
        One row per slice: `slice num_tiles num_positive num_negative recall recall_low recall_high false_positive_rate
        false_positive_rate_low false_positive_rate_high`; NaN where a slice has no such tiles.
    """
    labels, probabilities = checked(labels, probabilities)
    flagged = positives_over_threshold(probabilities, positive_index=positive_index, threshold=threshold)
    is_positive = labels == positive_index
    rows = []
    for name, members in members_by_slice(slices, num_tiles=len(labels)):
        positives, negatives = members & is_positive, members & ~is_positive
        rows.append(
            {
                "slice": name,
                "num_tiles": int(members.sum()),
                "num_positive": int(positives.sum()),
                "num_negative": int(negatives.sum()),
                **_rate_columns("recall", flagged[positives]),
                **_rate_columns("false_positive_rate", flagged[negatives]),
            }
        )
    return pd.DataFrame(rows)


def compare_false_positives(
    labels: Labels,
    slices: Slices,
    *,
    probabilities_by_model: Mapping[str, Probabilities],
    positive_index: int,
    threshold: float = 0.5,
) -> pd.DataFrame:
    """Compare the false positives of two models per slice, on the same tiles at the same threshold.

    Args:
        labels: Class indices, (N,).
        slices: The slice of each tile, (N,).
        probabilities_by_model: Two named models, A and B in this order (`{"session 1": …, "session 2": …}`).
        positive_index: Index of the class of interest.
        threshold: Lowest probability at which a tile is called positive.

    Returns:
        One row per slice that has negatives, by descending difference: `slice num_negative label_a label_b threshold`,
        for each model `false_positives_a false_positive_rate_a false_positive_rate_a_low false_positive_rate_a_high`,
        then `num_only_a num_only_b` (false positives of one model only), `difference difference_low difference_high`
        (A minus B, Newcombe's paired interval) and `p_value` (exact McNemar; not corrected for the number of slices).

    Raises:
        DataError: The number of models is not two, or no tile is negative.
    """
    if len(probabilities_by_model) != 2:
        raise DataError(f"Expected two models to compare, got {len(probabilities_by_model)}. Name exactly two.")
    (label_a, first), (label_b, second) = probabilities_by_model.items()
    labels, first = checked(labels, first)
    _, second = checked(labels, second)
    flags_a, flags_b = (
        positives_over_threshold(of_one, positive_index=positive_index, threshold=threshold)
        for of_one in (first, second)
    )
    rows = []
    for name, members in members_by_slice(slices, num_tiles=len(labels)):
        negatives = members & (labels != positive_index)
        if negatives.any():
            row = {"slice": name, "label_a": label_a, "label_b": label_b, "threshold": threshold}
            rows.append(row | _comparison(flags_a[negatives], flags_b[negatives]))
    if not rows:
        raise DataError("Expected tiles of other classes than the class of interest, got none. Check positive_class.")
    return pd.DataFrame(rows).sort_values("difference", ascending=False, kind="stable", ignore_index=True)


def _comparison(flags_a: NDArray[np.bool_], flags_b: NDArray[np.bool_]) -> dict[str, float]:
    """Compare two models on the negatives of one slice."""
    difference = paired_difference_interval(flags_a, flags_b)
    return {
        "num_negative": len(flags_a),
        "false_positives_a": int(flags_a.sum()),
        "false_positives_b": int(flags_b.sum()),
        **_rate_columns("false_positive_rate_a", flags_a),
        **_rate_columns("false_positive_rate_b", flags_b),
        "num_only_a": int((flags_a & ~flags_b).sum()),
        "num_only_b": int((~flags_a & flags_b).sum()),
        "difference": difference.value,
        "difference_low": difference.low,
        "difference_high": difference.high,
        "p_value": mcnemar_exact(flags_a, flags_b),
    }


def _rate_columns(name: str, flags: NDArray[np.bool_]) -> dict[str, float]:
    interval = wilson_interval(int(flags.sum()), len(flags)) if len(flags) else UNKNOWN
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}


def members_by_slice(slices: Slices, *, num_tiles: int) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Yield each slice's name, in sorted order, with a mask of its tiles, (N,); tiles without one are in `(none)`.

    Raises:
        DataError: There is not one slice per tile.
    """
    given = pd.Series(list(slices), dtype=object)
    if len(given) != num_tiles:
        raise DataError(
            f"Expected one slice per tile, got {len(given)} slices for {num_tiles} tiles. Read tiles.csv again."
        )
    names = given.where(given.notna(), NO_SLICE).astype(str).str.strip().replace("", NO_SLICE)
    for name in sorted(names.unique()):
        yield name, (names == name).to_numpy(dtype=np.bool_)
