"""All scores with intervals, compared with the functions that compute one each."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from satx.errors import DataError
from satx.evaluation import assessment, intervals, metrics
from satx.evaluation.assessment import Assessment, assess
from satx.evaluation.calibration import calibrated, calibration_gap, expected_calibration_error
from satx.evaluation.intervals import Interval, wilson_interval
from satx.evaluation.operating_point import recall_at_fpr
from satx.evaluation.slices import slice_table

Answers = Callable[..., tuple[NDArray[np.int64], NDArray[np.float64]]]

NAMES = ("farm", "school", "forest", "road")
METRICS = {
    "accuracy", "auc", "average_precision", "recall_at_fpr_0.01", "recall_at_fpr_0.05", "recall_at_fpr_0.1", "brier",
    "loss", "calibration_gap", "ece", "recall", "false_positive_rate", "precision",
}  # fmt: skip


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Draw 100 resamples, which suffice to compare two computations."""
    monkeypatch.setattr(assessment, "NUM_RESAMPLES", 100)
    monkeypatch.setattr(assessment, "FEWEST_RESAMPLES", 2)
    yield


def two_columns(scores: Any) -> NDArray[np.float64]:
    scores = np.asarray(scores, dtype=np.float64)
    return np.stack([1 - scores, scores], axis=1)


def assessed(labels: Any, probabilities: Any, *, threshold: float = 0.5, slices: Any = None) -> Assessment:
    names = NAMES[: probabilities.shape[1]]
    return assess(labels, probabilities, classes=names, positive_class="school", threshold=threshold, slices=slices)


def one_by_one(num_classes: int) -> dict[str, intervals.Statistic]:
    def mean_recall(labels: Any, probabilities: Any, *, rate: float) -> float:
        of_interest = [1] if num_classes == 2 else range(num_classes)
        return float(
            np.mean(
                [
                    recall_at_fpr(labels, probabilities, positive_index=index, false_positive_rate=rate)
                    for index in of_interest
                ]
            )
        )

    return {
        "auc": partial(metrics.roc_auc, positive_index=1),
        "average_precision": partial(metrics.average_precision, positive_index=1),
        **{f"recall_at_fpr_{rate}": partial(mean_recall, rate=rate) for rate in (0.01, 0.05, 0.1)},
        "brier": metrics.brier_score,
        "loss": metrics.log_loss,
        "calibration_gap": calibration_gap,
        "ece": expected_calibration_error,
    }


def as_numbers(interval: Interval) -> tuple[float, float, float]:
    return interval.value, interval.low, interval.high


@pytest.mark.parametrize("num_classes", [2, 4])
def test_bootstrapped_scores_and_intervals_are_those_of_one_score_at_a_time(answers: Answers, num_classes: int) -> None:
    labels, probabilities = answers(num_tiles=90, num_classes=num_classes, skill=1.0)
    probabilities = probabilities.round(2)  # with ties
    probabilities[:, 0] += 1 - probabilities.sum(axis=1)
    probabilities = probabilities.clip(0, 1)
    found = assessed(labels, probabilities)
    for name, statistic in one_by_one(num_classes).items():
        expected = intervals.bootstrap_interval(statistic, labels, probabilities, num_resamples=100)
        assert as_numbers(found.interval(name)) == pytest.approx(as_numbers(expected), abs=1e-9), name


scored_labels = st.integers(2, 30).flatmap(
    lambda size: st.tuples(
        arrays(np.int64, size, elements=st.integers(0, 1)),
        arrays(np.int64, size, elements=st.integers(0, 20)).map(lambda steps: steps / 20),
    )
)


@settings(max_examples=60)
@given(scored_labels, st.floats(0.01, 0.99))
def test_every_score_lies_in_its_interval_or_is_undefined(case: tuple[Any, Any], threshold: float) -> None:
    labels, scores = case
    table = assessed(labels, two_columns(scores), threshold=threshold).table
    assert set(table["metric"]) == METRICS
    known = table.dropna(subset=["low"])
    assert (known["low"] <= known["value"]).all()
    assert (known["value"] <= known["high"]).all()
    assert table.loc[table["value"].isna(), ["low", "high"]].isna().all(axis=None)
    one_sided = labels.min() == labels.max()
    assert table.set_index("metric").loc["auc"].isna()["value"] == one_sided


def test_shares_have_wilsons_intervals_at_the_threshold() -> None:
    labels = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0])
    found = assessed(labels, two_columns([0.9, 0.8, 0.7, 0.1, 0.6, 0.3, 0.3, 0.2, 0.2, 0.2]), threshold=0.3)
    assert found.interval("recall") == wilson_interval(3, 4)
    assert found.interval("false_positive_rate") == wilson_interval(3, 6)
    assert found.interval("precision") == wilson_interval(3, 6)
    assert found.interval("accuracy") == wilson_interval(8, 10)  # of the most probable class


