"""Build a backbone, cut it into trunk and tail, and put a head on it.

`Network` always calls the trunk and a pretrained tail in inference mode, so batch normalization keeps its statistics,
and dropout and stochastic depth are inactive there. Only a tail that starts from random weights is called in training
mode: it has no statistics worth keeping, and it does not learn with fixed ones. A functional Keras model cannot do
this: in Keras 3.15 the outer call's `training=True` overrides the `training=False` with which the inner model was
applied.

A training updates a list of variables, `learnable`, read from the tail when it is cut. `layer.trainable` is never set,
because networks cut from one backbone share its layers: a layer frozen for one of them would stay frozen in the next.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np

from satx.catalogue import ALL, BACKBONES, NONE
from satx.config import ModelConfig
from satx.errors import WeightsError

# Keras's 0.99 and 0.999 suit trainings of many thousand steps. Trainings here have hundreds, and validation uses the
# statistics.
FROM_SCRATCH_MOMENTUM = 0.9
# raised by Keras and h5py for a file that is not a weights file
UNREADABLE = (OSError, ValueError, KeyError, RuntimeError)


def build_backbone(name: str, image_size_px: int, weights_file: Path | None, *, from_scratch: bool = False) -> Any:
    """Build a headless network from raw pixels to its last feature map.

    Args:
        name: Its name in the catalogue.
        image_size_px: Edge of the square tiles.
        weights_file: A `*_notop.weights.h5` (or Keras's own `.h5`); None for random weights.
        from_scratch: Whether a tail learns its batch statistics. If so, a lower momentum makes them follow the last few
            dozen steps.

    Returns:
        keras.Model, `(batch, S, S, 3)` 0..255 float32 to `(batch, h, w, channels)`.

    Raises:
        WeightsError: The file does not fit the network.
    """
    entry = BACKBONES[name]
    build = getattr(keras.applications, entry.builder)
    network = build(weights=None, include_top=False, input_shape=(image_size_px, image_size_px, 3))
    for layer in network.layers:
        if isinstance(layer, keras.layers.Dropout):  # a resumed training could not repeat its random draws
            layer.rate = 0.0
    for layer in _batch_normalizations(network) if from_scratch else ():
        layer.momentum = FROM_SCRATCH_MOMENTUM
    if weights_file is not None:
        save = f"keras.applications.{entry.builder}(include_top=False).save_weights('{name}_notop.weights.h5')"
        read_weights(network, weights_file, of=f"{name} without its top", remedy=f"Save them with `{save}`.")
    return network


def read_weights(network: Any, path: Path, *, of: str, remedy: str) -> None:
    """Set a network's variables from a file.

    Raises:
        WeightsError: The file does not fit the network.
    """
    try:
        with warnings.catch_warnings():  # a mismatch is reported once, below, instead of per layer
            warnings.filterwarnings("ignore", "Skipping nested container", UserWarning)
            network.load_weights(path)
    except UNREADABLE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(
            f"{path}: expected weights of {of}, got a file that does not fit ({reason}). {remedy}"
        ) from error


def split_backbone(network: Any, name: str, unfreeze: str) -> tuple[Any | None, Any | None]:
    """Cut a backbone into the frozen trunk and the tail that is trained; either may be None.

    Args:
        network: The result of `build_backbone`.
        name: Its name in the catalogue.
        unfreeze: `none`, one of its cuts, or `all`.

    Returns:
        `(trunk, tail)`: the trunk takes pixels, the tail takes the trunk's output and returns the last feature map.
        Both share their layers with the network.

    Raises:
        RuntimeError: A layer of the network is frozen, or a variable is in both parts or in neither.
    """
    frozen = [layer.name for layer in network._flatten_layers() if not layer.trainable]
    if frozen:
        raise RuntimeError(
            f"{name}: expected a backbone without frozen layers, got {len(frozen)} frozen ones ({frozen[0]}, …). Do not set "
            f"`trainable` on its layers: it is read when the backbone is cut, to find what a tail trains."
        )
    if unfreeze == NONE:
        return network, None
    if unfreeze == ALL:
        return None, network
    cut = network.get_layer(BACKBONES[name].cuts[unfreeze].layer).input  # (batch, h, w, channels)
    trunk, tail = keras.Model(network.input, cut), keras.Model(cut, network.output)
    shared_out = [id(variable) for part in (trunk, tail) for variable in part.variables]
    if sorted(shared_out) != sorted(id(variable) for variable in network.variables):
        raise RuntimeError(
            f"{name}, cut {unfreeze}: expected each of {len(network.variables)} variables in exactly one of trunk and tail, got "
            f"{len(shared_out)} with duplicates or gaps. This is a bug in satx or in this version of Keras; please report it."
        )
    return trunk, tail


def learnable(tail: Any | None) -> list[Any]:
    """Return the variables of a tail that training updates, without batch statistics, in `tail.variables` order."""
    return [variable for variable in tail.variables if variable.trainable] if tail is not None else []


def build_head(num_features: int, num_classes: int, model: ModelConfig) -> Any:
    """Build the head: pooled features `(batch, num_features)` to probabilities `(batch, num_classes)`, float32."""
    hidden = inputs = keras.Input((num_features,))
    if model.dense_units:
        hidden = keras.layers.Dense(model.dense_units, activation=model.activation, dtype="float32")(inputs)
    hidden = keras.layers.Dropout(model.dropout, dtype="float32")(hidden)
    return keras.Model(inputs, keras.layers.Dense(num_classes, activation="softmax", dtype="float32")(hidden))


class Network(keras.Model):
    """Classifier from pixels to probabilities: scale, trunk (frozen), tail (trained), mean over the map, head.

    The trunk's output is rounded to float16, whether it comes from the trunk cache or not, so that trials train on the
    same numbers with and without the cache.

    Input shape: `(batch, S, S, 3)`, uint8 or float32, 0..255. Output shape: `(batch, num_classes)` float32, or
    `(batch, channels)`, the pooled features, without a head.
    """

    def __init__(
        self, name: str, trunk: Any | None, tail: Any | None, head: Any | None, *, from_scratch: bool = False
    ) -> None:
        """Take the parts, which are already built; `from_scratch` is True if the tail's weights are random."""
        super().__init__()
        self.from_scratch = from_scratch
        self.scales_inside = BACKBONES[name].scales_inside
        self.trunk, self.tail, self.head = trunk, tail, head
        self.built = True

    def encode(self, tiles: Any) -> Any:
        """Run the frozen part of the network.

        Returns float16 values at the cut, pooled float16 features if the whole backbone is frozen, or the tiles if
        nothing is frozen.
        """
        if self.trunk is None:
            return tiles
        values = self.trunk(scaled(tiles, self.scales_inside), training=False)
        if self.tail is None:
            values = mean_over_map(values)
        return keras.ops.cast(values, "float16")

    def features(self, encoded: Any, training: bool = False) -> Any:
        """Compute the mean over the last feature map from the output of `encode`: `(batch, channels)` float32."""
        if self.tail is None:
            return keras.ops.cast(encoded, "float32")
        values = scaled(encoded, self.scales_inside) if self.trunk is None else keras.ops.cast(encoded, "float32")
        return mean_over_map(self.tail(values, training=training and self.from_scratch))

    def call(self, tiles: Any, training: bool = False) -> Any:
        """Return probabilities; `training` affects only the head and a tail that starts from random weights."""
        features = self.features(self.encode(tiles), training)
        return features if self.head is None else self.head(features, training=training)


class Trunks(keras.Model):
    """Model from tiles to the tensors at several cuts, in one pass of the frozen backbone.

    Input shape: `(batch, S, S, 3)`. Output: a list of float16, maps `(batch, h, w, c)`, or `(batch, channels)` for `none`.
    """

    def __init__(self, name: str, backbone: Any, cuts: tuple[str, ...]) -> None:
        """Take the whole backbone, which is not modified."""
        super().__init__()
        layers = {cut: backbone.get_layer(BACKBONES[name].cuts[cut].layer) for cut in cuts if cut != NONE}
        outputs = [layers[cut].input if cut in layers else backbone.output for cut in cuts]
        self.trunk = keras.Model(backbone.input, outputs)
        self.scales_inside = BACKBONES[name].scales_inside
        self.is_pooled = [cut == NONE for cut in cuts]
        self.built = True

    def call(self, tiles: Any) -> list[Any]:
        """Return the values at every cut, rounded to float16 as in the trunk cache."""
        values = self.trunk(scaled(tiles, self.scales_inside), training=False)
        values = values if isinstance(values, list) else [values]
        pooled = [mean_over_map(value) if flag else value for value, flag in zip(values, self.is_pooled, strict=True)]
        return [keras.ops.cast(value, "float16") for value in pooled]


def scaled(tiles: Any, scales_inside: bool) -> Any:
    """Cast pixels of 0..255 to float32, scaled to -1..1 unless the backbone scales them itself."""
    values = keras.ops.cast(tiles, "float32")
    return values if scales_inside else values / 127.5 - 1.0  # the range that Xception and MobileNetV2 were trained on


def mean_over_map(values: Any) -> Any:
    """Average maps over height and width: `(batch, h, w, channels)` to `(batch, channels)` float32."""
    return keras.ops.mean(keras.ops.cast(values, "float32"), axis=(1, 2))


def build_network(
    model: ModelConfig, *, image_size_px: int, num_classes: int, weights_file: Path | None, from_scratch: bool = False
) -> Network:
    """Build the whole classifier of a configuration, with random head weights drawn from Keras's current seed."""
    backbone = build_backbone(model.backbone, image_size_px, weights_file, from_scratch=from_scratch)
    trunk, tail = split_backbone(backbone, model.backbone, model.unfreeze)
    head = build_head(backbone.output_shape[-1], num_classes, model)
    return Network(model.backbone, trunk, tail, head, from_scratch=from_scratch)


def calibrate_batch_normalization(network: Any, name: str, tiles: np.ndarray, *, batch_size: int = 32) -> None:
    """Set a random backbone's batch-normalization statistics by one pass over tiles.

    Random layers do not centre or scale their activations. With the initial statistics (mean 0, variance 1) the
    features of a deep random network vanish or explode once it is frozen. Each batch has equal weight in the average.

    Args:
        network: The result of `build_backbone`.
        name: Its name in the catalogue.
        tiles: `(N, S, S, 3)` uint8.
        batch_size: Tiles per step. If there are fewer tiles, all of them form one step.
    """
    batch_size = min(batch_size, len(tiles))
    layers = _batch_normalizations(network)
    momenta = [layer.momentum for layer in layers]
    scale = not BACKBONES[name].scales_inside
    for step, start in enumerate(range(0, len(tiles) - batch_size + 1, batch_size)):
        for layer in layers:
            layer.momentum = step / (step + 1)
        values = tiles[start : start + batch_size].astype(np.float32)
        network(values / 127.5 - 1.0 if scale else values, training=True)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum


def _batch_normalizations(network: Any) -> list[Any]:
    return [layer for layer in network._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]
