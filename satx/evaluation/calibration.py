"""Calibration: the gap between predicted confidence and observed accuracy.

Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", ICML 2017.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from satx.evaluation.arrays import Labels, Probabilities, checked

NUM_BINS = 15  # as in Guo et al.


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
    bins = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, num_bins - 1)  # (N,) int
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
