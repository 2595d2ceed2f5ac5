"""Tests of figures and chart of `satx compare`: what is drawn, and which runs are marked as best."""

import io
import itertools

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from satx.errors import DataError
from satx.evaluation.style import BACKBONE_COLORS, DARK, LIGHT, Theme, backbone_color, png_bytes
from satx.evaluation.two_models import ModelScores, compare_models
from satx.reports.best_run import best_run_of_each_backbone
from satx.reports.chart import NARROW_PX, WIDE_PX, Chart, auc_chart
from satx.reports.figure import NARROW_INCHES, compare_figure
from satx.reports.pictures import pictures_of
from satx.reports.slices_figure import session_slices_figure
from satx.reports.time_axis import time_unit, timed


def sweep(num_runs: int = 12, epoch_seconds: float = 60.0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return runs of two backbones, every fourth one pruned, and their histories."""
    random = np.random.default_rng(0)
    runs, histories = [], []
    for number in range(num_runs):
        backbone = ("xception", "mobilenetv2")[number % 2]
        status = "KILLED" if number % 4 == 3 else "FINISHED"
        num_epochs = 2 if status == "KILLED" else 6
        scores = np.sort(random.uniform(0.6, 0.95, size=num_epochs))
        seconds = epoch_seconds * (4 if backbone == "xception" else 1)
        history = pd.DataFrame(
            {
                "run_id": f"{number:032x}",
                "step": range(num_epochs),
                "val_accuracy": scores - 0.05,
                "val_loss": 1 - scores,
                "val_auc": scores,
                "epoch_seconds": seconds,
            }
        )
        histories.append(history)
        runs.append(
            {
                "run_id": f"{number:032x}",
                "run_name": f"{backbone}-{number}",
                "backbone": backbone,
                "status": status,
                "val_auc": scores[-1],
                "val_accuracy": scores[-1] - 0.05,
                "val_loss": 1 - scores[-1],
                "hours": num_epochs * seconds / 3600,
            }
        )
    return pd.DataFrame(runs), pd.concat(histories, ignore_index=True)


def drawn(figure: Figure) -> tuple[int, int]:
    return Image.open(io.BytesIO(png_bytes(figure, dots_per_inch=40))).size


def lines_of(axes: Axes, prefix: str) -> list[Line2D]:
    return [line for line in axes.lines if (line.get_gid() or "").startswith(prefix)]


def test_the_figure_has_a_row_per_backbone_a_line_per_run_and_one_best_run() -> None:
    runs, histories = sweep()
    figure = compare_figure(runs, histories, title="session 2")
    assert len(figure.axes) == 4
    for axes in figure.axes:
        assert len(lines_of(axes, "run-")) == 6
        assert len(lines_of(axes, "best-")) == 1
    assert [axes.get_ylabel() for axes in figure.axes[:2]] == ["validation accuracy", "validation loss (nats)"]
    assert [axes.get_title(loc="left") for axes in figure.axes[::2]] == ["xception", "mobilenetv2"]
    assert figure.axes[2].get_title(loc="right") == "3 finished, 3 pruned"
    assert min(drawn(figure)) > 100


def test_the_best_line_has_its_backbones_color_and_its_runs_name() -> None:
    runs, histories = sweep()
    best = best_run_of_each_backbone(runs).set_index("backbone")
    top_left = compare_figure(runs, histories, title="").axes[0]
    assert lines_of(top_left, "best-")[0].get_color() == backbone_color("xception")
    label = top_left.texts[0].get_text()
    assert label == f"{best.loc['xception', 'run_name']}\n{best.loc['xception', 'val_accuracy']:.3f}"


def test_panels_of_a_column_share_their_axes() -> None:
    figure = compare_figure(*sweep(), title="")
    accuracy, loss, accuracy_below, loss_below = figure.axes
    assert accuracy.get_xlim() == accuracy_below.get_xlim() == loss_below.get_xlim()
    assert accuracy.get_ylim() == accuracy_below.get_ylim()
    assert loss.get_ylim() == loss_below.get_ylim()


def test_time_is_the_cumulative_sum_of_epoch_seconds() -> None:
    _, histories = sweep(num_runs=1, epoch_seconds=900.0)
    shuffled = histories.sample(frac=1, random_state=1)
    assert timed(shuffled)["hours"].tolist() == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("hours", "name"), [(0.01, "seconds"), (0.4, "minutes"), (1.5, "minutes"), (1.6, "hours"), (1000, "hours")]
)
def test_the_time_axis_uses_a_readable_unit(hours: float, name: str) -> None:
    assert time_unit(hours).name == name


def differing(times: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return a sweep of two runs, of which one takes this many times as long as the other."""
    runs, histories = sweep(num_runs=2)
    histories["epoch_seconds"] = np.where(histories["run_id"] == runs["run_id"].iloc[0], 10.0 * times, 10.0)
    return runs, histories


def chart_of(size_px: tuple[int, int] = WIDE_PX, times: float = 1.0) -> Chart:
    chart = auc_chart(*differing(times), size_px=size_px)
    assert chart is not None
    return chart


@pytest.mark.parametrize(("times", "scale"), [(9.9, "linear"), (10.1, "log"), (2000.0, "log")])
def test_the_time_axis_is_logarithmic_if_one_run_takes_ten_times_as_long_as_another(times: float, scale: str) -> None:
    for width_inches in (12.0, NARROW_INCHES):
        figure = compare_figure(*differing(times), title="t", width_inches=width_inches)
        assert {axes.get_xscale() for axes in figure.axes} == {scale}
        assert min(drawn(figure)) > 100
    chart = chart_of(times=times)
    first, second = ([float(pair.split(",")[0]) for pair in line.points.split()] for line in chart.lines)
    steps = np.diff(first)  # of six equal epochs
    assert (steps.max() > 3 * steps.min()) == (scale == "log")
    shift = np.subtract(first, second)  # on a logarithmic axis, a slower run has the same curve, moved to the right
    assert np.allclose(shift, shift[0], atol=0.2) == (scale == "log")


@pytest.mark.parametrize("size_px", [WIDE_PX, NARROW_PX])
@pytest.mark.parametrize("times", [1.0, 40.0, 2000.0, 100_000.0])
def test_ticks_of_the_chart_are_inside_it_and_apart(size_px: tuple[int, int], times: float) -> None:
    chart = chart_of(size_px, times)
    places = [tick.place_px for tick in chart.x_ticks]
    assert len(places) >= 2
    assert min(places) >= chart.left and max(places) <= chart.right
    assert min(np.diff(places)) > 20
    assert all(0 <= tick.place_px <= chart.bottom for tick in chart.y_ticks)


def test_epochs_without_a_duration_are_drawn() -> None:
    runs, histories = differing(2000.0)
    histories.loc[histories["run_id"] == runs.loc[0, "run_id"], "epoch_seconds"] = np.nan
    drawn(compare_figure(runs, histories, title="t"))
    assert auc_chart(runs, histories) is not None
    histories["epoch_seconds"] = 0.0
    drawn(compare_figure(runs, histories, title="t"))
    assert auc_chart(runs, histories) is not None


def test_the_loss_axis_is_logarithmic_if_losses_differ_more_than_tenfold() -> None:
    runs, histories = sweep()
    for smallest, scale in ((0.1, "linear"), (0.05, "log")):
        histories["val_loss"] = np.geomspace(smallest, 0.8, len(histories))
        losses = compare_figure(runs, histories, title="t").axes[1::2]
        assert {axes.get_yscale() for axes in losses} == {scale}
        assert all(axes.get_ylim()[0] < smallest for axes in losses)


def test_a_narrow_figure_has_its_panels_below_each_other() -> None:
    figure = compare_figure(*sweep(), title="session 2 " * 8, width_inches=NARROW_INCHES)
    width, height = drawn(figure)
    assert height > 2 * width
    assert len({round(axes.get_position().x0, 2) for axes in figure.axes}) == 1
    assert [bool(axes.get_xlabel()) for axes in figure.axes] == [False, False, False, True]


def luminance(red: float, green: float, blue: float) -> float:
    parts = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in (red, green, blue)]
    return float(np.dot([0.2126, 0.7152, 0.0722], parts))


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_texts_and_lines_stand_out_from_their_background(theme: Theme) -> None:
    def contrast(color: str) -> float:
        low, high = sorted(luminance(*to_rgb(one)) for one in (color, theme.paper))
        return (high + 0.05) / (low + 0.05)

    assert contrast(theme.ink) > 7 and contrast(theme.muted) > 4.5  # WCAG 2.2: AAA and AA for text
    for backbone in (*BACKBONE_COLORS, *(f"own {number}" for number in range(20))):
        assert contrast(backbone_color(backbone, theme)) >= 3, backbone  # AA for graphics


