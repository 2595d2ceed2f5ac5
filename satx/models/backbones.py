"""Build a backbone, cut it into trunk and tail, and put a head on it.

Frozen means frozen: `Network` calls trunk and pretrained tail in inference mode always, so batch normalisation keeps its
statistics and neither dropout nor stochastic depth acts there. Only a tail that starts from random weights is trained the
usual way: it has no statistics worth keeping, and with fixed ones it does not learn. (A functional Keras model would not do:
in Keras 3.15 the outer call's `training=True` overrides the `training=False` that was given when the inner one was applied.)

What a training moves is a list of variables, `learnable`, read from the tail when it is cut. `layer.trainable` is never set:
networks that are cut from one backbone share its layers, and a layer that one of them froze would stay frozen in the next.
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

# Keras's 0.99 and 0.999 follow a training of many thousand steps; ours have hundreds, and validation reads the statistics.
FROM_SCRATCH_MOMENTUM = 0.9
UNREADABLE = (OSError, ValueError, KeyError, RuntimeError)  # what Keras and h5py raise for a file that is no weights


def build_backbone(name: str, image_size_px: int, weights_file: Path | None, *, from_scratch: bool = False) -> Any:
    """A headless network from raw pixels to its last feature map.

    Args:
        name: A name of the catalogue.
        image_size_px: Edge of the square tiles.
        weights_file: A `*_notop.weights.h5` (or Keras's own `.h5`); None leaves random weights.
        from_scratch: Whether a tail of it learns its batch statistics, which then follow the last few dozen steps.

    Returns:
        keras.Model, `(batch, S, S, 3)` 0..255 float32 to `(batch, h, w, channels)`.

    Raises:
        WeightsError: The file does not fit the network.
    """
    entry = BACKBONES[name]
    build = getattr(keras.applications, entry.builder)
    network = build(weights=None, include_top=False, input_shape=(image_size_px, image_size_px, 3))
    for layer in network.layers:
        if isinstance(layer, keras.layers.Dropout):  # a resumed training could not repeat its draws
            layer.rate = 0.0
    for layer in _batch_normalisations(network) if from_scratch else ():
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
        with warnings.catch_warnings():  # a file that does not fit is told of once, below, not layer by layer
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
        network: What `build_backbone` returned.
        name: Its name in the catalogue.
        unfreeze: `none`, one of its cuts, or `all`.

    Returns:
        `(trunk, tail)`: trunk takes pixels, tail takes what the trunk gives and returns the last feature map. Both share
        their layers with the network.

    Raises:
        RuntimeError: A layer of the network is frozen, or a variable is in both parts or in neither.
    """
    frozen = [layer.name for layer in network._flatten_layers() if not layer.trainable]
    if frozen:
        raise RuntimeError(
            f"{name}: expected a backbone as it was built, got one with {len(frozen)} frozen layers ({frozen[0]}, …). What a "
            f"tail trains is read from the layers when it is cut; do not set `trainable` on them."
        )
    if unfreeze == NONE:
        return network, None
    if unfreeze == ALL:
        return None, network
    cut = network.get_layer(BACKBONES[name].cuts[unfreeze].layer).input  # (batch, h, w, channels)
    trunk, tail = keras.Model(network.input, cut), keras.Model(cut, network.output)
    shared_out = [id(variable) for part in (trunk, tail) for variable in part.variables]
    if sorted(shared_out) != sorted(id(variable) for variable in network.variables):
        raise RuntimeError(f"{name}, cut {unfreeze}: expected every variable in either trunk or tail, found otherwise.")
    return trunk, tail


def learnable(tail: Any | None) -> list[Any]:
    """The variables of a tail that training moves, in the order of `tail.variables`; its batch statistics are not among them."""
    return [variable for variable in tail.variables if variable.trainable] if tail is not None else []


def build_head(num_features: int, num_classes: int, model: ModelConfig) -> Any:
    """The classifier on pooled features: `(batch, num_features)` to `(batch, num_classes)` probabilities, float32."""
    hidden = inputs = keras.Input((num_features,))
    if model.dense_units:
        hidden = keras.layers.Dense(model.dense_units, activation=model.activation, dtype="float32")(inputs)
    hidden = keras.layers.Dropout(model.dropout, dtype="float32")(hidden)
    return keras.Model(inputs, keras.layers.Dense(num_classes, activation="softmax", dtype="float32")(hidden))


class Network(keras.Model):
    """Pixels to probabilities: scale, trunk (frozen), tail (trained), mean over the map, head.

    What leaves the trunk is rounded to float16, whether it comes from the trunk cache or not, so that a trial that reads
    the cache and one that does not train on the same numbers.

    Input shape: `(batch, S, S, 3)`, uint8 or float32, 0..255. Output shape: `(batch, num_classes)` float32, or without a
    head the pooled features, `(batch, channels)`.
    """

    def __init__(
        self, name: str, trunk: Any | None, tail: Any | None, head: Any | None, *, from_scratch: bool = False
    ) -> None:
        """Take the parts, which are built already; `from_scratch` if the tail's weights are random."""
        super().__init__()
        self.from_scratch = from_scratch
        self.scales_inside = BACKBONES[name].scales_inside
        self.trunk, self.tail, self.head = trunk, tail, head
        self.built = True

    def encode(self, tiles: Any) -> Any:
        """What is frozen of the way: float16 values at the cut, or pooled if all is frozen, or the tiles if nothing is."""
        if self.trunk is None:
            return tiles
        values = self.trunk(scaled(tiles, self.scales_inside), training=False)
        if self.tail is None:
            values = mean_over_map(values)
        return keras.ops.cast(values, "float16")

    def features(self, encoded: Any, training: bool = False) -> Any:
        """The rest of the way, from what `encode` gives to the mean over the last feature map: `(batch, channels)` float32."""
        if self.tail is None:
            return keras.ops.cast(encoded, "float32")
        values = scaled(encoded, self.scales_inside) if self.trunk is None else keras.ops.cast(encoded, "float32")
        return mean_over_map(self.tail(values, training=training and self.from_scratch))

    def call(self, tiles: Any, training: bool = False) -> Any:
        """Probabilities; only the head, and a tail from scratch, know whether they are being trained."""
        features = self.features(self.encode(tiles), training)
        return features if self.head is None else self.head(features, training=training)


class Trunks(keras.Model):
    """Tiles to what enters several cuts, in one pass of the frozen backbone.

    Input shape: `(batch, S, S, 3)`. Output: a list of float16, maps `(batch, h, w, c)`, or `(batch, channels)` for `none`.
    """

    def __init__(self, name: str, backbone: Any, cuts: tuple[str, ...]) -> None:
        """Take the whole backbone, which is not changed."""
        super().__init__()
        layers = {cut: backbone.get_layer(BACKBONES[name].cuts[cut].layer) for cut in cuts if cut != NONE}
        outputs = [layers[cut].input if cut in layers else backbone.output for cut in cuts]
        self.trunk = keras.Model(backbone.input, outputs)
        self.scales_inside = BACKBONES[name].scales_inside
        self.is_pooled = [cut == NONE for cut in cuts]
        self.built = True

    def call(self, tiles: Any) -> list[Any]:
        """Every cut's values, rounded as the trunk cache keeps them."""
        values = self.trunk(scaled(tiles, self.scales_inside), training=False)
        values = values if isinstance(values, list) else [values]
        pooled = [mean_over_map(value) if flag else value for value, flag in zip(values, self.is_pooled, strict=True)]
        return [keras.ops.cast(value, "float16") for value in pooled]


def scaled(tiles: Any, scales_inside: bool) -> Any:
    """Pixels of 0..255 in the range that the backbone was trained on, float32."""
    values = keras.ops.cast(tiles, "float32")
    return values if scales_inside else values / 127.5 - 1.0  # what Xception and MobileNetV2 were trained on


def mean_over_map(values: Any) -> Any:
    """`(batch, h, w, channels)` to `(batch, channels)` float32."""
    return keras.ops.mean(keras.ops.cast(values, "float32"), axis=(1, 2))


def build_network(
    model: ModelConfig, *, image_size_px: int, num_classes: int, weights_file: Path | None, from_scratch: bool = False
) -> Network:
    """The whole classifier for a configuration, with random head weights drawn from Keras's current seed."""
    backbone = build_backbone(model.backbone, image_size_px, weights_file, from_scratch=from_scratch)
    trunk, tail = split_backbone(backbone, model.backbone, model.unfreeze)
    head = build_head(backbone.output_shape[-1], num_classes, model)
    return Network(model.backbone, trunk, tail, head, from_scratch=from_scratch)


def calibrate_batch_normalisation(network: Any, name: str, tiles: np.ndarray, *, batch_size: int = 32) -> None:
    """Set a random backbone's batch-normalisation statistics by one pass over tiles.

    Random layers neither centre nor scale what flows through them; with the initial statistics (mean 0, variance 1) the
    features of a deep random network vanish or explode once it is frozen. Each batch is averaged in with equal weight.

    Args:
        network: What `build_backbone` returned.
        name: Its name in the catalogue.
        tiles: `(N, S, S, 3)` uint8.
        batch_size: Tiles a step; fewer tiles than that make one step.
    """
    batch_size = min(batch_size, len(tiles))
    layers = _batch_normalisations(network)
    momenta = [layer.momentum for layer in layers]
    scale = not BACKBONES[name].scales_inside
    for step, start in enumerate(range(0, len(tiles) - batch_size + 1, batch_size)):
        for layer in layers:
            layer.momentum = step / (step + 1)
        values = tiles[start : start + batch_size].astype(np.float32)
        network(values / 127.5 - 1.0 if scale else values, training=True)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum


def _batch_normalisations(network: Any) -> list[Any]:
    return [layer for layer in network._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]
