"""Compiled training and prediction steps on JAX, with the same contract as those on TensorFlow.

The tail and the head are compiled separately, and so are their updates. A head of another width therefore costs only
the compilation of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np

from satx.models.backbones import Network, learnable
from satx.training.batch import ADAM_BETAS, EPSILON, RMSPROP_RHO, Batch, OptimizerSettings
from satx.training.head import activation_weights, logits, loss_and_accuracy
from satx.training.steps import trained_variables


class CompiledSteps:
    """Steps for one cut of one backbone, or for a head alone; `begin` loads a trial's state into them."""

    def __init__(self, network: Network | None, input_shape: tuple[int, ...], dtype: str) -> None:
        """Take the network whose tail is trained, or None for a head alone.

        The shape and dtype of the inputs are not used: JAX compiles for the inputs it is called with.
        """
        self.network = network
        tail = network.tail if network is not None else None
        variables = trained_variables(tail)
        self.learnable = learnable(tail)
        trainable = {id(variable) for variable in self.learnable}
        self.tail_variables, self._is_trainable = variables, [id(variable) in trainable for variable in variables]
        features = partial(_features, network, variables)
        self._forward = jax.jit(
            lambda tail, inputs: jax.vjp(partial(features, inputs=inputs, training=True), tail, has_aux=True)
        )
        self._backward = jax.jit(lambda pull, above: pull(above)[0])
        self._features = jax.jit(lambda tail, inputs: features(tail, inputs=inputs, training=False)[0])
        self._head = jax.jit(jax.value_and_grad(_head_loss, argnums=(0, 1), has_aux=True))
        self._answer = jax.jit(lambda head, features, chosen: jax.nn.softmax(logits(head, features, 1.0, chosen)))
        self._update = jax.jit(_update, static_argnames=("name",), donate_argnames=("values", "first", "second"))

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
        self._settings, self._activation = settings, jnp.asarray(activation_weights(activation))
        self._values = [jnp.array(value) for value in trained]  # copies, because they are donated to the update
        self._trainable = [*self._is_trainable, *[True] * (len(trained) - len(self.tail_variables))]
        self._num_steps = int(slots[0]) if slots is not None else 0
        if slots is not None and len(slots) > 1:
            self._first, self._second = ([jnp.array(slot) for slot in slots[start::2]] for start in (1, 2))
        else:
            self._first, self._second = ([jnp.zeros_like(value) for value in self._moving()] for _ in range(2))

    def train_on_batch(self, batch: Batch, rate: float) -> tuple[Any, Any]:
        """Train one step. Returns loss and accuracy as JAX arrays, so that the caller does not wait for the device."""
        tail, head = self._parts()
        features, pull, statistics = self._forward(tail, jnp.asarray(batch.inputs))
        (loss, accuracy), (of_features, of_head) = self._head(
            features, head, batch.targets, batch.sample_weights, batch.mask, self._activation
        )
        of_tail = self._backward(pull, of_features)
        gradients = [value for value, moves in zip(of_tail, self._is_trainable, strict=True) if moves]
        self._num_steps += 1
        powers = [np.float32(beta**self._num_steps) for beta in ADAM_BETAS]
        numbers = (np.float32(rate), *powers, np.float32(rate * self._settings.weight_decay))
        moving, size = self._moving(), len(gradients)  # `size` counts the tail's learnable variables
        parts = ((slice(size), gradients), (slice(size, None), of_head))
        moved = [
            self._update(moving[part], self._first[part], self._second[part], along, *numbers, name=self._settings.name)
            for part, along in parts
        ]
        moving, self._first, self._second = ([*tail, *head] for tail, head in zip(*moved, strict=True))
        found = iter(moving)
        still = [*statistics, *head]
        self._values = [next(found) if moves else kept for moves, kept in zip(self._trainable, still, strict=True)]
        return loss, accuracy

    def probabilities(self, inputs: np.ndarray) -> np.ndarray:
        """Return the class probabilities of a batch, `(B, classes)` float32."""
        tail, head = self._parts()
        return np.asarray(self._answer(head, self._features(tail, jnp.asarray(inputs)), self._activation))

    def trained(self) -> list[np.ndarray]:
        """Return the values of the tail's variables, then the head's."""
        return [np.array(value) for value in self._values]

    def slots(self) -> list[np.ndarray]:
        """Return the optimizer's state: its step count, then its arrays."""
        pairs = zip(self._first, self._second, strict=True) if self._settings.name != "sgd" else ()
        return [np.array(self._num_steps), *(np.array(slot) for pair in pairs for slot in pair)]

    def _parts(self) -> tuple[list[Any], list[Any]]:
        size = len(self.tail_variables)
        return self._values[:size], self._values[size:]

    def _moving(self) -> list[Any]:
        return [value for value, moves in zip(self._values, self._trainable, strict=True) if moves]


def _features(network: Network | None, variables: list[Any], tail: list[Any], *, inputs: Any, training: bool) -> Any:
    """Return the pooled features, and the tail's values with updated batch-normalization statistics."""
    if network is None:
        return jnp.asarray(inputs, jnp.float32), tail
    with keras.StatelessScope(state_mapping=list(zip(variables, tail, strict=True))) as scope:
        features = network.features(inputs, training)
    updated = [scope.get_current_value(variable) for variable in variables]
    return features, [value if new is None else new for value, new in zip(tail, updated, strict=True)]


def _head_loss(features: Any, head: list[Any], targets: Any, sample_weights: Any, mask: Any, activation: Any) -> Any:
    loss, accuracy = loss_and_accuracy(logits(head, features, mask, activation), targets, sample_weights)
    return loss, accuracy


def _update(
    values: list[Any], first: list[Any], second: list[Any], gradients: list[Any],
    rate: Any, power1: Any, power2: Any, decay: Any, *, name: str,
) -> tuple[list[Any], list[Any], list[Any]]:  # fmt: skip
    """Apply one optimizer step to every variable."""
    rule: Callable[..., tuple[Any, Any, Any]] = {"rmsprop": _rmsprop, "sgd": _sgd}.get(name, _adam)
    rate_of_adam = rate * jnp.sqrt(1 - power2) / (1 - power1)
    moved = [
        rule(value - value * decay, *slots, gradient, rate_of_adam if rule is _adam else rate)
        for value, *slots, gradient in zip(values, first, second, gradients, strict=True)
    ]
    return [one for one, _, _ in moved], [one for _, one, _ in moved], [one for _, _, one in moved]


def _adam(value: Any, mean: Any, square: Any, gradient: Any, rate: Any) -> tuple[Any, Any, Any]:
    beta1, beta2 = ADAM_BETAS
    mean = beta1 * mean + (1 - beta1) * gradient
    square = beta2 * square + (1 - beta2) * gradient**2
    return value - rate * mean / (jnp.sqrt(square) + EPSILON), mean, square


def _rmsprop(value: Any, square: Any, unused: Any, gradient: Any, rate: Any) -> tuple[Any, Any, Any]:
    square = RMSPROP_RHO * square + (1 - RMSPROP_RHO) * gradient**2
    return value - rate * gradient / jnp.sqrt(square + EPSILON), square, unused


def _sgd(value: Any, first: Any, second: Any, gradient: Any, rate: Any) -> tuple[Any, Any, Any]:
    return value - rate * gradient, first, second
