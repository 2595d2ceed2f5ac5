"""Compiled training and prediction steps on TensorFlow, traced once per cut, whatever the trial's head and settings.

The optimizers are those of Keras, computed by TensorFlow's fused kernels (`ResourceApply*`). Keras's own optimizers are
Python code that is traced operation by operation, which for a tail of 150 variables takes longer than an epoch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import tensorflow as tf

from satx.models.backbones import Network, learnable
from satx.training.batch import ADAM_BETAS, EPSILON, RMSPROP_RHO, Batch, OptimizerSettings
from satx.training.head import activation_weights, logits, loss_and_accuracy
from satx.training.steps import trained_variables

FLOAT = tf.float32
# number of variables to ranks of kernels and biases, without and with a hidden layer
HEAD_RANKS = {2: (2, 1), 4: (2, 1, 2, 1)}


class CompiledSteps:
    """Steps for one cut of one backbone, or for a head alone; `begin` loads a trial's state into them."""

    def __init__(self, network: Network | None, input_shape: tuple[int, ...], dtype: str) -> None:
        """Take the network whose tail is trained, None for a head alone, and the shape and dtype of its inputs."""
        self.network = network
        tail = network.tail if network is not None else None
        self.tail_variables = trained_variables(tail)
        self._tail = [variable.value for variable in self.tail_variables]
        self.learnable = learnable(tail)
        self._heads = {
            size: [_variable([0] * rank, [None] * rank) for rank in ranks] for size, ranks in HEAD_RANKS.items()
        }
        tail_slots = _with_slots([variable.value for variable in self.learnable])
        self._slotted = {size: [*tail_slots, *_with_slots(head)] for size, head in self._heads.items()}
        inputs = tf.TensorSpec([None, *input_shape], dtype)
        targets, weights, mask, activation = (
            tf.TensorSpec(s, FLOAT) for s in ([None, None], [None], [None, None], [3])
        )
        signature = [inputs, targets, weights, mask, activation]
        self._measure = {size: _compiled(self._measured(size), signature) for size in HEAD_RANKS}
        self._predict = {size: _compiled(self._predicted(size), [inputs, activation]) for size in HEAD_RANKS}
        self._updates: dict[tuple[str, bool, int], Callable[..., None]] = {}

    def begin(
        self, trained: list[np.ndarray], slots: list[np.ndarray] | None, *, settings: OptimizerSettings, activation: str
    ) -> None:
        """Start or resume a trial.

        Args:
            trained: The tail's variables, none for a head alone, then the head's.
            slots: Optimizer state as returned by `slots()`, None for a new optimizer.
            settings: Optimizer and weight decay.
            activation: Activation of the head.
        """
        self._size = len(trained) - len(self._tail)
        self._settings, self._activation = settings, activation_weights(activation)
        for variable, value in zip([*self._tail, *self._heads[self._size]], trained, strict=True):
            variable.assign(value)
        self._num_steps = int(slots[0]) if slots is not None else 0
        kept = slots[1:] if slots is not None else self._blank_slots()
        for slot, value in zip(self._all_slots(), kept, strict=True):
            slot.assign(value)
        self._update = self._updating(settings)

    def train_on_batch(self, batch: Batch, rate: float) -> tuple[Any, Any]:
        """Train one step. Returns loss and accuracy as tensors, so that the caller does not wait for the device."""
        loss, accuracy, gradients = self._measure[self._size](
            batch.inputs, batch.targets, batch.sample_weights, batch.mask, self._activation
        )
        self._num_steps += 1
        powers = (beta**self._num_steps for beta in ADAM_BETAS)
        decay = rate * self._settings.weight_decay
        self._update(gradients, *(tf.constant(value, FLOAT) for value in (rate, decay, *powers)))
        return loss, accuracy

    def probabilities(self, inputs: np.ndarray) -> np.ndarray:
        """Return the class probabilities of a batch, `(B, classes)` float32."""
        return np.asarray(self._predict[self._size](inputs, self._activation))

    def trained(self) -> list[np.ndarray]:
        """Return the values of the tail's variables, then the head's."""
        return [variable.numpy() for variable in [*self._tail, *self._heads[self._size]]]

    def slots(self) -> list[np.ndarray]:
        """Return the optimizer's state: its step count, then its arrays."""
        return [np.array(self._num_steps), *(slot.numpy() for slot in self._all_slots())]

    def _all_slots(self) -> list[Any]:
        if self._settings.name == "sgd":
            return []
        return [slot for _, *slots in self._slotted[self._size] for slot in slots]

    def _blank_slots(self) -> list[Any]:
        owners = [variable for variable, *_ in self._slotted[self._size]] if self._settings.name != "sgd" else []
        return [tf.zeros_like(variable) for variable in owners for _ in range(2)]

    def _features(self, inputs: Any, *, training: bool) -> Any:
        return tf.cast(inputs, FLOAT) if self.network is None else self.network.features(inputs, training)

    def _measured(self, size: int) -> Callable[..., Any]:
        variables = [variable for variable, *_ in self._slotted[size]]

        def measure(inputs: Any, targets: Any, sample_weights: Any, mask: Any, activation: Any) -> Any:
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(variables)
                found = logits(self._heads[size], self._features(inputs, training=True), mask, activation)
                loss, accuracy = loss_and_accuracy(found, targets, sample_weights)
            return loss, accuracy, tape.gradient(loss, variables)

        return measure

    def _predicted(self, size: int) -> Callable[..., Any]:
        def predict(inputs: Any, activation: Any) -> Any:
            features = self._features(inputs, training=False)
            return tf.nn.softmax(logits(self._heads[size], features, tf.ones([1, 1]), activation))

        return predict

    def _updating(self, settings: OptimizerSettings) -> Callable[..., None]:
        key = (settings.name, settings.weight_decay > 0, self._size)
        if key not in self._updates:
            slotted = self._slotted[self._size]
            signature = [
                [tf.TensorSpec(v.shape, FLOAT) for v, *_ in slotted],
                *(tf.TensorSpec([], FLOAT) for _ in range(4)),
            ]
            self._updates[key] = _compiled(
                _optimizer(settings.name, slotted, decays=settings.weight_decay > 0), signature
            )
        return self._updates[key]


