"""Two models on the same tiles: false positives and recall at two operating points, and areas."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from satx.errors import DataError
from satx.evaluation import two_models
from satx.evaluation.metrics import roc_auc
from satx.evaluation.operating_point import ThresholdRule, choose_threshold
from satx.evaluation.two_models import (
    ALL_SLICES,
    AUC,
    EQUAL_RECALL,
    FALSE_POSITIVE_RATE,
    FIXED,
    RECALL,
    ModelScores,
    compare_models,
)

SCHOOLS, BUILT_UP, OPEN_LAND = 40, 50, 30
SLICES = ["school"] * SCHOOLS + ["built-up"] * BUILT_UP + ["open-land"] * OPEN_LAND
IS_POSITIVE = np.array([name == "school" for name in SLICES])
Scores = NDArray[np.float64]


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(two_models, "NUM_THRESHOLDS", 100)
    monkeypatch.setattr(two_models, "NUM_RESAMPLES", 300)


def logistic(values: Scores) -> Scores:
    return 1 / (1 + np.exp(-values))


def scores(skill: float, seed: int) -> Scores:
    """Return scores of tiles in which schools are `skill` standard deviations above built-up land."""
    draw = np.random.default_rng(seed).standard_normal(len(SLICES))
    return logistic(draw + skill * IS_POSITIVE - 1.0 * np.array([name == "open-land" for name in SLICES]))


def model(test: Scores, valid: Scores) -> ModelScores:
    return ModelScores(test, valid, IS_POSITIVE, [f"valid-{row}" for row in range(len(valid))])


def compared(first: ModelScores, second: ModelScores, threshold: float = 0.5) -> pd.DataFrame:
    table = compare_models(IS_POSITIVE, SLICES, {"old": first, "new": second}, threshold=threshold)
    return table.set_index(["point", "measure", "slice"]).sort_index()


def test_rates_are_counted_at_both_operating_points_and_differences_are_second_minus_first() -> None:
    first, second = model(scores(1.5, 1), scores(1.5, 2)), model(scores(2.5, 3), scores(2.5, 4))
    table = compared(first, second, threshold=0.6)
    rule = ThresholdRule(rule="fpr_at_recall", at=0.9)
    own = [
        choose_threshold(IS_POSITIVE.astype(int), np.stack([1 - one.valid, one.valid], axis=1), rule, positive_index=1)
        for one in (first, second)
    ]
    for point, thresholds in ((FIXED, (0.6, 0.6)), (EQUAL_RECALL, own)):
        row = table.loc[point, FALSE_POSITIVE_RATE, "built-up"]
        built_up = np.array([name == "built-up" for name in SLICES])
        flagged = [(one.test[built_up] >= at).sum() for one, at in zip((first, second), thresholds, strict=True)]
        assert row[["flagged_a", "flagged_b"]].tolist() == flagged
        assert row["difference"] == pytest.approx((flagged[1] - flagged[0]) / BUILT_UP)
        assert row[["threshold_a", "threshold_b"]].tolist() == pytest.approx(list(thresholds))
        found = table.loc[point, RECALL, ALL_SLICES]
        assert found["num_tiles"] == SCHOOLS
        assert found["value_a"] == pytest.approx((first.test[IS_POSITIVE] >= thresholds[0]).mean())


def test_the_area_of_a_slice_is_that_of_all_positives_against_its_negatives() -> None:
    first, second = scores(1.5, 1).round(1), scores(2.5, 3).round(1)  # many are equal
    row = compared(model(first, first), model(second, second)).loc["", AUC, "open-land"]
    chosen = np.array([name in ("school", "open-land") for name in SLICES])
    areas = [
        roc_auc(IS_POSITIVE[chosen].astype(int), np.stack([1 - one, one], axis=1)[chosen], positive_index=1)
        for one in (first, second)
    ]
    assert row[["value_a", "value_b"]].tolist() == pytest.approx(areas)
    assert row["difference"] == pytest.approx(areas[1] - areas[0])
    assert row["difference_low"] <= row["difference"] <= row["difference_high"]
    assert row["num_tiles"] == OPEN_LAND and np.isnan(row["p_value"])


def test_all_slices_together_come_first_then_the_one_with_the_largest_decrease() -> None:
    first, second = scores(1.5, 1), scores(1.5, 1)
    open_land = np.array([name == "open-land" for name in SLICES])
    first[open_land], second[open_land] = 0.9, 0.1
    models = {"old": model(first, first), "new": model(second, second)}
    table = compare_models(IS_POSITIVE, SLICES, models, threshold=0.5)
    negatives = table[(table["point"] == FIXED) & (table["measure"] == FALSE_POSITIVE_RATE)]
    assert negatives["slice"].tolist() == [ALL_SLICES, "open-land", "built-up"]
    assert negatives["difference"].tolist() == pytest.approx([-OPEN_LAND / (OPEN_LAND + BUILT_UP), -1.0, 0.0])


def test_a_single_slice_is_not_reported_twice() -> None:
    one = model(scores(1.5, 1), scores(1.5, 2))
    names = ["school" if positive else "land" for positive in IS_POSITIVE]
    table = compare_models(IS_POSITIVE, names, {"old": one, "new": one}, threshold=0.5)
    assert table.loc[table["measure"] == AUC, "slice"].tolist() == ["land"]


@settings(deadline=None, max_examples=5)
@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_swapping_two_models_negates_every_difference(seed: int, other: int) -> None:
    first, second = model(scores(1.0, seed), scores(1.0, seed + 1)), model(scores(2.0, other), scores(2.0, other + 1))
    forth, back = compared(first, second), compared(second, first)
    assert np.allclose(forth["difference"], -back["difference"])
    assert np.allclose(forth["difference_low"].sort_index(), -back["difference_high"].sort_index())
    assert (forth["difference_low"] <= forth["difference"]).all()
    assert (forth["difference"] <= forth["difference_high"]).all()


@pytest.mark.parametrize(
    "lowered",
    [lambda s: s**3, lambda s: s / 4, lambda s: logistic(np.log(s / (1 - s)) - 1.5)],
    ids=["cube", "4th", "shift"],
)
def test_scores_with_the_same_order_differ_at_the_fixed_threshold_only(lowered: Callable[[Scores], Scores]) -> None:
    test, valid = scores(1.5, 1), scores(1.5, 2)
    table = compared(model(test, valid), model(lowered(test), lowered(valid)))
    assert (table.loc[FIXED, "difference"] <= 0).all() and (table.loc[FIXED, "difference"] < 0).any()
    assert table.loc["", "difference"].tolist() == pytest.approx([0.0] * 3)
    at_equal = table.loc[EQUAL_RECALL]
    assert (at_equal["difference_low"] <= 0).all() and (at_equal["difference_high"] >= 0).all()


def test_the_interval_at_equal_recall_contains_the_chance_of_the_thresholds() -> None:
    """With few schools in valid the thresholds depend on chance, which intervals over test tiles alone leave out."""
    keep = np.flatnonzero(IS_POSITIVE)[:8].tolist() + np.flatnonzero(~IS_POSITIVE).tolist()
    first, second = (
        ModelScores(scores(1.5, seed), scores(1.5, seed + 1)[keep], IS_POSITIVE[keep], [f"{row}" for row in keep])
        for seed in (1, 5)
    )
    table = compared(first, second)
    row = table.loc[EQUAL_RECALL, FALSE_POSITIVE_RATE, "built-up"]
    flags = [one.test >= row[f"threshold_{end}"] for one, end in ((first, "a"), (second, "b"))]
    built_up = np.array([name == "built-up" for name in SLICES])
    fixed = compare_models(
        IS_POSITIVE,
        SLICES,
        {n: model(f.astype(float), f.astype(float)) for n, f in zip("ab", flags, strict=True)},
        threshold=0.5,
    )
    (alone,) = fixed[(fixed["point"] == FIXED) & (fixed["slice"] == "built-up")].to_dict("records")
    assert alone["difference"] == pytest.approx(row["difference"]) and built_up.sum() == alone["num_tiles"]
    width = row["difference_high"] - row["difference_low"]
    assert width > 1.3 * (alone["difference_high"] - alone["difference_low"])


def test_validation_tiles_of_both_models_are_drawn_together() -> None:
    """Two equal models choose equal thresholds on every resample, so nothing at equal recall ever differs."""
    one = model(scores(1.5, 1), scores(1.5, 2))
    other = ModelScores(one.test, one.valid[::-1].copy(), IS_POSITIVE[::-1], one.valid_tiles[::-1])
    draws = two_models._redrawn([one, other], two_models.Members(RECALL, ALL_SLICES, IS_POSITIVE), [])
    assert draws.shape == (100, 1) and not draws.any()


def test_validation_tiles_of_one_model_only_are_used_by_it_alone() -> None:
    one = model(scores(1.5, 1), scores(1.5, 2))
    fewer = ModelScores(one.test, one.valid[:-10], IS_POSITIVE[:-10], one.valid_tiles[:-10])
    table = compared(one, fewer)
    assert table.loc[EQUAL_RECALL, RECALL, ALL_SLICES]["num_tiles"] == SCHOOLS


def test_a_model_that_gives_many_schools_no_score_flags_every_tile_at_equal_recall() -> None:
    test, valid = scores(1.5, 1), scores(1.5, 2)
    valid[np.flatnonzero(IS_POSITIVE)[:20]] = 0.0
    row = compared(model(scores(1.5, 1), scores(1.5, 2)), model(test, valid)).loc[EQUAL_RECALL, RECALL, ALL_SLICES]
    assert row["threshold_b"] == 0.0 and row["flagged_b"] == SCHOOLS


def test_what_cannot_be_compared_is_refused() -> None:
    one = model(scores(1.5, 1), scores(1.5, 2))
    with pytest.raises(DataError, match="got 1"):
        compare_models(IS_POSITIVE, SLICES, {"one": one}, threshold=0.5)
    with pytest.raises(DataError, match="got 120 of it among 120"):
        compare_models(np.ones(120, bool), SLICES, {"a": one, "b": one}, threshold=0.5)
    no_schools = ModelScores(one.test, one.valid, np.zeros(120, bool), one.valid_tiles)
    with pytest.raises(DataError, match="got 0 of it among 120"):
        compare_models(IS_POSITIVE, SLICES, {"a": one, "b": no_schools}, threshold=0.5)
