"""`satx gc`: remove what no training needs any more from `SATX_HOME`; never runs, studies, whole exports or their databases.

Safe beside a running sweep: a study that is being driven is left alone, and while one is, no cache is removed. What is
removed can be made again by the same command that made it.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import optuna

from satx.commands.console import out, table
from satx.storage import locked, satx_home
from satx.study.database import open_storage, open_study
from satx.study.outcomes import DONE, FAILED_FOR_GOOD

DAY_SECONDS = 86_400
BLOCK_BYTES = 512  # what `st_blocks` counts, whatever the disk
ABANDONED_DAYS = 1  # a temporary folder that nobody wrote to for so long has lost its process


@dataclass(frozen=True)
class Item:
    """Something to remove.

    Attributes:
        kind: What it is, for people.
        path: Where.
        size_gb: On disk.
        idle_days: Since it was last read or written.
    """

    kind: str
    path: Path
    size_gb: float
    idle_days: float


def gc_command(*, dry_run: bool, older_than_days: int) -> None:
    """Find, print and remove."""
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
        out.print(f"Sweep {study} is running: its files and all caches stay.", markup=False)
    print(f"{'Would free' if dry_run else 'Freed'} {total_gb:.3f} GB in {home}.")


def find_garbage(home: Path, *, older_than_days: int, in_use: set[str]) -> list[Item]:
    """What can go.

    Args:
        home: `SATX_HOME`.
        older_than_days: Caches and logs that were not used for so long go.
        in_use: Studies that a driver is working on; while there are any, all caches stay.

    Returns:
        The items, in the order they are removed.
    """
    cache = home / "cache"
    found = [("checkpoint", path, days) for path, days in _checkpoints(home, in_use, older_than_days)]
    written = (cache, home / "exports", home / "sample")
    abandoned = [path for folder in written for path in _temporary_folders(folder, in_use)]
    found += [("left by a killed process", path, ABANDONED_DAYS) for path in abandoned]
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


def _checkpoints(home: Path, in_use: set[str], older_than_days: int) -> Iterator[tuple[Path, int]]:
    """Checkpoints, and after how many days each may go.

    At once: those of configurations that finished, were pruned or failed for good, since none is trained again. In
    time: those of single trainings and of studies that are no longer on record. Never: what a sweep would continue.
    """
    folders = [folder for folder in _folders(home / "cache" / "checkpoints") if folder.name not in in_use]
    has_studies = (home / "studies.db").exists() or "SATX_STUDY_URL" in os.environ
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


def _temporary_folders(folder: Path, in_use: set[str]) -> list[Path]:
    """Folders under a temporary name, outside the checkpoints of studies that are being driven."""
    found = []
    for parent, names, _ in os.walk(folder):  # unlike a glob, it does not mind a folder that vanishes meanwhile
        found += [Path(parent) / name for name in names if name.startswith(".")]
        names[:] = [name for name in names if name not in in_use and not name.startswith(".")]
    return sorted(found)


@contextmanager
def _study_locks(home: Path) -> Iterator[set[str]]:
    """Hold the lock of every study that nobody drives, so that none starts meanwhile; yields the others."""
    held_elsewhere: set[str] = set()
    with ExitStack() as held:
        for path in sorted((home / "locks").glob("*.lock")):
            if not held.enter_context(locked(path.with_suffix(""), wait=False)):
                held_elsewhere.add(path.stem)
        yield held_elsewhere


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _size_and_last_use(path: Path) -> tuple[float, float]:
    """Size in GB, and when anything in it was last read or written, in seconds of the clock.

    Access times of folders do not count: they say only that somebody listed them.
    """
    paths = [path, *(Path(parent) / name for parent, _, names in os.walk(path) for name in names)]
    size_gb, last_used = 0.0, 0.0
    for item in paths:
        try:
            state = item.lstat()
        except FileNotFoundError:  # somebody is at work in it
            return 0.0, time.time()
        size_gb += state.st_blocks * BLOCK_BYTES / 1e9
        last_used = max(last_used, state.st_mtime, 0.0 if item.is_dir() else state.st_atime)
    return size_gb, last_used


def _remove(path: Path) -> None:
    """Out of sight in one step, then off the disk: a reader finds the whole or nothing."""
    if path.is_file():
        path.unlink(missing_ok=True)
        return
    gone = path.with_name(f".{path.name}.removed")
    shutil.rmtree(gone, ignore_errors=True)  # of a call that was killed half way
    path.rename(gone)
    shutil.rmtree(gone)
