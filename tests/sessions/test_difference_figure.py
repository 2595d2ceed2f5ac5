"""Tests of the figure of `satx session diff`: a bar has the length of what it counts."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pandas as pd
import pytest
from matplotlib.patches import Rectangle

from satx.errors import DataError
from satx.evaluation.style import DARK, LIGHT, Theme, png_bytes
from satx.reports.session_difference_figure import session_difference_figure
from satx.sessions.difference import session_difference
from sessions.small_sessions import manifest, row


def example() -> pd.DataFrame:
    """Return a difference in which tiles came, went, and changed class, split and slice."""
    before = manifest(
        *(row(number, slice="urban" if number % 2 else "") for number in range(8)), row(20, split="valid")
    )
    after = manifest(
        row(0, label="not-school"),
        row(1, slice="urban", split="valid"),
        row(2, slice="rural"),
        row(3, slice="urban"),
        *(row(number, label="not-school") for number in (30, 31)),
        row(20, split="valid"),
    )
    return pd.DataFrame([asdict(group) for group in session_difference(before, after).groups])


def bars_of(figure: Any) -> dict[str, float]:
    """Return the sum of the lengths of all bars, by name of the part."""
    found: dict[str, float] = {}
    for axes in figure.axes:
        for container in axes.containers:
            lengths = [patch.get_width() for patch in container if isinstance(patch, Rectangle)]
            found[container.get_label()] = found.get(container.get_label(), 0.0) + sum(lengths)
    return found


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_bars_have_the_lengths_of_the_counts(theme: Theme) -> None:
    table = example()
    figure = session_difference_figure(table, first="1", second="2", theme=theme)
    assert bars_of(figure) == {
        "in both": 2, "added": 2, "from another group": 3, "dropped": -4, "to another group": -3,
    }  # fmt: skip
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["train", "valid"]
    written = {text.get_text() for axes in figure.axes for text in axes.texts}
    assert {"3 (+3)", "1 (+1, −2)"} & written
    assert png_bytes(figure).startswith(b"\x89PNG")


def test_a_part_that_is_empty_is_not_in_the_legend() -> None:
    same = manifest(row(1), row(2))
    table = pd.DataFrame([asdict(group) for group in session_difference(same, same).groups])
    (legend,) = session_difference_figure(table, first="1", second="2").legends
    assert [text.get_text() for text in legend.get_texts()] == ["in both"]


def test_an_empty_table_is_refused() -> None:
    with pytest.raises(DataError, match="Expected sessions with tiles"):
        session_difference_figure(example()[:0], first="1", second="2")
