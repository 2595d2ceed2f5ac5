"""Calibration: the gap between predicted confidence and observed accuracy, and a temperature that reduces it.

Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", ICML 2017.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from satx.errors import DataError
from satx.evaluation.arrays import Floats, Labels, Probabilities, checked

NUM_BINS = 15  # as in Guo et al.
SMALLEST_PROBABILITY = 1e-7  # Keras clips at this value; else one fully confident mistake makes the loss infinite
SMALLEST_SOFTMAX = 1e-37  # about the smallest normal float32; a higher floor would make the surest tiles equal

# The loss of perfectly separated tiles falls with the temperature until all probabilities are 0 or 1. At 0.25, float32
# already rounds what was 0.99 to 1; a lower temperature would make more of the surest tiles equal. At 20, two classes have
# at most 0.69, however sure the network is.
TEMPERATURE_BOUNDS = (0.25, 20.0)


def calibrated(probabilities: Probabilities, temperature: float) -> NDArray[np.float32]:
    """Divide the logits of a softmax by a temperature: above 1 it lowers the confidence, below 1 it raises it.

    The most probable class stays the same, and so does the order of the tiles if there are two classes.

    Args:
        probabilities: Outputs of a softmax, one column per class, (N, C).
        temperature: Divisor of the logits, above 0; 1 leaves the probabilities as they are.

    Returns:
        `softmax(log(max(p, 1e-37)) / temperature)`, (N, C) float32; rows add up to 1.

    Raises:
        DataError: The temperature is not a number above 0.
    """
    if not (temperature > 0 and math.isfinite(temperature)):
        raise DataError(f"Expected a temperature above 0, got {temperature}. Fit it again, or use 1 for none.")
    if temperature == 1:
        return np.asarray(probabilities, dtype=np.float32)
    return np.exp(_log_softmax(_logits(probabilities) / temperature)).astype(np.float32)


def fit_temperature(labels: Labels, probabilities: Probabilities) -> float:
    """Return the temperature with the lowest log loss, from `TEMPERATURE_BOUNDS`; 1.0 if no other lowers the loss.

    Args:
        labels: Class indices of tiles that took no part in training, (N,).
        probabilities: Outputs of a softmax for these tiles, (N, C).
    """
    labels, values = checked(labels, probabilities)
    logits = _logits(values)
    rows = np.arange(len(labels))

    def loss(log_temperature: float) -> float:
        return -float(_log_softmax(logits / math.exp(log_temperature))[rows, labels].mean())

    # The loss is convex in 1 / temperature, so that it has one minimum only, on the scale of logarithms too.
    low, high = (math.log(bound) for bound in TEMPERATURE_BOUNDS)
    found = minimize_scalar(loss, bounds=(low, high), method="bounded")
    return math.exp(found.x) if found.fun < loss(0.0) else 1.0


def calibration_gap(labels: Labels, probabilities: Probabilities) -> float:
    """Return the mean confidence in the predicted class minus the accuracy; above 0, the model is overconfident."""
    labels, values = checked(labels, probabilities)
    return float(values.max(axis=1).mean() - (values.argmax(axis=1) == labels).mean())


def confidence_bins(confidence: Floats, *, num_bins: int = NUM_BINS) -> NDArray[np.int64]:
    """Return the number of each confidence's bin, (N,); bins are equally wide, open below and closed above."""
    edges = np.linspace(0.0, 1.0, num_bins + 1)
    return np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, num_bins - 1)


def reliability_table(labels: Labels, probabilities: Probabilities, *, num_bins: int = NUM_BINS) -> pd.DataFrame:
    """Return confidence and accuracy of the predicted class in bins of equal width.

    Args:
        labels: Class indices, (N,).
        probabilities: One column per class, (N, C).
        num_bins: Number of bins between 0 and 1, each open below and closed above.

    Returns:
        One row per bin: `bin_low`, `bin_high`, `num_tiles`, `mean_confidence` and `accuracy` (NaN for empty bins).
    """
    labels, probabilities = checked(labels, probabilities)
    confidence = probabilities.max(axis=1)  # (N,) float64
    correct = probabilities.argmax(axis=1) == labels  # (N,) bool
    edges = np.linspace(0.0, 1.0, num_bins + 1)
    bins = confidence_bins(confidence, num_bins=num_bins)
    num_tiles = np.bincount(bins, minlength=num_bins)
    divisor = np.where(num_tiles > 0, num_tiles, np.nan)
    return pd.DataFrame(
        {
            "bin_low": edges[:-1],
            "bin_high": edges[1:],
            "num_tiles": num_tiles,
            "mean_confidence": np.bincount(bins, weights=confidence, minlength=num_bins) / divisor,
            "accuracy": np.bincount(bins, weights=correct, minlength=num_bins) / divisor,
        }
    )


def expected_calibration_error(labels: Labels, probabilities: Probabilities, *, num_bins: int = NUM_BINS) -> float:
    """Return the mean gap between confidence and accuracy over bins, weighted by tile count; 0 is calibrated."""
    table = reliability_table(labels, probabilities, num_bins=num_bins)
    gaps = (table["mean_confidence"] - table["accuracy"]).abs().fillna(0.0)
    return float((gaps * table["num_tiles"]).sum() / table["num_tiles"].sum())


def _logits(probabilities: Probabilities) -> Floats:
    return np.log(np.maximum(np.asarray(probabilities, dtype=np.float64), SMALLEST_SOFTMAX))


def _log_softmax(logits: Floats) -> Floats:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)), dtype=np.float64)
