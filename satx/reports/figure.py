"""Figures of `satx compare`: every configuration against training time, and two sessions' false positives per slice.

A run is FINISHED, KILLED (pruned), STOPPED (no longer needed), FAILED or RUNNING. Its time is the sum of its epochs'
seconds, which excludes filling caches that all runs share. Takes frames and returns figures; imports no MLflow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import matplotlib.patheffects
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from satx.errors import DataError
from satx.evaluation.style import INK, MUTED, backbone_color, backbone_order, new_figure, plain, tidy, tint


@dataclass(frozen=True)
class TimeUnit:
    """Unit of the time axis, with its length in hours."""

    name: str
    hours: float


UNITS = (TimeUnit("seconds", 1 / 3600), TimeUnit("minutes", 1 / 60), TimeUnit("hours", 1.0))
MAX_TIMES_LONGER = 20  # above this ratio of longest to shortest run, the time axis is logarithmic
LARGEST_IN_UNIT = 90  # up to one and a half minutes, or hours, the smaller unit is easier to read

MEASURES: Mapping[str, str] = {"val_accuracy": "validation accuracy", "val_loss": "validation loss (nats)"}

# Status: name in the legend, strength of the color, line style.
STATUSES: Mapping[str, tuple[str, float, Literal["-", "--", ":"]]] = {
    "FINISHED": ("finished", 0.85, "-"),
    "RUNNING": ("running", 0.85, "--"),
    "KILLED": ("pruned", 0.38, "-"),
    "STOPPED": ("stopped", 0.38, "--"),
    "FAILED": ("failed", 0.38, ":"),
}

HALO = (matplotlib.patheffects.withStroke(linewidth=3, foreground="white"),)


def timed(histories: pd.DataFrame) -> pd.DataFrame:
    """Return histories sorted by step, with `hours`: the time the run had spent at the end of each epoch."""
    ordered = histories.sort_values(["run_id", "step"], kind="stable", ignore_index=True)
    seconds = ordered["epoch_seconds"].fillna(0.0).groupby(ordered["run_id"]).cumsum()
    return ordered.assign(hours=seconds / 3600)


def time_unit(longest_hours: float) -> TimeUnit:
    """Return seconds, minutes or hours, whichever is easiest to read for the longest run."""
    fitting = (unit for unit in UNITS if longest_hours <= LARGEST_IN_UNIT * unit.hours)
    return next(fitting, UNITS[-1])


def best_run_of_each_backbone(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the finished run that a sweep chooses for each backbone, best backbone first.

    Runs confirmed with more seeds come first, ranked by their mean; the others are ranked by validation AUC, ties by
    validation loss.

    Args:
        runs: One row per run, as for `compare_figure`; with `confirmed_val_auc` if any run was confirmed.

    Returns:
        Rows of `runs`, with `confirmed_val_auc`, `num_finished`, `num_pruned`, `median_hours` (of the backbone's finished
        runs) and `time_ratio` (that median over the fastest backbone's). Backbones without a finished run are left out.
    """
    finished = runs[(runs["status"] == "FINISHED") & runs["val_auc"].notna()]
    finished = finished.assign(confirmed_val_auc=finished.get("confirmed_val_auc", np.nan))
    order = ["confirmed_val_auc", "val_auc", "val_loss"]
    ranked = finished.sort_values(order, ascending=[False, False, True], kind="stable")
    best = ranked.drop_duplicates("backbone", ignore_index=True)
    count = runs.groupby(["backbone", "status"]).size().unstack(fill_value=0)
    count = count.reindex(index=best["backbone"], columns=["FINISHED", "KILLED"], fill_value=0)
    median_hours = finished.groupby("backbone")["hours"].median().reindex(best["backbone"]).to_numpy(dtype=np.float64)
    fastest = np.nanmin(median_hours, initial=np.inf)
    return best.assign(
        num_finished=count["FINISHED"].to_numpy(),
        num_pruned=count["KILLED"].to_numpy(),
        median_hours=median_hours,
        time_ratio=median_hours / fastest if fastest > 0 else np.nan,
    )


