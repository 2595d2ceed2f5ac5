from __future__ import annotations

import numpy as np
import pytest

from satx.errors import TrialFailed
from satx.training.scores import as_probabilities, training_accuracy


def test_probabilities_stay_as_they_are() -> None:
    values = np.array([[0.2, 0.8], [1.0, 0.0]], np.float32)
    assert np.array_equal(as_probabilities(values, 2, 1), values.astype(np.float64))


def test_one_column_is_the_probability_of_the_second_class() -> None:
    expected = [[0.75, 0.25], [0.0, 1.0]]
    assert as_probabilities(np.array([[0.25], [1.0]]), 2, 1).tolist() == expected
    logits = np.log(np.array([[0.25 / 0.75], [1e300]]))
    assert as_probabilities(logits, 2, 1) == pytest.approx(np.array(expected))


def test_other_outputs_are_taken_as_logits() -> None:
    expected = np.array([[0.2, 0.3, 0.5], [0.1, 0.1, 0.8]])
    assert as_probabilities(np.log(expected) + 7, 3, 1) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (np.array([[np.nan, 0.5]]), "finite outputs after epoch 4"),
        (np.zeros((5, 3)), r"shape \(tiles, 2\), one column per class, got \(5, 3\)"),
        (np.zeros((5, 4, 2)), r"got \(5, 4, 2\)"),
    ],
)
def test_outputs_that_cannot_be_scored_fail_the_trial(outputs: np.ndarray, message: str) -> None:
    with pytest.raises(TrialFailed, match=message):
        as_probabilities(outputs, 2, 4)


@pytest.mark.parametrize("name", ["accuracy", "acc", "sparse_categorical_accuracy", "binary_accuracy"])
def test_the_training_accuracy_is_found_by_any_of_its_names(name: str) -> None:
    assert training_accuracy({"loss": 0.1, f"val_{name}": 0.2, name: 0.3}) == 0.3
    assert np.isnan(training_accuracy({"loss": 0.1, f"val_{name}": 0.2}))
