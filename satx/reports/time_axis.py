"""The time axis of figure and chart: cumulative hours of a run, a readable unit, and logarithmic ticks."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd
from matplotlib.ticker import LogLocator


@dataclass(frozen=True)
class TimeUnit:
    """Unit of the time axis, with its length in hours."""

    name: str
    hours: float


UNITS = (TimeUnit("seconds", 1 / 3600), TimeUnit("minutes", 1 / 60), TimeUnit("hours", 1.0))
WIDE_RATIO = 10  # above this ratio of largest to smallest value, an axis is logarithmic
LARGEST_IN_UNIT = 90  # up to one and a half minutes, or hours, the smaller unit is easier to read


def timed(histories: pd.DataFrame) -> pd.DataFrame:
    """Return histories sorted by step, with `hours`: the time the run had spent at the end of each epoch."""
    ordered = histories.sort_values(["run_id", "step"], kind="stable", ignore_index=True)
    seconds = ordered["epoch_seconds"].fillna(0.0).groupby(ordered["run_id"]).cumsum()
    return ordered.assign(hours=seconds / 3600)


def time_unit(longest_hours: float) -> TimeUnit:
    """Return seconds, minutes or hours, whichever is easiest to read for the longest run."""
    fitting = (unit for unit in UNITS if longest_hours <= LARGEST_IN_UNIT * unit.hours)
    return next(fitting, UNITS[-1])


def spans_widely(values: pd.Series) -> bool:
    """Return whether the positive values differ so much that their axis should be logarithmic."""
    positive = values[values > 0]
    return bool(positive.max() > WIDE_RATIO * positive.min())


def log_locator(low: float, high: float, max_ticks: float) -> LogLocator:
    """Return where a logarithmic axis has ticks: at 1, 2, 5, 10, 20 …, or at powers of ten if it has no room for these."""
    in_a_decade = (1.0, 2.0, 5.0)
    has_room = len(in_a_decade) * math.log10(high / low) <= max_ticks
    return LogLocator(subs=in_a_decade if has_room else (1.0,))
