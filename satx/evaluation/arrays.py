"""The two arrays that every evaluation function takes, labels (N,) and probabilities (N, C), and their validation."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from satx.errors import DataError

Labels = NDArray[np.integer[Any]]
Probabilities = NDArray[np.floating[Any]]
Floats = NDArray[np.float64]


def checked(labels: Labels, probabilities: Probabilities) -> tuple[NDArray[np.int64], Floats]:
    """Validate labels and probabilities, and return them as int64 and float64.

    Args:
        labels: Class indices, (N,).
        probabilities: One column per class, (N, C), C >= 2.

    Raises:
        DataError: There are no tiles, the shapes do not match, or values are not valid labels or probabilities.
    """
    labels = np.asarray(labels)
    values = np.asarray(probabilities, dtype=np.float64)  # (N, C) float64
    if values.ndim != 2 or values.shape[1] < 2 or labels.shape != values.shape[:1]:
        raise DataError(
            f"Expected labels (N,) and probabilities (N, C) with C >= 2, got {labels.shape} and {values.shape}. "
            "Pass one row of probabilities per tile, one column per class."
        )
    if len(labels) == 0:
        raise DataError("Expected at least one tile to evaluate, got none. Check the split's folder.")
    if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0 or labels.max() >= values.shape[1]:
        raise DataError(
            f"Expected integer labels in 0..{values.shape[1] - 1}, got {labels.dtype} from {labels.min()} to "
            f"{labels.max()}. Check that the model and the tiles have the same classes."
        )
    if not (values.min() >= -1e-6 and values.max() <= 1 + 1e-6):  # also false for NaN
        raise DataError(
            f"Expected probabilities in 0..1, got values from {values.min()} to {values.max()}. "
            "Check that the model ends in a softmax and did not diverge."
        )
    return labels.astype(np.int64, copy=False), values


def classes_of_interest(num_classes: int, positive_index: int) -> list[int]:
    """Return the classes to average a one-against-rest metric over: the positive one of two, or all if there are more.

    Raises:
        DataError: `positive_index` is not a class.
    """
    if not 0 <= positive_index < num_classes:
        raise DataError(f"Expected positive_index in 0..{num_classes - 1}, got {positive_index}. Check positive_class.")
    return [positive_index] if num_classes == 2 else list(range(num_classes))


def require_every_class(labels: NDArray[np.int64], num_classes: int) -> None:
    """Check that every class has tiles; ranking metrics such as AUC are undefined otherwise.

    Raises:
        DataError: Some classes have no tiles; the message names them.
    """
    absent = np.flatnonzero(np.bincount(labels, minlength=num_classes) == 0)
    if absent.size:
        raise DataError(
            f"Expected tiles of all {num_classes} classes, got none of class {', '.join(map(str, absent))}: the area "
            "under the curve is undefined. Add tiles of that class to the split, or report accuracy alone."
        )
