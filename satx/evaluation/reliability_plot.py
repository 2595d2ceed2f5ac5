"""Plot of reliability: whether a model is right as often as its probabilities say."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from satx.evaluation.arrays import Labels, Probabilities, checked
from satx.evaluation.calibration import reliability_table
from satx.evaluation.intervals import wilson_interval
from satx.evaluation.style import LIGHT, Theme, boxed_legend, new_figure, on_theme, plain, tidy

BEFORE_COLOR, AFTER_COLOR = "#D55E00", "#0072B2"


def reliability(
    labels: Labels,
    probabilities_by_name: Mapping[str, Probabilities],
    *,
    width_inches: float = 6.4,
    theme: Theme = LIGHT,
) -> Figure:
    """Plot accuracy against confidence of the predicted class in 15 bins, and below how many tiles each bin has.

    On the dashed diagonal, confidence equals accuracy; below it, the model is overconfident. Vertical bars are 95% Wilson
    intervals. Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", ICML 2017, figure 1.

    Args:
        labels: Class indices, (N,).
        probabilities_by_name: One or two sets of probabilities of these tiles, (N, C), by the name that the legend shows,
            such as before and after calibration; the last one is emphasized.
        width_inches: Width of the figure, which is a little less high.
        theme: Colors of the figure.

    Raises:
        DataError: There are no tiles, or labels and probabilities do not match.
    """
    figure = new_figure(width_inches=width_inches, height_inches=width_inches - 0.4, theme=theme)
    curve, counts = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    curve.plot([0, 1], [0, 1], color=theme.muted, linewidth=1, linestyle="--")
    num_sets = len(probabilities_by_name)
    colors = [on_theme(color, theme) for color in (BEFORE_COLOR, AFTER_COLOR)[-num_sets:]]
    lowest = 1.0
    for place, (name, probabilities) in enumerate(probabilities_by_name.items()):
        labels, values = checked(labels, probabilities)
        table = reliability_table(labels, values)
        filled = table[table["num_tiles"] > 0]
        shift = 0.004 * (2 * place - num_sets + 1)  # bars of the two sets do not cover each other
        _reliability_line(curve, filled, name, color=colors[place], shift=shift, is_last=place == num_sets - 1)
        style = {"color": colors[place], "linewidth": 1.5, "linestyle": "-" if place == num_sets - 1 else ":"}
        counts.stairs(table["num_tiles"], [*table["bin_low"], 1.0], baseline=None, **style)
        lowest = min(lowest, float(filled["bin_low"].min()))
    tidy(curve, y_label="accuracy", theme=theme)
    tidy(counts, x_label="confidence of the predicted class", y_label="tiles", theme=theme)
    curve.set(xlim=(lowest - 0.02, 1.02), ylim=(-0.04, 1.04))
    counts.yaxis.set_major_locator(MaxNLocator(nbins=3, integer=True))
    counts.set_ylim(bottom=0)
    boxed_legend(curve, title="", loc="lower right", theme=theme)
    return figure


def _reliability_line(axes: Axes, filled: pd.DataFrame, name: str, *, color: str, shift: float, is_last: bool) -> None:
    """Draw the accuracy of the bins that have tiles, with Wilson intervals."""
    successes = (filled["accuracy"] * filled["num_tiles"]).round().astype(int)
    intervals = [wilson_interval(*pair) for pair in zip(successes, filled["num_tiles"], strict=True)]
    reach = np.array(
        [[one.value - one.low for one in intervals], [one.high - one.value for one in intervals]]
    )  # (2, bins)
    axes.errorbar(
        filled["mean_confidence"] + shift, filled["accuracy"], yerr=reach, color=color, label=plain(name), markersize=5,
        marker="o" if is_last else "s", linestyle="-" if is_last else ":", linewidth=1.8, elinewidth=1, capsize=2,
    )  # fmt: skip
