"""Conversion of a network to faster training operations: folded batch normalization, 1x1 convolutions as products.

Two things are computed differently, with the same result up to float32 rounding:

- **Batch normalization with fixed statistics** is a factor and a shift per channel. The factor is multiplied into the
  kernel of the convolution before it, so that only the shift is applied to the map, in fewer passes over it. (Jacob et
  al. 2018, section 3.2, fold for quantization. Here kernel, gamma and beta stay separate variables with their own
  gradients.)
- **1x1 convolutions** are computed as matrix products. On two cores at 160 px in TensorFlow, this reduced a training
  step of Xception cut at block 14 from 321 ms to 216 ms; the difference at other cuts was within noise.

`make bench NAME=tails` measures both together against Keras's layers. Everything else (saved models, exports, the trunk
cache) uses Keras's own layers.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


def faster(network: Any, *, fold: bool) -> Any:
    """Return a copy of a functional network, with its weights, that computes the same function with faster operations.

    Args:
        network: A network of Keras layers. The copy has the same variables in the same order.
        fold: Whether to fold batch normalization, for a network with fixed statistics. The copy then uses these
            statistics even when it is called with `training=True`, and must be computed in float32.
    """
    shifts, factors = dict[str, Any](), dict[str, Any]()
    for layer in network.layers if fold else ():
        before = _preceding(layer)
        if before is not None:
            shifts[layer.name] = _shift(layer)
            factors[before.name] = shifts[layer.name].factor

    def clone(layer: Any) -> Any:
        if layer.name in shifts:
            return shifts[layer.name]
        copy = _kind(layer).from_config(layer.get_config())
        if layer.name in factors:
            copy.factor = factors[layer.name]
        return copy

    copy = keras.models.clone_model(network, clone_function=clone)
    copy.set_weights(network.get_weights())
    return copy


def _preceding(layer: Any) -> Any | None:
    """Return the convolution whose output only this batch normalization reads, or None."""
    if type(layer) is not keras.layers.BatchNormalization or layer.axis not in (-1, 3):
        return None
    before = layer.input._keras_history.operation
    is_plain = _kind(before) in KINDS.values() and not before.use_bias and before.activation is keras.activations.linear
    return before if is_plain and len(before._outbound_nodes) == 1 else None


def _shift(normalization: Any) -> Any:
    """Return the shift layer, already built, because the convolution before it uses its variables when called."""
    shift = _Shift.from_config(normalization.get_config())
    shift.build(normalization.input.shape)
    return shift


def _kind(layer: Any) -> Any:
    grouped = type(layer) is keras.layers.Conv2D and layer.groups != 1
    return type(layer) if grouped else KINDS.get(type(layer), type(layer))


def _product(values: Any, kernel: Any) -> Any:
    """Multiply maps `(batch, h, w, c)` by a 1x1 kernel `(1, 1, c, filters)`."""
    *_, height, width, channels = values.shape
    found = ops.matmul(ops.reshape(values, (-1, channels)), kernel[0, 0])
    return ops.reshape(found, (-1, height, width, kernel.shape[-1]))  # only the batch size may be unknown


class _Shift(keras.layers.BatchNormalization):
    """Remaining shift of a batch normalization whose factor is folded into the kernel before it."""

    def factor(self) -> Any:
        """Return the factor of each channel, `(channels,)` float32."""
        factor = ops.rsqrt(self.moving_variance + self.epsilon)
        return factor * self.gamma if self.scale else factor

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Add the shift to the map."""
        moved = -self.moving_mean * self.factor()
        return _add_to_channels(inputs, moved + self.beta if self.center else moved)


class _Convolution(keras.layers.Conv2D):
    factor: Any = None

    def convolution_op(self, inputs: Any, kernel: Any) -> Any:
        """Convolve with the kernel times the factor of each filter; a 1x1 convolution is a matrix product."""
        kernel = kernel * self.factor() if self.factor is not None else kernel
        if self.kernel_size != (1, 1):
            return super().convolution_op(inputs, kernel)
        rows, columns = self.strides
        return _product(inputs[:, ::rows, ::columns], kernel)  # a 1x1 kernel needs no padding


class _Depthwise(keras.layers.DepthwiseConv2D):
    factor: Any = None

    def call(self, inputs: Any) -> Any:
        """Convolve with the kernel times the factor of each channel."""
        if self.factor is None:
            return super().call(inputs)
        kernel = self.kernel * ops.reshape(self.factor(), self.kernel.shape[2:])
        settings = {"strides": self.strides, "padding": self.padding, "dilation_rate": self.dilation_rate}
        return ops.depthwise_conv(inputs, kernel, **settings)


class _Separable(keras.layers.SeparableConv2D):
    factor: Any = None

    def call(self, inputs: Any) -> Any:
        """Convolve with the pointwise convolution as a matrix product, its kernel times the factor of each filter."""
        settings = {"strides": self.strides, "padding": self.padding, "dilation_rate": self.dilation_rate}
        kernel = self.pointwise_kernel * self.factor() if self.factor is not None else self.pointwise_kernel
        values = _product(ops.depthwise_conv(inputs, self.depthwise_kernel, **settings), kernel)
        return self.activation(values + self.bias if self.use_bias else values)


KINDS = {
    keras.layers.Conv2D: _Convolution,
    keras.layers.DepthwiseConv2D: _Depthwise,
    keras.layers.SeparableConv2D: _Separable,
}


def _add_to_channels(values: Any, shift: Any) -> Any:
    if keras.backend.backend() == "tensorflow":  # gradient of `bias_add`: one sum, faster than a broadcast's
        import tensorflow as tf

        return tf.nn.bias_add(values, shift)
    return values + shift
