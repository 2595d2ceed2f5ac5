"""The parameters of runs in the order in which readers need them: those that vary and matter most come first."""

from __future__ import annotations

import math

import pandas as pd

from satx.catalogue import cut_label

NOTHING = "–"
MIN_SCORED = 20  # runs with a score; fewer do not show which parameters matter
NUM_GROUPS = 4  # of a number with more values than that

# The order of parameters where the scores show none: what is trained, how fast, then the head, then regularization and
# augmentation.
FIRST = (
    "session",
    "model.backbone",
    "model.unfreeze",
    "train.finetune_learning_rate",
    "train.head_learning_rate",
    "train.batch_size",
    "train.optimizer",
    "model.dense_units",
    "model.dropout",
    "model.activation",
    "train.schedule",
    "train.label_smoothing",
    "train.weight_decay",
    "train.class_weight",
    "augmentation.mode",
    "augmentation.num_flips",
    "augmentation.num_variants",
)
# What follows from other settings, or affects only the cost.
LAST = (
    "train.seed",
    "cache",
    "cache_gb",
    "backbone_trainable_parameters",
    "trainable_parameters",
    "total_parameters",
)


def varying_and_constant(runs: pd.DataFrame, names: list[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Return the names of the parameters that differ among the runs, and the others with their common values.

    Those that differ are ordered by how much the validation AUC differs between their values. Only they become columns
    of a table: a column of equal values would only take space.

    Args:
        runs: One row per run, with the scores in `val_auc` if there are any.
        names: The columns of `runs` that are parameters.
    """
    ordered = sorted(names, key=_place)
    known = runs[~runs[ordered].isna().all(axis=1)]  # a run in its first epoch has sent no parameters yet
    shown = {name: known[name].map(lambda value, name=name: shown_value(name, value)) for name in ordered}
    varying = [name for name in ordered if shown[name].nunique() > 1]
    if "val_auc" in known:
        matters = {name: 0.0 if name in LAST else explained_share(known[name], known["val_auc"]) for name in varying}
        varying = sorted(varying, key=lambda name: (name in LAST, -round(matters[name], 2)))  # stable
    return varying, [(name, shown[name].iloc[0]) for name in ordered if name not in varying and len(known)]


def explained_share(values: pd.Series, scores: pd.Series) -> float:
    """Return the share of the variance of scores that lies between the values of a parameter, 0 to 1.

    This is epsilon squared (Kelley 1935): on average, it is not above 0 for a parameter without effect, however many
    values that has. Numbers with many values are split into `NUM_GROUPS` groups of equal size first.

    Args:
        values: The parameter's value of each run.
        scores: The score of each run.

    Returns:
        The share; 0 if there are fewer than `MIN_SCORED` runs that have both.
    """
    there = values.notna() & scores.notna()
    values, scores = values[there], scores[there].astype(float)
    if pd.api.types.is_numeric_dtype(values) and values.nunique() > NUM_GROUPS:
        values = pd.qcut(values.astype(float), NUM_GROUPS, duplicates="drop")
    num_runs, num_values = len(scores), values.nunique()
    if num_runs < max(MIN_SCORED, num_values + 1) or num_values < 2 or scores.nunique() < 2:
        return 0.0
    total = ((scores - scores.mean()) ** 2).sum()
    means = scores.groupby(values, observed=True, sort=False).transform("mean")
    within = ((scores - means) ** 2).sum()
    return max(0.0, float(1 - (within / (num_runs - num_values)) / (total / (num_runs - 1))))


def _place(name: str) -> tuple[int, str]:
    if name in FIRST:
        return FIRST.index(name), name
    return len(FIRST) + (1 + LAST.index(name) if name in LAST else 0), name


def shown_value(name: str, value: object) -> str:
    """Return a parameter's value as people read it."""
    if is_missing(value):
        return NOTHING
    if isinstance(value, float) and value.is_integer() and abs(value) >= 1:
        value = int(value)  # pandas makes floats of integers in a column with gaps
    if name == "model.unfreeze":
        return cut_label(str(value))
    if name.endswith("_parameters") and isinstance(value, int):
        return f"{value:,}"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def is_missing(value: object) -> bool:
    """Return whether a cell of a table has no value."""
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))
