"""The figure of `satx compare`: every configuration against training time.

A run is FINISHED, KILLED (pruned), STOPPED (no longer needed), FAILED or RUNNING. Its time is the sum of its epochs'
seconds, which excludes filling caches that all runs share. Takes frames and returns a figure; imports no MLflow.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import matplotlib.patheffects
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter

from satx.errors import DataError
from satx.evaluation.style import LIGHT, Theme, backbone_color, backbone_order, new_figure, plain, tidy, tint
from satx.reports.best_run import best_run_of_each_backbone
from satx.reports.time_axis import log_locator, spans_widely, time_unit, timed

MEASURES: Mapping[str, str] = {"val_accuracy": "validation accuracy", "val_loss": "validation loss (nats)"}

# Status: name in the legend, strength of the color, line style.
STATUSES: Mapping[str, tuple[str, float, Literal["-", "--", ":"]]] = {
    "FINISHED": ("finished", 0.85, "-"),
    "RUNNING": ("running", 0.85, "--"),
    "KILLED": ("pruned", 0.38, "-"),
    "STOPPED": ("stopped", 0.38, "--"),
    "FAILED": ("failed", 0.38, ":"),
}

WIDE_INCHES, NARROW_INCHES = 12.0, 4.6  # with room for two panels side by side, and for one on a phone
BELOW, ABOVE = 0.28, 0.04  # room on a loss axis, as shares of its range; the best run's name is below the curves
TICKS_PER_INCH = 2.2
PANEL_INCHES = 3.5  # height


def compare_figure(
    runs: pd.DataFrame,
    histories: pd.DataFrame,
    *,
    title: str,
    theme: Theme = LIGHT,
    width_inches: float = WIDE_INCHES,
) -> Figure:
    """Draw validation accuracy and loss against training time: one line per configuration.

    A wide figure has one row per backbone; a narrow one has all panels below each other.

    Args:
        runs: One row per run: `run_id run_name backbone status val_auc val_accuracy val_loss hours`, and more.
        histories: One row per epoch: `run_id step val_accuracy val_loss val_auc epoch_seconds`, and more.
        title: Title of the figure.
        theme: Its colors.
        width_inches: Its width.

    Raises:
        DataError: No run has an epoch to draw.
    """
    epochs = timed(histories[histories["run_id"].isin(runs["run_id"])])
    if epochs.empty:
        raise DataError(
            "Expected runs with at least one epoch to draw, got none. Run `make sweep` for this session first."
        )
    best = best_run_of_each_backbone(runs)
    unit = time_unit(float(epochs["hours"].max()))
    epochs = epochs.assign(time=epochs["hours"] / unit.hours)
    backbones = sorted(set(runs["backbone"]), key=backbone_order)
    columns = len(MEASURES) if width_inches > WIDE_INCHES / 2 else 1
    rows = len(backbones) * len(MEASURES) // columns
    height_inches = 1.4 + (PANEL_INCHES if columns > 1 else 0.75 * PANEL_INCHES) * rows
    figure = new_figure(width_inches=width_inches, height_inches=height_inches, title=title, theme=theme)
    grid = figure.subplots(rows, columns, sharex=True, squeeze=False).reshape(len(backbones), len(MEASURES))
    curves = {str(run_id): curve for run_id, curve in epochs.groupby("run_id")}
    _time_axis(grid[0][0], epochs, length_inches=width_inches / columns - 1)
    for row, backbone in zip(grid, backbones, strict=True):
        of_backbone = runs[runs["backbone"] == backbone]
        champion = best[best["backbone"] == backbone]
        for axes, measure in zip(row, MEASURES, strict=True):
            _value_axis(axes, epochs, measure)
            _draw_all(axes, of_backbone, curves, measure=measure, theme=theme)
            if len(champion) and champion["run_id"].iloc[0] in curves:
                _draw_best(
                    axes, champion.iloc[0], curves[champion["run_id"].iloc[0]], measure=measure, theme=theme
                )  # fmt: skip
            bottom = axes in grid[-1][-columns:]
            tidy(axes, x_label=f"training time ({unit.name})" if bottom else "", y_label=MEASURES[measure], theme=theme)
        of_these = epochs.loc[epochs["run_id"].isin(of_backbone["run_id"]), "val_loss"]
        _head(row, backbone, of_backbone["status"], of_these, theme)
    _figure_legend(figure, runs["status"], theme, columns)
    return figure


def _time_axis(axes: Axes, epochs: pd.DataFrame, length_inches: float) -> None:
    """Set a linear time axis, or a logarithmic one if short runs would otherwise shrink to a vertical line."""
    totals = epochs.groupby("run_id")["time"].max()
    if not spans_widely(totals):
        axes.set_xlim(0, float(totals.max()) * 1.02 or 1.0)
        return
    times = epochs["time"]
    axes.set(xscale="log", xlim=(float(times[times > 0].min()) * 0.8, float(totals.max()) * 1.2))
    _plain_ticks(axes.xaxis, length_inches)


def _plain_ticks(axis: Axis, length_inches: float) -> None:
    """Label a logarithmic axis with plain numbers instead of powers of ten."""
    axis.set_major_locator(log_locator(*axis.get_view_interval(), TICKS_PER_INCH * length_inches))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def _value_axis(axes: Axes, epochs: pd.DataFrame, measure: str) -> None:
    """Set the range of a measure's axis, equal for all backbones."""
    low, high = _limits(epochs, measure)
    if measure == "val_loss" and low > 0 and spans_widely(pd.Series([low, high])):
        axes.set(yscale="log", ylim=(low * (low / high) ** BELOW, high * (high / low) ** ABOVE))
        _plain_ticks(axes.yaxis, PANEL_INCHES)
        return
    room = max(high - low, 0.05)
    if measure == "val_loss":
        axes.set_ylim(low - BELOW * room, high + ABOVE * room)
        return
    axes.set_ylim(low - 0.06 * room, high + 0.22 * room)
    # The space above 1 is for a label, so it has no tick labels.
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}" if value < 1.001 else "")