def test_pictures_are_light_and_dark_wide_and_narrow() -> None:
    pictures = pictures_of(
        lambda theme, width_inches: compare_figure(*sweep(), title="t", theme=theme, width_inches=width_inches),
        description="d",
    )
    for dark, narrow in itertools.product((False, True), (False, True)):
        name = ("narrow_" if narrow else "") + ("dark" if dark else "light")
        with Image.open(io.BytesIO(getattr(pictures, name))) as image:
            pixels = np.asarray(image.convert("L"))
        assert (pixels[0, 0] < 50) == dark and (dark or pixels[0, 0] == 255)
        assert (np.median(pixels) < 50) == dark
        assert (pixels.shape[0] > pixels.shape[1]) == narrow


def test_the_label_of_the_time_axis_names_its_unit() -> None:
    runs, histories = sweep(epoch_seconds=1200.0)
    assert compare_figure(runs, histories, title="").axes[-1].get_xlabel() == "training time (hours)"


def test_the_best_run_is_finished_has_the_highest_auc_and_at_a_tie_the_lower_loss() -> None:
    runs, _ = sweep()
    runs.loc[runs["status"] == "KILLED", "val_auc"] = 1.0
    ties = runs.index[(runs["backbone"] == "xception") & (runs["status"] == "FINISHED")][:2]
    runs.loc[ties, "val_auc"] = 0.99
    runs.loc[ties, "val_loss"] = [0.2, 0.1]
    best = best_run_of_each_backbone(runs).set_index("backbone")
    assert best.loc["xception", "run_id"] == runs.loc[ties[1], "run_id"]
    assert set(best["status"]) == {"FINISHED"}


