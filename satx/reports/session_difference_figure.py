"""The figure of `satx session diff`: how many pictures of each class and slice stayed, came and went."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from satx.errors import DataError
from satx.evaluation.style import CLASS_COLORS, LIGHT, Theme, new_figure, on_theme, plain, tidy, tint
from satx.reports.figure import WIDE_INCHES

KEPT, ADDED, CHANGED, DROPPED, LEFT = "in both", "added", "from another group", "dropped", "to another group"
_RIGHT, _LEFT = (KEPT, ADDED, CHANGED), (DROPPED, LEFT)


def session_difference_figure(
    table: pd.DataFrame, *, first: str, second: str, theme: Theme = LIGHT, width_inches: float = WIDE_INCHES
) -> Figure:
    """Draw a panel for each split with a bar for each class and slice: to the right what is there now, to the left what went.

    Args:
        table: One row for each class, slice and split: `label slice split before kept added dropped after`.
        first: Name of the session before.
        second: Name of the session after.
        theme: Colors of the figure.
        width_inches: Its width.

    Raises:
        DataError: The table is empty.
    """
    if table.empty:
        raise DataError("Expected sessions with tiles to draw, got none. Compare other sessions.")
    parts = _parts(table)
    splits = [split for split in ("train", "valid", "test") if (parts["split"] == split).any()]
    groups = list(parts[["label", "slice"]].drop_duplicates().itertuples(index=False, name=None))
    figure = new_figure(
        width_inches=width_inches,
        height_inches=2.0 + 0.5 * len(groups),
        title=f"Tiles of session {plain(second)}, and what changed since session {plain(first)}",
        theme=theme,
    )
    panels = figure.subplots(1, len(splits), sharex=True, sharey=True, squeeze=False)[0]
    for axes, split in zip(panels, splits, strict=True):
        of_split = parts[parts["split"] == split].set_index(["label", "slice"])[[*_RIGHT, *_LEFT]]
        _draw_split(axes, of_split.reindex(groups, fill_value=0), theme)
        tidy(axes, x_label="tiles", title=split, theme=theme)
        axes.grid(axis="y", visible=False)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
        axes.xaxis.set_major_formatter(lambda value, _: f"{abs(value):,.0f}")  # to the left are numbers of tiles too
    panels[0].set_yticks(range(len(groups)), [_name(*group) for group in groups])
    panels[0].set_ylim(len(groups) - 0.5, -0.5)
    handles, labels = panels[0].get_legend_handles_labels()
    shown = [(handle, label) for handle, label in zip(handles, labels, strict=True) if parts[label].any()]
    figure.legend(
        *zip(*shown, strict=True), loc="outside lower left", ncols=len(shown), frameon=False, fontsize=10,
        labelcolor=theme.ink,
    )  # fmt: skip
    return figure


def _parts(table: pd.DataFrame) -> pd.DataFrame:
    """Return the lengths of the parts of each bar."""
    return table[["label", "slice", "split"]].assign(
        **{
            KEPT: table["kept"],
            ADDED: table["added"],
            CHANGED: table["after"] - table["kept"] - table["added"],
            DROPPED: table["dropped"],
            LEFT: table["before"] - table["kept"] - table["dropped"],
        }
    )


def _draw_split(axes: Axes, parts: pd.DataFrame, theme: Theme) -> None:
    """Draw the bars of one split, with the number of each part that is not empty; no bar for what no group has."""
    colors = dict(zip((ADDED, DROPPED, CHANGED, LEFT), CLASS_COLORS, strict=False))
    fills = {KEPT: tint(theme.muted, 0.5, theme.paper)} | {
        name: on_theme(color, theme) for name, color in colors.items()
    }
    rows = np.arange(len(parts))
    for names, sign in ((_RIGHT, 1), (_LEFT, -1)):
        start = np.zeros(len(parts))
        for name in names:
            lengths = sign * parts[name].to_numpy(dtype=np.float64)  # (G,) tiles
            axes.barh(rows, lengths, left=start, height=0.6, color=fills[name], label=name, edgecolor=theme.paper)
            start = start + lengths
    axes.axvline(0, color=theme.muted, linewidth=0.8)
    for row, (_, values) in zip(rows, parts.iterrows(), strict=True):
        axes.annotate(
            _numbers(values), (float(values[list(_RIGHT)].sum()), row), xytext=(5, 0), textcoords="offset points",
            va="center", fontsize=9, color=theme.ink, annotation_clip=False,
        )  # fmt: skip


def _numbers(values: pd.Series) -> str:
    """Return what is written beside a bar: how many tiles there are now, and what came and went."""
    total = int(values[list(_RIGHT)].sum())
    came, went = int(values[[ADDED, CHANGED]].sum()), int(values[list(_LEFT)].sum())
    changes = [text for text, number in ((f"+{came}", came), (f"−{went}", went)) if number]
    return f"{total} ({', '.join(changes)})" if changes else f"{total}"


def _name(label: str, slice_name: str) -> str:
    return plain(f"{label}, {slice_name}" if slice_name and slice_name != label else label, max_chars=32)
