"""The backbones satx can sweep, and the places where each can be cut. Imports no Keras.

A cut's name is ours, because Keras numbers unnamed layers anew in every process (`add_11` becomes `add_23`). Each cut
points at a layer that Keras does name; the cut is the tensor entering it: what comes before is the trunk (frozen), the
rest the tail (trained). Cuts are listed from shallow to deep.

Layer names were read from `keras.applications` 3.15; `tests/models` builds every backbone and checks each of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

NONE = "none"  # unfreeze nothing: only the head is trained
ALL = "all"  # unfreeze everything


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
        cuts: Our name of each cut, and the Keras layer whose input the cut is.
    """

    builder: str
    scales_inside: bool
    default_size_px: int
    min_size_px: int
    core_seconds_per_megapixel: float
    cuts: Mapping[str, str]

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
        cuts={
            "block5": "block5_sepconv1_act",
            "block9": "block9_sepconv1_act",
            "block12": "block12_sepconv1_act",
            "block13": "block13_sepconv1_act",
            "block14": "block14_sepconv1",
        },
    ),
    "mobilenetv2": Backbone(
        builder="MobileNetV2",
        scales_inside=False,
        default_size_px=224,
        min_size_px=32,
        core_seconds_per_megapixel=0.7,
        cuts={
            "block4": "block_4_expand",
            "block7": "block_7_expand",
            "block11": "block_11_expand",
            "block14": "block_14_expand",
            "block16": "block_16_expand",
        },
    ),
    "efficientnetv2b0": Backbone(
        builder="EfficientNetV2B0",
        scales_inside=True,
        default_size_px=224,
        min_size_px=32,
        core_seconds_per_megapixel=1.2,
        cuts={
            "block4": "block4a_expand_conv",
            "block5": "block5a_expand_conv",
            "block6": "block6a_expand_conv",
            "top": "top_conv",
        },
    ),
    "efficientnetv2s": Backbone(
        builder="EfficientNetV2S",
        scales_inside=True,
        default_size_px=224,
        min_size_px=32,
        core_seconds_per_megapixel=3.0,
        cuts={
            "block4": "block4a_expand_conv",
            "block5": "block5a_expand_conv",
            "block6": "block6a_expand_conv",
            "top": "top_conv",
        },
    ),
    "convnexttiny": Backbone(
        builder="ConvNeXtTiny",
        scales_inside=True,
        default_size_px=224,
        min_size_px=32,
        core_seconds_per_megapixel=3.0,
        cuts={
            "stage1": "convnext_tiny_stage_1_block_0_depthwise_conv",
            "stage2": "convnext_tiny_stage_2_block_0_depthwise_conv",
            "stage3": "convnext_tiny_stage_3_block_0_depthwise_conv",
            "stage3_block2": "convnext_tiny_stage_3_block_2_depthwise_conv",
        },
    ),
}