def test_a_confirmed_run_is_best_even_if_an_unconfirmed_one_has_a_higher_score() -> None:
    runs, _ = sweep()
    finished = runs.index[(runs["backbone"] == "xception") & (runs["status"] == "FINISHED")]
    runs.loc[finished[:3], "val_auc"] = [0.99, 0.98, 0.97]
    runs.loc[finished[1:3], "confirmed_val_auc"] = [0.960, 0.965]
    best = best_run_of_each_backbone(runs).set_index("backbone")
    assert best.loc["xception", "run_id"] == runs.loc[finished[2], "run_id"]
    assert np.isnan(best.loc["mobilenetv2", "confirmed_val_auc"])
    assert list(best.index) == ["xception", "mobilenetv2"]


def test_finished_and_pruned_runs_of_a_backbone_are_counted() -> None:
    best = best_run_of_each_backbone(sweep()[0]).set_index("backbone")
    assert best.loc["mobilenetv2", ["num_finished", "num_pruned"]].tolist() == [3, 3]


def test_a_sweep_in_which_nothing_has_finished_is_drawn_without_a_best_run() -> None:
    runs, histories = sweep()
    runs["status"] = "RUNNING"
    assert best_run_of_each_backbone(runs).empty
    figure = compare_figure(runs, histories, title="")
    assert not any(lines_of(axes, "best-") for axes in figure.axes)
    drawn(figure)


