"""Plots contain what they should show."""

import io
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from satx.errors import DataError
from satx.evaluation import plots, style
from satx.evaluation.calibration import reliability_table
from satx.evaluation.intervals import Interval, wilson_interval
from satx.evaluation.reliability_plot import reliability
from satx.evaluation.slices import slice_table

Answers = Callable[..., tuple[NDArray[np.int64], NDArray[np.float64]]]


NAMES = {2: ["not-school", "school"], 4: ["school", "_hidden", "$x$ $", "a name that is far too long for any legend"]}


def history(num_epochs: int = 9) -> pd.DataFrame:
    random = np.random.default_rng(0)
    scores = random.uniform(0.5, 1.0, size=(num_epochs, 5))
    table = pd.DataFrame(scores, columns=["accuracy", "loss", "val_accuracy", "val_loss", "val_auc"])
    phases = ["head"] * 3 + ["tail"] * (num_epochs - 3)
    return table.assign(step=range(num_epochs), phase=phases[:num_epochs], learning_rate=1e-3, epoch_seconds=20.0)


def drawn(figure: Figure) -> tuple[int, int]:
    """Render a figure and return its size; a label that matplotlib cannot draw fails here."""
    image = Image.open(io.BytesIO(style.png_bytes(figure, dots_per_inch=40)))
    return image.size


