"""Helpers of a training: class weights, the learning rate schedule, divergence, setting variables."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from satx.errors import TrialFailed


def class_weights(labels: np.ndarray, num_classes: int, how: str) -> np.ndarray:
    """Return class weights, `(num_classes,)` float32: inverse frequency with mean 1 over the tiles, or all ones."""
    if how == "none":
        return np.ones(num_classes, np.float32)
    counts = np.bincount(labels, minlength=num_classes)
    return (len(labels) / (num_classes * np.maximum(counts, 1))).astype(np.float32)


def schedule_factor(schedule: str, epoch: int, num_epochs: int) -> float:
    """Return the schedule's factor of the learning rate for an epoch of the phase, counted from 0.

    The factor is 1 for a constant schedule, else a half cosine from 1 towards 0.
    """
    return 1.0 if schedule == "constant" else 0.5 * (1.0 + math.cos(math.pi * epoch / num_epochs))


def require_finite(value: float, learning_rate: float, *, what: str) -> None:
    """Fail a trial that has diverged.

    Raises:
        TrialFailed: The value is not a finite number.
    """
    if not math.isfinite(value):
        raise TrialFailed(
            f"Expected a finite {what}, got {value}: training diverged. Use a learning rate below {learning_rate:.2g}."
        )


def trained_variables(part: Any | None) -> list[Any]:
    """Return a network part's variables, including batch statistics, without the states of its random generators."""
    return [v for v in part.variables if "seed_generator" not in v.path] if part is not None else []


def assign(variables: list[Any], values: list[np.ndarray]) -> None:
    """Set each variable to its value."""
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
