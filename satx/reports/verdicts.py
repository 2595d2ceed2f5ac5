"""What a comparison of two models shows, in words: a better ranking, a worse one, or a moved threshold."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from satx.evaluation.two_models import ALL_SLICES, AUC, EQUAL_RECALL, FALSE_POSITIVE_RATE, FIXED, KEPT_RECALL, RECALL

BETTER, WORSE, DISAGREE, MOVED, SAME = "better", "worse", "disagree", "moved threshold", "no difference"


@dataclass(frozen=True)
class Verdict:
    """What is shown about the negatives of a slice.

    Attributes:
        slice: Its name; `ALL_SLICES` for all together.
        kind: One of the five above, of the second model.
        conclusion: That in a sentence, with the name of the slice.
        text: The same after what was measured.
    """

    slice: str
    kind: str
    conclusion: str
    text: str


@dataclass(frozen=True)
class Comparison:
    """Two models on the same test tiles.

    Attributes:
        backbone: For baselines, the backbone of both; empty for the best runs.
        table: From `compare_models`.
        num_tiles: Number of test tiles that both scored.
        positive_class: The class of interest.
        verdicts: What is shown, for each slice and for all together.
    """

    backbone: str
    table: pd.DataFrame
    num_tiles: int
    positive_class: str
    verdicts: list[Verdict]


@dataclass(frozen=True)
class _Rows:
    """The rows of a slice, and those of the recall, which is the same for every slice."""

    fixed: pd.Series
    fixed_recall: pd.Series
    equal: pd.Series
    equal_recall: pd.Series
    area: pd.Series


def slice_label(name: str) -> str:
    """Return how a slice is called in tables and sentences."""
    return "all slices" if name == ALL_SLICES else name


def verdicts(table: pd.DataFrame, *, positive_class: str) -> list[Verdict]:
    """Return what a comparison shows, for each slice and for all together, in the order of the table.

    A model is better or worse if its AUC, or its rates at equal recall, differ beyond their intervals. If neither does, and at
    the fixed threshold false positives and recall moved the same way, another threshold would have done the same.

    Args:
        table: From `compare_models`.
        positive_class: The class of interest.
    """
    found = []
    by_key = {(row["point"], row["measure"], row["slice"]): row for _, row in table.iterrows()}
    for name in table.loc[table["measure"] == AUC, "slice"]:
        rows = _Rows(
            fixed=by_key[FIXED, FALSE_POSITIVE_RATE, name],
            fixed_recall=by_key[FIXED, RECALL, ALL_SLICES],
            equal=by_key[EQUAL_RECALL, FALSE_POSITIVE_RATE, name],
            equal_recall=by_key[EQUAL_RECALL, RECALL, ALL_SLICES],
            area=by_key["", AUC, name],
        )
        kind, sentence = _verdict(rows)
        label = slice_label(name)
        heading = f"{label[:1].upper()}{label[1:]}"
        text = f"{heading}: {_measured(rows, positive_class)} {sentence}"
        found.append(Verdict(name, kind, f"{heading}: {sentence}", text))
    return found


def verdict_lines(comparison: Comparison) -> list[str]:
    """Return the verdicts of a comparison as lines; those on baselines begin with what was compared."""
    if not comparison.backbone:
        return [verdict.text for verdict in comparison.verdicts]
    return [
        f"Logistic regression on frozen {comparison.backbone} features, {verdict.text[:1].lower()}{verdict.text[1:]}"
        for verdict in comparison.verdicts
    ]


def _verdict(rows: _Rows) -> tuple[str, str]:
    """Return the kind of a verdict and its sentence."""
    second = rows.fixed["label_b"]
    signs = {
        "the AUC": _sign(rows.area),
        f"rates at {KEPT_RECALL:.0%} recall on valid": _sign_at_equal_recall(rows),
    }
    better, worse = ([name for name, sign in signs.items() if sign == wanted] for wanted in (1, -1))
    if better and worse:
        return DISAGREE, f"{better[0]} and {worse[0]} disagree, so neither model is shown to be better."
    if better:
        return BETTER, f"{second} is better beyond chance: {' and '.join(better)}."
    if worse:
        return WORSE, f"{second} is worse beyond chance: {' and '.join(worse)}."
    way = _moved(rows)
    if way:
        word = "lowered" if way > 0 else "raised"
        return MOVED, (
            f"A {word} threshold explains the difference at {rows.fixed['threshold_a']:g}; no improvement is shown."
        )
    return SAME, "No difference beyond chance is shown."


def _sign(row: pd.Series) -> int:
    """Return 1 if the whole interval of a difference is above 0, -1 if it is below, else 0."""
    return int(row["difference_low"] > 0) - int(row["difference_high"] < 0)


def _sign_at_equal_recall(rows: _Rows) -> int:
    """Return 1 if the second model has fewer false positives or a higher recall, -1 if the opposite, 0 if both or neither.

    Fewer false positives with a recall that is lower beyond chance are no improvement: the thresholds, chosen on valid, do not
    give an equal recall on these test tiles.
    """
    fewer, found = -_sign(rows.equal), _sign(rows.equal_recall)
    return 0 if fewer * found < 0 else fewer or found


def _moved(rows: _Rows) -> int:
    """Return 1 if the second model flags more at the fixed threshold, as with a lower one, -1 if fewer, else 0.

    Both rates moved the same way, or one of them alone and beyond chance.
    """
    alarms, recall = rows.fixed["difference"], rows.fixed_recall["difference"]
    if alarms * recall > 0:
        return 1 if alarms > 0 else -1
    if recall == 0:
        return _sign(rows.fixed)
    return _sign(rows.fixed_recall) if alarms == 0 else 0


def _measured(rows: _Rows, positive_class: str) -> str:
    fixed, equal, area = rows.fixed, rows.equal, rows.area
    return (
        f"at threshold {fixed['threshold_a']:g}, false positives of {fixed['num_tiles']:.0f} {_counts(fixed)} and "
        f"{positive_class} recall {_from_to(rows.fixed_recall)}; at the thresholds that give {KEPT_RECALL:.0%} recall on each "
        f"model's own validation tiles ({equal['threshold_a']:.3g} and {equal['threshold_b']:.3g}), false positives "
        f"{_counts(equal)} and recall {_from_to(rows.equal_recall)}; AUC from {area['value_a']:.3f} to {area['value_b']:.3f} "
        f"({area['difference']:+.3f}, 95% interval {area['difference_low']:+.3f} to {area['difference_high']:+.3f})."
    )


def _from_to(row: pd.Series) -> str:
    return f"from {row['value_a']:.0%} to {row['value_b']:.0%}"


def _counts(row: pd.Series) -> str:
    points, low, high = (100 * row[name] for name in ("difference", "difference_low", "difference_high"))
    return f"from {row['flagged_a']:.0f} to {row['flagged_b']:.0f} ({points:+.0f} points, 95% interval {low:+.0f} to {high:+.0f})"
