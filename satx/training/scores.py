"""Scores of a network of the user's own after an epoch, whatever its outputs and metrics are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from satx.errors import TrialFailed
from satx.evaluation.metrics import accuracy, log_loss, roc_auc
from satx.training.checkpoint import Epoch
from satx.training.tile_batches import TileBatches


def score_epoch(
    model: Any, valid: TileBatches, logs: Mapping[str, float], *, step: int, positive_index: int, seconds: float
) -> Epoch:
    """Score the validation tiles with a network as it is now.

    Args:
        model: A Keras model, compiled or not.
        valid: The validation tiles, with class indices as labels.
        logs: What the training says of the epoch; its accuracy may have any of Keras's names.
        step: Number of the epoch, from 1.
        positive_index: Index of the class of interest.
        seconds: Duration of the epoch.

    Raises:
        TrialFailed: The outputs are not finite, or not one row per tile and one column per class.
    """
    outputs = [np.asarray(model.predict_on_batch(valid[index][0])) for index in range(len(valid))]
    probabilities = as_probabilities(np.concatenate(outputs), len(valid.store.classes), step)
    truth = valid.labels[valid.rows]
    optimizer = getattr(model, "optimizer", None)  # a training loop of one's own needs no compiled model
    rate = float("nan") if optimizer is None else float(keras.ops.convert_to_numpy(optimizer.learning_rate))
    return Epoch(
        step=step,
        phase="whole",
        accuracy=training_accuracy(logs),
        loss=float(logs.get("loss", float("nan"))),
        val_accuracy=accuracy(truth, probabilities),
        val_loss=log_loss(truth, probabilities),
        val_auc=roc_auc(truth, probabilities, positive_index=positive_index),
        learning_rate=rate,
        epoch_seconds=seconds,
    )


def as_probabilities(outputs: np.ndarray, num_classes: int, step: int) -> np.ndarray:
    """Return a network's outputs as one probability per class, `(N, C)` float64.

    A single column for two classes is the probability of the second class. Outputs that are no probabilities are taken
    as logits.

    Args:
        outputs: Softmax, sigmoid or logits, `(N, C)`, or `(N, 1)` for two classes.
        num_classes: C.
        step: Number of the epoch, for messages.

    Raises:
        TrialFailed: The outputs are not finite or have another shape.
    """
    values = outputs.astype(np.float64)  # (N, C) float64
    if not np.isfinite(values).all():
        raise TrialFailed(f"Expected finite outputs after epoch {step}, got others: training diverged.")
    is_single = num_classes == 2 and values.shape[1:] == (1,)
    if not is_single and values.shape[1:] != (num_classes,):
        raise TrialFailed(
            f"Expected outputs of shape (tiles, {num_classes}), one column per class, got {values.shape}. "
            f"End the network in a layer of {num_classes} units."
        )
    in_range = bool(values.min() >= 0 and values.max() <= 1)
    if is_single:
        second = values[:, 0] if in_range else 1 / (1 + np.exp(-values[:, 0].clip(-500, 500)))
        return np.stack([1 - second, second], axis=1)
    if in_range and np.allclose(values.sum(axis=1), 1, atol=1e-2):  # 16-bit softmax rounds to three digits
        return values
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def training_accuracy(logs: Mapping[str, float]) -> float:
    """Return the accuracy among an epoch's training metrics: `accuracy`, `acc`, `sparse_categorical_accuracy`; else NaN."""
    names = [name for name in logs if not name.startswith("val_") and (name == "acc" or name.endswith("accuracy"))]
    return float(logs[names[0]]) if names else float("nan")


def num_parameters(model: Any) -> dict[str, int]:
    """Return a network's numbers of trainable and total parameters; empty if it is built only when fitted."""
    if model is None or not model.built:
        return {}
    trainable = sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)
    return {"trainable_parameters": trainable, "total_parameters": model.count_params()}
