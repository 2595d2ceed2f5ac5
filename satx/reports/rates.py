"""The comparison of two models as text: parts of a table, for the page and for the terminal."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from satx.evaluation.two_models import AUC, EQUAL_RECALL, FIXED, KEPT_RECALL, RECALL
from satx.reports.verdicts import slice_label


@dataclass(frozen=True)
class ShownRow:
    """One row: what it is about, how many tiles, both models, their difference, and tiles that only one model flags."""

    label: str
    num_tiles: int
    first: str
    second: str
    difference: str
    only_one: str
    p_value: str


@dataclass(frozen=True)
class ShownPart:
    """Rows under one heading."""

    heading: str
    rows: tuple[ShownRow, ...]


def shown_parts(table: pd.DataFrame, *, positive_class: str) -> list[ShownPart]:
    """Return a part for each operating point, and one for the areas.

    Args:
        table: From `compare_models`.
        positive_class: The class of interest.
    """
    parts = []
    for point in (FIXED, EQUAL_RECALL, ""):
        rows = table[table["point"] == point]
        shown = tuple(_row(row, positive_class) for _, row in rows.iterrows())
        parts.append(ShownPart(point_heading(rows.iloc[0]), shown))
    return parts


def point_heading(row: pd.Series) -> str:
    """Return the heading of the part to which a row belongs."""
    if row["point"] == FIXED:
        return f"At threshold {row['threshold_a']:g}"
    if row["point"] == EQUAL_RECALL:
        return (
            f"At {KEPT_RECALL:.0%} recall on each model's own validation tiles: thresholds {row['threshold_a']:.3g} and "
            f"{row['threshold_b']:.3g}"
        )
    return "Area under the ROC curve"


def row_label(row: pd.Series, positive_class: str) -> str:
    """Return what a row is about."""
    if row["measure"] == RECALL:
        return f"recall of {positive_class}"
    beside = "AUC" if row["measure"] == AUC else "false positives"
    return f"{beside}, {slice_label(row['slice'])}"


def difference_text(row: pd.Series) -> str:
    """Return the difference of a row with its interval: in points for rates."""
    values = row["difference"], row["difference_low"], row["difference_high"]
    if row["measure"] == AUC:
        return "{:+.3f} ({:+.3f} to {:+.3f})".format(*values)
    return "{:+.0f} points ({:+.0f} to {:+.0f})".format(*(100 * value for value in values))


def _row(row: pd.Series, positive_class: str) -> ShownRow:
    is_area = row["measure"] == AUC
    return ShownRow(
        label=row_label(row, positive_class),
        num_tiles=int(row["num_tiles"]),
        first=_value(row, "a"),
        second=_value(row, "b"),
        difference=difference_text(row),
        only_one="" if is_area else f"{row['num_only_a']:.0f}, {row['num_only_b']:.0f}",
        p_value="" if is_area else f"{row['p_value']:.2g}",
    )


def _value(row: pd.Series, model: str) -> str:
    value, low, high = (row[f"value_{model}{end}"] for end in ("", "_low", "_high"))
    if row["measure"] == AUC:
        return f"{value:.3f} ({low:.3f} to {high:.3f})"
    return f"{row[f'flagged_{model}']:.0f}, {value:.0%} ({low:.0%} to {high:.0%})"