def test_runs_with_unusual_names_scores_or_histories_are_drawn() -> None:
    runs, histories = sweep()
    runs.loc[0, ["run_name", "backbone"]] = ["$x$ _\n$", "_somebody's $own$"]
    runs.loc[1, "status"] = "FAILED"
    histories.loc[histories["run_id"] == runs.loc[1, "run_id"], ["val_accuracy", "val_loss", "val_auc"]] = np.nan
    histories.loc[histories["run_id"] == runs.loc[2, "run_id"], "val_loss"] = np.inf
    one_epoch = histories["run_id"].ne(runs.loc[3, "run_id"]) | histories["step"].eq(0)
    without_epochs = histories["run_id"].ne(runs.loc[4, "run_id"])
    drawn(compare_figure(runs, histories[one_epoch & without_epochs], title="$a$ " * 60))


def test_two_hundred_runs_fit_one_figure() -> None:
    figure = compare_figure(*sweep(num_runs=200), title="200 configurations")
    assert sum(len(lines_of(axes, "run-")) for axes in figure.axes) == 400
    drawn(figure)


def test_a_diverging_loss_does_not_flatten_the_others() -> None:
    runs, histories = sweep()
    histories.loc[histories["run_id"] == runs.loc[0, "run_id"], "val_loss"] = 1e6
    loss = compare_figure(runs, histories, title="").axes[1]
    assert loss.get_ylim()[1] < 10
    assert "of epochs" in loss.get_title(loc="right")


def test_no_epoch_at_all_is_an_error_that_says_what_to_do() -> None:
    runs, histories = sweep()
    with pytest.raises(DataError, match="make sweep"):
        compare_figure(runs, histories.iloc[:0], title="")


def two_sessions() -> pd.DataFrame:
    """Return the comparison of two models on 20 schools and 40 other tiles of two slices."""
    is_positive = np.arange(60) < 20
    models = {}
    for name, (test, valid) in zip(
        ("session 1", "session 2"), np.random.default_rng(0).random((2, 2, 60)), strict=True
    ):
        models[name] = ModelScores(test, valid, is_positive, [str(row) for row in range(60)])
    slices = ["school"] * 20 + ["built-up", "$open$"] * 20
    return compare_models(is_positive, slices, models, threshold=0.44)


def test_the_slice_figure_has_recall_false_positives_and_areas_with_their_differences() -> None:
    figure = session_slices_figure(two_sessions(), positive_class="$school")
    fixed, equal, areas = figure.axes
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["session 1", "session 2"]
    assert fixed.get_title(loc="left") == "At threshold 0.44"
    assert "90% recall on each model's own" in equal.get_title(loc="left")
    names = [text.get_text().partition("\n")[0] for text in fixed.get_yticklabels()]
    assert names[:2] == [r"recall of \$school", "all slices"] and set(names[2:]) == {"built-up", r"\$open\$"}
    for axes, num_rows in ((fixed, 4), (equal, 4), (areas, 3)):
        assert len(axes.containers) == 2
        assert all(len(container.lines[0].get_ydata()) == num_rows for container in axes.containers)
        texts = [text.get_text() for text in axes.texts]
        assert len(texts) == num_rows and all(" to " in text for text in texts)
    assert all("points" in text.get_text() for text in fixed.texts)
    assert min(areas.containers[0].lines[0].get_ydata()) > 0.5, "no area in the row of the recall"
    drawn(figure)


def test_a_narrow_slice_figure_has_its_panels_below_each_other() -> None:
    figure = session_slices_figure(two_sessions(), positive_class="school", theme=DARK, width_inches=NARROW_INCHES)
    width, height = drawn(figure)
    assert height > 2 * width
    assert len({round(axes.get_position().x0, 2) for axes in figure.axes}) == 1
    with pytest.raises(DataError):
        session_slices_figure(two_sessions().iloc[:0], positive_class="school")
