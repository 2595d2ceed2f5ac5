"""The tile store: every image decoded once into one memory-mapped array, with an index.

A store is a folder named after the digest of its data and its image size. It holds `pixels.npy`, `index.parquet` and
`store.json`. One process builds a store while all others wait; then all share it. `store_writer` writes the files that
this module reads.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from satx.errors import DataError
from satx.storage import digest_of, file_digest, in_this_home, locked
from satx.tiles.check import digest_files, no_progress
from satx.tiles.findings import with_current_files
from satx.tiles.layout import TileFolder
from satx.tiles.report import CheckReport, Problem
from satx.tiles.store_writer import ABOUT_NAME, INDEX_NAME, PIXELS_NAME, STORE_FORMAT, write_store

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class TileStore:
    """Decoded tiles on disk; cheap to open in any process.

    Attributes:
        folder: The store's folder.
        index: One row per tile: row, relative, label, label_index, split, slice, content_digest (of the pixels in their
            original size), file_digest (of the file's bytes), format, tile_id.
        classes: Sorted by name; `label_index` is an index into this tuple.
        image_size_px: Edge of every tile.
        digest: Digest of the data, independent of image size and location.
        sample: Whether the tiles were rendered rather than photographed.
        report: Findings of the check that ran when the store was built.
    """

    folder: Path
    index: pd.DataFrame
    classes: tuple[str, ...]
    image_size_px: int
    digest: str
    sample: bool
    report: CheckReport

    def pixels(self) -> np.ndarray:
        """Return all tiles, read-only and memory-mapped."""
        pixels: np.ndarray = np.load(self.folder / PIXELS_NAME, mmap_mode="r", allow_pickle=False)  # (N, S, S, 3) uint8
        return pixels

    def rows(self, split: str) -> np.ndarray:
        """Return the row numbers of a split, in ascending order."""
        return np.flatnonzero(self.index["split"].to_numpy() == split).astype(np.int64)  # (M,) int64

    def labels(self) -> np.ndarray:
        """Return the class index of every row."""
        return self.index["label_index"].to_numpy(dtype=np.int64)  # (N,) int64


def build_store(
    folder: TileFolder,
    *,
    image_size_px: int,
    cache_dir: Path,
    on_progress: Callable[[int, int], None] = no_progress,
) -> TileStore:
    """Open the store of these tiles at this size; build it first if it is missing, damaged or of another format.

    Hashes the tiles on every call, so that a changed file gives another store. Rows are sorted by split, label and
    file digest, not by name: the same files give the same array, whatever they are called.

    Args:
        folder: The tiles.
        image_size_px: Edge to resize to.
        cache_dir: Folder that holds the stores.
        on_progress: Called with (done, total), first while hashing, then again from 0 while decoding.

    Returns:
        The store.

    Raises:
        DataError: Over 5% of the tiles cannot be used, a class has no usable tile left in a split, a file changes
            during the build, or the disk is too small.
    """
    digests = digest_files(folder.files, on_progress)
    digest = data_digest(folder, digests)
    path = cache_dir / f"tiles-{digest[:16]}-{image_size_px}px"
    store = _open_intact(path, digest, image_size_px)
    if store is not None:
        not_images = [index for index, found in enumerate(digests) if found is None]
        return replace(store, report=with_current_files(store.report, folder, not_images))
    with _only_builder(path):
        store = _open_intact(path, digest, image_size_px)  # another process may have built it meanwhile
        if store is None:
            write_store(folder, digests, digest=digest, path=path, image_size_px=image_size_px, on_progress=on_progress)
            store = open_store(path, image_size_px=image_size_px)
    return store


def open_store(path: Path, *, image_size_px: int | None = None) -> TileStore:
    """Open an existing store.

    Args:
        path: The store's folder.
        image_size_px: The size it must have; None accepts any size.

    Returns:
        The store.

    Raises:
        DataError: The store is missing, damaged, or of another format or size.
    """
    again = "Run the command that built it again; it rebuilds the store from the tiles."
    try:
        about: dict[str, Any] = json.loads((path / ABOUT_NAME).read_text(encoding="utf-8"))
        if about["format"] != STORE_FORMAT:
            raise DataError(
                f"{path}: expected a tile store of format {STORE_FORMAT}, got format {about['format']}, which another version of "
                f"satx wrote. Start the sweep or training anew, without --from-run; it builds a new store from the tiles."
            )
        if image_size_px not in (None, about["image_size_px"]):
            raise DataError(
                f"{path}: expected tiles of {image_size_px} px, got {about['image_size_px']} px. "
                f"Pass the store's size, or build a store of {image_size_px} px."
            )
        size_bytes = (path / PIXELS_NAME).stat().st_size
        if size_bytes != about["pixels_bytes"] or file_digest(path / INDEX_NAME) != about["index_digest"]:
            raise DataError(f"The tile store {path} is damaged: a file of it was truncated or changed. {again}")
        return TileStore(
            folder=path,
            index=pd.read_parquet(path / INDEX_NAME),
            classes=tuple(about["classes"]),
            image_size_px=about["image_size_px"],
            digest=about["digest"],
            sample=about["marker"] is not None,
            report=_report_from_json(about["report"]),
        )
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(
            f"Expected a complete tile store in {path}, but {error.filename} is missing. {again}"
        ) from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise DataError(
            f"The tile store {path} is damaged: its {ABOUT_NAME} cannot be read ({error}). {again}"
        ) from error


def data_digest(folder: TileFolder, digests: Sequence[str | None]) -> str:
    """Return the digest of the data: contents, labels, splits, slices, classes and sample marker, but no file names.

    Args:
        folder: The tiles.
        digests: Digests of their bytes, in the order of `folder.files`; None for files that are no images.

    Returns:
        The SHA-256 in hex.
    """
    tiles = zip(digests, folder.files, strict=True)
    lines = sorted((digest, file.label, file.split, file.slice) for digest, file in tiles if digest is not None)
    return digest_of({"format": STORE_FORMAT, "tiles": lines, "marker": folder.marker, "classes": folder.classes})


def _open_intact(path: Path, digest: str, image_size_px: int) -> TileStore | None:
    if not path.exists():
        return None
    try:
        store = open_store(path, image_size_px=image_size_px)
    except DataError as error:
        log.warning("Rebuilding the tile store: %s", error)
        return None
    return store if store.digest == digest else None


@contextmanager
def _only_builder(path: Path) -> Iterator[None]:
    """Hold the lock of one store, and remove what a killed builder left behind."""
    with locked(path.with_name(f".{path.name}")):
        for leftover in path.parent.glob(f".{path.name}.*/"):
            shutil.rmtree(leftover, ignore_errors=True)
        yield


def _report_from_json(value: Mapping[str, Any]) -> CheckReport:
    return CheckReport(
        root=in_this_home(Path(value["root"])),
        counts={(split, label): count for split, label, count in value["counts"]},
        num_tiles=value["num_tiles"],
        problems=tuple(Problem(**problem) for problem in value["problems"]),
        unused={reason: tuple(names) for reason, names in value["unused"].items()},
        formats=value["formats"],
        sizes_px=value["sizes_px"],
    )