def compare_figure(runs: pd.DataFrame, histories: pd.DataFrame, *, title: str) -> Figure:
    """Draw validation accuracy and loss against training time: one line per configuration, one row per backbone.

    Args:
        runs: One row per run: `run_id run_name backbone status val_auc val_accuracy val_loss hours`, and more.
        histories: One row per epoch: `run_id step val_accuracy val_loss val_auc epoch_seconds`, and more.
        title: Title of the figure.

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
    figure = new_figure(width_inches=12, height_inches=1.4 + 3.5 * len(backbones), title=title)
    grid = figure.subplots(len(backbones), len(MEASURES), sharex=True, sharey="col", squeeze=False)
    curves = {str(run_id): curve for run_id, curve in epochs.groupby("run_id")}
    for axes, measure in zip(grid[0], MEASURES, strict=True):
        _time_axis(axes, epochs)
        axes.set_ylim(_limits(epochs, measure))
        if measure == "val_accuracy":  # the space above 1 is for a label, so it has no tick labels
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}" if value < 1.001 else "")
    for row, backbone in zip(grid, backbones, strict=True):
        of_backbone = runs[runs["backbone"] == backbone]
        champion = best[best["backbone"] == backbone]
        for axes, measure in zip(row, MEASURES, strict=True):
            _draw_all(axes, of_backbone, curves, measure=measure)
            if len(champion) and champion["run_id"].iloc[0] in curves:
                _draw_best(axes, champion.iloc[0], curves[champion["run_id"].iloc[0]], measure=measure)
            tidy(axes, y_label=MEASURES[measure])
        _head(row[0], backbone, of_backbone["status"])
        of_these = epochs.loc[epochs["run_id"].isin(of_backbone["run_id"]), "val_loss"]
        above = float((of_these > row[1].get_ylim()[1]).mean())
        row[1].set_title(
            f"{above:.0%} of epochs are above this range" if above >= 0.005 else "",
            fontsize=9,
            color=MUTED,
            loc="right",
        )
    for axes in grid[-1]:
        axes.set_xlabel(f"training time ({unit.name})", fontsize=10, color=INK)
    _figure_legend(figure, runs["status"])
    return figure


def _time_axis(axes: Axes, epochs: pd.DataFrame) -> None:
    """Set a linear time axis, or a logarithmic one if short runs would otherwise shrink to a vertical line."""
    totals = epochs.groupby("run_id")["time"].max()
    if float(totals.max()) <= MAX_TIMES_LONGER * float(totals.min()):
        axes.set_xlim(0, float(totals.max()) * 1.02)
        return
    axes.set(xscale="log", xlim=(float(epochs["time"].min()) * 0.8, float(totals.max()) * 1.2))
    axes.xaxis.set_major_formatter("{x:g}")


def _draw_all(axes: Axes, runs: pd.DataFrame, curves: Mapping[str, pd.DataFrame], *, measure: str) -> None:
    """Draw every run as a thin line, pruned runs below finished ones; a single epoch is a dot."""
    opacity = float(np.clip(30 / max(len(runs), 1), 0.4, 0.8))
    for layer, (status, (_, strength, dashes)) in enumerate(STATUSES.items()):
        for run_id, backbone in runs.loc[runs["status"] == status, ["run_id", "backbone"]].itertuples(index=False):
            if run_id in curves:
                curve = curves[run_id].dropna(subset=[measure])
                axes.plot(
                    curve["time"],
                    curve[measure],
                    color=tint(backbone_color(backbone), strength),
                    alpha=opacity,
                    linewidth=1.0,
                    linestyle=dashes,
                    marker="." if len(curve) == 1 else "",
                    zorder=3 - 0.1 * layer,
                    gid=f"run-{run_id}",
                )


def _draw_best(axes: Axes, run: pd.Series, curve: pd.DataFrame, *, measure: str) -> None:
    """Draw the best run as a bold line, with its name and a ring on the epoch whose weights were kept."""
    color = backbone_color(run["backbone"])
    line = axes.plot(curve["time"], curve[measure], color=color, linewidth=2.6, zorder=4, gid=f"best-{run['run_id']}")
    line[0].set_path_effects([*HALO, matplotlib.patheffects.Normal()])
    # As the trainer chooses: the highest AUC, ties by the lower loss.
    kept = curve.sort_values(["val_auc", "val_loss"], ascending=[True, False], na_position="first").iloc[-1]
    point = float(kept["time"]), float(kept[measure])
    axes.plot(
        *point, marker="o", markersize=7, markerfacecolor="white", markeredgecolor=color, markeredgewidth=2, zorder=5
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
        color=INK,
        zorder=6,
        arrowprops={
            "arrowstyle": "-",
            "color": INK,
            "linewidth": 0.8,
            "relpos": (anchor, 1.0 if is_loss else 0.0),
            "shrinkA": 0,
            "shrinkB": 5,
        },
        path_effects=list(HALO),
    )


def _head(axes: Axes, backbone: str, statuses: pd.Series) -> None:
    """Write the backbone's name in its color, and how many runs have which status, above its row."""
    counts = [f"{(statuses == key).sum()} {name}" for key, (name, _, _) in STATUSES.items() if (statuses == key).any()]
    axes.set_title(plain(backbone), fontsize=12, fontweight="bold", color=backbone_color(backbone), loc="left")
    axes.set_title(", ".join(counts), fontsize=9, color=MUTED, loc="right")