def _compiled(function: Callable[..., Any], signature: list[Any]) -> Callable[..., Any]:
    """Return the function as a graph that is traced at the first call.

    The concrete function is kept: looking it up at each call took a fifth of a head's training time.
    """
    trace = cache(tf.function(function, input_signature=signature, autograph=False).get_concrete_function)
    return lambda *given: trace()(*given)


def _variable(shape: list[int], open_shape: list[int | None]) -> Any:
    return tf.Variable(np.zeros(shape, np.float32), shape=tf.TensorShape(open_shape), trainable=False)


def _with_slots(variables: list[Any]) -> list[tuple[Any, Any, Any]]:
    """Pair each variable with two slots: Adam's moments, or RMSprop's mean square and a momentum that stays zero."""
    shapes = [list(variable.shape) for variable in variables]
    blank = [[size or 0 for size in shape] for shape in shapes]
    return [(v, _variable(b, s), _variable(b, s)) for v, b, s in zip(variables, blank, shapes, strict=True)]


def _optimizer(name: str, slotted: list[tuple[Any, Any, Any]], *, decays: bool) -> Callable[..., None]:
    def update(gradients: list[Any], rate: Any, decay: Any, power1: Any, power2: Any) -> None:
        for (variable, first, second), gradient in zip(slotted, gradients, strict=True):
            if decays:
                variable.assign_sub(variable * decay)
            if name == "sgd":
                variable.assign_sub(gradient * rate)
            elif name == "rmsprop":
                tf.raw_ops.ResourceApplyRMSProp(
                    var=variable.handle, ms=first.handle, mom=second.handle, grad=gradient,
                    lr=rate, rho=RMSPROP_RHO, momentum=0.0, epsilon=EPSILON,
                )  # fmt: skip
            else:
                beta1, beta2 = ADAM_BETAS
                tf.raw_ops.ResourceApplyAdam(
                    var=variable.handle, m=first.handle, v=second.handle, grad=gradient, lr=rate,
                    beta1=beta1, beta2=beta2, beta1_power=power1, beta2_power=power2, epsilon=EPSILON,
                )  # fmt: skip

    return update
