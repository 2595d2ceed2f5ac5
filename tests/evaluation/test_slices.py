"""Scores of slices."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from satx.errors import DataError
from satx.evaluation.slices import slice_table

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
