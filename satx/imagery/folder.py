"""Tiles in a folder: found by their names, or placed by a template such as `/data/{z}/{x}/{y}.jpg`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path, PurePath

from satx.errors import DataError
from satx.imagery.contract import FAILED, MISSING, Fetched, Tile, Unscored
from satx.imagery.places import path_by_place
from satx.imagery.threaded import ThreadedImagery
from satx.tiles.decode import read_tile
from satx.tiles.formats import IMAGE_ENDINGS, BrokenTile, is_tile
from satx.tiles.walk import first_few, is_folder, printable, visible_files

_NUM_THREADS, _CHUNK_TILES = 8, 8
_NUM_LOOKED_INTO = 16  # files of an ending that is none of an image


def list_files(root: Path) -> list[str]:
    """Return the files of tiles below a folder, without opening all of them.

    Links to folders are followed; hidden files and folders are left out. Files with the ending of an image are tiles. Files with
    another ending or none are tiles if one of the first 16 with this ending, by name, is an image by its content.

    Returns:
        Paths within the folder, with `/`, in the order of their characters.

    Raises:
        DataError: A folder cannot be listed, a name is not UTF-8, or there is no tile.
    """
    if not is_folder(root):
        raise DataError(f"{root}: expected a folder of tiles, got {'a file' if root.exists() else 'nothing'}.")
    by_ending: defaultdict[str, list[str]] = defaultdict(list)
    skipped_chars = len(str(root / "_")) - 1
    for entry in visible_files(root):
        by_ending[_ending(entry.name)].append(entry.path[skipped_chars:])
    names = [name for ending, found in by_ending.items() if _are_tiles(root, ending, found) for name in found]
    names.sort()
    if not names:
        raise DataError(f"{root}: expected images of tiles, got {_content(by_ending)}. Name the folder that has them.")
    _check_encoding(root, names)
    return names


def open_folder(root: Path) -> ThreadedImagery:
    """Open a folder whose files are tiles: the id of a tile is the file's path within the folder.

    Its identity has no path, so that a run continues after the folder moved: the plan of the run has the names of its files.

    Raises:
        DataError: There is no such folder.
    """
    folder = str(root)
    return _opened(root, lambda tile: Path(f"{folder}/{tile.tile_id}"), {"kind": "folder"})


def open_folder_template(template: str) -> ThreadedImagery:
    """Open a folder whose files are found by the place of a tile.

    Args:
        template: A path such as `/data/{z}/{x}/{y}.jpg`, as `path_by_place` takes it.

    Raises:
        ConfigError: A placeholder is missing or unknown.
        DataError: The folder above the first placeholder does not exist.
    """
    parts = PurePath(template).parts
    path_of = path_by_place(str(PurePath(template)))
    num_fixed = next(number for number, part in enumerate(parts) if "{" in part)
    identity = {"kind": "folder", "template": "/".join(parts[num_fixed:])}
    return _opened(Path(*parts[:num_fixed]), lambda tile: Path(path_of(tile)), identity)


def _opened(root: Path, path_of: Callable[[Tile], Path], identity: dict[str, str]) -> ThreadedImagery:
    if not is_folder(root):
        raise DataError(
            f"{root}: expected a folder of tiles, found none. Check the path, and whether its disk is mounted."
        )
    device = _device(root)

    def fetch_one(tile: Tile) -> Fetched:
        try:
            return read_tile(path_of(tile))
        except BrokenTile as error:
            if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
                if _device(root) != device:
                    raise DataError(f"{root} vanished, or its disk was removed. Mount it, and run again.") from error
                return Unscored(MISSING, "no such file")
            return Unscored(FAILED if isinstance(error.__cause__, OSError) else error.kind, str(error))

    return ThreadedImagery(fetch_one, identity=identity, num_threads=_NUM_THREADS, chunk_tiles=_CHUNK_TILES)


def _ending(name: str) -> str:
    """Return the ending of a file's name, with its dot; without a Path, of which there would be millions."""
    _, dot, last = name.rpartition(".")
    return (dot + last).lower() if dot else ""


def _device(root: Path) -> tuple[int, int] | None:
    """Return the numbers of a folder and of its disk, which change if another disk is mounted there; None if it is gone."""
    try:
        status = root.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _are_tiles(root: Path, ending: str, names: list[str]) -> bool:
    if ending in IMAGE_ENDINGS:
        return True
    return any(is_tile(root / name) for name in sorted(names)[:_NUM_LOOKED_INTO])


def _check_encoding(root: Path, names: list[str]) -> None:
    others = [name for name in names if not name.isascii() and not _is_utf8(name)]
    if others:
        raise DataError(
            f"{root}: expected names of files in UTF-8, got {first_few(printable(name) for name in others)}. Rename them, for "
            f"example with convmv, since the results list each file by its name."
        )


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _content(by_ending: dict[str, list[str]]) -> str:
    counts = sorted(((len(names), ending or "without ending") for ending, names in by_ending.items()), reverse=True)
    return first_few(f"{count} {ending}" for count, ending in counts) or "no files"
