"""What a random split flatters: found where near tiles are alike, and not found where they are not."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t
from test_assignment import SHARES, tile
from test_groups import squares

from satx.errors import DataError
from satx.evaluation.metrics import roc_auc
from satx.splits.assignment import Ground, assign, ground_of
from satx.splits.buffer import NOWHERE, TEST, TRAIN, VALID
from satx.splits.flattery import (
    measure_flattery,
    random_like,
    resampled_interval,
    split_auc,
    trained_scores,
)
from satx.splits.pairs import overlapping

PLACES, WINDOWS, CHANNELS = 120, 4, 60
HALF = (5, 1, 4)  # shares with many test tiles, so that few draws suffice


def collected(seed: int, *, place_spread: float) -> tuple[np.ndarray, Ground]:
    """Return features of tiles as people collect them, several overlapping windows of a place, and what splits them.

    The class moves the features; a place moves those of all its windows by `place_spread`.
    """
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(PLACES) % 2, WINDOWS)
    files = [tile(number, ["not-school", "school"][label]) for number, label in enumerate(labels)]
    corners = np.repeat(rng.integers(0, 2000, (PLACES, 2)), WINDOWS, axis=0) + rng.uniform(-0.3, 0.3, (len(files), 2))
    footprints = squares(*(tuple(corner) for corner in corners))
    direction = np.full(CHANNELS, 2 / math.sqrt(CHANNELS))
    features = labels[:, None] * direction + rng.normal(0, 0.4, (len(files), CHANNELS))
    features += np.repeat(rng.normal(0, place_spread, (PLACES, CHANNELS)), WINDOWS, axis=0)
    return features.astype(np.float32), ground_of(files, footprints, overlapping(footprints), 12, SHARES)


def measured(features: np.ndarray, ground: Ground, *, repeats: int = 10) -> tuple[float, float, float, int]:
    steps: list[tuple[int, int]] = []
    found = measure_flattery(
        features, ground, SHARES, seed=20, repeats=repeats, on_progress=lambda *step: steps.append(step)
    )
    assert steps == [(number, repeats) for number in range(1, repeats + 1)]
    assert found is not None
    assert found.difference.value == pytest.approx(found.random_auc - found.block_auc)
    return found.difference.low, found.difference.value, found.difference.high, found.num_draws


def test_a_random_split_flatters_where_several_tiles_show_a_place() -> None:
    low, value, _, num_draws = measured(*collected(1, place_spread=1.5), repeats=20)
    assert low > 0 and value > 0.1
    assert num_draws == 20


def test_a_random_split_does_not_flatter_where_each_tile_is_on_its_own() -> None:
    low, value, high, _ = measured(*collected(2, place_spread=0.0))
    assert low < 0 < high
    assert abs(value) < 0.05


def test_the_score_on_fresh_places_is_that_of_the_block_split_and_not_that_of_the_random_one() -> None:
    of_random, of_block = [], []
    for seed in range(30):
        features, ground = collected(seed, place_spread=0.7)
        fresh, other = collected(1000 + seed, place_spread=0.7)
        splits = assign(ground, HALF, seed).splits
        drawn = random_like(splits, ground.labels, np.random.default_rng(seed))
        for kind, kept in ((splits, of_block), (drawn, of_random)):
            everything, labels = np.concatenate([features, fresh]), np.concatenate([ground.labels, other.labels])
            fresh_rows = np.arange(len(features), len(everything))
            scores = trained_scores(everything, labels, np.flatnonzero(kind == TRAIN), fresh_rows)
            kept.append(split_auc(features, ground.labels, kind) - roc_auc(other.labels, scores, positive_index=1))
    for differences, flatters in ((np.array(of_random), True), (np.array(of_block), False)):
        low, high = t.interval(0.95, 29, differences.mean(), differences.std(ddof=1) / math.sqrt(30))  # independent
        assert (low > 0) == flatters
        assert high > 0


def test_a_random_split_has_as_many_tiles_of_each_class_in_each_split_and_leaves_out_the_same() -> None:
    _, ground = collected(3, place_spread=1.0)
    splits = assign(ground, SHARES, 20).splits
    splits[:5] = NOWHERE
    drawn = random_like(splits, ground.labels, np.random.default_rng(0))
    assert (drawn[:5] == NOWHERE).all()
    assert (drawn != splits).any()
    for split in (NOWHERE, *range(3)):
        for label in range(2):
            assert ((drawn == split) & (ground.labels == label)).sum() == (
                (splits == split) & (ground.labels == label)
            ).sum()


def test_tiles_that_cannot_be_decoded_are_in_no_draw() -> None:
    features, ground = collected(4, place_spread=1.0)
    features[::3] = np.nan
    assert measured(features, ground, repeats=5)[3] == 5


def test_too_few_draws_with_every_class_measure_nothing() -> None:
    features, ground = collected(5, place_spread=1.0)
    features[np.flatnonzero(ground.labels == 1)[8:]] = np.nan
    silent = lambda _done, _total: None  # noqa: E731
    assert measure_flattery(features, ground, SHARES, seed=20, repeats=5, on_progress=silent) is None


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=30), st.floats(0, 1))
def test_the_interval_is_that_of_the_corrected_resampled_t_test(values: list[float], ratio: float) -> None:
    differences = np.array(values)
    found = resampled_interval(differences, test_over_train=ratio)
    plain = t.interval(
        0.95, len(values) - 1, differences.mean(), differences.std(ddof=1) / math.sqrt(len(values)) or 1e-300
    )
    widened = math.sqrt(1 + ratio * len(values))
    assert found.value == pytest.approx(differences.mean())
    assert found.high - found.low == pytest.approx((plain[1] - plain[0]) * widened, abs=1e-9)


def test_one_draw_has_no_interval() -> None:
    with pytest.raises(DataError, match="two draws"):
        resampled_interval(np.array([0.1]), test_over_train=0.1)


def test_the_classifier_is_scored_on_the_test_tiles_alone() -> None:
    features, ground = collected(6, place_spread=1.0)
    splits = assign(ground, SHARES, 20).splits
    changed = features.copy()
    changed[splits == VALID] = 10 * ground.labels[splits == VALID, None]
    assert split_auc(changed, ground.labels, splits) == split_auc(features, ground.labels, splits)
    changed[splits == TEST] *= -1
    assert split_auc(changed, ground.labels, splits) != split_auc(features, ground.labels, splits)
