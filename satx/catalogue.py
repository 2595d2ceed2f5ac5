"""The backbones satx can sweep, and the places where each can be cut. Imports no Keras.

A cut's name is ours, because Keras numbers unnamed layers anew in every process (`add_11` becomes `add_23`). Each cut
points at a layer that Keras does name; the cut is the tensor entering it: what comes before is the trunk (frozen), the
rest the tail (trained). Cuts are listed from shallow to deep.

Layer names were read from `keras.applications` 3.15; `tests/models` builds every backbone and checks each of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

NONE = "none"  # unfreeze nothing: only the head is trained
ALL = "all"  # unfreeze everything


@dataclass(frozen=True)
class Cut:
    """A place in a backbone: the tensor entering `layer`.

    Attributes:
        layer: A layer that Keras names.
        stride: The tile's edge over the map's, roughly where padding is uneven.
        channels: Of the map.
    """

    layer: str
    stride: int
    channels: int

    def megabytes(self, image_size_px: int) -> float:
        """What one tile's float16 map takes."""
        return math.ceil(image_size_px / self.stride) ** 2 * self.channels * 2 / 1e6


@dataclass(frozen=True)
class Backbone:
    """One headless ImageNet network.

    Attributes:
        builder: Its function in `keras.applications`.
        scales_inside: True when the Keras model itself maps 0..255 to the range it was trained on; otherwise satx
            maps to -1..1 before it.
        default_size_px: Edge of the tiles when nobody says otherwise.
        min_size_px: Smallest edge it can be built for.
        core_seconds_per_megapixel: One forward pass on one processor core, for estimates; `make bench NAME=forward`
            measures it.
        num_features: Channels of the last map.
        cuts: Our name of each cut, and where it is.
    """

    builder: str
    scales_inside: bool
    default_size_px: int
    min_size_px: int
    core_seconds_per_megapixel: float
    num_features: int
    cuts: Mapping[str, Cut]

    @property
    def unfreeze_names(self) -> tuple[str, ...]:
        """Everything `model.unfreeze` may say for this backbone."""
        return (NONE, *self.cuts, ALL)


BACKBONES: Mapping[str, Backbone] = {
    "xception": Backbone(
        builder="Xception",
        scales_inside=False,
        default_size_px=256,
        min_size_px=71,
        core_seconds_per_megapixel=4.5,
        num_features=2048,
        cuts={
            "block5": Cut("block5_sepconv1_act", 16, 728),
            "block9": Cut("block9_sepconv1_act", 16, 728),
            "block12": Cut("block12_sepconv1_act", 16, 728),
            "block13": Cut("block13_sepconv1_act", 16, 728),
            "block14": Cut("block14_sepconv1", 32, 1024),
        },
    ),
    "mobilenetv2": Backbone(
        builder="MobileNetV2",
        scales_inside=False,
        default_size_px=224,
        min_size_px=32,
        core_seconds_per_megapixel=0.7,
        num_features=1280,
        cuts={
            "block4": Cut("block_4_expand", 8, 32),
            "block7": Cut("block_7_expand", 16, 64),
            "block11": Cut("block_11_expand", 16, 96),
            "block14": Cut("block_14_expand", 32, 160),
            "block16": Cut("block_16_expand", 32, 160),
        },
    ),
    "efficientnetv2b0": Backbone(
        builder="EfficientNetV2B0",
        scales_inside=True,
        default_size_px=224,
        min_size_px=32,
        core_seconds_per_megapixel=1.2,
        num_features=1280,
        cuts={
            "block4": Cut("block4a_expand_conv", 8, 48),
            "block5": Cut("block5a_expand_conv", 16, 96),
            "block6": Cut("block6a_expand_conv", 16, 112),
            "top": Cut("top_conv", 32, 192),
        },
    ),
    "efficientnetv2s": Backbone(
        builder="EfficientNetV2S",
        scales_inside=True,
        default_size_px=224,
        min_size_px=32,
        core_seconds_per_megapixel=3.0,
        num_features=1280,
        cuts={
            "block4": Cut("block4a_expand_conv", 8, 64),
            "block5": Cut("block5a_expand_conv", 16, 128),
            "block6": Cut("block6a_expand_conv", 16, 160),
            "top": Cut("top_conv", 32, 256),
        },
    ),
    "convnexttiny": Backbone(
        builder="ConvNeXtTiny",
        scales_inside=True,
        default_size_px=224,
        min_size_px=32,
        core_seconds_per_megapixel=3.0,
        num_features=768,
        cuts={
            "stage1": Cut("convnext_tiny_stage_1_block_0_depthwise_conv", 8, 192),
            "stage2": Cut("convnext_tiny_stage_2_block_0_depthwise_conv", 16, 384),
            "stage3": Cut("convnext_tiny_stage_3_block_0_depthwise_conv", 32, 768),
            "stage3_block2": Cut("convnext_tiny_stage_3_block_2_depthwise_conv", 32, 768),
        },
    ),
}
