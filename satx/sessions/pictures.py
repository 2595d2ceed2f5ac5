"""The pictures of a folder of tiles, each known by the SHA-256 of its decoded pixels; copies are one picture."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

import numpy as np

from satx.errors import DataError
from satx.tiles.check import OnProgress, mapped_in_parallel, no_progress, read_and_decode
from satx.tiles.decode import read_tile
from satx.tiles.formats import BrokenTile, is_tile
from satx.tiles.layout import TileFile
from satx.tiles.report import MAX_BROKEN_SHARE, Problem
from satx.tiles.walk import first_few

MAX_LISTED = 20  # pictures that an error names one by one


@dataclass(frozen=True, slots=True)
class Picture:
    """One file's picture.

    Attributes:
        file: The file.
        pixel_sha256: SHA-256 of its decoded pixels, see `pixel_sha256`.
        file_sha256: SHA-256 of the file's bytes.
    """

    file: TileFile
    pixel_sha256: str
    file_sha256: str


@dataclass(frozen=True)
class Pictures:
    """What a folder's files show.

    Attributes:
        pictures: One for each picture, in the order of the files; of several copies the first.
        num_copies: Files left out because an earlier one shows the same.
        broken: Why the other files are no pictures.
    """

    pictures: tuple[Picture, ...]
    num_copies: int
    broken: tuple[Problem, ...]


def pixel_sha256(pixels: np.ndarray) -> str:
    """Return the SHA-256 of a picture: one in every file that stores the same pixels.

    What is hashed: width and height in pixels as ASCII, `256x256` and one space, then the bytes of red, green and blue of each
    pixel, row by row from the top left. With Pillow it is `sha256(f"{w}x{h} ".encode() + image.convert("RGB").tobytes())`.

    Args:
        pixels: (H, W, 3) uint8.
    """
    digest = hashlib.sha256(f"{pixels.shape[1]}x{pixels.shape[0]} ".encode())
    digest.update(np.ascontiguousarray(pixels).reshape(-1).data)
    return digest.hexdigest()


def images_of(files: Iterable[TileFile]) -> list[TileFile]:
    """Return the files that are images, or are listed as such; the others lie beside them."""
    return [file for file in files if file.is_listed or is_tile(file.path)]


def read_pictures(files: Sequence[TileFile], on_progress: OnProgress = no_progress) -> list[Picture | Problem]:
    """Read and decode files, a few at a time.

    Args:
        files: Image files.
        on_progress: Called with (done, total).

    Returns:
        Picture or problem of each file, in the order of `files`.

    Raises:
        DataError: A file changes while it is read, or memory does not suffice to decode it.
    """
    return mapped_in_parallel(_read, files, on_progress)


def find_pictures(root: Path, files: Iterable[TileFile], on_progress: OnProgress = no_progress) -> Pictures:
    """Return the pictures of a folder; copies with the same class, split and slice count once.

    Args:
        root: The folder, for messages.
        files: Its files; those that are no images are not read.
        on_progress: Called with (done, total).

    Raises:
        DataError: A picture is there with two classes, splits or slices; over 5% of the images cannot be used; a file changes
            while it is read; or memory does not suffice.
    """
    images = images_of(files)
    read = read_pictures(images, on_progress)
    broken = tuple(found for found in read if isinstance(found, Problem))
    if len(broken) > MAX_BROKEN_SHARE * len(images):
        named = [f"{problem.relative} ({problem.detail})" for problem in broken]
        raise DataError(
            f"{len(broken)} of {len(images)} tiles in {root} cannot be used, over {MAX_BROKEN_SHARE:.0%}: {first_few(named)}. "
            f"Repair or remove them."
        )
    copies: dict[str, list[Picture]] = defaultdict(list)
    for found in read:
        if isinstance(found, Picture):
            copies[found.pixel_sha256].append(found)
    _refuse_contradictions(root, copies.values())
    firsts = tuple(group[0] for group in copies.values())
    return Pictures(firsts, len(images) - len(broken) - len(firsts), broken)


def _read(file: TileFile) -> Picture | Problem:
    try:
        digest = hashlib.sha256(read_tile(file.path)).hexdigest()
    except BrokenTile as broken:
        return Problem("error", broken.kind, file.relative, str(broken))
    tile = read_and_decode(file, digest=digest)
    return tile if isinstance(tile, Problem) else Picture(file, pixel_sha256(tile.pixels), digest)


def _refuse_contradictions(root: Path, copies: Iterable[Sequence[Picture]]) -> None:
    """Raise a DataError that lists the pictures of which two copies are not alike."""
    lines = []
    for group in copies:
        places = {(one.file.split, one.file.label, one.file.slice): one.file.relative for one in group}
        if len(places) > 1:
            lines.append(" and ".join(f"{name} ({_place(*place)})" for place, name in places.items()))
    if lines:
        more = f"\n  and {len(lines) - MAX_LISTED} more" if len(lines) > MAX_LISTED else ""
        listed = "\n  ".join(lines[:MAX_LISTED])
        raise DataError(
            f"{root}: expected one class, split and slice for each picture, got {len(lines)} that have two:\n  {listed}{more}\n"
            f"Keep one file of each. `satx data check {quote(str(root))} --json` lists leaks and conflicts."
        )


def _place(split: str, label: str, slice_name: str) -> str:
    return ", ".join(part for part in (split, label, slice_name) if part)
