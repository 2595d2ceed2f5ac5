"""The backbones that satx can sweep, and the cuts of each. Imports no Keras.

satx names the cuts itself, because Keras numbers unnamed layers differently in every process (`add_11` becomes
`add_23`). Each cut refers to a layer with a fixed name in Keras; the cut is the tensor that enters this layer. The
layers before it are the trunk (frozen), the rest is the tail (trained). Cuts are listed from shallow to deep.

Layer names, parameters and multiply-adds were read from `keras.applications` 3.15; `tests/models` builds every backbone
and checks each of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

NONE = "none"  # unfreeze nothing: only the head is trained
ALL = "all"  # unfreeze everything
HEAD_ONLY = "head only"  # what people read instead of `none`


def cut_label(unfreeze: str) -> str:
    """Return a value of `model.unfreeze` as people read it: `none` says what is not trained, "head only" what is."""
    return HEAD_ONLY if unfreeze == NONE else unfreeze


def part_label(unfreeze: str) -> str:
    """Return the trained part of a backbone in words: `head only`, `from block14` or `whole backbone`."""
    return {NONE: HEAD_ONLY, ALL: "whole backbone"}.get(unfreeze, f"from {unfreeze}")


@dataclass(frozen=True)
class Cut:
    """A place in a backbone: the tensor that enters `layer`.

    Attributes:
        layer: Name of the layer in Keras.
        stride: Edge of the tile divided by the edge of the map, approximate where padding is uneven.
        channels: Channels of the map.
        trainable_parameters: Parameters of the tail after this cut, without batch statistics.
        tail_share: Share of the backbone's multiply-adds that are in the tail, at the backbone's default size.
    """

    layer: str
    stride: int
    channels: int
    trainable_parameters: int
    tail_share: float

    def megabytes(self, image_size_px: int) -> float:
        """Return the size of one tile's float16 map, in megabytes."""
        return math.ceil(image_size_px / self.stride) ** 2 * self.channels * 2 / 1e6


@dataclass(frozen=True)
class Backbone:
    """One headless ImageNet network.

    Attributes:
        builder: Name of the function in `keras.applications`.
        scales_inside: True when the Keras model itself maps 0..255 to the range it was trained on; otherwise satx
            maps to -1..1 before it.
        default_size_px: Default edge of the tiles.
        min_size_px: Smallest edge of tiles that the network can be built for.
        core_seconds_per_megapixel: Time of one forward pass on one processor core, for estimates; `make bench
            NAME=forward` measures it.
        num_features: Channels of the last map.
        total_parameters: Parameters of the whole backbone, with batch statistics.
        trainable_parameters: Parameters of the whole backbone, without batch statistics.
        cuts: The cuts, by satx's name of each.
    """

    builder: str
    scales_inside: bool
    default_size_px: int
    min_size_px: int
    core_seconds_per_megapixel: float
    num_features: int
    total_parameters: int
    trainable_parameters: int
    cuts: Mapping[str, Cut]

    @property
    def unfreeze_names(self) -> tuple[str, ...]:
        """The values that `model.unfreeze` may have for this backbone."""
        return (NONE, *self.cuts, ALL)

    def tail_parameters(self, unfreeze: str) -> int:
        """Return the number of parameters of the backbone that are trained with this value of `model.unfreeze`."""
        if unfreeze == NONE:
            return 0
        return self.trainable_parameters if unfreeze == ALL else self.cuts[unfreeze].trainable_parameters

    def tail_share(self, unfreeze: str) -> float:
        """Return the share of the backbone's multiply-adds in the part that is trained."""
        if unfreeze == NONE:
            return 0.0
        return 1.0 if unfreeze == ALL else self.cuts[unfreeze].tail_share


BACKBONES: Mapping[str, Backbone] = {
    "xception": Backbone(
        builder="Xception",
        scales_inside=False,
        default_size_px=256,
        min_size_px=71,
        core_seconds_per_megapixel=4.5,
        num_features=2048,
        total_parameters=20_861_480,
        trainable_parameters=20_806_952,
        cuts={
            "block5": Cut("block5_sepconv1_act", 16, 728, 19_700_192, 0.6684),
            "block9": Cut("block9_sepconv1_act", 16, 728, 13_244_288, 0.3914),
            "block12": Cut("block12_sepconv1_act", 16, 728, 8_402_360, 0.1837),
            "block13": Cut("block13_sepconv1_act", 16, 728, 6_788_384, 0.1144),
            "block14": Cut("block14_sepconv1", 32, 1024, 4_748_800, 0.051),
        },
    ),
    "mobilenetv2": Backbone(
        builder="MobileNetV2",
        scales_inside=False,
        default_size_px=224,
        min_size_px=32,
        core_seconds_per_megapixel=0.7,
        num_features=1280,
        total_parameters=2_257_984,
        trainable_parameters=2_223_872,
        cuts={
            "block4": Cut("block_4_expand", 8, 32, 2_198_080, 0.6952),
            "block7": Cut("block_7_expand", 16, 64, 2_147_328, 0.5966),
            "block11": Cut("block_11_expand", 16, 96, 1_917_888, 0.4508),
            "block14": Cut("block_14_expand", 32, 160, 1_526_080, 0.2472),
            "block16": Cut("block_16_expand", 32, 160, 886_080, 0.1438),
        },
    ),
    "efficientnetv2b0": Backbone(
        builder="EfficientNetV2B0",
        scales_inside=True,
        default_size_px=224,
        min_size_px=32,
        core_seconds_per_megapixel=1.2,
        num_features=1280,
        total_parameters=5_919_312,
        trainable_parameters=5_858_704,
        cuts={
            "block4": Cut("block4a_expand_conv", 8, 48, 5_664_400, 0.5279),
            "block5": Cut("block5a_expand_conv", 16, 96, 5_433_748, 0.4701),
            "block6": Cut("block6a_expand_conv", 16, 112, 4_486_700, 0.2644),
            "top": Cut("top_conv", 32, 192, 248_320, 0.0168),
        },
    ),
    "efficientnetv2s": Backbone(
        builder="EfficientNetV2S",
        scales_inside=True,
        default_size_px=224,
        min_size_px=32,
        core_seconds_per_megapixel=3.0,
        num_features=1280,
        total_parameters=20_331_360,
        trainable_parameters=20_177_488,
        cuts={
            "block4": Cut("block4a_expand_conv", 8, 64, 19_273_592, 0.4577),
            "block5": Cut("block5a_expand_conv", 16, 128, 18_355_912, 0.4041),
            "block6": Cut("block6a_expand_conv", 16, 160, 14_892_072, 0.2143),
            "top": Cut("top_conv", 32, 256, 330_240, 0.0056),
        },
    ),
    "convnexttiny": Backbone(
        builder="ConvNeXtTiny",
        scales_inside=True,
        default_size_px=224,
        min_size_px=32,
        core_seconds_per_megapixel=3.0,
        num_features=768,
        total_parameters=27_820_128,
        trainable_parameters=27_820_128,
        cuts={
            "stage1": Cut("convnext_tiny_stage_1_block_0_depthwise_conv", 8, 192, 27_503_232, 0.8181),
            "stage2": Cut("convnext_tiny_stage_2_block_0_depthwise_conv", 16, 384, 26_289_408, 0.6445),
            "stage3": Cut("convnext_tiny_stage_3_block_0_depthwise_conv", 32, 768, 14_290_944, 0.1569),
            "stage3_block2": Cut("convnext_tiny_stage_3_block_2_depthwise_conv", 32, 768, 4_764_672, 0.0523),
        },
    ),
}
