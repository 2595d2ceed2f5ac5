"""Write a tile store: decode in parallel, append to one file, and rename the folder when it is complete.

Memory use does not grow with the pixel data: only a few decoded tiles are in memory at a time, and names and digests of
the others.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np
import pandas as pd

from satx.errors import DataError
from satx.storage import file_digest, replacing, write_json
from satx.tiles.check import (
    CheckReport,
    DecodeOutcome,
    Problem,
    in_parallel,
    make_report,
    read_and_decode,
    select_tiles,
)
from satx.tiles.decode import resize_tile
from satx.tiles.layout import SPLITS, TileFile, TileFolder

STORE_FORMAT = 1  # increment when the same files give other pixels, another index or other tiles

PIXELS_NAME, INDEX_NAME, ABOUT_NAME = "pixels.npy", "index.parquet", "store.json"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_BYTES_PER_INDEX_ROW = 256
_GRID_NAME = re.compile(r"(\d{1,2})[-_](\d{1,8})[-_](\d{1,8})")


def write_store(
    folder: TileFolder,
    digests: list[str],
    *,
    digest: str,
    path: Path,
    image_size_px: int,
    on_progress: Callable[[int, int], None],
) -> None:
    """Decode the tiles into a new store, and rename it to `path` when it is complete.

    Args:
        folder: The tiles.
        digests: Content digests, in the order of `folder.files`.
        digest: Digest of the data as a whole, from `data_digest`.
        path: The store's folder.
        image_size_px: Edge to resize to.
        on_progress: Called with (done, total).

    Raises:
        DataError: Too many tiles cannot be used, a file has changed since it was hashed, or the disk is too small.
    """
    selection = select_tiles(folder.files, digests)
    order = sorted(selection.kept, key=lambda index: _row_order(folder.files[index], digests[index]))
    needed_bytes = len(order) * (image_size_px**2 * 3 + _BYTES_PER_INDEX_ROW)
    _check_disk(path, needed_bytes)
    try:
        with replacing(path) as temporary:
            temporary.mkdir()
            tiles = _decoded_tiles(folder, digests, order, image_size_px)
            with (temporary / PIXELS_NAME).open("wb") as stream:
                outcomes = _write_pixels(
                    stream, tiles, num_tiles=len(order), size_px=image_size_px, on_progress=on_progress
                )
            report = make_report(folder, selection, outcomes)
            report.raise_if_unusable()
            rows = [index for index in order if not isinstance(outcomes.get(index), Problem)]
            _index_table(folder, digests, rows).to_parquet(temporary / INDEX_NAME, index=False)
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


def _row_order(file: TileFile, digest: str) -> tuple[int, str, str, str, str]:
    return SPLITS.index(file.split), file.label, digest, file.slice, file.relative


def _decoded_tiles(
    folder: TileFolder, digests: list[str], order: list[int], image_size_px: int
) -> Iterator[tuple[int, np.ndarray | None, DecodeOutcome]]:
    """Yield index, pixels and outcome of every tile of `order`; a tile with a problem has no pixels."""

    def decode(index: int) -> tuple[np.ndarray | None, DecodeOutcome]:
        tile = read_and_decode(folder.files[index], digests[index])
        if isinstance(tile, Problem):
            return None, tile
        return resize_tile(tile.image, image_size_px), tile.converted_from

    for index, (pixels, outcome) in in_parallel(decode, order):
        yield index, pixels, outcome


def _write_pixels(
    stream: BinaryIO,
    tiles: Iterator[tuple[int, np.ndarray | None, DecodeOutcome]],
    *,
    num_tiles: int,
    size_px: int,
    on_progress: Callable[[int, int], None],
) -> dict[int, DecodeOutcome]:
    """Append the tiles to a stream, and return their outcomes.

    Does not use a memory map, because there a full disk causes a bus error instead of an exception.
    """
    outcomes: dict[int, DecodeOutcome] = {}
    num_written = 0
    _write_header(stream, num_tiles, size_px)
    for done, (index, pixels, outcome) in enumerate(tiles, start=1):
        if outcome is not None:
            outcomes[index] = outcome
        if pixels is not None:
            stream.write(np.ascontiguousarray(pixels).data)
            num_written += 1
        on_progress(done, num_tiles)
    stream.seek(0)
    _write_header(stream, num_written, size_px)  # as long as the first: NumPy pads it so that the count can change
    stream.flush()
    os.fsync(stream.fileno())
    return outcomes


def _write_header(stream: BinaryIO, num_tiles: int, size_px: int) -> None:
    shape = (num_tiles, size_px, size_px, 3)
    np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})


def _index_table(folder: TileFolder, digests: list[str], rows: list[int]) -> pd.DataFrame:
    files = [folder.files[index] for index in rows]
    return pd.DataFrame(
        {
            "row": np.arange(len(rows), dtype=np.int64),
            "relative": [file.relative for file in files],
            "label": [file.label for file in files],
            "label_index": np.array([folder.classes.index(file.label) for file in files], dtype=np.int64),
            "split": [file.split for file in files],
            "slice": [file.slice for file in files],
            "content_digest": [digests[index] for index in rows],
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
