"""The figure of two sessions: their false positives per slice, on the same tiles."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from satx.errors import DataError
from satx.evaluation.style import LIGHT, Theme, new_figure, plain, tidy
from satx.reports.figure import WIDE_INCHES


def session_slices_figure(table: pd.DataFrame, *, theme: Theme = LIGHT, width_inches: float = WIDE_INCHES) -> Figure:
    """Draw the false-positive rates of two models per slice, with Wilson intervals.

    The differences are written at the right of a wide figure. A narrow one leaves them to the page's table.

    Args:
        table: From `slices.compare_false_positives`.
        theme: Colors of the figure.
        width_inches: Its width.

    Raises:
        DataError: The table is empty.
    """
    if table.empty:
        raise DataError(
            "Expected at least one slice with negatives, got none. Compare sessions whose tiles have slices."
        )
    first = table.iloc[0]
    figure = new_figure(width_inches=width_inches, height_inches=1.9 + 0.75 * len(table), theme=theme)
    axes = figure.subplots()
    rows = np.arange(len(table))
    models = (("a", first["label_a"], -0.16, theme.paper), ("b", first["label_b"], 0.16, theme.ink))
    for model, label, shift, fill in models:
        rate = table[f"false_positive_rate_{model}"]
        low, high = table[f"false_positive_rate_{model}_low"], table[f"false_positive_rate_{model}_high"]
        axes.errorbar(
            rate, rows + shift, xerr=np.stack([rate - low, high - rate]), fmt="o", markersize=8, color=theme.ink, capsize=3,
            linewidth=1.4, markerfacecolor=fill, label=plain(str(label)),
        )  # fmt: skip
    reached = table[["false_positive_rate_a_high", "false_positive_rate_b_high"]].max(axis=1)
    if width_inches > WIDE_INCHES / 2:
        for row, text in enumerate(_difference_texts(table)):
            axes.text(1.02, row, text, transform=axes.get_yaxis_transform(), fontsize=9, color=theme.ink, va="center")
        heading = f"{plain(str(first['label_a']), max_chars=16)} minus {plain(str(first['label_b']), max_chars=16)}"
        axes.text(1.02, 1.02, heading, transform=axes.transAxes, fontsize=9, fontweight="bold", color=theme.ink)
    tidy(axes, x_label=f"false-positive rate at threshold {first['threshold']:g}, with 95% intervals", theme=theme)
    names = [
        f"{plain(str(name))}\nn = {number:,}"
        for name, number in table[["slice", "num_negative"]].itertuples(index=False)
    ]
    axes.set_yticks(rows, names)
    axes.set_ylim(len(table) - 0.5, -0.5)
    axes.set_xlim(-0.01, min(1.0, float(reached.max()) + 0.05) + 0.01)
    axes.xaxis.set_major_formatter(PercentFormatter(xmax=1.0, decimals=0))
    figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=10, labelcolor=theme.ink)
    return figure


def _difference_texts(table: pd.DataFrame) -> Sequence[str]:
    """Return the difference between the two models with its interval and p-value, as text for each slice."""
    points = (100 * table[["difference", "difference_low", "difference_high"]]).to_numpy(dtype=np.float64)
    return [
        f"{value:+.0f} points ({low:+.0f} to {high:+.0f}), p = {p_value:.2g}"
        for (value, low, high), p_value in zip(points, table["p_value"], strict=True)
    ]
