"""Speed of this machine relative to the one on which the catalogue's seconds were measured.

The measurement runs convolutions for about a second.
"""

from __future__ import annotations

import os
import statistics
import time

import keras
import numpy as np

MEASURED_SECONDS = 1.0
MAX_REPEATS = 50  # a GPU finishes these in less than `MEASURED_SECONDS`
# seconds of one block below on one core of the machine that the catalogue's `core_seconds_per_megapixel` refers to
BLOCK_CORE_SECONDS = 0.034


def machine_factor() -> float:
    """Return the time of a block of convolutions on this machine, divided by that on the catalogue's machine.

    All of this machine is compared with as many cores of the catalogue's. The block is a middle one of MobileNetV2,
    over 32 maps of 14 x 14. It runs on the device that trains: a GPU, or the CPU together with the other processes on it.
    """
    draw = np.random.default_rng(0)
    shapes = ((32, 14, 14, 96), (1, 1, 96, 576), (3, 3, 576, 1), (1, 1, 576, 96))
    maps, widen, depthwise, narrow = (
        keras.ops.convert_to_tensor(draw.standard_normal(shape).astype(np.float32)) for shape in shapes
    )

    def seconds() -> float:
        started = time.perf_counter()
        hidden = keras.ops.relu(keras.ops.conv(maps, widen, padding="same"))
        hidden = keras.ops.relu(keras.ops.depthwise_conv(hidden, depthwise, padding="same"))
        np.asarray(keras.ops.convert_to_numpy(keras.ops.conv(hidden, narrow, padding="same")))  # waits for the result
        return time.perf_counter() - started

    seconds()  # the first call compiles
    measured = list[float]()
    while sum(measured) < MEASURED_SECONDS and len(measured) < MAX_REPEATS:
        measured.append(seconds())
    return statistics.median(measured) * (os.cpu_count() or 1) / BLOCK_CORE_SECONDS
