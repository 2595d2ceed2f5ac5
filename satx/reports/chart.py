"""The live chart of the comparison page: validation AUC of every run against time, as inline SVG."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd
from matplotlib.ticker import MaxNLocator

from satx.reports.figure import STATUSES
from satx.reports.time_axis import log_locator, spans_widely, time_unit, timed

WIDE_PX, NARROW_PX = (960, 340), (360, 300)  # width and height, on a wide screen and on a phone
LEFT_PX, RIGHT_PX, TOP_PX, BOTTOM_PX = 44, 12, 10, 40
PX_PER_X_TICK, PX_PER_Y_TICK = 60, 50


@dataclass(frozen=True)
class Line:
    """The curve of one run: its points in SVG pixels, its label, and what its style depends on."""

    run_id: str
    label: str
    points: str
    backbone: str
    status: str


@dataclass(frozen=True)
class Tick:
    """A mark on an axis."""

    place_px: float
    label: str


@dataclass(frozen=True)
class Chart:
    """Everything that the template draws."""

    lines: tuple[Line, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    unit: str
    width: int
    height: int
    left: int
    right: int
    bottom: int


@dataclass(frozen=True)
class _Scale:
    """An axis: which values are at its ends, in which pixels these are, and whether it is logarithmic."""

    low: float
    high: float
    start_px: int
    end_px: int
    is_log: bool = False

    def places(self, values: pd.Series) -> pd.Series:
        """Return the pixels of values; smaller ones than `low` are at the start of a logarithmic axis."""
        low, high = self.low, self.high
        if self.is_log:
            values, low, high = values.clip(lower=low).map(math.log10), math.log10(low), math.log10(high)
        shares = (values - low) / (high - low)
        return (self.start_px + shares * (self.end_px - self.start_px)).round(1)

    def ticks(self, px_per_tick: int) -> tuple[Tick, ...]:
        """Return marks at round values inside the axis."""
        num_bins = abs(self.end_px - self.start_px) // px_per_tick
        locator = log_locator(self.low, self.high, num_bins) if self.is_log else MaxNLocator(nbins=num_bins)
        values = pd.Series(locator.tick_values(self.low, self.high))
        values = values[(values >= self.low) & (values <= self.high)]
        return tuple(Tick(place, f"{value:.4g}") for place, value in zip(self.places(values), values, strict=True))


def auc_chart(runs: pd.DataFrame, histories: pd.DataFrame, *, size_px: tuple[int, int] = WIDE_PX) -> Chart | None:
    """Return the chart of the runs that have an epoch with a validation AUC, or None if no run has one.

    Its time axis is logarithmic if the times of the runs differ widely.

    Args:
        runs: One row per run: `run_id run_name backbone status`, and more.
        histories: One row per epoch: `run_id step val_auc epoch_seconds`, and more.
        size_px: Width and height.
    """
    epochs = timed(histories[histories["run_id"].isin(runs["run_id"])]).dropna(subset=["val_auc"])
    if epochs.empty:
        return None
    width, height = size_px
    unit = time_unit(float(epochs["hours"].max()))
    times = epochs["hours"] / unit.hours
    is_log = spans_widely(times.groupby(epochs["run_id"]).max())
    first = float(times[times > 0].min()) * 0.9 if is_log else 0.0
    x_axis = _Scale(first, float(times.max()) * 1.02 or 1.0, LEFT_PX, width - RIGHT_PX, is_log)
    low, high = float(epochs["val_auc"].quantile(0.02)), float(epochs["val_auc"].max())
    room = 0.04 * max(high - low, 0.02)
    y_axis = _Scale(low - room, high + room, height - BOTTOM_PX, TOP_PX)
    return Chart(
        lines=_lines(runs, epochs.assign(x=x_axis.places(times), y=y_axis.places(epochs["val_auc"]))),
        x_ticks=x_axis.ticks(PX_PER_X_TICK),
        y_ticks=y_axis.ticks(PX_PER_Y_TICK),
        unit=unit.name,
        width=width,
        height=height,
        left=LEFT_PX,
        right=width - RIGHT_PX,
        bottom=height - BOTTOM_PX,
    )


def _lines(runs: pd.DataFrame, epochs: pd.DataFrame) -> tuple[Line, ...]:
    points = {
        run_id: " ".join(f"{x},{y}" for x, y in zip(curve["x"], curve["y"], strict=True))
        for run_id, curve in epochs.groupby("run_id")
    }
    return tuple(
        Line(
            run_id=run["run_id"],
            label=f"{run['run_name']}: best AUC {run['val_auc']:.3f}, {STATUSES[run['status']][0]}",
            # A line of one point is not drawn. With the point repeated, the round cap draws a dot.
            points=points[run["run_id"]] if " " in points[run["run_id"]] else f"{points[run['run_id']]} " * 2,
            backbone=run["backbone"],
            status=STATUSES[run["status"]][0],
        )
        for _, run in runs.iterrows()
        if run["run_id"] in points
    )
