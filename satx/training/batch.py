"""Inputs of every backend's compiled step, and the constants of its optimizers, which are those of Keras 3.15.

`compiled_tensorflow` and `compiled_jax` share one contract test, `tests/training/test_compiled_steps.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

ADAM_BETAS = (0.9, 0.999)  # Kingma and Ba 2015
RMSPROP_RHO = 0.9  # Hinton's lecture 6e, 2012
EPSILON = 1e-7


@dataclass(frozen=True)
class OptimizerSettings:
    """Optimizer name and decoupled weight decay per step, which is scaled by the learning rate.

    Adam with weight decay is AdamW (Loshchilov and Hutter 2019).
    """

    name: str
    weight_decay: float


@dataclass(frozen=True)
class Batch:
    """One training batch.

    Attributes:
        inputs: Pooled features `(B, channels)`, maps at a cut `(B, h, w, c)` float16, or tiles `(B, S, S, 3)` uint8, as
            a numpy array or already on the device.
        targets: Class probabilities with label smoothing applied, `(B, classes)` float32.
        sample_weights: `(B,)` float32.
        mask: Dropout mask that multiplies the last layer's input, `(B, width)` or `(1, 1)` float32.
    """

    inputs: Any
    targets: np.ndarray
    sample_weights: np.ndarray
    mask: np.ndarray
