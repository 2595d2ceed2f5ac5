"""Plots of one run: its learning curves, and its predictions on one split.

Every function returns a `matplotlib.figure.Figure` and none uses pyplot. `labels` are class indices (N,),
`probabilities` have shape (N, C), and `classes` are the C names in the order of the columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter
from sklearn.metrics import auc, average_precision_score, confusion_matrix, precision_recall_curve, roc_curve

from satx.errors import DataError
from satx.evaluation.arrays import Labels, Probabilities, checked, classes_of_interest, require_every_class
from satx.evaluation.intervals import Interval, bootstrap_interval
from satx.evaluation.metrics import positives_over_threshold, roc_auc
from satx.evaluation.style import (
    GRID,
    INK,
    LIGHT,
    MUTED,
    Theme,
    boxed_legend,
    class_colors,
    new_figure,
    on_theme,
    plain,
    tidy,
)

TRAIN_COLOR, VALID_COLOR = "#E69F00", "#0072B2"


def learning_curves(history: pd.DataFrame) -> Figure:
    """Plot accuracy, loss, validation AUC and learning rate by epoch, and mark the epoch that was kept.

    Args:
        history: One row per epoch: `step phase accuracy loss val_accuracy val_loss val_auc learning_rate epoch_seconds`.

    Raises:
        DataError: The history is empty.
    """
    if history.empty:
        raise DataError("Expected a history of at least one epoch, got none. Train the run before plotting it.")
    history = history.sort_values("step")
    minutes = history["epoch_seconds"].sum() / 60
    figure = new_figure(width_inches=10, height_inches=6.4, title=f"{len(history)} epochs in {minutes:.1f} minutes")
    panels = figure.subplots(2, 2, sharex=True).ravel()
    for axes, name in zip(panels[:2], ("accuracy", "loss"), strict=True):
        for column, color, label in ((name, TRAIN_COLOR, "train"), (f"val_{name}", VALID_COLOR, "valid")):
            axes.plot(history["step"], history[column], color=color, marker="o", markersize=3, label=label)
        tidy(axes, y_label=f"{name} (nats)" if name == "loss" else name)
    panels[2].plot(history["step"], history["val_auc"], color=VALID_COLOR, marker="o", markersize=3)
    tidy(panels[2], x_label="epoch", y_label="validation AUC")
    panels[3].plot(history["step"], history["learning_rate"], color=INK, drawstyle="steps-mid")
    panels[3].set_yscale("log")
    panels[3].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0e}"))
    panels[3].yaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))
    tidy(panels[3], x_label="epoch", y_label="learning rate")
    for axes in panels:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _mark_phases(axes, history)
    panels[0].legend(frameon=False, fontsize=9, loc="lower right")
    return figure


def _mark_phases(axes: Axes, history: pd.DataFrame) -> None:
    """Shade the epochs that trained the tail, and mark the best one."""
    tail = history.loc[history["phase"] == "tail", "step"]
    if len(tail):
        axes.axvspan(tail.min() - 0.5, tail.max() + 0.5, color=GRID, alpha=0.5, zorder=0, linewidth=0)
        axes.text(
            tail.min() - 0.4, 1.0, "tail", transform=axes.get_xaxis_transform(), fontsize=8, color=MUTED, va="bottom"
        )
    if history["val_auc"].notna().any():
        ranked = history.sort_values(["val_auc", "val_loss"], ascending=[False, True], kind="stable")
        best = ranked.iloc[0]  # the trainer's criterion
        axes.axvline(best["step"], color=MUTED, linestyle=":", linewidth=1.2)
        axes.text(
            best["step"], 1.0, f"best {best['step']:.0f}", transform=axes.get_xaxis_transform(), fontsize=8,
            color=MUTED, va="bottom", ha="center",
        )  # fmt: skip


def roc(
    labels: Labels,
    probabilities: Probabilities,
    *,
    classes: Sequence[str],
    positive_index: int,
    thresholds: Sequence[float] = (0.5,),
    area: Interval | None = None,
    width_inches: float = 6.4,
    theme: Theme = LIGHT,
) -> Figure:
    """Plot the ROC curve of the class of interest, or of every class against the rest, with AUC and bootstrap interval.

    Args:
        labels: Class indices, (N,).
        probabilities: One column per class, (N, C).
        classes: Class names, in the order of the columns.
        positive_index: Index of the class of interest if there are two.
        thresholds: Operating points to mark on each curve.
        area: The AUC with its interval, if the caller has it; else it is computed.
        width_inches: Width of the figure, which is a little less high.
        theme: Colors of the figure.

    Raises:
        DataError: A class has no tiles.
    """
    labels, probabilities = checked(labels, probabilities)
    require_every_class(labels, probabilities.shape[1])
    shown = _names(classes, probabilities)
    interval = area or bootstrap_interval(partial(roc_auc, positive_index=positive_index), labels, probabilities)
    figure = new_figure(width_inches=width_inches, height_inches=width_inches - 0.4, theme=theme)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=theme.muted, linewidth=1, linestyle="--")
    for index in classes_of_interest(len(shown), positive_index):
        color = on_theme(class_colors(len(shown), positive_index)[index], theme)
        rest = labels != index
        rates = roc_curve(~rest, probabilities[:, index])  # false positives, true positives, thresholds
        own_area = "" if len(shown) == 2 else f": {auc(rates[0], rates[1]):.3f}"
        axes.plot(rates[0], rates[1], color=color, linewidth=2, label=shown[index] + own_area)
        for threshold in thresholds:
            flagged = positives_over_threshold(probabilities, positive_index=index, threshold=threshold)
            point = float(flagged[rest].mean()), float(flagged[~rest].mean())
            label = f"at {threshold:.3g}" if len(shown) == 2 else ""
            _operating_point(axes, point, color=color, label=label, theme=theme)
    tidy(axes, x_label="false-positive rate", y_label="true-positive rate (recall)", theme=theme)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    macro = "AUC" if len(shown) == 2 else "macro AUC"
    boxed_legend(axes, title=f"{macro} {interval}, 95% interval", loc="lower right", theme=theme)
    return figure


def precision_recall(
    labels: Labels, probabilities: Probabilities, *, classes: Sequence[str], positive_index: int, threshold: float = 0.5
) -> Figure:
    """Plot precision against recall, with average precision, the chance level (dashed) and an operating point.

    Raises:
        DataError: A class has no tiles.
    """
    labels, probabilities = checked(labels, probabilities)
    require_every_class(labels, probabilities.shape[1])
    shown = _names(classes, probabilities)
    figure = new_figure(width_inches=6.4, height_inches=6)
    axes = figure.subplots()
    for index in classes_of_interest(len(shown), positive_index):
        color = class_colors(len(shown), positive_index)[index]
        of_class = labels == index
        precision, recall, _ = precision_recall_curve(of_class, probabilities[:, index])
        area = average_precision_score(of_class, probabilities[:, index])
        axes.step(recall, precision, where="post", color=color, linewidth=2, label=f"{shown[index]}: {area:.3f}")
        axes.axhline(of_class.mean(), color=color, linewidth=1, linestyle="--", alpha=0.6)
        flagged = positives_over_threshold(probabilities, positive_index=index, threshold=threshold)
        if flagged.any():
            point = float(flagged[of_class].mean()), float(of_class[flagged].mean())
            label = f"at {threshold:g}" if len(shown) == 2 else ""
            _operating_point(axes, point, color=color, label=label, theme=LIGHT)
    tidy(axes, x_label="recall", y_label="precision")
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    boxed_legend(axes, title="average precision", loc="lower left")
    return figure


def confusion(labels: Labels, probabilities: Probabilities, *, classes: Sequence[str]) -> Figure:
    """Plot the confusion matrix: counts and shares of the true class, shaded by share."""
    labels, probabilities = checked(labels, probabilities)
    shown = _names(classes, probabilities)
    counts = confusion_matrix(labels, probabilities.argmax(axis=1), labels=range(len(shown)))  # (C, C), rows true
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size_inches = max(4.6, 1.8 + 0.75 * len(shown))
    figure = new_figure(width_inches=size_inches + 0.6, height_inches=size_inches)
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0, aspect="auto")
    for (row, column), share in np.ndenumerate(shares):
        text = f"{counts[row, column]:,}\n{share:.0%}"
        axes.text(column, row, text, ha="center", va="center", fontsize=10, color="white" if share > 0.55 else INK)
    tidy(axes, x_label="predicted", y_label="true")
    axes.grid(visible=False)
    axes.set_xticks(
        range(len(shown)), shown, rotation=30 if len(shown) > 3 else 0, ha="right" if len(shown) > 3 else "center"
    )
    axes.set_yticks(
        range(len(shown)), [f"{name}\n({total:,})" for name, total in zip(shown, counts.sum(axis=1), strict=True)]
    )
    return figure


def score_distribution(
    labels: Labels, probabilities: Probabilities, *, classes: Sequence[str], positive_index: int, threshold: float = 0.5
) -> Figure:
    """Plot histograms of the probability of the class of interest, one row per true class."""
    labels, probabilities = checked(labels, probabilities)
    shown = _names(classes, probabilities)
    figure = new_figure(width_inches=7, height_inches=1.2 + 1.4 * len(shown))
    rows = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
    edges = np.linspace(0.0, 1.0, 41)
    for index, axes in enumerate(rows):
        scores = probabilities[labels == index, positive_index]
        axes.hist(scores, bins=edges, color=class_colors(len(shown), positive_index)[index])
        axes.axvline(threshold, color=INK, linewidth=1.2, linestyle="--")
        above = f"{np.mean(scores >= threshold):.0%} at or above {threshold:g}" if len(scores) else "no tiles"
        tidy(axes, y_label="tiles")
        axes.set_title(f"true {shown[index]} ({len(scores):,} tiles): {above}", fontsize=10, color=INK, loc="left")
        axes.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    rows[-1].set_xlabel(f"probability of {shown[positive_index]}", fontsize=10, color=INK)
    return figure


def slice_bars(table: pd.DataFrame) -> Figure:
    """Plot recall and false-positive rate of each slice with Wilson intervals, from `slices.slice_table`."""
    figure = new_figure(width_inches=10, height_inches=1.4 + 0.5 * len(table))
    panels = figure.subplots(1, 2, sharey=True)
    rows = np.arange(len(table))
    kinds = (("recall", "num_positive", "#0072B2"), ("false_positive_rate", "num_negative", "#D55E00"))
    for axes, (name, count, color) in zip(panels, kinds, strict=True):
        reach = np.stack([table[name] - table[f"{name}_low"], table[f"{name}_high"] - table[name]])  # (2, slices)
        axes.barh(rows, table[name], height=0.6, color=color, alpha=0.35)
        axes.errorbar(table[name], rows, xerr=reach, fmt="o", color=color, markersize=5, capsize=3, linewidth=1.5)
        for row, (number, reached) in enumerate(zip(table[count], table[f"{name}_high"].fillna(0.0), strict=True)):
            axes.text(
                reached + 0.025, row, f"n = {number:,}", fontsize=8, color=MUTED, va="center", backgroundcolor="white"
            )
        tidy(axes, x_label=name.replace("false_positive", "false-positive").replace("_", " "))
        axes.set_xlim(0, 1.2)
        axes.set_xticks(np.linspace(0, 1, 6))
        axes.xaxis.set_major_formatter(PercentFormatter(xmax=1.0, decimals=0))
    panels[0].set_yticks(rows, [plain(str(name)) for name in table["slice"]])
    panels[0].invert_yaxis()
    return figure


def _names(classes: Sequence[str], probabilities: Probabilities) -> list[str]:
    if len(classes) != probabilities.shape[1]:
        raise DataError(f"Expected one name per class, got {len(classes)} names for {probabilities.shape[1]} columns.")
    return [plain(name, max_chars=24) for name in classes]


def _operating_point(axes: Axes, point: tuple[float, float], *, color: str, label: str, theme: Theme) -> None:
    axes.plot(*point, marker="o", markersize=7, markerfacecolor=theme.paper, markeredgecolor=color, markeredgewidth=2)
    offset = (9, -9) if point[0] < 0.5 else (-9, -9)
    side: Literal["left", "right"] = "left" if point[0] < 0.5 else "right"
    axes.annotate(
        label, point, xytext=offset, textcoords="offset points", fontsize=9, color=theme.ink, ha=side, va="top"
    )
