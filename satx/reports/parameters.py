"""The parameters of runs in the order in which readers need them: those that vary and matter most come first."""

from __future__ import annotations

import math

import pandas as pd

from satx.catalogue import cut_label

NOTHING = "–"

# What decides about a score comes first: what is trained, how fast, then the head, then regularization and augmentation.
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

    Both are ordered by how much they matter. Only the former become columns of a table: a column of equal values would
    only take space.

    Args:
        runs: One row per run.
        names: The columns of `runs` that are parameters.
    """
    ordered = sorted(names, key=_place)
    known = runs[~runs[ordered].isna().all(axis=1)]  # a run in its first epoch has sent no parameters yet
    shown = {name: known[name].map(lambda value, name=name: shown_value(name, value)) for name in ordered}
    varying = [name for name in ordered if shown[name].nunique() > 1]
    return varying, [(name, shown[name].iloc[0]) for name in ordered if name not in varying and len(known)]


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
