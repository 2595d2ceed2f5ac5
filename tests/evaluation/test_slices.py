"""Scores of slices, of one model and of two models on the same tiles."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from satx.errors import DataError
from satx.evaluation.slices import compare_false_positives, slice_table

Answers = Callable[..., tuple[NDArray[np.int64], NDArray[np.float64]]]


def two_columns(scores: Any) -> NDArray[np.float64]:
    scores = np.asarray(scores, dtype=np.float64)
    return np.stack([1 - scores, scores], axis=1)


LABELS = np.array([1, 1, 0, 0, 0, 0])
SCORES = two_columns([0.9, 0.2, 0.8, 0.1, 0.5, 0.4])
SLICES = ["rural", "rural", "rural", "urban", "urban", "urban"]


def test_a_slice_counts_its_tiles_and_its_rates() -> None:
    table = slice_table(LABELS, SCORES, SLICES, positive_index=1).set_index("slice")
    assert table.loc["rural", ["num_tiles", "num_positive", "num_negative"]].tolist() == [3, 2, 1]
    assert table.loc["rural", ["recall", "false_positive_rate"]].tolist() == [0.5, 1.0]
    assert table.loc["urban", "false_positive_rate"] == pytest.approx(1 / 3)
    assert table.loc["urban", "false_positive_rate_low"] < 1 / 3 < table.loc["urban", "false_positive_rate_high"]


def test_a_slice_without_positives_has_no_recall() -> None:
    table = slice_table(LABELS, SCORES, SLICES, positive_index=1).set_index("slice")
    assert table.loc["urban", ["recall", "recall_low", "recall_high"]].isna().all()


def test_a_higher_threshold_gives_fewer_false_positives() -> None:
    table = slice_table(LABELS, SCORES, SLICES, positive_index=1, threshold=0.85).set_index("slice")
    assert table["false_positive_rate"].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("missing", [None, float("nan"), pd.NA, "", "  "])
def test_tiles_without_a_slice_are_grouped_under_none(missing: object) -> None:
    table = slice_table(LABELS, SCORES, pd.Series([*SLICES[:5], missing], dtype=object), positive_index=1)
    assert table["slice"].tolist() == ["(none)", "rural", "urban"]
    assert table["num_tiles"].sum() == 6


def test_slices_of_many_classes_treat_all_other_classes_as_negative(answers: Answers) -> None:
    labels, probabilities = answers(num_tiles=90, num_classes=3)
    table = slice_table(labels, probabilities, ["all"] * 90, positive_index=2)
    assert table[["num_positive", "num_negative"]].to_numpy().tolist() == [[30, 60]]


def test_one_slice_per_tile_is_required() -> None:
    with pytest.raises(DataError, match=r"\b5\b.*\b6\b"):
        slice_table(LABELS, SCORES, SLICES[:5], positive_index=1)


def compared(first: Any, second: Any, slices: list[str] = SLICES) -> pd.DataFrame:
    models = {"session 1": two_columns(first), "session 2": two_columns(second)}
    return compare_false_positives(LABELS, slices, probabilities_by_model=models, positive_index=1).set_index("slice")


def test_false_positives_of_two_models_are_paired_tile_by_tile() -> None:
    table = compared([0.9, 0.9, 0.1, 0.9, 0.9, 0.1], [0.1, 0.1, 0.9, 0.1, 0.9, 0.1])
    urban = table.loc["urban"]
    assert urban[["num_negative", "false_positives_a", "false_positives_b"]].tolist() == [3, 2, 1]
    assert urban[["num_only_a", "num_only_b", "p_value"]].tolist() == [1, 0, 1.0]
    assert urban["difference"] == pytest.approx(1 / 3)
    assert urban["difference_low"] <= 1 / 3 <= urban["difference_high"]
    assert urban[["label_a", "label_b", "threshold"]].tolist() == ["session 1", "session 2", 0.5]
    assert table.index.tolist() == ["urban", "rural"]  # the largest improvement first


def test_equal_models_do_not_differ() -> None:
    scores = [0.9, 0.9, 0.1, 0.9, 0.9, 0.1]
    table = compared(scores, scores)
    assert table["difference"].tolist() == [0.0, 0.0]
    assert table["difference_low"].tolist() == pytest.approx((-table["difference_high"]).tolist())
    assert (table["difference_high"] > 0).all(), "an interval from few tiles has a positive width"
    assert table["p_value"].tolist() == [1.0, 1.0]


def test_a_slice_of_positives_only_is_left_out() -> None:
    scores = [0.5] * 6
    assert "school grounds" not in compared(scores, scores, slices=["school grounds"] * 2 + SLICES[2:]).index


def test_one_model_or_no_negatives_is_refused() -> None:
    with pytest.raises(DataError):
        compare_false_positives(LABELS, SLICES, probabilities_by_model={"one": SCORES}, positive_index=1)
    with pytest.raises(DataError):
        compare_false_positives(
            np.ones(6, dtype=int), SLICES, probabilities_by_model={"a": SCORES, "b": SCORES}, positive_index=1
        )
