"""Read every file of a folder of tiles before any training: which are tiles, and what is wrong with them.

The tile store uses the same functions, so building a store also checks the tiles, and no tile is decoded twice.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from satx.environment import num_processors
from satx.errors import DataError
from satx.tiles.decode import DecodedTile, decode_tile, pixel_digest, read_tile
from satx.tiles.findings import make_report, select_tiles
from satx.tiles.formats import BrokenTile, is_tile
from satx.tiles.layout import TileFile, TileFolder
from satx.tiles.report import CheckReport, DecodeOutcome, Problem, TileFacts

UNREADABLE = ""  # the "digest" of a file that cannot be read

_HASH_CHUNK = 64  # files per task: submitting a task takes longer than hashing one file
_DECODE_CHUNK = 16  # a tenth faster than one file per task (6,000 JPEGs of 256 px, two cores)
_MAX_COLOR_RANGE = 2  # grey levels by which JPEG may change a plain color

Item = TypeVar("Item")
Result = TypeVar("Result")
OnProgress = Callable[[int, int], None]
OnTile = Callable[[int, np.ndarray, TileFacts], None]


def no_progress(done: int, total: int) -> None:
    """Do nothing; the default for `on_progress`."""


def no_look(index: int, pixels: np.ndarray, facts: TileFacts) -> None:
    """Do nothing; the default for `on_tile`."""


def check_tiles(
    folder: TileFolder,
    *,
    image_size_px: int | None = None,
    on_progress: OnProgress = no_progress,
    on_tile: OnTile = no_look,
) -> CheckReport:
    """Read and decode every file of a folder and report the problems.

    Only names, digests and sizes are kept in memory, however many tiles there are.

    Args:
        folder: The tiles.
        image_size_px: Size that the tiles will be resized to, if it is known.
        on_progress: Called with (done, total).
        on_tile: Called with the index into `folder.files`, the pixels, (H, W, 3) uint8, and the facts of each decoded tile, by
            several threads at once.

    Returns:
        The report. Its `raise_if_unusable` decides whether the folder can be used.

    Raises:
        DataError: A folder cannot be listed, or memory does not suffice to decode a tile.
    """

    def outcome(index: int) -> DecodeOutcome | None:
        if not _is_tile(folder.files[index]):
            return None
        tile = read_and_decode(folder.files[index])
        if isinstance(tile, Problem):
            return tile
        facts = facts_of(tile)
        on_tile(index, tile.pixels, facts)  # now, while the pixels are in the processor's cache
        return facts

    every = mapped_in_parallel(outcome, range(len(folder.files)), on_progress)
    outcomes = {index: found for index, found in enumerate(every) if found is not None}
    not_images = [index for index, found in enumerate(every) if found is None]
    selection = select_tiles(folder.files, outcomes)
    return make_report(folder, outcomes, selection, not_images=not_images, image_size_px=image_size_px)


def digest_files(files: Sequence[TileFile], on_progress: OnProgress = no_progress) -> list[str | None]:
    """Return the SHA-256 of every file's bytes.

    Args:
        files: The files.
        on_progress: Called with (done, total).

    Returns:
        Digests in the order of `files`: `UNREADABLE` for a file that cannot be read, None for one that is no image and
        does not claim to be.
    """
    return mapped_in_parallel(_digest, files, on_progress, chunk=_HASH_CHUNK)


def read_and_decode(file: TileFile, *, digest: str | None = None) -> DecodedTile | Problem:
    """Read a file and decode it.

    Args:
        file: The file.
        digest: Digest of its bytes as read before, which it must still have.

    Returns:
        The tile, or the problem that prevents its use.

    Raises:
        DataError: The file has changed since it was hashed, or memory does not suffice.
    """
    changed = f"{file.path} changed while it was being read. Run the command again when it no longer changes."
    try:
        data = read_tile(file.path)
    except BrokenTile as broken:
        if digest:
            raise DataError(changed) from broken
        return Problem("error", broken.kind, file.relative, str(broken))
    if digest is not None and hashlib.sha256(data).hexdigest() != digest:
        raise DataError(changed)
    try:
        return decode_tile(data, file.relative)
    except BrokenTile as broken:
        # Do not return the exception itself: its traceback would keep the file's bytes in memory.
        return Problem("error", broken.kind, file.relative, str(broken))
    except MemoryError as error:
        # To leave the tile out would make results depend on what else runs on the machine.
        raise DataError(
            f"{file.path}: memory does not suffice to decode it. Free some, or remove the file if it is no tile."
        ) from error


def facts_of(tile: DecodedTile) -> TileFacts:
    """Return what is kept of a decoded tile besides its pixels."""
    height_px, width_px, _ = tile.pixels.shape
    return TileFacts(
        pixel_digest=pixel_digest(tile.pixels),
        format=tile.format,
        width_px=width_px,
        height_px=height_px,
        converted_from=tile.converted_from,
        has_more_images=tile.has_more_images,
        is_one_color=_is_one_color(tile.pixels),
    )


def in_parallel(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[tuple[Item, Result]]:
    """Apply a function to items in threads, a limited number ahead of the consumer, and yield results in order.

    Uses threads because the decoders and hashlib release the GIL while they work. Threads were as fast as processes when
    measured, and unlike forked processes they are safe once TensorFlow is loaded.
    """
    num_threads = num_processors() + 1  # one extra, since a thread may be waiting for the disk
    pending: deque[tuple[Item, Future[Result]]] = deque()
    with ThreadPoolExecutor(num_threads, thread_name_prefix="satx-tiles") as pool:
        for item in items:
            pending.append((item, pool.submit(function, item)))
            if len(pending) > 8 * num_threads:
                done, future = pending.popleft()
                yield done, future.result()
        for done, future in pending:
            yield done, future.result()


def mapped_in_parallel(
    function: Callable[[Item], Result], items: Sequence[Item], on_progress: OnProgress, *, chunk: int = _DECODE_CHUNK
) -> list[Result]:
    """Apply a function to items in threads, some at a time, and return the results in order.

    Args:
        function: Called in threads.
        items: The items.
        on_progress: Called with (done, total).
        chunk: Items per task.
    """

    def results_of_chunk(start: int) -> list[Result]:
        return [function(item) for item in items[start : start + chunk]]

    results: list[Result] = []
    for _, found in in_parallel(results_of_chunk, range(0, len(items), chunk)):
        results += found
        on_progress(len(results), len(items))
    return results


def _digest(file: TileFile) -> str | None:
    if not _is_tile(file):
        return None
    try:
        return hashlib.sha256(read_tile(file.path)).hexdigest()
    except BrokenTile:
        return UNREADABLE  # decoding will fail with the same reason and report it


def _is_tile(file: TileFile) -> bool:
    return file.is_listed or is_tile(file.path)


def _is_one_color(pixels: np.ndarray) -> bool:
    """Return whether all pixels, (H, W, 3) uint8, have the same color within `_MAX_COLOR_RANGE`."""
    corner, middle = pixels[0, 0].tolist(), pixels[pixels.shape[0] // 2, pixels.shape[1] // 2].tolist()
    if any(abs(one - other) > _MAX_COLOR_RANGE for one, other in zip(corner, middle, strict=True)):
        return False  # two pixels decide in most tiles
    return bool((np.ptp(pixels, axis=(0, 1)) <= _MAX_COLOR_RANGE).all())
