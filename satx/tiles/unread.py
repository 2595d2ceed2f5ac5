"""Account for the files of a tile folder that are not read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from satx.tiles.formats import is_tile
from satx.tiles.layout import CSV_NAME, SAMPLE_MARKER, TileFolder
from satx.tiles.walk import Entry, entries_below, is_folder, is_hidden, printable

NOT_AN_IMAGE, HIDDEN = "not an image", "hidden"


def unread_elsewhere(folder: TileFolder) -> Iterator[tuple[str, str]]:
    """Yield reason and relative path of every file that the layout leaves out; hidden folders are not looked into.

    A file is known by its real folder and its name, so it counts once, through however many links it is reached.

    Raises:
        DataError: The folder cannot be listed.
    """
    real = cache(os.path.realpath)
    split = [str(file.path).rpartition("/") for file in folder.files]
    known = {f"{real(parent)}/{name}" for parent, _, name in split}
    known |= {f"{real(folder.root)}/{name}" for name in (CSV_NAME, SAMPLE_MARKER) if (folder.root / name).is_file()}
    parents = {Path(parent) for parent, _, _ in split}
    holding = {str(inner) for parent in parents for inner in (parent, *parent.parents)}
    for prefix, searched in folder.searched:
        for entry in entries_below(searched, shown=holding):
            if f"{real(entry.path.rpartition('/')[0])}/{entry.name}" in known or str(Path(entry.path)) in holding:
                continue
            yield _reason(folder, entry), printable(f"{prefix}{os.path.relpath(entry.path, searched)}")


def _reason(folder: TileFolder, entry: Entry) -> str:
    if is_hidden(entry):
        return HIDDEN
    if is_folder(entry):
        listed = os.access(entry.path, os.R_OK | os.X_OK)
        return "a link to a folder that is read already" if listed else "a folder that cannot be listed"
    return folder.reason_unlisted if is_tile(Path(entry.path)) else NOT_AN_IMAGE
