"""Count the tiles of a run, and keep those at or above the threshold, in one pass over its blocks.

Memory grows with the number of tiles that are kept, not with the number of tiles.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from satx.bulk.block_file import PROBABILITY_PREFIX, ModelIdentity
from satx.imagery.contract import DONE, STATUSES

NUM_BINS = 100  # of the histogram of probabilities, each 0.01 wide
MAX_SHOWN_REASONS = 20
MAX_COUNTED_REASONS = 1000  # an error message with a changing number must not fill the memory
OTHER_REASONS = "other reasons"

POSITIVES = pa.schema(
    [
        pa.field("tile_id", pa.string(), nullable=False),
        pa.field("z", pa.int8()),
        pa.field("x", pa.int32()),
        pa.field("y", pa.int32()),
        pa.field("probability", pa.float32(), nullable=False),
    ]
)


class Collected(NamedTuple):
    """What one pass over the blocks gives.

    Attributes:
        counts: The record of `Tally`.
        positives: The tiles at or above the threshold, in the order of the blocks, with the columns of `POSITIVES`.
    """

    counts: dict[str, Any]
    positives: pa.Table


class Tally:
    """Counts of tiles by status and reason, and how the probability of the positive class is distributed."""

    def __init__(self, model: ModelIdentity) -> None:
        """Count tiles that `model` scored."""
        self._column = PROBABILITY_PREFIX + model.positive_class
        self._threshold = model.threshold
        self._statuses: Counter[str] = Counter()
        self._reasons: dict[str, Counter[str]] = {}
        self._histogram = np.zeros(NUM_BINS, np.int64)
        self._num_above = 0

    def add(self, table: pa.Table) -> None:
        """Count the tiles of one block."""
        statuses = table["status"].cast(pa.string())
        self._statuses.update(dict(_frequencies(statuses)))
        if self._statuses[DONE] != self._statuses.total():
            self._add_reasons(statuses, table["reason"])
        probabilities = table[self._column].drop_null().to_numpy()
        self._histogram += np.histogram(probabilities, NUM_BINS, (0, 1))[0]
        self._num_above += int(np.count_nonzero(probabilities >= np.float32(self._threshold)))

    def record(self) -> dict[str, Any]:
        """Return the counts as JSON.

        `num_tiles`; `status`, the number of tiles of each; `reasons`, for each status the most frequent ones with their number of
        tiles, all others under one name; `threshold`; `num_above_threshold`; and `probability_histogram`, the number of scored
        tiles whose probability of the positive class is in each hundredth from 0 to 1.
        """
        return {
            "num_tiles": self._statuses.total(),
            "status": {status: self._statuses[status] for status in STATUSES},
            "reasons": {status: _most_frequent(reasons) for status, reasons in sorted(self._reasons.items())},
            "threshold": self._threshold,
            "num_above_threshold": self._num_above,
            "probability_histogram": self._histogram.tolist(),
        }

    def _add_reasons(self, statuses: pa.ChunkedArray, reasons: pa.ChunkedArray) -> None:
        for status in pc.unique(statuses).to_pylist():
            counted = self._reasons.setdefault(status, Counter())
            for reason, number in _frequencies(reasons.filter(pc.equal(statuses, status)).drop_null()):
                is_counted = reason in counted or len(counted) < MAX_COUNTED_REASONS
                counted[reason if is_counted else OTHER_REASONS] += number
            if not counted:
                del self._reasons[status]


def collect(blocks: Iterable[pa.Table], model: ModelIdentity, threshold: float | None = None) -> Collected:
    """Count all tiles, and keep those whose probability of the positive class is at least a threshold.

    Args:
        blocks: The tables of the blocks, in the order of the plan.
        model: The model that scored them.
        threshold: Which tiles to keep; by default the model's threshold. The counts use the model's in any case.
    """
    at_least = np.float32(model.threshold if threshold is None else threshold)
    column = PROBABILITY_PREFIX + model.positive_class
    tally, kept = Tally(model), []
    for table in blocks:
        tally.add(table)
        # a comparison with null is null, and such rows are left out
        rows = table.filter(pc.greater_equal(table[column], pa.scalar(at_least, pa.float32())))
        if rows.num_rows:
            kept.append(rows.select(["tile_id", "z", "x", "y", column]).rename_columns(POSITIVES.names).cast(POSITIVES))
    return Collected(tally.record(), pa.concat_tables(kept).combine_chunks() if kept else POSITIVES.empty_table())


def _frequencies(values: pa.ChunkedArray) -> list[tuple[str, int]]:
    return [(item["values"], item["counts"]) for item in pc.value_counts(values).to_pylist()]


def _most_frequent(reasons: Counter[str]) -> list[dict[str, Any]]:
    """Return the most frequent reasons; the numbers of the others are added up under one name, which comes last."""
    named = sorted(((name, number) for name, number in reasons.items() if name != OTHER_REASONS), key=_by_frequency)
    others = sum(number for _, number in named[MAX_SHOWN_REASONS:]) + reasons[OTHER_REASONS]
    shown = [*named[:MAX_SHOWN_REASONS], *([(OTHER_REASONS, others)] if others else [])]
    return [{"reason": name, "num_tiles": number} for name, number in shown]


def _by_frequency(item: tuple[str, int]) -> tuple[int, str]:
    name, number = item
    return -number, name