def test_two_classes_have_no_rows_of_their_own(answers: Answers) -> None:
    table = assessed(*answers()).table
    assert set(table["scope"]) == {"all"}
    assert set(table["num_tiles"]) == {200}


def test_each_of_many_classes_is_scored_against_the_rest(answers: Answers) -> None:
    labels, probabilities = answers(num_tiles=120, num_classes=4, skill=1.0)
    found = assessed(labels, probabilities, threshold=0.3)
    predicted = probabilities.argmax(axis=1)
    for index, name in enumerate(NAMES):
        rest = (labels == index).astype(int), two_columns(probabilities[:, index])
        of_class = partial(found.interval, scope="class", name=name)
        assert of_class("auc").value == pytest.approx(metrics.roc_auc(*rest, positive_index=1))
        assert of_class("average_precision").value == pytest.approx(metrics.average_precision(*rest, positive_index=1))
        assert of_class("brier").value == pytest.approx(metrics.brier_score(*rest))
        expected = recall_at_fpr(*rest, positive_index=1, false_positive_rate=0.1)
        assert of_class("recall_at_fpr_0.1").value == pytest.approx(expected)
        hits = int(((predicted == index) & (labels == index)).sum())
        assert of_class("recall") == wilson_interval(hits, 30)
        assert of_class("precision") == wilson_interval(hits, int((predicted == index).sum()))
        assert of_class("false_positive_rate") == wilson_interval(int((predicted == index).sum()) - hits, 90)
    assert found.table.query("scope == 'class'")["num_tiles"].unique().tolist() == [30]
    mean = found.table.query("scope == 'class' and metric == 'auc'")["value"].mean()
    assert found.interval("auc").value == pytest.approx(mean)


def test_with_many_classes_the_threshold_applies_to_the_class_of_interest(answers: Answers) -> None:
    labels, probabilities = answers(num_tiles=120, num_classes=4, skill=1.0)
    found = assessed(labels, probabilities, threshold=0.3)
    flagged = probabilities[:, 1] >= 0.3
    assert found.interval("recall") == wilson_interval(int(flagged[labels == 1].sum()), 30)
    assert found.interval("false_positive_rate") == wilson_interval(int(flagged[labels != 1].sum()), 90)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_a_slice_is_scored_as_if_its_tiles_were_alone(answers: Answers, num_classes: int) -> None:
    labels, probabilities = answers(num_tiles=120, num_classes=num_classes)
    slices = np.where(np.arange(120) % 5 < 2, "rural", "urban")
    rural = slices == "rural"
    whole = assessed(labels, probabilities, threshold=0.4, slices=slices).table.query("name == 'rural'")
    alone = assessed(labels[rural], probabilities[rural], threshold=0.4).table.query("scope == 'all'")
    columns = ["metric", "value", "low", "high", "num_tiles"]
    pd.testing.assert_frame_equal(whole[columns].reset_index(drop=True), alone[columns])


def test_rates_of_slices_are_those_of_the_table_of_slices(answers: Answers) -> None:
    labels, probabilities = answers(num_tiles=60)
    slices = [None, "rural", "urban"] * 20
    found = assessed(labels, probabilities, threshold=0.3, slices=slices)
    expected = slice_table(labels, probabilities, slices, positive_index=1, threshold=0.3).set_index("slice")
    assert set(found.table.query("scope == 'slice'")["name"]) == {"(none)", "rural", "urban"}
    for name, row in expected.iterrows():
        for metric in ("recall", "false_positive_rate"):
            numbers = tuple(row[[metric, f"{metric}_low", f"{metric}_high"]])
            assert as_numbers(found.interval(metric, scope="slice", name=str(name))) == pytest.approx(numbers)


def test_a_slice_without_positives_has_no_ranking_and_no_recall_but_a_false_positive_rate(answers: Answers) -> None:
    labels, probabilities = answers(num_tiles=60)
    slices = np.where((labels == 0) & (np.arange(60) < 30), "fields", "town")
    found = assessed(labels, probabilities, slices=slices).table.query("name == 'fields'").set_index("metric")
    undefined = {"auc", "average_precision", "recall_at_fpr_0.01", "recall_at_fpr_0.05", "recall_at_fpr_0.1", "recall"}
    assert found.loc[sorted(undefined), ["value", "low", "high"]].isna().all(axis=None)
    assert found.loc[["accuracy", "brier", "loss", "false_positive_rate"], ["value", "low"]].notna().all(axis=None)
    assert found["num_tiles"].unique().tolist() == [15]


