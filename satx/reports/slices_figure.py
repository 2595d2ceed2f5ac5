"""The figure of two sessions: recall, false positives and areas per slice, on the same tiles."""

from __future__ import annotations

import textwrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from satx.errors import DataError
from satx.evaluation.style import LIGHT, Theme, new_figure, plain, tidy
from satx.evaluation.two_models import AUC, EQUAL_RECALL, FIXED, RECALL
from satx.reports.figure import WIDE_INCHES
from satx.reports.rates import difference_text, point_heading
from satx.reports.verdicts import slice_label

ROW_INCHES = 0.85
POINTS = (FIXED, EQUAL_RECALL, "")  # one panel each; the last is that of the areas


def session_slices_figure(
    table: pd.DataFrame, *, positive_class: str, theme: Theme = LIGHT, width_inches: float = WIDE_INCHES
) -> Figure:
    """Draw both operating points and the areas of two models, with their intervals and differences.

    A wide figure has its panels side by side, a narrow one below each other. The first row is the recall, the others are the
    negatives of a slice; the panel of the areas has no recall.

    Args:
        table: From `two_models.compare_models`.
        positive_class: The class of interest.
        theme: Colors of the figure.
        width_inches: Its width.

    Raises:
        DataError: The table is empty.
    """
    if table.empty:
        raise DataError(
            "Expected a comparison of two models, got an empty one. Compare sessions that share test tiles."
        )
    rows = [(RECALL, ""), *((AUC, name) for name in table.loc[table["measure"] == AUC, "slice"])]
    is_wide = width_inches > WIDE_INCHES / 2
    height = ROW_INCHES * len(rows) + 1.2
    figure = new_figure(
        width_inches=width_inches, height_inches=0.6 + height * (1 if is_wide else len(POINTS)), theme=theme
    )
    panels = figure.subplots(1, len(POINTS), sharey=True) if is_wide else figure.subplots(len(POINTS), 1, sharey=True)
    for axes, point in zip(panels, POINTS, strict=True):
        _draw(axes, table[table["point"] == point], [name for _, name in rows[1:]], theme)
    panels[0].set_yticks(range(len(rows)), _names(table, rows, positive_class))
    panels[0].set_ylim(len(rows) - 0.4, -0.5)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper left", ncols=2, frameon=False, fontsize=10, labelcolor=theme.ink
    )  # fmt: skip
    return figure


def _names(table: pd.DataFrame, rows: list[tuple[str, str]], positive_class: str) -> list[str]:
    """Return the labels of the rows, with their numbers of tiles."""
    names = []
    for measure, name in rows:
        of_row = table[(table["measure"] == measure) & (table["slice"] == name)].iloc[0]
        label = f"recall of {positive_class}" if measure == RECALL else slice_label(name)
        names.append(f"{plain(label, max_chars=26)}\nn = {of_row['num_tiles']:,}")
    return names


def _draw(axes: Axes, table: pd.DataFrame, slices: list[str], theme: Theme) -> None:
    """Draw one panel: two marks with intervals per row, and their difference in words below them."""
    places = [
        0 if measure == RECALL else 1 + slices.index(name)
        for measure, name in table[["measure", "slice"]].itertuples(index=False)
    ]
    for model, shift, fill in (("a", -0.14, theme.paper), ("b", 0.14, theme.ink)):
        value = table[f"value_{model}"]
        reach = np.stack([value - table[f"value_{model}_low"], table[f"value_{model}_high"] - value])
        axes.errorbar(
            value, np.add(places, shift), xerr=reach, fmt="o", markersize=7, color=theme.ink, capsize=3, linewidth=1.3,
            markerfacecolor=fill, label=plain(str(table[f"label_{model}"].iloc[0])),
        )  # fmt: skip
    for place, (_, row) in zip(places, table.iterrows(), strict=True):
        axes.text(
            0.01, place + 0.4, difference_text(row), transform=axes.get_yaxis_transform(), fontsize=9, va="center",
            color=theme.ink,
        )  # fmt: skip
    is_area = table["measure"].iloc[0] == AUC
    tidy(axes, x_label="area, with 95% intervals" if is_area else "tiles flagged, with 95% intervals", theme=theme)
    heading = textwrap.wrap(point_heading(table.iloc[0]), width=46)
    axes.set_title("\n".join(plain(line, max_chars=60) for line in heading), fontsize=10, color=theme.ink, loc="left")
    if not is_area:
        axes.set_xlim(-0.02, 1.02)
        axes.xaxis.set_major_formatter(PercentFormatter(xmax=1.0, decimals=0))
