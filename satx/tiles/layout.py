"""Find the class and split of every file in a folder of tiles, without decoding it.

Two layouts are supported: `train|valid|test/<class>/*`, or a `tiles.csv` at the root (`path,label,split,slice`), which
takes precedence if it exists. Whether a file is an image is decided later, by its content. Tiles that have no split yet are read
by `unsplit.py`.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from satx.errors import DataError
from satx.tiles.formats import is_tile
from satx.tiles.listing import ListedTile, read_listing
from satx.tiles.walk import (
    content_below,
    content_of,
    exists,
    files_below,
    first_few,
    printable,
    visible_folders,
)

SPLITS = ("train", "valid", "test")
SAMPLE_MARKER = "SATX_SAMPLE.json"  # present in every folder of rendered tiles, and only there
CSV_NAME = "tiles.csv"

_SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "valid": "valid",
    "validation": "valid",
    "val": "valid",
    "test": "test",
    "testing": "test",
}
_OUTSIDE = "in no class folder of a split"
_EXAMPLE = (
    "Expected train/<class>/*.jpg and valid/<class>/*.jpg (test/ is optional; JPEG, PNG, WebP, TIFF, GIF or BMP), for example "
    "train/school/a.jpg, train/not-school/b.jpg, valid/school/c.jpg, valid/not-school/d.jpg; "
    "or a tiles.csv with the columns path,label,split,slice."
)


@dataclass(frozen=True)
class TileFile:
    """One image file, with its class, split and slice according to the layout.

    Attributes:
        path: Path to open the file.
        relative: Path within the folder, with `/`; unique.
        label: Its class, with a normalized name.
        split: One of `SPLITS`.
        slice: The slice it belongs to, "" if unknown.
        is_listed: Whether `tiles.csv` lists it, so that it is a tile or broken, whatever it contains.
    """

    path: Path
    relative: str
    label: str
    split: str
    slice: str
    is_listed: bool = False


@dataclass(frozen=True)
class TileFolder:
    """All tiles of one session.

    Attributes:
        root: The folder that was read.
        files: Sorted by split (in the order of `SPLITS`), then label, then relative path.
        classes: Sorted by name; a class index is an index into this tuple.
        marker: The text of `SATX_SAMPLE.json` if the tiles were rendered, else None.
        searched: The folders that hold the tiles, in which every file is read or counted as not read; each with the
            prefix of relative paths in it.
        reason_unlisted: Why the layout leaves out other images in these folders.
    """

    root: Path
    files: tuple[TileFile, ...]
    classes: tuple[str, ...]
    marker: str | None
    searched: tuple[tuple[str, Path], ...]
    reason_unlisted: str

    @property
    def sample(self) -> bool:
        """Whether these tiles were rendered rather than photographed."""
        return self.marker is not None


def read_layout(root: Path) -> TileFolder:
    """Find the tiles in a folder.

    Accepts synonyms for the split folders (`validation`, `val`, `training`, `testing`) and spelling variants of a class
    (`not_school`, `Not School`). Also reads folders inside a class folder, and follows links to folders; skips hidden
    files.

    Args:
        root: A folder with `train/`, `valid/` and optionally `test/`, or with a `tiles.csv`.

    Returns:
        The tiles, in an order that depends only on names.

    Raises:
        DataError: The folder is missing, empty, cannot be listed or has another layout; it has no images or only one
            class; a class has no tiles in a split; or `tiles.csv` has no splits, or lists a file that does not exist.
    """
    check_is_folder(root)
    if has_table(root):
        return _folder_of_csv(root)
    folders = _split_folders(root)
    found = {folder: files_by_class(root, folder) for _, folder in folders}
    _check_any_images(root, found)
    files = [file for split, folder in folders for file in tile_files(found[folder], split, f"{folder.name}/")]
    return _tile_folder(root, files, _marker([root]), (("", root),), _OUTSIDE)


def has_layout(root: Path) -> bool:
    """Return whether a folder has a `tiles.csv`, or folders for both required splits, so that `read_layout` can read it."""
    if not root.is_dir():
        return False
    splits = {split_named(folder.name) for folder in visible_folders(root)}
    return (root / CSV_NAME).is_file() or {"train", "valid"} <= splits


def read_split_folders(train: Path, valid: Path, test: Path | None = None) -> TileFolder:
    """Find the tiles in separate folders for the splits.

    Args:
        train: Holds one folder per class.
        valid: Holds one folder per class, for the same classes.
        test: Likewise; None if there is no test split.

    Returns:
        The tiles, with relative paths `train/…`, `valid/…` and `test/…` whatever the folders are called.

    Raises:
        DataError: As in `read_layout`, or two splits have the same folder.
    """
    by_split = {"train": train, "valid": valid} | ({} if test is None else {"test": test})
    splits: dict[Path, str] = {}
    for split, folder in by_split.items():
        check_is_folder(folder)
        if (other := splits.setdefault(folder.resolve(), split)) != split:
            raise DataError(
                f"Expected a folder of its own for each split, got {by_split[other]} for {other} and {split}. "
                f"Pass different folders."
            )
    found = {folder: files_by_class(folder, folder) for folder in by_split.values()}
    _check_any_images(train, found)
    files = [file for split, folder in by_split.items() for file in tile_files(found[folder], split, f"{split}/")]
    root = Path(os.path.commonpath(list(splits)))
    # A rendered folder keeps its marker beside its split folders.
    marker = _marker(place for folder in by_split.values() for place in (folder, folder.resolve().parent))
    searched = tuple((f"{split}/", folder) for split, folder in by_split.items())
    return _tile_folder(root, files, marker, searched, _OUTSIDE)


def check_is_folder(root: Path) -> None:
    """Raise a DataError unless a folder exists and is not empty."""
    if not exists(root):
        raise DataError(f"There is no folder {root}. {_EXAMPLE}")
    if not root.is_dir():
        raise DataError(f"{root} is a file, not a folder. {_EXAMPLE}")
    if not any(root.iterdir()):
        raise DataError(f"The folder {root} is empty. {_EXAMPLE}")


def has_table(root: Path) -> bool:
    """Return whether a folder has a `tiles.csv`.

    Raises:
        DataError: It is no file that can be read.
    """
    table = root / CSV_NAME
    if os.path.lexists(table) and not table.is_file():
        raise DataError(f"{table}: expected a file, got a link that leads nowhere, or a pipe. Replace or remove it.")
    return table.is_file()


def split_named(name: str) -> str | None:
    """Return which of `SPLITS` a name means, in any case and spelling; None for other names."""
    return _SPLIT_NAMES.get(name.lower())


def files_by_class(root: Path, folder: Path) -> dict[Path, list[Path]]:
    """Return the files of every class folder of a split; links up to the split or the root are not entered."""
    return {inner: files_below(inner, entered=(root, folder)) for inner in visible_folders(folder)}


def tile_files(by_class: dict[Path, list[Path]], split: str, prefix: str) -> list[TileFile]:
    """Return the files of class folders, with relative paths that begin with a prefix."""
    files: list[TileFile] = []
    for class_folder, paths in by_class.items():
        label, start = _normalized(class_folder.name), len(str(class_folder.parent)) + 1
        files += [TileFile(path, printable(f"{prefix}{str(path)[start:]}"), label, split, "") for path in paths]
    return files


def listed_files(root: Path, tiles: Sequence[ListedTile]) -> list[TileFile]:
    """Return the files of a table; the split is "" for a tile that has none, or is left out.

    Raises:
        DataError: A file does not exist, or a split has an unknown name.
    """
    files = []
    for tile in tiles:
        split = split_named(tile.split) if tile.split else ""
        if split is None:
            raise DataError(_wrong_line(root, tile))
        label, split = _normalized(tile.label), "" if tile.left_out else split
        files.append(TileFile(root / tile.relative, tile.relative, label, split, tile.slice, is_listed=True))
    missing = [file.relative for file in files if not exists(file.path)]
    if missing:
        raise DataError(
            f"{root / CSV_NAME} lists {len(files)} files, of which {len(missing)} are missing: {first_few(missing)}. "
            f"Paths are relative to {root}. Add the files or remove their lines."
        )
    return files


def _marker(folders: Iterable[Path]) -> str | None:
    for folder in folders:
        if (folder / SAMPLE_MARKER).is_file():
            return (folder / SAMPLE_MARKER).read_text(encoding="utf-8", errors="replace")
    return None


def _split_folders(root: Path) -> list[tuple[str, Path]]:
    found: dict[str, Path] = {}
    for folder in visible_folders(root):
        split = split_named(folder.name)
        if split is None:
            continue
        if split in found:
            both = f"{found[split].name}/ and {folder.name}/"
            raise DataError(f"{root} has both {both} for the {split} split. Keep one of them.")
        found[split] = folder
    missing = [f"{split}/" for split in ("train", "valid") if split not in found]
    if missing:
        raise DataError(f"{root} has no {' and no '.join(missing)}: found {content_of(root)}. {_EXAMPLE}")
    return [(split, found[split]) for split in SPLITS if split in found]


def _check_any_images(root: Path, split_folders: dict[Path, dict[Path, list[Path]]]) -> None:
    """Look into the files of every class folder until the first image is found."""
    class_folders = {inner: paths for by_class in split_folders.values() for inner, paths in by_class.items()}
    empty = [folder for folder, paths in class_folders.items() if not any(is_tile(path) for path in paths)]
    if len(empty) == len(class_folders):
        found = "; ".join(f"{folder.name}/ has {content_below(folder)}" for folder in split_folders)
        raise DataError(f"{root} has no images in class folders: {found}. {_EXAMPLE}")
    if empty:
        raise DataError(
            f"The class folder {empty[0]} has no images: found {content_below(empty[0])}. "
            f"Put images of the class there, or remove the folder from every split."
        )


def _folder_of_csv(root: Path) -> TileFolder:
    listed = read_listing(root / CSV_NAME)
    tiles = [tile for tile in listed if not tile.left_out]
    if not any(tile.split for tile in tiles):
        raise DataError(
            f"{root / CSV_NAME} lists {len(listed)} tiles without a split. "
            f"Run `satx data split {quote(str(root))}` to put them into {', '.join(SPLITS)}."
        )
    for tile in tiles:
        if not tile.label or split_named(tile.split) is None:
            raise DataError(_wrong_line(root, tile))
    unlisted = f"not listed in {CSV_NAME}" + (", or left out by it" if len(tiles) < len(listed) else "")
    return _tile_folder(root, listed_files(root, tiles), _marker([root]), (("", root),), unlisted)


def _wrong_line(root: Path, tile: ListedTile) -> str:
    return (
        f"{root / CSV_NAME}, line {tile.line}: expected a label and a split ({', '.join(SPLITS)}), "
        f"got label {tile.label!r} and split {tile.split!r}. Correct that line."
    )


def _tile_folder(
    root: Path, files: list[TileFile], marker: str | None, searched: tuple[tuple[str, Path], ...], reason_unlisted: str
) -> TileFolder:
    labels = {split: {file.label for file in files if file.split == split} for split in SPLITS}
    for split in ("train", "valid"):
        if not labels[split]:
            raise DataError(f"{root} has no tiles in its {split} split. {_EXAMPLE}")
    classes = sorted(set().union(*labels.values()))
    if len(classes) < 2:
        raise DataError(f"{root} has the class {classes[0]!r} only; expected two or more. {_EXAMPLE}")
    for split in [split for split in SPLITS if labels[split]]:
        lacking = [label for label in classes if label not in labels[split]]
        if lacking:
            raise DataError(
                f"The {split} split of {root} has no tiles of {', '.join(lacking)}, which another split has. "
                f"Expected every class in every split: add tiles of it to {split}, or remove the class from the others."
            )
    ordered = sorted(files, key=lambda file: (SPLITS.index(file.split), file.label, file.relative))
    return TileFolder(root, tuple(ordered), tuple(classes), marker, searched, reason_unlisted)


def _normalized(name: str) -> str:
    """Return the name of a class in lower case, with `-` for spaces and `_`."""
    # macOS stores accents decomposed, other systems composed; both must give the same class.
    plain = unicodedata.normalize("NFC", printable(name)).strip().lower()
    return re.sub(r"[\s_-]+", "-", plain).strip("-") or plain
