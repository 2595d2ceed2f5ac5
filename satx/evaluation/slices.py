"""Metrics of one model per slice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from satx.errors import DataError
from satx.evaluation.arrays import Labels, Probabilities, checked
from satx.evaluation.intervals import Interval, wilson_interval
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
