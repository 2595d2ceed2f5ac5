"""Tools of the GPU benchmark: tiles on disk, multiply-adds of a network, and how busy a GPU is."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

SAMPLE_MILLISECONDS = 100
CLASSES = ("not-school", "school")


@contextmanager
def busy_share() -> Iterator[Callable[[], float | None]]:
    """Sample the first GPU's utilization during the block; yield a function of its mean, 0 to 1, to call after the block.

    The mean is None without nvidia-smi, or if the block was shorter than a sample.
    """
    program, samples = shutil.which("nvidia-smi"), list[float]()
    if program is None:
        yield lambda: None
        return
    query = ["--id=0", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", f"-lms={SAMPLE_MILLISECONDS}"]
    sampling = subprocess.Popen([program, *query], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        yield lambda: sum(samples) / len(samples) / 100 if samples else None
    finally:
        sampling.terminate()
        text, _ = sampling.communicate()
        samples += [float(line) for line in text.split() if line.isdigit()]


def write_tiles(folder: Path, *, num_train: int, num_valid: int, size_px: int) -> Path:
    """Write JPEG tiles of two classes, which differ in a bright roof, in the layout of a session."""
    jobs = [("train", number) for number in range(num_train)] + [("valid", number) for number in range(num_valid)]
    for split, label in ((split, label) for split in ("train", "valid") for label in CLASSES):
        (folder / split / label).mkdir(parents=True)

    def write(job: tuple[str, int]) -> None:
        split, number = job
        path = folder / split / CLASSES[number % 2] / f"{number:05d}.jpg"
        path.write_bytes(jpeg_tile(size_px, has_roof=bool(number % 2), seed=[number, split == "valid"]))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(write, jobs))
    return folder


def jpeg_tile(size_px: int, *, has_roof: bool, seed: list[int]) -> bytes:
    """Return a tile of random ground, as JPEG of quality 85."""
    import simplejpeg

    draw = np.random.default_rng(seed)
    cells = draw.integers(60, 150, (16, 16, 3), np.uint8)
    repeats = math.ceil(size_px / 16)
    pixels = np.repeat(np.repeat(cells, repeats, 0), repeats, 1)[:size_px, :size_px]
    pixels = pixels + draw.integers(0, 24, pixels.shape, np.uint8)
    if has_roof:
        edge = size_px * 2 // 3  # so large that a few steps tell the classes apart
        top, left = draw.integers(0, size_px - edge, 2)
        pixels[top : top + edge, left : left + edge] = (235, 225, 215)
    return simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=85)


def link_files(tiles: Path, folder: Path, num_files: int) -> Path:
    """Make a folder in which several names link to each of the tiles, and read each tile once."""
    found = sorted(tiles.rglob("*.jpg"))
    folder.mkdir()
    for number in range(num_files):
        (folder / f"{number:06d}.jpg").hardlink_to(found[number % len(found)])
    for path in found[:num_files]:
        path.read_bytes()
    return folder


def multiply_adds(network: Any) -> int:
    """Return the multiply-adds of one image in the convolutions of a functional network, without biases and activations."""
    import keras

    layers = keras.layers
    total = 0
    for layer in network.layers:
        if not isinstance(layer, layers.Conv2D | layers.DepthwiseConv2D | layers.SeparableConv2D):
            continue
        _, height, width, _ = layer.output.shape
        kernels = [variable for variable in layer.trainable_variables if len(variable.shape) == 4]
        # a kernel (h, w, in, out) is applied once for each pixel of the output; a depthwise one has out = 1
        total += height * width * sum(math.prod(kernel.shape) for kernel in kernels)
    return total
