"""What the comparison of two models says: a moved threshold is no improvement, a better ranking is one."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from satx.evaluation import two_models
from satx.evaluation.two_models import ALL_SLICES, AUC, EQUAL_RECALL, FIXED, ModelScores, compare_models
from satx.reports.rates import shown_parts
from satx.reports.verdicts import BETTER, DISAGREE, MOVED, SAME, WORSE, Comparison, Verdict, verdict_lines, verdicts

NUM_SCHOOLS, NUM_OTHERS = 60, 80
IS_POSITIVE = np.arange(NUM_SCHOOLS + 2 * NUM_OTHERS) < NUM_SCHOOLS
SLICES = ["school"] * NUM_SCHOOLS + ["built-up"] * NUM_OTHERS + ["open-land"] * NUM_OTHERS
Scores = NDArray[np.float64]


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(two_models, "NUM_THRESHOLDS", 100)
    monkeypatch.setattr(two_models, "NUM_RESAMPLES", 300)


def logistic(values: Scores) -> Scores:
    return 1 / (1 + np.exp(-values))


def logits(skill: float, seed: int) -> tuple[Scores, Scores]:
    """Return logits of test and validation tiles, schools `skill` standard deviations above the others."""
    draws = np.random.default_rng(seed).standard_normal((2, len(SLICES))) + skill * IS_POSITIVE
    return draws[0], draws[1]


def model(test: Scores, valid: Scores) -> ModelScores:
    return ModelScores(logistic(test), logistic(valid), IS_POSITIVE, [str(row) for row in range(len(valid))])


def judged(first: ModelScores, second: ModelScores) -> tuple[pd.DataFrame, dict[str, Verdict]]:
    models = {"session1": first, "session2": second}
    table = compare_models(IS_POSITIVE, SLICES, models, threshold=0.5)
    return table, {verdict.slice: verdict for verdict in verdicts(table, positive_class="school")}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda values: values - 1.2, "raised"),
        (lambda values: values + 1.2, "lowered"),
        (lambda values: np.minimum(values, 3 * values) - 0.4, "raised"),
        (lambda values: 0.3 * values - 0.5, "raised"),
    ],
    ids=["lower", "higher", "bent", "squeezed"],
)
def test_a_model_that_only_moved_its_threshold_is_no_improvement(
    change: Callable[[Scores], Scores], word: str, seed: int
) -> None:
    test, valid = logits(1.5, seed)
    _, found = judged(model(test, valid), model(change(test), change(valid)))
    for verdict in found.values():
        assert verdict.kind == MOVED, verdict.text
        assert verdict.text.endswith(f"A {word} threshold explains the difference at 0.5; no improvement is shown."), (
            verdict.text
        )


def test_a_better_ranking_is_an_improvement_even_if_the_threshold_moved_too() -> None:
    poor, good = logits(0.8, 1), logits(3.0, 2)
    for shift in (0.0, -1.0, 1.0):
        _, found = judged(model(*poor), model(good[0] + shift, good[1] + shift))
        assert {verdict.kind for verdict in found.values()} == {BETTER}
        assert "session2 is better beyond chance: the AUC and rates at 90% recall on valid." in found["built-up"].text


def test_a_worse_ranking_is_worse_even_if_it_raises_fewer_false_positives_at_the_fixed_threshold() -> None:
    good, poor = logits(3.0, 2), logits(0.8, 1)
    table, found = judged(model(*good), model(poor[0] - 3.0, poor[1] - 3.0))
    at_fixed = table[(table["point"] == FIXED) & (table["measure"] == "false_positive_rate")]
    assert (at_fixed["difference"] < 0).all()
    assert {verdict.kind for verdict in found.values()} == {WORSE}
    assert "session2 is worse beyond chance" in found["built-up"].text


def test_an_improvement_in_one_slice_is_not_claimed_for_the_other() -> None:
    test, valid = logits(1.5, 3)
    built_up = np.array(SLICES) == "built-up"
    _, found = judged(model(test, valid), model(test - 3 * built_up, valid - 3 * built_up))
    assert found["built-up"].kind == BETTER and found[ALL_SLICES].kind == BETTER
    assert found["open-land"].kind != BETTER, found["open-land"].text


def test_models_that_differ_by_chance_show_nothing() -> None:
    _, found = judged(model(*logits(2.0, 4)), model(*logits(2.0, 5)))
    assert {verdict.kind for verdict in found.values()} <= {SAME, MOVED}
    _, equal = judged(model(*logits(2.0, 4)), model(*logits(2.0, 4)))
    assert {verdict.kind for verdict in equal.values()} == {SAME}
    assert equal["built-up"].text.endswith("No difference beyond chance is shown.")


def test_fewer_false_positives_with_a_lower_recall_on_test_are_no_improvement_at_equal_recall() -> None:
    """Validation tiles that are easier for the second model give it a threshold that is too high for the test tiles."""
    test, valid = logits(1.5, 6)
    table, found = judged(model(test, valid), model(test, valid + 1.5))
    at_equal = table[table["point"] == EQUAL_RECALL]
    assert (at_equal["difference_high"] < 0).all(), "both rates dropped beyond chance"
    assert {verdict.kind for verdict in found.values()} == {SAME}


@cache
def equal_models() -> pd.DataFrame:
    return judged(model(*logits(2.0, 4)), model(*logits(2.0, 4)))[0]


def rows_with(**differences: tuple[float, float, float]) -> pd.DataFrame:
    """Return a table in which these differences (value, low, high), named POINT_MEASURE, replace zeros."""
    table = equal_models()
    table = table[table["slice"] == ALL_SLICES].reset_index(drop=True)
    keys = {"fixed": FIXED, "equal": EQUAL_RECALL, "area": ""}
    for name, values in differences.items():
        point, _, measure = name.partition("_")
        wanted = {"recall": "recall", "alarms": "false_positive_rate", "": AUC}[measure]
        chosen = (table["point"] == keys[point]) & (table["measure"] == wanted)
        table.loc[chosen, ["difference", "difference_low", "difference_high"]] = values
    return table


UP, DOWN = (0.2, 0.1, 0.3), (-0.2, -0.3, -0.1)  # beyond chance
A_BIT_UP, A_BIT_DOWN = (0.1, -0.1, 0.3), (-0.1, -0.3, 0.1)  # may be chance


@pytest.mark.parametrize(
    ("differences", "kind"),
    [
        ({"area": UP}, BETTER),
        ({"area": DOWN}, WORSE),
        ({"equal_alarms": DOWN}, BETTER),
        ({"equal_alarms": UP}, WORSE),
        ({"equal_recall": UP}, BETTER),
        ({"equal_recall": UP, "equal_alarms": UP}, SAME),
        ({"equal_recall": DOWN, "equal_alarms": DOWN}, SAME),
        ({"area": UP, "equal_alarms": UP}, DISAGREE),
        ({"area": A_BIT_UP, "equal_alarms": A_BIT_DOWN}, SAME),
        ({"fixed_alarms": DOWN, "fixed_recall": DOWN}, MOVED),
        ({"fixed_alarms": A_BIT_DOWN, "fixed_recall": A_BIT_DOWN}, MOVED),
        ({"fixed_alarms": DOWN}, MOVED),
        ({"fixed_alarms": A_BIT_DOWN}, SAME),
        ({"fixed_recall": UP}, MOVED),
        ({"fixed_recall": A_BIT_UP}, SAME),
        ({"fixed_alarms": DOWN, "fixed_recall": A_BIT_UP}, SAME),
        ({"fixed_alarms": DOWN, "fixed_recall": DOWN, "area": UP}, BETTER),
    ],
)
def test_the_verdict_follows_from_the_intervals(differences: dict[str, tuple[float, float, float]], kind: str) -> None:
    (verdict,) = verdicts(rows_with(**differences), positive_class="school")
    assert verdict.kind == kind, verdict.text


def test_a_sentence_contains_counts_recall_thresholds_and_areas() -> None:
    table, found = judged(model(*logits(0.8, 1)), model(*logits(3.0, 2)))
    text = found["built-up"].text
    rows = table[table["slice"].isin(["built-up", ALL_SLICES])].set_index(["point", "measure", "slice"])
    fixed, area = rows.loc[(FIXED, "false_positive_rate", "built-up")], rows.loc[("", AUC, "built-up")]
    assert text.startswith(f"Built-up: at threshold 0.5, false positives of 80 from {fixed['flagged_a']:.0f} to ")
    assert f"AUC from {area['value_a']:.3f} to {area['value_b']:.3f} ({area['difference']:+.3f}, 95% interval" in text
    equal = rows.loc[(EQUAL_RECALL, "recall", ALL_SLICES)]
    assert f"({equal['threshold_a']:.3g} and {equal['threshold_b']:.3g})" in text
    assert f"recall from {equal['value_a']:.0%} to {equal['value_b']:.0%}; AUC" in text


def test_lines_on_baselines_say_what_was_compared() -> None:
    table, found = judged(model(*logits(0.8, 1)), model(*logits(3.0, 2)))
    baseline = Comparison("xception", table, 220, "school", [*found.values()])
    best = Comparison("", table, 220, "school", [*found.values()])
    assert verdict_lines(best)[0].startswith("All slices: at threshold 0.5")
    prefix = "Logistic regression on frozen xception features, all slices: at threshold 0.5"
    assert verdict_lines(baseline)[0].startswith(prefix)


def test_recall_is_shown_beside_false_positives_at_both_points() -> None:
    table, _ = judged(model(*logits(0.8, 1)), model(*logits(3.0, 2)))
    fixed, equal, areas = shown_parts(table, positive_class="school")
    for part in (fixed, equal):
        assert part.rows[0].label == "recall of school" and part.rows[0].num_tiles == NUM_SCHOOLS
        assert {row.label for row in part.rows[1:]} == {
            "false positives, all slices",
            "false positives, built-up",
            "false positives, open-land",
        }
        assert all(row.difference.count("points") == 1 for row in part.rows)
    assert fixed.heading == "At threshold 0.5"
    assert equal.heading.startswith("At 90% recall on each model's own validation tiles: thresholds ")
    assert [row.only_one for row in areas.rows] == ["", "", ""]
