"""Tests of the rules of the gate: what each refuses, what chance excuses, and what cannot be evaluated."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from registry.small_runs import RULES, gate_with
from satx.evaluation.assessment import Assessment, assess
from satx.inference.manifest import Export
from satx.registry.comparison import ChampionScores
from satx.registry.judged import Evaluation, GateFile, Verdict, outcome_of
from satx.registry.rules import Facts, judge

NUM_TILES = 100
LABELS = np.arange(NUM_TILES) % 2
SLICES = np.where(np.arange(NUM_TILES) < 80, "open-land", "built-up")


def probabilities(num_wrong: int = 0, *, confidence: float = 0.9, labels: np.ndarray = LABELS) -> np.ndarray:
    """Return (N, 2) probabilities of a model that is equally sure of all tiles, and wrong about the first `num_wrong`."""
    right = np.arange(len(labels)) >= num_wrong
    positive = np.where((labels == 1) == right, confidence, 1 - confidence)
    # ranks differ a little, so that no score is constant over resamples
    positive = positive + np.linspace(-0.01, 0.01, len(labels))
    return np.stack([1 - positive, positive], axis=1).astype(np.float32)


def facts_of(
    own: np.ndarray | None = None,
    champion: np.ndarray | None = None,
    *,
    parity: dict[str, float | None] | None = None,
    latency_seconds: float = 0.1,
    export_gb: float = 0.1,
) -> Facts:
    own = probabilities() if own is None else own
    classes = ("not-school", "school", "clinic")[: own.shape[1]]
    labels = LABELS if own.shape[1] == 2 else np.arange(NUM_TILES) % 3
    scores = assess(labels, own, classes=classes, positive_class="school", threshold=0.5, slices=SLICES)
    evaluation = Evaluation(labels, SLICES, own, own, scores, scores, 1.0, 0.5, 0.5, 0.5, "youden")
    compared = None if champion is None else ChampionScores(1, champion, "", ())
    export = Export(Path("x"), "", {"parity": parity or {"own_size": 1e-6, "resized": 0.01}})
    return Facts(evaluation, 1, compared, export, export_gb, latency_seconds)


def verdict_of(rule: str, facts: Facts, **numbers: Any) -> Verdict:
    verdicts = {verdict.rule: verdict for verdict in judge(gate_with(**{rule: RULES[rule] | numbers}), facts)}
    assert {verdict.result for verdict in verdicts.values() if verdict.rule != rule} == {"not asked"}
    return verdicts[rule]


COMPARISONS = ("auc_not_worse", "accuracy_not_worse")


@pytest.mark.parametrize("rule", COMPARISONS)
def test_a_run_that_is_surely_worse_than_the_champion_is_refused(rule: str) -> None:
    verdict = verdict_of(rule, facts_of(probabilities(20), probabilities(2)))
    assert not verdict.passed
    assert "80 of 100 right against 98" in verdict.seen or "difference -0." in verdict.seen


@pytest.mark.parametrize("rule", COMPARISONS)
def test_a_run_that_is_worse_only_by_chance_passes(rule: str) -> None:
    verdict = verdict_of(rule, facts_of(probabilities(4), probabilities(3)))
    assert verdict.passed
    assert "96 of 100 right against 97" in verdict.seen or "difference -0.0" in verdict.seen


@pytest.mark.parametrize("rule", COMPARISONS)
def test_a_run_that_is_surely_better_or_the_same_passes(rule: str) -> None:
    assert verdict_of(rule, facts_of(probabilities(2), probabilities(20))).passed
    assert verdict_of(rule, facts_of(probabilities(2), probabilities(2))).passed


def test_a_comparison_on_few_tiles_names_the_loss_that_it_cannot_exclude() -> None:
    facts = facts_of(probabilities(2), probabilities(0))
    assert facts.champion is not None and facts.champion.probabilities is not None
    evaluation = facts.evaluation
    of_twelve = replace(evaluation, labels=evaluation.labels[:12], probabilities=evaluation.probabilities[:12])
    champion = replace(facts.champion, probabilities=facts.champion.probabilities[:12])
    few = verdict_of("auc_not_worse", replace(facts, evaluation=of_twelve, champion=champion))
    low = re.search(r"\((-0\.\d+) to", few.seen)
    assert few.passed and low is not None
    assert few.seen.endswith(f"; a loss of up to {-float(low[1]):.2f} cannot be excluded with so few tiles")
    for num_wrong in (2, 20):  # no loss, and one that refuses
        verdict = verdict_of("auc_not_worse", facts_of(probabilities(num_wrong), probabilities(2)))
        assert "cannot be excluded" not in verdict.seen


@pytest.mark.parametrize(
    ("rule", "numbers"),
    [
        ("auc_floor", {"at_least": 0.5}),
        ("auc_not_worse", {}),
        ("accuracy_not_worse", {}),
        ("slice_floor", {"at_least": 0.5}),
        ("calibration_gap", {"at_most": 0.1}),
    ],
)
def test_the_calibrated_probabilities_are_judged_and_not_the_raw_ones(rule: str, numbers: dict[str, Any]) -> None:
    champion, good, bad = probabilities(2), probabilities(2), probabilities(70)
    for raw, calibrated, passed in ((bad, good, True), (good, bad, False)):
        before, facts = facts_of(raw).evaluation, facts_of(calibrated, champion)
        evaluation = replace(facts.evaluation, before=before.after, raw_probabilities=raw)
        assert verdict_of(rule, replace(facts, evaluation=evaluation), **numbers).passed == passed


def test_a_first_champion_that_may_be_guessing_is_refused() -> None:
    facts = facts_of(probabilities(46))
    assert facts.evaluation.after.interval("auc").value > 0.5
    verdict = verdict_of("auc_floor", facts, at_least=0.5)
    assert not verdict.passed and "on 100 tiles" in verdict.seen


@pytest.mark.parametrize(("num_wrong", "passed"), [(100, False), (70, False), (30, True), (0, True)])
def test_an_auc_surely_below_the_floor_is_refused_and_one_surely_above_passes(num_wrong: int, passed: bool) -> None:
    assert verdict_of("auc_floor", facts_of(probabilities(num_wrong)), at_least=0.5).passed == passed


def test_the_floor_of_the_auc_is_the_gates() -> None:
    facts = facts_of(probabilities(20))
    low = facts.evaluation.after.interval("auc").low
    assert verdict_of("auc_floor", facts, at_least=low - 0.01).passed
    assert not verdict_of("auc_floor", facts, at_least=low).passed


def test_an_auc_without_an_interval_cannot_be_evaluated_and_refuses() -> None:
    facts = facts_of()
    table = facts.evaluation.after.table.copy()
    table.loc[table["metric"] == "auc", ["low", "high"]] = np.nan
    verdict = verdict_of("auc_floor", replace(facts, evaluation=replace(facts.evaluation, after=Assessment(table))))
    assert not verdict.passed and "cannot be evaluated" in verdict.seen


def test_a_level_close_to_one_is_not_rounded() -> None:
    facts = facts_of(probabilities(4), probabilities(3))
    assert "(99.99% interval" in verdict_of("auc_not_worse", facts, confidence=0.9999).asked
    assert "(95% interval" in verdict_of("auc_not_worse", facts).asked


def test_the_level_of_the_comparisons_is_the_gates(capsys: pytest.CaptureFixture[str]) -> None:
    facts = facts_of(probabilities(9), probabilities(3))
    assert verdict_of("accuracy_not_worse", facts, alpha=0.001).passed
    assert not verdict_of("accuracy_not_worse", facts, alpha=0.4).passed
    assert verdict_of("auc_not_worse", facts, confidence=0.9999).passed
    assert not verdict_of("auc_not_worse", facts, confidence=0.6).passed


@pytest.mark.parametrize("rule", COMPARISONS)
def test_a_first_champion_passes_the_comparisons(rule: str) -> None:
    verdict = verdict_of(rule, facts_of(probabilities(60)))
    assert verdict.passed and verdict.seen == "there is no champion yet"


@pytest.mark.parametrize("rule", COMPARISONS)
def test_a_champion_that_cannot_be_evaluated_refuses(rule: str) -> None:
    facts = replace(facts_of(), champion=ChampionScores(3, None, "the champion has seen 5 of the test tiles", ()))
    verdict = verdict_of(rule, facts)
    assert not verdict.passed and "cannot be evaluated" in verdict.seen and "seen 5" in verdict.seen


def test_an_auc_of_one_class_cannot_be_evaluated_and_refuses() -> None:
    facts = facts_of(probabilities(4), probabilities(3))
    facts = replace(facts, evaluation=replace(facts.evaluation, labels=np.zeros(NUM_TILES, np.int64)))
    verdict = verdict_of("auc_not_worse", facts)
    assert not verdict.passed and "cannot be evaluated" in verdict.seen


def test_a_slice_that_is_surely_below_the_floor_is_refused_and_named() -> None:
    verdict = verdict_of("slice_floor", facts_of(probabilities(70)), at_least=0.5)
    assert not verdict.passed and "open-land 0.125" in verdict.seen and "built-up" not in verdict.seen


def test_a_slice_that_is_below_the_floor_only_by_chance_passes() -> None:
    verdict = verdict_of("slice_floor", facts_of(probabilities(42)), at_least=0.5)
    assert verdict.passed and "lowest: open-land 0.475" in verdict.seen


def test_slices_above_the_floor_pass() -> None:
    assert verdict_of("slice_floor", facts_of(probabilities(1)), at_least=0.5).passed


def test_a_slice_with_too_few_tiles_is_named_and_not_judged() -> None:
    bad_in_built_up = probabilities()
    bad_in_built_up[80:] = bad_in_built_up[80:, ::-1]
    facts = facts_of(bad_in_built_up)
    assert not verdict_of("slice_floor", facts, fewest_tiles=20).passed
    verdict = verdict_of("slice_floor", facts, fewest_tiles=21)
    assert verdict.passed and "not judged, too small or undefined: built-up" in verdict.seen


def test_a_floor_of_recall_counts_the_tiles_of_the_class_of_interest() -> None:
    facts = facts_of(probabilities(1))  # 40 schools in open land, 10 in built-up
    verdict = verdict_of("slice_floor", facts, metric="recall", fewest_tiles=10)
    assert verdict.passed and "not judged" not in verdict.seen
    verdict = verdict_of("slice_floor", facts, metric="recall", fewest_tiles=11)
    assert "not judged, too small or undefined: built-up" in verdict.seen and "; 40 tiles)" in verdict.seen
    assert "with 11 tiles of the class of interest or more" in verdict.asked
    assert "not judged" not in verdict_of("slice_floor", facts, metric="accuracy", fewest_tiles=20).seen


def test_a_recall_below_the_floor_is_refused() -> None:
    missed = probabilities()
    missed[80:] = [0.9, 0.1]
    verdict = verdict_of("slice_floor", facts_of(missed), metric="recall", at_least=0.5)
    assert not verdict.passed and "below: built-up 0.000" in verdict.seen and "; 10 tiles)" in verdict.seen


def test_a_floor_that_no_slice_is_large_enough_for_cannot_be_evaluated_and_refuses() -> None:
    verdict = verdict_of("slice_floor", facts_of(), fewest_tiles=81)
    assert not verdict.passed and "cannot be evaluated" in verdict.seen


@pytest.mark.parametrize("confidence", [0.95, 0.6])
def test_a_calibration_gap_that_is_surely_beyond_the_limit_is_refused(confidence: float) -> None:
    num_wrong = 40 if confidence > 0.9 else 2  # over- and underconfident by about 0.35
    assert not verdict_of(
        "calibration_gap", facts_of(probabilities(num_wrong, confidence=confidence)), at_most=0.1
    ).passed


@pytest.mark.parametrize(("confidence", "num_wrong"), [(0.95, 17), (0.75, 13)])
def test_a_calibration_gap_that_is_beyond_the_limit_only_by_chance_passes(confidence: float, num_wrong: int) -> None:
    facts = facts_of(probabilities(num_wrong, confidence=confidence))
    assert abs(facts.evaluation.after.interval("calibration_gap").value) > 0.1
    assert verdict_of("calibration_gap", facts, at_most=0.1).passed


def test_a_small_calibration_gap_passes() -> None:
    assert verdict_of("calibration_gap", facts_of(probabilities(8, confidence=0.9)), at_most=0.1).passed


def test_a_calibration_gap_without_an_interval_cannot_be_evaluated_and_refuses() -> None:
    facts = facts_of()
    table = facts.evaluation.after.table.copy()
    table.loc[table["metric"] == "calibration_gap", ["low", "high"]] = np.nan
    verdict = verdict_of(
        "calibration_gap", replace(facts, evaluation=replace(facts.evaluation, after=Assessment(table)))
    )
    assert not verdict.passed and "cannot be evaluated" in verdict.seen


@pytest.mark.parametrize(
    ("parity", "passed"),
    [
        ({"own_size": 1e-4, "resized": 0.05}, True),
        ({"own_size": 2e-4, "resized": 0.01}, False),
        ({"own_size": 1e-6, "resized": 0.06}, False),
        ({"own_size": 1e-6, "resized": None}, True),
        ({"own_size": None, "resized": 0.01}, False),
        ({"own_size": None, "resized": None}, False),
        ({"own_size": float("nan"), "resized": None}, False),
    ],
)
def test_parity_over_either_limit_or_unmeasured_is_refused(parity: dict[str, float | None], passed: bool) -> None:
    verdict = verdict_of("served_parity", facts_of(parity=parity), own_size_at_most=1e-4, resized_at_most=0.05)
    assert verdict.passed == passed


@pytest.mark.parametrize(("seconds", "passed"), [(0.4, True), (0.5, True), (0.6, False)])
def test_a_slow_export_is_refused(seconds: float, passed: bool) -> None:
    assert verdict_of("latency_per_tile", facts_of(latency_seconds=seconds), at_most_seconds=0.5).passed == passed


@pytest.mark.parametrize(("size_gb", "passed"), [(0.4, True), (0.5, True), (0.6, False)])
def test_a_large_export_is_refused(size_gb: float, passed: bool) -> None:
    assert verdict_of("export_size", facts_of(export_gb=size_gb), at_most_gb=0.5).passed == passed


def test_every_rule_on_scores_refuses_without_test_tiles() -> None:
    facts = facts_of()
    none = Assessment(pd.DataFrame(columns=facts.evaluation.after.table.columns))
    evaluation = replace(
        facts.evaluation,
        labels=LABELS[:0],
        slices=SLICES[:0],
        raw_probabilities=np.zeros((0, 2)),
        probabilities=np.zeros((0, 2)),
        after=none,
    )
    verdicts = judge(gate_with(**RULES), replace(facts, evaluation=evaluation))
    refused = {verdict.rule for verdict in verdicts if not verdict.passed}
    assert refused == {*COMPARISONS, "auc_floor", "slice_floor", "calibration_gap"}
    assert all("no test tiles" in verdict.seen for verdict in verdicts if not verdict.passed)


def test_all_rules_are_judged_and_those_that_a_gate_leaves_out_are_named() -> None:
    facts = facts_of(probabilities(40), probabilities(1), latency_seconds=100)
    verdicts = judge(gate_with(**RULES), facts)
    assert [verdict.rule for verdict in verdicts] == list(RULES)
    assert {"auc_not_worse", "latency_per_tile"} <= {verdict.rule for verdict in verdicts if not verdict.passed}
    some = judge(gate_with(export_size=RULES["export_size"]), facts)
    assert [verdict.rule for verdict in some] == list(RULES)
    assert {verdict.rule: verdict.result for verdict in some if verdict.result != "not asked"} == {
        "export_size": "passed"
    }
    assert outcome_of(some, GateFile("ours.yaml", "0123456789abcdef" * 4)) == (
        "1 of 8 rules asked; all passed (gate: ours.yaml, sha256 0123456789ab…)"
    )
    assert (
        outcome_of(verdicts, None) == f"8 of 8 rules asked; {sum(not verdict.passed for verdict in verdicts)} refused"
    )


def test_a_model_of_three_classes_is_judged() -> None:
    def three(num_wrong: int) -> np.ndarray:
        labels = np.arange(NUM_TILES) % 3
        predicted = np.where(np.arange(NUM_TILES) < num_wrong, (labels + 1) % 3, labels)
        values = np.full((NUM_TILES, 3), 0.1) + np.linspace(0, 0.01, NUM_TILES)[:, None] * [0, 1, 2]
        values[np.arange(NUM_TILES), predicted] = 0.8
        return (values / values.sum(axis=1, keepdims=True)).astype(np.float32)

    verdicts = judge(gate_with(**RULES), facts_of(three(10), three(9)))
    assert all(verdict.passed for verdict in verdicts), verdicts
    verdicts = judge(gate_with(**RULES), facts_of(three(60), three(9)))
    assert {verdict.rule for verdict in verdicts if not verdict.passed} >= set(COMPARISONS)
