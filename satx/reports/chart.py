"""The live chart of the comparison page: validation AUC of every run against time, as inline SVG."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
from matplotlib.ticker import MaxNLocator

from satx.evaluation.style import backbone_color
from satx.reports.figure import STATUSES, time_unit, timed

WIDTH_PX, HEIGHT_PX = 960, 340
LEFT_PX, RIGHT_PX, TOP_PX, BOTTOM_PX = 52, 12, 10, 40


@dataclass(frozen=True)
class Line:
    """The curve of one run: its points in SVG pixels, and its label and style."""

    run_id: str
    label: str
    points: str
    color: str
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
    width: int = WIDTH_PX
    height: int = HEIGHT_PX
    left: int = LEFT_PX
    right: int = WIDTH_PX - RIGHT_PX
    bottom: int = HEIGHT_PX - BOTTOM_PX


def auc_chart(runs: pd.DataFrame, histories: pd.DataFrame) -> Chart | None:
    """Return the chart of the runs that have an epoch with a validation AUC, or None if no run has one.

    Args:
        runs: One row per run: `run_id run_name backbone status`, and more.
        histories: One row per epoch: `run_id step val_auc epoch_seconds`, and more.
    """
    epochs = timed(histories[histories["run_id"].isin(runs["run_id"])]).dropna(subset=["val_auc"])
    if epochs.empty:
        return None
    unit = time_unit(float(epochs["hours"].max()))
    longest = float(epochs["hours"].max()) / unit.hours or 1.0
    low, high = float(epochs["val_auc"].quantile(0.02)), float(epochs["val_auc"].max())
    room = max(high - low, 0.02)
    low, high = low - 0.04 * room, high + 0.04 * room
    x_scale = (WIDTH_PX - LEFT_PX - RIGHT_PX) / (longest * 1.02)
    y_scale = (HEIGHT_PX - TOP_PX - BOTTOM_PX) / (high - low)
    epochs = epochs.assign(
        x=(LEFT_PX + epochs["hours"] / unit.hours * x_scale).round(1),
        y=(TOP_PX + (high - epochs["val_auc"]) * y_scale).round(1),
    )
    x_values = [value for value in MaxNLocator(nbins=8).tick_values(0, longest) if 0 <= value <= longest * 1.02]
    y_values = [value for value in MaxNLocator(nbins=6).tick_values(low, high) if low <= value <= high]
    return Chart(
        lines=_lines(runs, epochs),
        x_ticks=tuple(Tick(round(LEFT_PX + value * x_scale, 1), f"{value:g}") for value in x_values),
        y_ticks=tuple(Tick(round(TOP_PX + (high - value) * y_scale, 1), f"{value:.3g}") for value in y_values),
        unit=unit.name,
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
            color=backbone_color(run["backbone"]),
            status=STATUSES[run["status"]][0],
        )
        for _, run in runs.iterrows()
        if run["run_id"] in points
    )
