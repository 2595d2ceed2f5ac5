"""What every backend's compiled step is given, and the constants of its optimizers: those of Keras 3.15.

`compiled_tensorflow` and `compiled_jax` answer to one contract test, `tests/training/test_compiled_steps.py`.
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
    """Which optimizer, and its decoupled weight decay a step, scaled by the learning rate.

    Adam with weight decay is AdamW (Loshchilov and Hutter 2019).
    """

    name: str
    weight_decay: float


@dataclass(frozen=True)
class Batch:
    """One batch of training.

    Attributes:
        inputs: Pooled features `(B, channels)`, maps at a cut `(B, h, w, c)` float16, or tiles `(B, S, S, 3)` uint8; in
            numpy, or on the device already.
        targets: Probabilities of the classes, label smoothing included, `(B, classes)` float32.
        sample_weights: `(B,)` float32.
        mask: What dropout multiplies the last layer's input by, `(B, width)` or `(1, 1)` float32.
    """

    inputs: Any
    targets: np.ndarray
    sample_weights: np.ndarray
    mask: np.ndarray
