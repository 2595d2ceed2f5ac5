"""How much a random split would flatter: the same quick classifier, trained and scored on random and on block splits.

The classifier is a logistic regression on a frozen network's features, as the baseline of a sweep, with a fixed regularization.
Both splits are drawn again and again; a draw of both uses the same tiles, with the same number of each class in each split, so
only their places differ. The difference in test AUC is what neighbouring tiles on both sides of a random split add.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from satx.errors import DataError
from satx.evaluation.intervals import CONFIDENCE, Interval
from satx.evaluation.metrics import roc_auc
from satx.splits.assignment import Ground, assign, lacking_class
from satx.splits.buffer import NOWHERE, TEST, TRAIN

REGULARIZATION = 0.01  # in the middle of the baseline's `REGULARIZATIONS`
MIN_DRAWS = 5

OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class Draw:
    """Test AUC of one draw of both splits.

    Attributes:
        random: Of the random split.
        block: Of the block split.
        test_over_train: Number of test tiles divided by that of training tiles.
    """

    random: float
    block: float
    test_over_train: float


@dataclass(frozen=True)
class Flattery:
    """What a random split would have flattered.

    Attributes:
        random_auc: Mean test AUC of random splits.
        block_auc: Mean test AUC of block splits.
        difference: Random minus block, with its interval.
        num_draws: Draws of both that have every class in every split.
    """

    random_auc: float
    block_auc: float
    difference: Interval
    num_draws: int


def measure_flattery(
    features: np.ndarray, ground: Ground, shares: Sequence[int], *, seed: int, repeats: int, on_progress: OnProgress
) -> Flattery | None:
    """Train and score on random and on block splits.

    Args:
        features: (N, channels) float32, the pooled features of every tile; NaN for one that cannot be decoded, which is in no
            draw.
        ground: What decides which tiles go together.
        shares: Folds of each split, from `parse_shares`.
        seed: Seed of the first draw; the next ones follow it.
        repeats: Number of draws.
        on_progress: Called with (done, total).

    Returns:
        The result, or None if fewer than `MIN_DRAWS` draws have every class in every split.
    """
    draws: list[Draw] = []
    is_decoded = np.isfinite(features).all(axis=1)
    for number in range(repeats):
        splits = np.where(is_decoded, assign(ground, shares, seed + number).splits, np.int8(NOWHERE))
        if lacking_class(ground, splits) is None:
            draws.append(_draw(features, ground.labels, splits, np.random.default_rng(seed + number)))
        on_progress(number + 1, repeats)
    if len(draws) < MIN_DRAWS:
        return None
    differences = np.array([draw.random - draw.block for draw in draws])
    ratio = float(np.mean([draw.test_over_train for draw in draws]))
    return Flattery(
        random_auc=float(np.mean([draw.random for draw in draws])),
        block_auc=float(np.mean([draw.block for draw in draws])),
        difference=resampled_interval(differences, test_over_train=ratio),
        num_draws=len(draws),
    )


def random_like(splits: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a random split of the same tiles, with as many of each class in each split.

    Args:
        splits: (N,) index into `SPLITS`, or `NOWHERE` for tiles that are left out, which stay so.
        labels: (N,) class indices.
        rng: Source of randomness.
    """
    drawn = splits.copy()
    for label in np.unique(labels):
        rows = np.flatnonzero((labels == label) & (splits != NOWHERE))
        drawn[rows] = rng.permutation(splits[rows])
    return drawn


def trained_scores(features: np.ndarray, labels: np.ndarray, train: np.ndarray, scored: np.ndarray) -> np.ndarray:
    """Train the quick classifier on some tiles and return its probabilities for others, (n, C) float64.

    Args:
        features: (N, channels) float32.
        labels: (N,) class indices; each class is among the training tiles.
        train: Rows or mask of the training tiles.
        scored: Rows or mask of the tiles to score.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    regression = LogisticRegression(C=REGULARIZATION, max_iter=2000, class_weight="balanced")
    fitted = make_pipeline(StandardScaler(), regression).fit(features[train], labels[train])
    return np.asarray(fitted.predict_proba(features[scored]), np.float64)


def resampled_interval(differences: np.ndarray, *, test_over_train: float) -> Interval:
    """Return the mean of differences over repeated splits of the same tiles, with its interval.

    The draws share most of their tiles, so their plain standard error is too small. The corrected resampled t-test multiplies the
    variance by `1/J + n_test/n_train` instead of `1/J`: Nadeau and Bengio, "Inference for the Generalization Error", Machine
    Learning 52, 2003. Their correction is for random splits; for splits by block it is an approximation.

    Args:
        differences: (J,), J at least 2.
        test_over_train: Number of test tiles divided by that of training tiles.

    Raises:
        DataError: There is only one difference.
    """
    from scipy.stats import t

    num = len(differences)
    if num < 2:
        raise DataError(f"Expected at least two draws for an interval, got {num}. Draw more.")
    mean = float(differences.mean())
    error = math.sqrt((1 / num + test_over_train) * float(differences.var(ddof=1)))
    reach = float(t.ppf((1 + CONFIDENCE) / 2, num - 1)) * error
    return Interval(value=mean, low=mean - reach, high=mean + reach)


def split_auc(features: np.ndarray, labels: np.ndarray, splits: np.ndarray) -> float:
    """Return the test AUC of the quick classifier trained on the training tiles of a split."""
    is_train, is_test = splits == TRAIN, splits == TEST
    return roc_auc(labels[is_test], trained_scores(features, labels, is_train, is_test), positive_index=0)


def _draw(features: np.ndarray, labels: np.ndarray, splits: np.ndarray, rng: np.random.Generator) -> Draw:
    return Draw(
        random=split_auc(features, labels, random_like(splits, labels, rng)),
        block=split_auc(features, labels, splits),
        test_over_train=float((splits == TEST).sum() / (splits == TRAIN).sum()),
    )
