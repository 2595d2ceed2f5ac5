"""Decode the images of a request, outside the graph and outside the batch: a broken one fails its own request only.

The decoder is the one of the tile store, so a served image has the pixels that training saw, and all formats that satx
reads are served.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from time import perf_counter

import numpy as np

from satx.environment import num_processors
from satx.serving.contract import ServingError
from satx.tiles.decode import decode_tile, resize_tile
from satx.tiles.formats import MAX_PIXELS, BrokenTile

MAX_REQUEST_PIXELS = 8 * MAX_PIXELS  # 128 images of 1024 x 1024


async def decoded(
    files: Sequence[bytes],
    image_size_px: int,
    *,
    pool: Executor,
    on_decoded: Callable[[float], None] = lambda _seconds: None,
) -> np.ndarray:
    """Decode image files in a pool of threads and resize them.

    Each image is a job of its own, and a request leaves one processor to the others: so a small request does not wait for
    all images of a large one, and a request that is cancelled ends with the images that are being decoded.

    Args:
        files: At least one file.
        image_size_px: Edge of the model's tiles.
        pool: Its threads decode. libjpeg runs without the interpreter's lock.
        on_decoded: Called in a thread with the seconds of each image.

    Returns:
        `(n, S, S, 3)` uint8.

    Raises:
        ServingError: A file is damaged or is no image that satx reads, or all of them have more than `MAX_REQUEST_PIXELS`
            (400), or there is too little memory (503).
    """
    loop = asyncio.get_running_loop()
    tiles = np.empty((len(files), image_size_px, image_size_px, 3), np.uint8)
    waiting = enumerate(files)
    num_pixels = 0

    async def decode_one_after_another() -> None:
        nonlocal num_pixels
        for row, data in waiting:
            tiles[row], pixels = await loop.run_in_executor(pool, _decode, data, row, image_size_px, on_decoded)
            num_pixels += pixels
            if num_pixels > MAX_REQUEST_PIXELS:
                message = (
                    f"Expected images of at most {MAX_REQUEST_PIXELS:,} pixels together, got more. Send fewer rows."
                )
                raise ServingError(400, message)

    jobs = [asyncio.ensure_future(decode_one_after_another()) for _ in range(max(1, num_processors() - 1))]
    try:
        await asyncio.gather(*jobs)
    finally:
        for job in jobs:  # after an error, the rest of a large request is not decoded
            job.cancel()
    return tiles


def _decode(data: bytes, row: int, image_size_px: int, on_decoded: Callable[[float], None]) -> tuple[np.ndarray, int]:
    """Return the resized tile, and the number of pixels that it had."""
    started = perf_counter()
    try:
        pixels = decode_tile(data, "image").pixels
        tile = resize_tile(pixels, image_size_px)
    except BrokenTile as error:
        raise ServingError(400, f"Image {row} of the request: {error}") from error
    except MemoryError as error:
        message = f"Image {row} of the request: too little memory to decode it"
        raise ServingError(503, message, retry_after_seconds=1) from error
    on_decoded(perf_counter() - started)
    return tile, pixels.shape[0] * pixels.shape[1]
