"""Read a folder of tiles whatever its splits, as the commands do that come before a split."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from satx.errors import DataError
from satx.tiles.formats import is_tile
from satx.tiles.layout import (
    CSV_NAME,
    TileFile,
    check_is_folder,
    files_by_class,
    has_table,
    listed_files,
    split_named,
    tile_files,
)
from satx.tiles.listing import read_listing
from satx.tiles.walk import files_below, visible_folders

UNSPLIT_COLUMNS = ("path", "label")


@dataclass(frozen=True)
class UnsplitFolder:
    """The tiles of a folder, of which none, some or all have a split.

    Attributes:
        root: The folder that was read.
        files: Sorted by relative path; `split` is "" where a tile has none, `label` is "" where nobody gave one.
    """

    root: Path
    files: tuple[TileFile, ...]


def read_unsplit(root: Path) -> UnsplitFolder:
    """Find the tiles in a folder.

    Three layouts are supported: a `tiles.csv`, with or without a column `split`; `train|valid|test/<class>/*`; and
    `<class>/*`. Links, hidden files and spellings are treated as in `read_layout`. Files in class folders that are no images
    are left out.

    Args:
        root: The folder.

    Returns:
        The tiles, in an order that depends only on their paths.

    Raises:
        DataError: The folder is missing, empty or cannot be listed; it has no images; or `tiles.csv` cannot be read, or lists
            a file that does not exist.
    """
    check_is_folder(root)
    if has_table(root):
        files = listed_files(root, read_listing(root / CSV_NAME, required=UNSPLIT_COLUMNS))
    else:
        files = [file for file in _files_of_folders(root) if is_tile(file.path)]
    if not files:
        raise DataError(
            f"{root} has no images in folders. Expected <class>/*.jpg, for example school/a.jpg and not-school/b.jpg; "
            f"train|valid|test/<class>/*.jpg; or a {CSV_NAME} with the columns {','.join(UNSPLIT_COLUMNS)}."
        )
    return UnsplitFolder(root, tuple(sorted(files, key=lambda file: file.relative)))


def _files_of_folders(root: Path) -> list[TileFile]:
    splits = {folder: split_named(folder.name) for folder in visible_folders(root)}
    # A class may be called `test`, so one folder of that name beside others is not yet a split.
    if {"train", "valid"} <= set(splits.values()) or all(splits.values()):
        return [
            file
            for folder, split in splits.items()
            if split
            for file in tile_files(files_by_class(root, folder), split, f"{folder.name}/")
        ]
    return tile_files({folder: files_below(folder, entered=(root,)) for folder in splits}, "", "")