def _limits(epochs: pd.DataFrame, measure: str) -> tuple[float, float]:
    """Return the smallest and largest value to draw; a few diverging losses must not flatten all other curves."""
    values = epochs[measure].replace([np.inf, -np.inf], np.nan).dropna()
    if values.empty:
        return (0.0, 1.0)
    if measure == "val_loss":
        low, quarter, three_quarters = values.quantile([0.0, 0.25, 0.75])
        return (float(low), min(float(values.max()), three_quarters + 2 * (three_quarters - quarter)))
    return (float(values.min()), float(values.max()))


def _draw_all(
    axes: Axes, runs: pd.DataFrame, curves: Mapping[str, pd.DataFrame], *, measure: str, theme: Theme
) -> None:
    """Draw every run as a thin line, pruned runs below finished ones; a single epoch is a dot."""
    opacity = float(np.clip(30 / max(len(runs), 1), 0.4, 0.8))
    for layer, (status, (_, strength, dashes)) in enumerate(STATUSES.items()):
        for run_id, backbone in runs.loc[runs["status"] == status, ["run_id", "backbone"]].itertuples(index=False):
            if run_id in curves:
                curve = curves[run_id].dropna(subset=[measure])
                axes.plot(
                    curve["time"],
                    curve[measure],
                    color=tint(backbone_color(backbone, theme), strength, theme.paper),
                    alpha=opacity,
                    linewidth=1.0,
                    linestyle=dashes,
                    marker="." if len(curve) == 1 else "",
                    zorder=3 - 0.1 * layer,
                    gid=f"run-{run_id}",
                )


def _draw_best(axes: Axes, run: pd.Series, curve: pd.DataFrame, *, measure: str, theme: Theme) -> None:
    """Draw the best run as a bold line, with its name and a ring on the epoch whose weights were kept."""
    color = backbone_color(run["backbone"], theme)
    halo = matplotlib.patheffects.withStroke(linewidth=3, foreground=theme.paper)
    line = axes.plot(curve["time"], curve[measure], color=color, linewidth=2.6, zorder=4, gid=f"best-{run['run_id']}")
    line[0].set_path_effects([halo, matplotlib.patheffects.Normal()])
    # As the trainer chooses: the highest AUC, ties by the lower loss.
    kept = curve.sort_values(["val_auc", "val_loss"], ascending=[True, False], na_position="first").iloc[-1]
    point = float(kept["time"]), float(kept[measure])
    axes.plot(
        *point,
        marker="o",
        markersize=7,
        markerfacecolor=theme.paper,
        markeredgecolor=color,
        markeredgewidth=2,
        zorder=5,
    )
    is_loss = measure == "val_loss"
    across = float(axes.transAxes.inverted().transform(axes.transData.transform(point))[0])
    anchor = 0.0 if across < 0.25 else 1.0 if across > 0.75 else 0.5  # so that the name stays inside the axes
    axes.annotate(
        f"{plain(run['run_name'], max_chars=36)}\n{point[1]:.3f}",
        point,
        xytext=(point[0], 0.02 if is_loss else 0.98),
        textcoords=axes.get_xaxis_transform(),
        ha={0.0: "left", 0.5: "center", 1.0: "right"}[anchor],
        va="bottom" if is_loss else "top",
        fontsize=9,
        fontweight="bold",
        color=theme.ink,
        zorder=6,
        arrowprops={
            "arrowstyle": "-",
            "color": theme.ink,
            "linewidth": 0.8,
            "relpos": (anchor, 1.0 if is_loss else 0.0),
            "shrinkA": 0,
            "shrinkB": 5,
        },
        path_effects=[halo],
    )


def _head(row: np.ndarray, backbone: str, statuses: pd.Series, losses: pd.Series, theme: Theme) -> None:
    """Write above the panels of a backbone its name in its color, how many runs have which status, and what is cut off."""
    counts = [f"{(statuses == key).sum()} {name}" for key, (name, _, _) in STATUSES.items() if (statuses == key).any()]
    row[0].set_title(plain(backbone), fontsize=14, fontweight="bold", color=backbone_color(backbone, theme), loc="left")
    row[0].set_title(", ".join(counts), fontsize=9, color=theme.muted, loc="right")
    above = float((losses > row[1].get_ylim()[1]).mean())
    if above >= 0.005:
        text = f"{above:.0%} of epochs are above this range"
        row[1].set_title(text, fontsize=9, color=theme.muted, loc="right")


def _figure_legend(figure: Figure, statuses: pd.Series, theme: Theme, columns: int) -> None:
    """Add one legend for all panels, in grey, because colors stand for backbones."""
    present = [values for key, values in STATUSES.items() if (statuses == key).any()]
    handles = [
        Line2D([], [], color=tint(theme.ink, strength, theme.paper), linestyle=dashes)
        for _, strength, dashes in present
    ]
    labels = [name for name, _, _ in present]
    ring = Line2D([], [], color=theme.ink, linewidth=2.6, marker="o", markerfacecolor=theme.paper, markersize=7)
    figure.legend(
        [*handles, ring],
        [*labels, "best by validation AUC, ring on the epoch kept"],
        loc="outside lower center",
        ncols=len(handles) + 1 if columns > 1 else 1,
        frameon=False,
        fontsize=9,
        labelcolor=theme.ink,
    )
