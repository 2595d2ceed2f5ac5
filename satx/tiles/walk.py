"""Walk folders of tiles in a fixed order, and tell which files are hidden."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Set
from pathlib import Path

from satx.errors import DataError

Entry = os.DirEntry[str]


def printable(name: str) -> str:
    r"""Return a file name that can be printed and stored, with `\x..` for bytes that are not UTF-8."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def first_few(names: Iterable[str]) -> str:
    """Return up to three names, and how many more there are."""
    names = list(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def entries_below(folder: Path, *, entered: Iterable[Path] = (), shown: Set[str] = frozenset()) -> Iterator[Entry]:
    """Yield every file below a folder, following links to folders.

    A folder is only yielded if it is not entered: because it is hidden, was entered before (through a link, or as itself),
    or cannot be listed.

    Args:
        folder: Where to begin.
        entered: Folders that count as entered before.
        shown: Paths of hidden folders to enter nevertheless.

    Raises:
        DataError: The folder itself cannot be listed.
    """
    seen = {os.path.realpath(path) for path in (folder, *entered)}
    pending: list[tuple[Path, Entry | None]] = [(folder, None)]
    while pending:
        current, as_entry = pending.pop()
        try:
            with os.scandir(current) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            if as_entry is None:
                raise DataError(f"{folder} cannot be listed ({error.strerror}). Make it readable.") from error
            yield as_entry
            continue
        for entry in entries:
            enters = is_folder(entry) and (not is_hidden(entry) or str(Path(entry.path)) in shown)
            if enters and (real := os.path.realpath(entry.path)) not in seen:
                seen.add(real)
                pending.append((Path(entry.path), entry))
            else:
                yield entry


def exists(path: Path) -> bool:
    """Return whether a path exists; `Path.exists` raises for a name that is too long."""
    try:
        return path.exists()
    except OSError:
        return False


def is_folder(entry: Entry | Path) -> bool:
    """Return whether an entry is a folder, or a link to one; a link that leads nowhere or to itself is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def is_hidden(entry: Entry) -> bool:
    """Return whether a file or folder is hidden, or a folder that a program made for itself, such as `__MACOSX`."""
    return entry.name.startswith(".") or (entry.name.startswith("__") and is_folder(entry))


def visible_files(folder: Path, *, entered: Iterable[Path] = ()) -> Iterator[Entry]:
    """Yield every file below a folder that is not hidden.

    Raises:
        DataError: A folder cannot be listed.
    """
    for entry in entries_below(folder, entered=entered):
        if is_hidden(entry):
            continue
        if not is_folder(entry):
            yield entry
        elif not os.access(entry.path, os.R_OK | os.X_OK):
            raise DataError(f"{entry.path} cannot be listed. Make it readable, or remove it.")


def files_below(folder: Path, *, entered: Iterable[Path] = ()) -> list[Path]:
    """Return the path of every file below a folder that is not hidden.

    Raises:
        DataError: A folder cannot be listed.
    """
    return [Path(entry.path) for entry in visible_files(folder, entered=entered)]


def visible_folders(folder: Path) -> list[Path]:
    """Return the folders in a folder that are not hidden, sorted."""
    return sorted(path for path in folder.iterdir() if is_folder(path) and not path.name.startswith((".", "__")))


def content_of(folder: Path) -> str:
    """Return which folders and how many files of which endings a folder has, for messages."""
    folders = [f"{path.name}/" for path in visible_folders(folder)]
    files = _endings(path for path in folder.iterdir() if path.is_file())
    return f"{'the folders ' + first_few(folders) if folders else 'no folders'} and {files}"


def content_below(folder: Path) -> str:
    """Return how many files of which endings are below a folder, for messages."""
    if not visible_folders(folder):
        return f"{_endings(files_below(folder))} and no folders"
    return f"{_endings(files_below(folder))} in folders"


def _endings(paths: Iterable[Path]) -> str:
    counts = Counter(path.suffix.lower() or "extensionless" for path in paths)
    named = [f"{count} {ending} file{'s' * (count > 1)}" for ending, count in counts.most_common(4)]
    return ", ".join(named) or "no files"
