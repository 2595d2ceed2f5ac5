"""Write a tile store: decode in parallel, append to one file, and rename the folder when it is complete.

Memory use does not grow with the pixel data: only a few decoded tiles are in memory at a time, and names and digests of
the others. Which tiles are copies of another is known when all are decoded; their rows are then taken out again.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np
import pandas as pd

from satx.errors import DataError
from satx.storage import file_digest, replacing, write_json
from satx.tiles.check import facts_of, in_parallel, read_and_decode
from satx.tiles.decode import resize_tile
from satx.tiles.findings import make_report, select_tiles
from satx.tiles.layout import SPLITS, TileFile, TileFolder
from satx.tiles.report import CheckReport, DecodeOutcome, Problem, TileFacts

STORE_FORMAT = 3  # increment when the same files give other pixels, another index or other tiles

PIXELS_NAME, INDEX_NAME, ABOUT_NAME = "pixels.npy", "index.parquet", "store.json"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_BYTES_PER_INDEX_ROW = 256
_CHUNK_BYTES = 2**18  # of stored tiles per task: several if they are small, since submitting a task takes a while
_GRID_NAME = re.compile(r"(\d{1,2})[-_](\d{1,8})[-_](\d{1,8})")


def write_store(
    folder: TileFolder,
    digests: Sequence[str | None],
    *,
    digest: str,
    path: Path,
    image_size_px: int,
    on_progress: Callable[[int, int], None],
) -> None:
    """Decode the tiles into a new store, and rename it to `path` when it is complete.

    Args:
        folder: The tiles.
        digests: Digests of their bytes, in the order of `folder.files`; None for files that are no images.
        digest: Digest of the data as a whole, from `data_digest`.
        path: The store's folder.
        image_size_px: Edge to resize to.
        on_progress: Called with (done, total).

    Raises:
        DataError: Too many tiles cannot be used, a file has changed since it was hashed, or the disk is too small.
    """
    not_images = [index for index, found in enumerate(digests) if found is None]
    order = _row_order(folder.files, digests)
    needed_bytes = len(order) * (image_size_px**2 * 3 + _BYTES_PER_INDEX_ROW)
    _check_disk(path, needed_bytes)
    try:
        with replacing(path) as temporary:
            temporary.mkdir()
            with (temporary / PIXELS_NAME).open("w+b") as stream:
                outcomes = _write_pixels(stream, folder, digests, order, image_size_px, on_progress)
                selection = select_tiles(folder.files, outcomes)
                kept = set(selection.kept)
                written = [index for index in order if isinstance(outcomes[index], TileFacts)]
                _keep_rows(stream, [index in kept for index in written], image_size_px)
            report = make_report(folder, outcomes, selection, not_images=not_images, image_size_px=image_size_px)
            report.raise_if_unusable()
            rows = [index for index in written if index in kept]
            _index_table(folder, digests, outcomes, rows).to_parquet(temporary / INDEX_NAME, index=False)
            about = {
                "format": STORE_FORMAT,
                "digest": digest,
                "image_size_px": image_size_px,
                "classes": folder.classes,
                "marker": folder.marker,
                "pixels_bytes": (temporary / PIXELS_NAME).stat().st_size,
                "index_digest": file_digest(temporary / INDEX_NAME),
                "report": _report_to_json(report),
            }
            write_json(temporary / ABOUT_NAME, about)
    except OSError as error:
        if error.errno in _FULL:
            raise _disk_full(path, needed_bytes) from error
        raise


def _row_order(files: Sequence[TileFile], digests: Sequence[str | None]) -> list[int]:
    """Return the indices of the tiles in the order of their rows.

    The order is known before any tile is decoded, so that every tile is decoded once and written in its place.
    """

    def key(index: int) -> tuple[int, str, str, str, str]:
        file = files[index]
        return SPLITS.index(file.split), file.label, str(digests[index]), file.slice, file.relative

    return sorted((index for index, found in enumerate(digests) if found is not None), key=key)


def _write_pixels(
    stream: BinaryIO,
    folder: TileFolder,
    digests: Sequence[str | None],
    order: Sequence[int],
    size_px: int,
    on_progress: Callable[[int, int], None],
) -> dict[int, DecodeOutcome]:
    """Append the tiles to a stream in this order, except those with a problem, and return all outcomes.

    Does not use a memory map, because there a full disk causes a bus error instead of an exception.
    """

    def decode(index: int) -> tuple[int, np.ndarray | None, DecodeOutcome]:
        tile = read_and_decode(folder.files[index], digest=digests[index])
        if isinstance(tile, Problem):
            return index, None, tile
        facts = facts_of(tile)  # first, while the pixels are in the processor's cache
        return index, resize_tile(tile.pixels, size_px), facts

    def decode_chunk(start: int) -> list[tuple[int, np.ndarray | None, DecodeOutcome]]:
        return [decode(index) for index in order[start : start + num_each]]

    outcomes: dict[int, DecodeOutcome] = {}
    num_each = max(1, _CHUNK_BYTES // (size_px**2 * 3))
    _write_header(stream, len(order), size_px)
    for _, chunk in in_parallel(decode_chunk, range(0, len(order), num_each)):
        for index, pixels, outcome in chunk:
            outcomes[index] = outcome
            if pixels is not None:
                stream.write(np.ascontiguousarray(pixels).data)
            on_progress(len(outcomes), len(order))
    return outcomes


def _keep_rows(stream: BinaryIO, is_kept: Sequence[bool], size_px: int) -> None:
    """Move the rows that are kept together, cut off the rest, and write the header again with their number."""
    num_bytes, num_kept = size_px**2 * 3, 0
    _write_header(stream, len(is_kept), size_px)
    start = stream.tell()
    for row, keeps in enumerate(is_kept):
        if keeps and row != num_kept:
            stream.seek(start + row * num_bytes)
            pixels = stream.read(num_bytes)
            stream.seek(start + num_kept * num_bytes)
            stream.write(pixels)
        num_kept += keeps
    stream.truncate(start + num_kept * num_bytes)
    _write_header(stream, num_kept, size_px)  # as long as before: NumPy pads it so that the count can change
    stream.flush()
    os.fsync(stream.fileno())


def _write_header(stream: BinaryIO, num_tiles: int, size_px: int) -> None:
    stream.seek(0)
    shape = (num_tiles, size_px, size_px, 3)
    np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})


def _index_table(
    folder: TileFolder, digests: Sequence[str | None], outcomes: Mapping[int, DecodeOutcome], rows: Sequence[int]
) -> pd.DataFrame:
    files = [folder.files[index] for index in rows]
    facts = [found for index in rows if isinstance(found := outcomes[index], TileFacts)]
    return pd.DataFrame(
        {
            "row": np.arange(len(rows), dtype=np.int64),
            "relative": [file.relative for file in files],
            "label": [file.label for file in files],
            "label_index": np.array([folder.classes.index(file.label) for file in files], dtype=np.int64),
            "split": [file.split for file in files],
            "slice": [file.slice for file in files],
            "content_digest": [one.pixel_digest for one in facts],
            "file_digest": [digests[index] for index in rows],
            "format": [one.format for one in facts],
            "tile_id": [tile_id(file.relative) for file in files],
        }
    )


def tile_id(relative: str) -> str:
    """Return `z-x-y` if the file is named after an existing tile of the Web Mercator grid, else the file's stem."""
    stem = PurePosixPath(relative).stem
    match = _GRID_NAME.fullmatch(stem)
    if match is None:
        return stem
    z, x, y = (int(number) for number in match.groups())
    return f"{z}-{x}-{y}" if max(x, y) < 2**z else stem


def _check_disk(path: Path, needed_bytes: int) -> None:
    if shutil.disk_usage(path.parent).free < needed_bytes:
        raise _disk_full(path, needed_bytes)


def _disk_full(path: Path, needed_bytes: int) -> DataError:
    free_gb = shutil.disk_usage(path.parent).free / 1e9
    return DataError(
        f"Expected {needed_bytes / 1e9:.3f} GB of free disk space for the tile store {path}, found {free_gb:.3f} GB. "
        f"Free some (`satx gc` removes old caches), choose a smaller image size, or set SATX_HOME to a larger disk."
    )


def _report_to_json(report: CheckReport) -> dict[str, Any]:
    counts = [[split, label, count] for (split, label), count in report.counts.items()]
    return asdict(report) | {"root": str(report.root), "counts": counts}
