"""The rules of the promotion gate: each takes its numbers and the facts of a promotion, and returns a verdict.

A rule that compares refuses only a difference beyond chance, so its interval decides, not its value; the floor of the AUC must
be exceeded beyond chance. A rule that cannot be evaluated refuses.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from satx.errors import DataError
from satx.evaluation.intervals import mcnemar_exact, paired_bootstrap_difference
from satx.evaluation.metrics import roc_auc
from satx.evaluation.slices import members_by_slice
from satx.inference.manifest import Export
from satx.registry.comparison import ChampionScores
from satx.registry.gate import (
    AccuracyNotWorse,
    AucFloor,
    AucNotWorse,
    CalibrationGap,
    ExportSize,
    GateConfig,
    LatencyPerTile,
    ServedParity,
    SliceFloor,
)
from satx.registry.judged import NOT_ASKED, Evaluation, Verdict

NO_TEST_TILES = "cannot be evaluated: the session has no test tiles. Add test/ to the tiles and train again"
NAMED_LOSS = 0.05  # a verdict says so if the AUC may be lower than the champion's by more than this
MAX_NAMED_SLICES = 10


@dataclass(frozen=True)
class Facts:
    """What the rules look at.

    Attributes:
        evaluation: The candidate on its test tiles.
        positive_index: Index of the class of interest.
        champion: The champion on the same tiles; None if there is no champion yet.
        export: The candidate's export, not yet published.
        export_gb: Its size.
        latency_seconds: Median time of a prediction of one tile with it.
    """

    evaluation: Evaluation
    positive_index: int
    champion: ChampionScores | None
    export: Export
    export_gb: float
    latency_seconds: float


class Known(NamedTuple):
    """What a rule that compares with the champion says without comparing."""

    seen: str
    passed: bool


def judge(gate: GateConfig, facts: Facts) -> tuple[Verdict, ...]:
    """Return one verdict per rule, also of those after one that refuses, and of those that the gate leaves out."""
    asked = {name: getattr(gate.rules, name) for name in RULES}
    return tuple(
        Verdict(name, "", NOT_ASKED, passed=True) if rule is None else RULES[name](rule, facts)
        for name, rule in asked.items()
    )


def auc_floor(rule: AucFloor, facts: Facts) -> Verdict:
    """Refuse unless the whole 95% interval of the candidate's AUC is above the floor."""
    verdict = partial(
        Verdict, "auc_floor", f"a test AUC above {rule.at_least:g} beyond chance (its whole 95% interval)"
    )
    if not len(facts.evaluation.labels):
        return verdict(NO_TEST_TILES, passed=False)
    auc = facts.evaluation.after.interval("auc")
    if math.isnan(auc.low):
        return verdict(f"cannot be evaluated: AUC {auc.value:.3f}, without an interval", passed=False)
    return verdict(f"{auc} on {len(facts.evaluation.labels)} tiles", passed=auc.low > rule.at_least)


def auc_not_worse(rule: AucNotWorse, facts: Facts) -> Verdict:
    """Refuse if the whole interval of the candidate's AUC minus the champion's is below 0."""
    verdict = partial(
        Verdict,
        "auc_not_worse",
        f"test AUC not below the champion's ({100 * rule.confidence:.4g}% interval of the difference reaches 0 or more)",
    )
    others = _champion_probabilities(facts)
    if isinstance(others, Known):
        return verdict(*others)
    area = partial(roc_auc, positive_index=facts.positive_index)
    pair = facts.evaluation.labels, facts.evaluation.probabilities, others
    try:
        difference = paired_bootstrap_difference(area, *pair, confidence=rule.confidence)
    except DataError as error:
        return verdict(f"cannot be evaluated: {error}", passed=False)
    seen = (
        f"{area(*pair[:2]):.3f} against {area(pair[0], pair[2]):.3f} of the champion, difference {difference}, on "
        f"{len(facts.evaluation.labels)} tiles"
    )
    passed = difference.high >= 0
    if passed and difference.low < -NAMED_LOSS:
        seen += f"; a loss of up to {-difference.low:.2f} cannot be excluded with so few tiles"
    return verdict(seen, passed=passed)


def accuracy_not_worse(rule: AccuracyNotWorse, facts: Facts) -> Verdict:
    """Refuse if the candidate is right about fewer tiles, and McNemar's exact p-value is below alpha."""
    verdict = partial(
        Verdict,
        "accuracy_not_worse",
        f"right about no fewer test tiles than the champion, or about fewer with p of at least {rule.alpha:g}",
    )
    others = _champion_probabilities(facts)
    if isinstance(others, Known):
        return verdict(*others)
    labels = facts.evaluation.labels
    own = facts.evaluation.probabilities.argmax(axis=1) == labels  # (N,) bool
    champions = others.argmax(axis=1) == labels
    p_value = mcnemar_exact(own, champions)
    seen = (
        f"{own.sum()} of {len(labels)} right against {champions.sum()} of the champion; only this run right on "
        f"{(own & ~champions).sum()}, only the champion on {(~own & champions).sum()}; p = {p_value:.2g}"
    )
    return verdict(seen, passed=not (p_value < rule.alpha and own.sum() < champions.sum()))


