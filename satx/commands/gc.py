"""`satx gc`: remove files that no training needs any more from `SATX_HOME`.

Runs, studies, their databases and complete exports are never removed. It is safe to call during a sweep: the files of a
study with a running driver stay, and no cache is removed while a driver runs. The command that created a removed file
can create it again.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import optuna

from satx.commands.console import out, table
from satx.environment import environment
from satx.storage import is_abandoned, locked, satx_home, write_text
from satx.study.database import open_storage, open_study
from satx.study.outcomes import DONE, FAILED_FOR_GOOD
from satx.study.owner import owner_text

DAY_SECONDS = 86_400
BLOCK_BYTES = 512  # unit of `st_blocks`, on every disk
ABANDONED_DAYS = 1  # after this time without writes, the process that wrote a temporary folder without a lock is gone
JUST_MADE_DAYS = 1 / 1440  # a minute: a writer makes its folder before it can lock it
# folders in which satx writes with temporary names
WRITTEN = ("cache", "exports", "sample", "spool", "reports", "benchmarks", "logs", "locks")


@dataclass(frozen=True)
class Item:
    """Something to remove.

    Attributes:
        kind: What it is, in words for the table.
        path: The file or folder.
        size_gb: Its size on disk, in GB.
        idle_days: Days since it was last read or written.
    """

    kind: str
    path: Path
    size_gb: float
    idle_days: float


def gc_command(*, dry_run: bool, older_than_days: int) -> None:
    """Find, remove and print what is not needed any more; remove nothing in a dry run."""
    home = satx_home()
    with _study_locks(home) as held_elsewhere:
        items = find_garbage(home, older_than_days=older_than_days, in_use=held_elsewhere)
        if not dry_run:
            for item in items:
                _remove(item.path)
    rows = [[item.kind, item.path.relative_to(home), f"{item.size_gb:.3f}", f"{item.idle_days:.0f}"] for item in items]
    total_gb = sum(item.size_gb for item in items)
    if rows:
        table("To remove" if dry_run else "Removed", ["what", "where", "GB", "days idle"], rows, right=(2, 3))
    for study in sorted(held_elsewhere):
        out.print(f"Sweep {study} is running: its files and all caches are kept.")
    print(f"{'Would free' if dry_run else 'Freed'} {total_gb:.3f} GB in {home}.")


def find_garbage(home: Path, *, older_than_days: int, in_use: set[str]) -> list[Item]:
    """Find what can be removed.

    Args:
        home: `SATX_HOME`.
        older_than_days: Remove caches and logs that have not been used for this long.
        in_use: Studies with a running driver; while there are any, all caches stay.

    Returns:
        The items, in the order in which they are removed.
    """
    cache = home / "cache"
    found: list[tuple[str, Path, float]] = []
    found += [("checkpoint", path, days) for path, days in _checkpoints(home, in_use, older_than_days)]
    found += [
        ("left by a killed `satx tune`", path, ABANDONED_DAYS)
        for path in _folders(cache / "tune")
        if path.name not in in_use
    ]
    found += [("left by a killed process", path, days) for path, days in _temporary_folders(home, in_use)]
    if not in_use:
        found += [("tile store", path, older_than_days) for path in _folders(cache) if path.name.startswith("tiles-")]
        found += [("trunk cache", path, older_than_days) for path in _folders(cache / "trunk")]
    logs = [path for path in (home / "logs").rglob("*.log") if path.parent.name not in in_use]
    found += [("log", path, older_than_days) for path in sorted(logs)]
    items: list[Item] = []
    for kind, path, idle_days in found:
        size_gb, last_used = _size_and_last_use(path)
        idle = (time.time() - last_used) / DAY_SECONDS
        if idle >= idle_days and not any(path.is_relative_to(item.path) for item in items):
            items.append(Item(kind, path, size_gb, max(0.0, idle)))
    return items


def _checkpoints(home: Path, in_use: set[str], older_than_days: int) -> Iterator[tuple[Path, float]]:
    """Yield checkpoints, each with the number of idle days after which it may be removed.

    Removed at once: those of configurations that finished, were pruned or failed for good, since none is trained again.
    Removed after `older_than_days`: those of single trainings and of studies that are no longer on record. Never
    removed: those that a sweep would continue.
    """
    folders = [folder for folder in _folders(home / "cache" / "checkpoints") if folder.name not in in_use]
    has_studies = (home / "studies.db").exists() or environment().study_url is not None
    storage = open_storage() if folders and has_studies else None
    known = set() if storage is None else set(optuna.get_all_study_names(storage=storage))
    for folder in folders:
        if storage is None or folder.name not in known:
            yield from ((path, older_than_days) for path in _folders(folder))
            continue
        trials = open_study(storage, folder.name).get_trials(deepcopy=False)
        settled = {
            trial.user_attrs["configuration"][:16]
            for trial in trials
            if "configuration" in trial.user_attrs
            and (trial.state in DONE or trial.user_attrs.get("outcome") in FAILED_FOR_GOOD)
        }
        yield from ((path, 0) for path in _folders(folder) if path.name in settled)


def _temporary_folders(home: Path, in_use: set[str]) -> Iterator[tuple[Path, float]]:
    """Yield folders with a temporary name, each with the number of idle days after which it may be removed.

    Not yielded: those whose writer is alive, and those in the checkpoints of studies with a running driver.
    """
    direct = [path for path in home.iterdir() if path.is_dir() and path.name.startswith(".")]
    inside = [path for name in WRITTEN for path in _hidden_folders(home / name, in_use)]
    for path in sorted(direct + inside):
        abandoned = is_abandoned(path)
        if abandoned:
            yield path, JUST_MADE_DAYS
        elif abandoned is None and path.parent != home:  # without a lock; beside these folders it may be the user's
            yield path, ABANDONED_DAYS


def _hidden_folders(folder: Path, in_use: set[str]) -> list[Path]:
    found = []
    for parent, names, _ in os.walk(folder):  # unlike a glob, it tolerates folders that vanish meanwhile
        found += [Path(parent) / name for name in names if name.startswith(".")]
        names[:] = [name for name in names if name not in in_use and not name.startswith(".")]
    return found


@contextmanager
def _study_locks(home: Path) -> Iterator[set[str]]:
    """Hold the lock of every study without a running driver, so that none starts meanwhile; yield the other studies."""
    held_elsewhere: set[str] = set()
    with ExitStack() as held:
        for path in sorted((home / "locks").glob("*.lock")):
            if held.enter_context(locked(path.with_suffix(""), wait=False)):
                held.callback(path.with_suffix("").unlink, missing_ok=True)  # before the lock is released
                with suppress(OSError):  # gc may be called because the disk is full; the text is only for messages
                    write_text(path.with_suffix(""), owner_text("satx gc"))
            else:
                held_elsewhere.add(path.stem)
        yield held_elsewhere


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _size_and_last_use(path: Path) -> tuple[float, float]:
    """Return the size in GB, and when anything inside was last read or written, in seconds since 1970.

    Access times of folders do not count: they show only when a folder was listed.
    """
    paths = [path, *(Path(parent) / name for parent, _, names in os.walk(path) for name in names)]
    size_gb, last_used = 0.0, 0.0
    for item in paths:
        try:
            state = item.lstat()
        except FileNotFoundError:  # another process is working in it
            return 0.0, time.time()
        size_gb += state.st_blocks * BLOCK_BYTES / 1e9
        last_used = max(last_used, state.st_mtime, 0.0 if item.is_dir() else state.st_atime)
    return size_gb, last_used


def _remove(path: Path) -> None:
    """Delete a file, or rename a folder in one step and then delete it, so that readers find all of it or nothing."""
    if path.is_file():
        path.unlink(missing_ok=True)
        return
    gone = path.with_name(f".{path.name}.removed")
    shutil.rmtree(gone, ignore_errors=True)  # left by a call that was killed halfway
    path.rename(gone)
    shutil.rmtree(gone)
