"""Queue of operations on disk: operations that cannot be done now are kept in order and done later.

While the queue is empty, operations are done at once and at no extra cost. When an operation cannot be done, it and
all later ones wait in a folder that belongs to this process. A process that finds the folder of a process that has
exited does the operations left in it first. Operations must be repeatable: one that was done just before a crash is
done again.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from satx.storage import locked, write_json

logger = logging.getLogger(__name__)

Operation = dict[str, Any]  # plain JSON
Perform = Callable[[Operation, Path | None], None]  # called with the operation and the folder of its files
RETRY_SECONDS = 10.0
OPERATION = "deed.json"  # the name that earlier versions used, so that their spools can be read
FILES, FAILED = "files", "failed-"


class Spool:
    """Queue of operations on disk that belongs to one process."""

    def __init__(
        self,
        folder: Path,
        perform: Perform,
        *,
        cannot_be_done_now: Callable[[Exception], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Adopt the queues in `folder` whose processes have exited, and choose a folder for a new queue beside them."""
        self._perform, self._cannot, self._clock = perform, cannot_be_done_now, clock
        self._tried_at, self._number = float("-inf"), 0
        self._held: dict[Path, ExitStack] = {}
        left = [path for queue in self._adopted(folder) for path in sorted(queue.iterdir())]
        self._waiting = deque(path for path in left if not path.name.startswith((".", FAILED)))
        self._folder = folder / f"{time.time_ns():020d}-{os.getpid()}"
        if self._waiting:
            logger.warning("%d operations that an earlier process queued are done first", len(self._waiting))

    @property
    def num_waiting(self) -> int:
        """Number of operations that are not done yet."""
        return len(self._waiting)

    def do(self, operation: Operation, files: Mapping[str, Callable[[Path], object]] | None = None) -> None:
        """Do an operation now, or queue it if it cannot be done or others are waiting.

        Args:
            operation: The operation.
            files: `{"plots/roc.png": write}`, where `write(path)` makes a file or folder of the operation.
        """
        self.drain()
        if not files and not self._waiting and self._done(operation, None):
            return
        self._number += 1
        self._folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._folder, prefix=".") as temporary:
            place = Path(temporary) / "operation"
            place.mkdir()
            for name, write in (files or {}).items():
                path = place / FILES / name
                path.parent.mkdir(parents=True, exist_ok=True)
                write(path)
            if files and not self._waiting and self._done(operation, place / FILES):
                return
            self._hold(self._folder)
            write_json(place / OPERATION, operation)
            self._waiting.append(place.rename(self._folder / f"{self._number:08d}"))

    def drain(self) -> bool:
        """Do the waiting operations in order; return True if none is left.

        Nothing is tried within `RETRY_SECONDS` of the last failed attempt. An operation that can never be done is
        renamed with the prefix `failed-` and skipped.
        """
        if not self._waiting or self._clock() - self._tried_at < RETRY_SECONDS:
            return not self._waiting
        while self._waiting:
            path = self._waiting[0]
            files = path / FILES
            try:
                if not self._done(json.loads((path / OPERATION).read_text()), files if files.is_dir() else None):
                    return False
            except (
                Exception
            ):  # repeated by every retry, the error would block all later operations; this one is set aside
                logger.exception("skipping %s, which can never be done", path)
                path.rename(path.with_name(f"{FAILED}{path.name}"))
            else:
                shutil.rmtree(path)
            self._waiting.popleft()
        logger.warning("all queued operations are done")
        return True

    def _done(self, operation: Operation, files: Path | None) -> bool:
        try:
            self._perform(operation, files)
        except Exception as error:  # only the caller of Spool knows which errors are temporary
            if not self._cannot(error):
                raise
            if not self._waiting:
                logger.warning("this operation and later ones are queued: %s", str(error).splitlines()[0][:200])
            self._tried_at = self._clock()
            return False
        return True

    def _adopted(self, folder: Path) -> list[Path]:
        """Lock the queues whose processes have exited, and return them, oldest first."""
        queues = sorted(path for path in folder.glob("*-*") if path.is_dir()) if folder.is_dir() else []
        return [path for path in queues if self._hold(path)]

    def _hold(self, queue: Path) -> bool:
        """Lock a queue so that no other process adopts it; return whether this process has the lock.

        The kernel releases the lock when the process exits.
        """
        if queue in self._held:
            return True
        lock = ExitStack()
        if not lock.enter_context(locked(queue, wait=False)):
            lock.close()
            return False
        self._held[queue] = lock
        return True

    def close(self) -> None:
        """Release the queues, and remove those that are empty."""
        for queue, lock in self._held.items():
            if not queue.is_dir() or not any(queue.iterdir()):
                shutil.rmtree(queue, ignore_errors=True)
                queue.with_suffix(".lock").unlink(missing_ok=True)
            lock.close()
        self._held.clear()
        if self._folder.is_dir() and not any(self._folder.iterdir()):
            self._folder.rmdir()
