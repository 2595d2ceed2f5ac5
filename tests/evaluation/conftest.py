"""Seeded predictions of a model with some skill, for the tests of this folder."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

Answers = Callable[..., tuple[NDArray[np.int64], NDArray[np.float64]]]


def _answers(
    num_tiles: int = 200, num_classes: int = 2, seed: int = 0, skill: float = 1.5
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    random = np.random.default_rng(seed)
    labels = np.arange(num_tiles) % num_classes
    scores = random.normal(size=(num_tiles, num_classes))
    scores[np.arange(num_tiles), labels] += skill
    odds = np.exp(scores)
    return labels, odds / odds.sum(axis=1, keepdims=True)


@pytest.fixture(scope="session")
def answers() -> Answers:
    """Return a function that draws labels and probabilities that favor them, by number, seed and skill."""
    return _answers
