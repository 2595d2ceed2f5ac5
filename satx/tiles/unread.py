"""Account for the files of a tile folder that are not read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from satx.tiles.formats import is_tile
from satx.tiles.layout import CSV_NAME, SAMPLE_MARKER, TileFolder
from satx.tiles.walk import entries_below, is_hidden, printable

NOT_AN_IMAGE = "not an image"


def unread_elsewhere(folder: TileFolder) -> Iterator[tuple[str, str]]:
    """Yield reason and relative path of every file of the folder that the layout leaves out.

    Raises:
        DataError: A folder cannot be listed.
    """
    known = {str(file.path) for file in folder.files}
    known |= {str(folder.root / name) for name in (CSV_NAME, SAMPLE_MARKER)}
    for searched in folder.searched:
        for entry in entries_below(searched):
            path = str(Path(entry.path))  # without the `./` of a folder given as `.`
            if path not in known:
                yield _reason(folder, entry), printable(os.path.relpath(path, folder.root))


def _reason(folder: TileFolder, entry: os.DirEntry[str]) -> str:
    if is_hidden(entry):
        return "hidden"
    if entry.is_dir():
        return "a link to a folder above it"
    return folder.unlisted if is_tile(Path(entry.path)) else NOT_AN_IMAGE