def _limits(epochs: pd.DataFrame, measure: str) -> tuple[float, float]:
    """Return the range of an axis with room for a label; a few diverging losses must not flatten all other curves."""
    values = epochs[measure].replace([np.inf, -np.inf], np.nan).dropna()
    if values.empty:
        return (0.0, 1.0)
    if measure == "val_loss":
        low, quarter, three_quarters = values.quantile([0.0, 0.25, 0.75])
        high = min(float(values.max()), three_quarters + 2 * (three_quarters - quarter))
        room = max(high - low, 0.05)
        return (low - 0.28 * room, high + 0.04 * room)
    low, high = float(values.min()), float(values.max())
    room = max(high - low, 0.05)
    return (low - 0.06 * room, high + 0.22 * room)


def _figure_legend(figure: Figure, statuses: pd.Series) -> None:
    """Add one legend for all panels, in grey, because colors stand for backbones."""
    present = [values for key, values in STATUSES.items() if (statuses == key).any()]
    handles = [Line2D([], [], color=tint(INK, strength), linestyle=dashes) for _, strength, dashes in present]
    labels = [name for name, _, _ in present]
    ring = Line2D([], [], color=INK, linewidth=2.6, marker="o", markerfacecolor="white", markersize=7)
    figure.legend(
        [*handles, ring],
        [*labels, "best by validation AUC, ring on the epoch kept"],
        loc="outside lower center",
        ncols=len(handles) + 1,
        frameon=False,
        fontsize=9,
    )


def session_slices_figure(table: pd.DataFrame) -> Figure:
    """Draw the false-positive rates of two models per slice, with Wilson intervals.

    The table comes from `slices.compare_false_positives`.

    Raises:
        DataError: The table is empty.
    """
    if table.empty:
        raise DataError(
            "Expected at least one slice with negatives, got none. Compare sessions whose tiles have slices."
        )
    first = table.iloc[0]
    figure = new_figure(width_inches=10, height_inches=1.9 + 0.75 * len(table))
    axes = figure.subplots()
    rows = np.arange(len(table))
    models = (("a", first["label_a"], -0.16, "white"), ("b", first["label_b"], 0.16, INK))
    for model, label, shift, fill in models:
        rate = table[f"false_positive_rate_{model}"]
        low, high = table[f"false_positive_rate_{model}_low"], table[f"false_positive_rate_{model}_high"]
        axes.errorbar(
            rate, rows + shift, xerr=np.stack([rate - low, high - rate]), fmt="o", markersize=8, color=INK, capsize=3,
            linewidth=1.4, markerfacecolor=fill, label=plain(str(label)),
        )  # fmt: skip
    reached = table[["false_positive_rate_a_high", "false_positive_rate_b_high"]].max(axis=1)
    for row, text in enumerate(_difference_texts(table)):
        axes.text(1.02, row, text, transform=axes.get_yaxis_transform(), fontsize=9, color=INK, va="center")
    heading = f"{plain(str(first['label_a']), max_chars=16)} minus {plain(str(first['label_b']), max_chars=16)}"
    axes.text(1.02, 1.02, heading, transform=axes.transAxes, fontsize=9, fontweight="bold", color=INK)
    tidy(axes, x_label=f"false-positive rate at threshold {first['threshold']:g}, with 95% intervals")
    names = [
        f"{plain(str(name))}\nn = {number:,}"
        for name, number in table[["slice", "num_negative"]].itertuples(index=False)
    ]
    axes.set_yticks(rows, names)
    axes.set_ylim(len(table) - 0.5, -0.5)
    axes.set_xlim(-0.01, min(1.0, float(reached.max()) + 0.05) + 0.01)
    axes.xaxis.set_major_formatter(PercentFormatter(xmax=1.0, decimals=0))
    figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=10)
    return figure


def _difference_texts(table: pd.DataFrame) -> Sequence[str]:
    """Return the difference between the two models with its interval and p-value, as text for each slice."""
    points = (100 * table[["difference", "difference_low", "difference_high"]]).to_numpy(dtype=np.float64)
    return [
        f"{value:+.0f} points ({low:+.0f} to {high:+.0f}), p = {p_value:.2g}"
        for (value, low, high), p_value in zip(points, table["p_value"], strict=True)
    ]