def test_of_many_classes_a_slice_that_lacks_one_has_no_mean_over_classes(answers: Answers) -> None:
    labels, probabilities = answers(num_tiles=90, num_classes=3)
    slices = np.where(labels == 2, "forest", "rest")
    found = assessed(labels, probabilities, slices=slices)
    assert np.isnan(found.interval("auc", scope="slice", name="rest").value)
    assert found.interval("recall", scope="slice", name="rest").value > 0


def test_precision_is_undefined_if_no_tile_is_flagged() -> None:
    found = assessed(np.array([0, 1, 1]), two_columns([0.1, 0.2, 0.3]), threshold=0.9)
    assert np.isnan(found.interval("precision").value)
    assert found.interval("recall") == wilson_interval(0, 2)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_perfectly_ranked_tiles_still_have_an_interval(num_classes: int) -> None:
    labels = np.arange(30) % num_classes
    probabilities = np.full((30, num_classes), 0.1 / (num_classes - 1))
    probabilities[np.arange(30), labels] = 0.9
    found = assessed(labels, probabilities)
    num_positive = 30 // num_classes
    area = intervals.auc_interval(1.0, num_positive=num_positive, num_negative=30 - num_positive)
    assert as_numbers(found.interval("auc")) == pytest.approx(as_numbers(area))
    recall = wilson_interval(num_positive, num_positive)
    assert as_numbers(found.interval("recall_at_fpr_0.05")) == pytest.approx(as_numbers(recall))
    assert found.interval("average_precision") == Interval(1.0, 1.0, 1.0)


def test_a_single_tile_has_scores_but_only_wilsons_intervals() -> None:
    table = assessed(np.array([1]), two_columns([0.8])).table.set_index("metric")
    assert table.loc["loss", "value"] == pytest.approx(-np.log(0.8))
    assert table.loc[["loss", "brier", "ece", "calibration_gap"], ["low", "high"]].isna().all(axis=None)
    assert table.loc["recall", "low"] < 1.0


def test_a_temperature_changes_no_interval_of_a_ranking(answers: Answers) -> None:
    labels, probabilities = answers(skill=0.8)
    before, after = assessed(labels, probabilities), assessed(labels, calibrated(probabilities, 1.7))
    for metric in ("auc", "average_precision", "recall_at_fpr_0.05"):
        assert before.interval(metric) == after.interval(metric)
    assert before.interval("loss") != after.interval("loss")


def test_how_many_resamples_are_in_memory_at_once_changes_nothing(
    answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = answers(num_tiles=40, num_classes=3)
    expected = assessed(*case).table
    for size in (1, 130):
        monkeypatch.setattr(assessment, "CHUNK_DRAWS", size)
        pd.testing.assert_frame_equal(assessed(*case).table, expected)


@pytest.mark.parametrize(("num_tiles", "times"), [(10, 100), (40, 50), (4000, 7)])
def test_many_tiles_are_resampled_less_often(
    answers: Answers, monkeypatch: pytest.MonkeyPatch, num_tiles: int, times: int
) -> None:
    monkeypatch.setattr(assessment, "MOST_DRAWS", 2000)
    monkeypatch.setattr(assessment, "FEWEST_RESAMPLES", 7)
    drawn = []

    def counted(*args: Any, **options: Any) -> Iterator[NDArray[np.int64]]:
        for rows in intervals.resamples(*args, **options):
            drawn.append(len(rows))
            yield rows

    monkeypatch.setattr(assessment, "resamples", counted)
    assessed(*answers(num_tiles=num_tiles))
    assert drawn == [num_tiles] * times


def test_classes_that_do_not_fit_are_refused(answers: Answers) -> None:
    for names, positive in ((("school",), "school"), (("farm", "road"), "school")):
        with pytest.raises(DataError, match="2 classes, one of them 'school'"):
            assess(*answers(), classes=names, positive_class=positive, threshold=0.5)


def test_slices_of_other_tiles_are_refused(answers: Answers) -> None:
    with pytest.raises(DataError, match="199 slices for 200 tiles"):
        assessed(*answers(), slices=["rural"] * 199)


def test_an_unknown_score_is_refused_with_the_nearest_name(answers: Answers) -> None:
    found = assessed(*answers(), slices=["rural", "urban"] * 100)
    for query in (
        {"metric": "acuracy"},
        {"metric": "auc", "scope": "class", "name": "school"},
        {"metric": "auc", "scope": "slice", "name": "rura"},
    ):
        with pytest.raises(DataError, match=r"Expected a (metric|scope|name)"):
            found.interval(**query)
    with pytest.raises(DataError, match="Did you mean 'rural'"):
        found.interval("auc", scope="slice", name="rura")