def slice_floor(rule: SliceFloor, facts: Facts) -> Verdict:
    """Refuse if the interval of a slice's score lies wholly below the floor."""
    which = " of the class of interest" if rule.metric == "recall" else ""
    verdict = partial(
        Verdict,
        "slice_floor",
        f"{rule.metric} of every slice with {rule.fewest_tiles} tiles{which} or more not below {rule.at_least:g} beyond chance",
    )
    if not len(facts.evaluation.labels):
        return verdict(NO_TEST_TILES, passed=False)
    table = facts.evaluation.after.table
    slices = table[(table["scope"] == "slice") & (table["metric"] == rule.metric)]
    slices = slices.assign(num_tiles=slices["name"].map(_tiles_by_slice(rule, facts)))
    judged = slices[(slices["num_tiles"] >= rule.fewest_tiles) & slices["high"].notna()]
    others = sorted(set(slices["name"]) - set(judged["name"]))
    not_judged = f"; not judged, too small or undefined: {_first_few(others)}" if others else ""
    if judged.empty:
        return verdict(f"cannot be evaluated: no slice has enough tiles{not_judged}", passed=False)
    below = judged[judged["high"] < rule.at_least].sort_values("value")
    named = below if len(below) else judged.nsmallest(1, "value")
    scores = [
        f"{row.name} {row.value:.3f} ({row.low:.3f} to {row.high:.3f}; {row.num_tiles} tiles)"
        for row in named.itertuples()
    ]
    lead = "below" if len(below) else "lowest"
    return verdict(f"{lead}: {_first_few(scores)}{not_judged}", passed=below.empty)


def _first_few(texts: Sequence[str]) -> str:
    """Return a list for people; the registry limits the length of what a verdict says."""
    more = f" and {len(texts) - MAX_NAMED_SLICES} more" if len(texts) > MAX_NAMED_SLICES else ""
    return ", ".join(texts[:MAX_NAMED_SLICES]) + more


def _tiles_by_slice(rule: SliceFloor, facts: Facts) -> dict[str, int]:
    """Count the tiles that the metric is a share of: for recall, those of the class of interest."""
    labels = facts.evaluation.labels
    counted = labels == facts.positive_index if rule.metric == "recall" else np.ones(len(labels), bool)  # (N,) bool
    named = members_by_slice(facts.evaluation.slices, num_tiles=len(labels))
    return {name: int((members & counted).sum()) for name, members in named}


def calibration_gap(rule: CalibrationGap, facts: Facts) -> Verdict:
    """Refuse if the interval of mean confidence minus accuracy lies wholly beyond the limit, above or below."""
    verdict = partial(
        Verdict, "calibration_gap", f"mean confidence and accuracy not more than {rule.at_most:g} apart beyond chance"
    )
    if not len(facts.evaluation.labels):
        return verdict(NO_TEST_TILES, passed=False)
    gap = facts.evaluation.after.interval("calibration_gap")
    if math.isnan(gap.low) or math.isnan(gap.high):
        return verdict(f"cannot be evaluated: {gap.value:.3f}, without an interval", passed=False)
    return verdict(str(gap), passed=gap.low <= rule.at_most and gap.high >= -rule.at_most)


def served_parity(rule: ServedParity, facts: Facts) -> Verdict:
    """Refuse if the export's probabilities differ more from the network's than either limit, or were not compared.

    The export has no difference with a resize if no compared tile needs one.
    """
    verdict = partial(
        Verdict,
        "served_parity",
        f"export and network differ by at most {rule.own_size_at_most:g}, with a resize by at most {rule.resized_at_most:g}",
    )
    measured = facts.export.manifest.get("parity") or {}
    limits = {"own_size": rule.own_size_at_most, "resized": rule.resized_at_most}
    known = {name: float(measured[name]) for name in limits if measured.get(name) is not None}
    if "own_size" not in known:
        return verdict("cannot be evaluated: the export was not compared with the network", passed=False)
    seen = ", ".join(f"{value:.2g} ({name.replace('_', ' ')})" for name, value in known.items())
    return verdict(seen, passed=all(value <= limits[name] for name, value in known.items()))


def latency_per_tile(rule: LatencyPerTile, facts: Facts) -> Verdict:
    """Refuse if the export takes longer for one tile on this machine."""
    return Verdict(
        "latency_per_tile",
        f"one tile in at most {rule.at_most_seconds:g} s on this machine, median",
        f"{facts.latency_seconds:.3f} s",
        facts.latency_seconds <= rule.at_most_seconds,
    )


def export_size(rule: ExportSize, facts: Facts) -> Verdict:
    """Refuse if the export is larger."""
    return Verdict(
        "export_size",
        f"an export of at most {rule.at_most_gb:g} GB",
        f"{facts.export_gb:.3f} GB",
        facts.export_gb <= rule.at_most_gb,
    )


RULES: dict[str, Callable[[Any, Facts], Verdict]] = {
    "auc_floor": auc_floor,
    "auc_not_worse": auc_not_worse,
    "accuracy_not_worse": accuracy_not_worse,
    "slice_floor": slice_floor,
    "calibration_gap": calibration_gap,
    "served_parity": served_parity,
    "latency_per_tile": latency_per_tile,
    "export_size": export_size,
}


def _champion_probabilities(facts: Facts) -> np.ndarray | Known:
    """Return the champion's probabilities on the test tiles, (N, C) float32, or the verdict without them."""
    if not len(facts.evaluation.labels):
        return Known(NO_TEST_TILES, passed=False)
    if facts.champion is None:
        return Known("there is no champion yet", passed=True)
    if facts.champion.probabilities is None:
        return Known(f"cannot be evaluated: {facts.champion.problem}", passed=False)
    return facts.champion.probabilities
