"""Walk folders of tiles in a fixed order, and tell which files are hidden."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from satx.errors import DataError


def printable(name: str) -> str:
    r"""Return a file name that can be printed and stored, with `\x..` for bytes that are not UTF-8."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def entries_below(folder: Path, *, above: frozenset[str] = frozenset()) -> Iterator[os.DirEntry[str]]:
    """Yield every file below a folder, sorted by name, following links to folders.

    A folder is only yielded if it is not entered: because it is hidden, or a link to a folder above it.

    Raises:
        DataError: A folder cannot be listed.
    """
    here = os.path.realpath(folder)
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{folder} cannot be listed ({error.strerror}). Make it readable, or remove it.") from error
    for entry in entries:
        if entry.is_dir() and not is_hidden(entry) and os.path.realpath(entry.path) not in above | {here}:
            yield from entries_below(Path(entry.path), above=above | {here})
        else:
            yield entry


def is_hidden(entry: os.DirEntry[str]) -> bool:
    """Return whether a file or folder is hidden, or a folder that a program made for itself, such as `__MACOSX`."""
    return entry.name.startswith(".") or (entry.name.startswith("__") and entry.is_dir())


def files_below(folder: Path) -> Iterator[Path]:
    """Yield the path of every file below a folder that is not hidden, sorted by name."""
    return (Path(entry.path) for entry in entries_below(folder) if not is_hidden(entry) and not entry.is_dir())
