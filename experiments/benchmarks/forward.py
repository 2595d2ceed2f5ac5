"""Seconds per megapixel of one forward pass on one processor core for every backbone, the basis of a plan's hours.

    make bench NAME=forward

Prints medians over five repeats and the ratio to MobileNetV2, and writes forward.json.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import tensorflow as tf
from report import median_seconds, publish

from satx.catalogue import BACKBONES
from satx.models.backbones import Network, build_backbone

SIZE_PX, BATCH, REPEATS = 160, 16, 5


def main() -> None:
    """Time every backbone of the catalogue."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tiles = np.random.default_rng(0).integers(0, 255, (BATCH, SIZE_PX, SIZE_PX, 3), dtype=np.uint8)
    megapixels = BATCH * SIZE_PX**2 / 1e6
    medians: dict[str, float] = {}
    for name in BACKBONES:
        network = Network(name, build_backbone(name, SIZE_PX, None), None, None)
        seconds = median_seconds(partial(network.predict_on_batch, tiles), repeats=REPEATS)
        medians[name] = seconds / megapixels
    rows = [
        {"backbone": name, "core s per megapixel": value, "ratio": value / medians["mobilenetv2"]}
        for name, value in medians.items()
    ]
    publish("forward", rows)


if __name__ == "__main__":
    main()