def legend_labels(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_learning_curves_show_both_splits_and_the_kept_epoch() -> None:
    table = history()
    figure = plots.learning_curves(table)
    accuracy, loss, val_auc, learning_rate = figure.axes
    assert legend_labels(accuracy) == ["train", "valid"]
    assert [len(line.get_xdata()) for line in loss.lines[:2]] == [9, 9]
    kept = f"best {table.loc[table['val_auc'].idxmax(), 'step']}"
    assert [text.get_text() for text in val_auc.texts] == ["tail", kept]
    assert learning_rate.get_yscale() == "log"
    assert "9 epochs in 3.0 minutes" in figure.get_suptitle()
    assert min(drawn(figure)) > 100


def test_learning_curves_of_one_epoch_of_the_head_can_be_drawn() -> None:
    drawn(plots.learning_curves(history(num_epochs=1)))


def test_learning_curves_of_no_epoch_are_refused() -> None:
    with pytest.raises(DataError):
        plots.learning_curves(history().iloc[:0])


@pytest.mark.parametrize("num_classes", [2, 4])
def test_roc_has_one_curve_per_class_of_interest_and_its_interval(answers: Answers, num_classes: int) -> None:
    labels, probabilities = answers(num_classes=num_classes)
    figure = plots.roc(labels, probabilities, classes=NAMES[num_classes], positive_index=1, thresholds=(0.44, 0.5))
    axes = figure.axes[0]
    num_curves = 1 if num_classes == 2 else 4
    assert len(legend_labels(axes)) == num_curves
    # the chance line, and for each curve the curve itself and two operating points
    assert len(axes.lines) == 1 + num_curves * 3
    assert "95% interval" in axes.get_legend().get_title().get_text()
    drawn(figure)


@pytest.mark.parametrize("num_classes", [2, 4])
def test_precision_recall_has_one_curve_per_class_of_interest(answers: Answers, num_classes: int) -> None:
    labels, probabilities = answers(num_classes=num_classes)
    figure = plots.precision_recall(labels, probabilities, classes=NAMES[num_classes], positive_index=1)
    assert len(legend_labels(figure.axes[0])) == (1 if num_classes == 2 else 4)
    drawn(figure)


def test_curves_of_one_class_only_are_refused(answers: Answers) -> None:
    _, probabilities = answers()
    for plot in (plots.roc, plots.precision_recall):
        with pytest.raises(DataError):
            plot(np.ones(200, dtype=int), probabilities, classes=NAMES[2], positive_index=1)


@pytest.mark.parametrize("num_classes", [2, 4])
def test_confusion_writes_counts_and_shares_of_each_row(answers: Answers, num_classes: int) -> None:
    labels, probabilities = answers(num_classes=num_classes)
    figure = plots.confusion(labels, probabilities, classes=NAMES[num_classes])
    cells = [text.get_text().split("\n") for text in figure.axes[0].texts]
    assert len(cells) == num_classes**2
    assert sum(int(count) for count, _ in cells) == 200
    assert all(share.endswith("%") for _, share in cells)
    drawn(figure)


@pytest.mark.parametrize("num_classes", [2, 4])
def test_score_distribution_has_one_row_per_class_with_all_its_tiles(answers: Answers, num_classes: int) -> None:
    labels, probabilities = answers(num_classes=num_classes)
    figure = plots.score_distribution(labels, probabilities, classes=NAMES[num_classes], positive_index=1)
    assert len(figure.axes) == num_classes
    heights = [sum(bar.get_height() for bar in axes.patches) for axes in figure.axes]
    assert heights == [200 / num_classes] * num_classes
    drawn(figure)


def test_slice_bars_show_every_slice_even_one_without_positives(answers: Answers) -> None:
    labels, probabilities = answers()
    slices = np.where(labels == 1, "built-up", "open $land$")
    figure = plots.slice_bars(slice_table(labels, probabilities, slices, positive_index=1))
    assert [text.get_text() for axes in figure.axes for text in axes.texts] == ["n = 100", "n = 0", "n = 0", "n = 100"]
    drawn(figure)


def test_too_few_class_names_are_refused(answers: Answers) -> None:
    with pytest.raises(DataError):
        plots.confusion(*answers(), classes=["school"])


def test_a_backbone_keeps_its_color_and_known_ones_differ() -> None:
    assert len(set(style.BACKBONE_COLORS.values())) == len(style.BACKBONE_COLORS)
    assert style.backbone_color("somebody's own") == style.backbone_color("somebody's own")


def test_names_are_escaped_shortened_and_on_one_line() -> None:
    assert style.plain("a\nb\x07$") == r"a b?\$"
    assert style.plain("x" * 50, max_chars=10) == "x" * 9 + "…"


def test_reliability_shows_each_filled_bin_with_its_interval(answers: Answers) -> None:
    labels, probabilities = answers()
    figure = reliability(labels, {"before": probabilities, "after": probabilities**2 + 0.0})
    curve, counts = figure.axes
    assert legend_labels(curve) == ["before", "after"]
    table = reliability_table(labels, probabilities)
    filled = table[table["num_tiles"] > 0]
    line, _, (bars,) = curve.containers[0]
    assert np.allclose(line.get_ydata(), filled["accuracy"])
    assert np.allclose(line.get_xdata(), filled["mean_confidence"], atol=0.01)
    first = filled.iloc[0]
    interval = wilson_interval(round(first["accuracy"] * first["num_tiles"]), int(first["num_tiles"]))
    assert np.allclose(bars.get_segments()[0][:, 1], [interval.low, interval.high])
    assert counts.patches[0].get_data().values.sum() == len(labels)
    drawn(figure)


def test_reliability_of_one_set_and_roc_have_the_colors_of_a_theme(answers: Answers) -> None:
    labels, probabilities = answers()
    figures = [
        reliability(labels, {"after": probabilities}, theme=style.DARK),
        plots.roc(labels, probabilities, classes=NAMES[2], positive_index=1, theme=style.DARK),
    ]
    for figure in figures:
        image = Image.open(io.BytesIO(style.png_bytes(figure, dots_per_inch=40))).convert("RGB")
        assert "#{:02x}{:02x}{:02x}".format(*image.getpixel((0, 0))) == style.DARK.paper
        legend = figure.axes[0].get_legend()
        assert {to_hex(text.get_color()) for text in (*legend.get_texts(), legend.get_title())} == {style.DARK.ink}


def test_roc_shows_an_interval_that_the_caller_has_computed(answers: Answers) -> None:
    labels, probabilities = answers()
    known = Interval(0.5, 0.25, 0.75)
    figure = plots.roc(labels, probabilities, classes=NAMES[2], positive_index=1, area=known)
    assert str(known) in figure.axes[0].get_legend().get_title().get_text()
