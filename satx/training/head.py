"""The head as plain arrays and functions, so that a thousand trials share a few compiled steps.

Width, activation, dropout and label smoothing are inputs of a step and need no program of their own: widths are shapes,
the activation is selected by three weights, dropout is a mask drawn here, and smoothing is applied to the targets.
`models.backbones.build_head` builds the same head as Keras layers, for use in the finished classifier.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import keras
import numpy as np

from satx.config import ModelConfig

ACTIVATIONS = ("relu", "elu", "gelu")


def initial_head(num_features: int, num_classes: int, model: ModelConfig, *, seed: int) -> list[np.ndarray]:
    """Return a new head in Keras's order: Glorot-uniform kernels (Glorot and Bengio 2010) and zero biases.

    Returns:
        `[(features, units), (units,), (units, classes), (classes,)]` float32, or `[(features, classes), (classes,)]`
        without a hidden layer.
    """
    draw = np.random.default_rng([seed, 2])
    widths = [num_features, *([model.dense_units] if model.dense_units else []), num_classes]
    values = []
    for width_in, width_out in pairwise(widths):
        limit = np.sqrt(6.0 / (width_in + width_out))
        values += [
            draw.uniform(-limit, limit, (width_in, width_out)).astype(np.float32),
            np.zeros(width_out, np.float32),
        ]
    return values


def dropout_mask(draw: np.random.Generator, rate: float, shape: tuple[int, int]) -> np.ndarray:
    """Draw a dropout mask for the input of the last layer: 0 with probability `rate`, else `1 / (1 - rate)`.

    Returns:
        Float32 of shape `shape`; `(1, 1)` without dropout.
    """
    if not rate:
        return np.ones((1, 1), np.float32)
    kept = draw.random(shape, np.float32) >= rate
    return np.where(kept, 1.0 / (1.0 - rate), 0.0).astype(np.float32)


def activation_weights(activation: str) -> np.ndarray:
    """Return the one-hot weights that select one of `ACTIVATIONS`, `(3,)` float32."""
    return np.array([activation == name for name in ACTIVATIONS], np.float32)


def logits(head: list[Any], features: Any, mask: Any, activation: Any) -> Any:
    """Apply the head to pooled features, without the softmax: `(B, channels)` to `(B, classes)`, on any backend."""
    hidden = features
    if len(head) > 2:
        linear = keras.ops.matmul(features, head[0]) + head[1]
        kinds = (keras.ops.relu(linear), keras.ops.elu(linear), keras.ops.gelu(linear, approximate=False))
        hidden = sum(activation[number] * kind for number, kind in enumerate(kinds))
    return keras.ops.matmul(hidden * mask, head[-2]) + head[-1]


def loss_and_accuracy(logits: Any, targets: Any, sample_weights: Any) -> tuple[Any, Any]:
    """Return the mean weighted cross-entropy and the accuracy of a batch; targets are already smoothed."""
    losses = -keras.ops.sum(targets * keras.ops.log_softmax(logits, axis=-1), axis=-1)
    right = keras.ops.equal(keras.ops.argmax(logits, axis=-1), keras.ops.argmax(targets, axis=-1))
    return keras.ops.mean(sample_weights * losses), keras.ops.mean(keras.ops.cast(right, "float32"))
