"""Apply a function to items in a pool of threads or processes, a bounded number of items ahead, with the results in order."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import CancelledError, Executor, Future
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

STOP_SECONDS = 0.2  # within this time a waiting iterator ends after `stopped` is set


def mapped_in_order(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    pool: Executor,
    window: int,
    stopped: threading.Event | None = None,
) -> Generator[Result]:
    """Yield the results of `function` in the order of the items, computed in a pool ahead of what was yielded.

    `Executor.map` takes all items at once. This takes at most `window` items more than it has yielded results, so memory is
    bounded. Items are taken in the thread that iterates. After an exception of the function or of the items, and when the
    iterator is closed, no further item starts; the ones that run already end by themselves.

    Args:
        function: Called in the pool.
        items: Any number of items, even endless ones.
        pool: Where the function runs. Several iterators may share one.
        window: Number of items ahead, at least 1.
        stopped: After it is set, the iterator ends early; the pool may be shut down then.

    Raises:
        Exception: Whatever the function raised for an item, after the results of all items before it.
        RuntimeError: The pool was shut down, and `stopped` is not set.
    """
    if window < 1:
        raise ValueError(f"Expected a window of at least 1 item, got {window}.")
    stopped = stopped or threading.Event()
    remaining = iter(items)
    running: deque[Future[Result]] = deque()
    try:
        while not stopped.is_set():
            for item in islice(remaining, window - len(running)):
                running.append(pool.submit(function, item))
            if not running or not _is_done(running[0], stopped):
                return
            yield running.popleft().result()
    except (CancelledError, RuntimeError):
        if not stopped.is_set():
            raise
    finally:
        for future in running:
            future.cancel()


def in_chunks(items: Iterable[Item], num_items: int) -> Iterator[list[Item]]:
    """Yield the items in lists of `num_items`; the last may be shorter. A chunk is taken when it is asked for."""
    remaining = iter(items)
    while chunk := list(islice(remaining, num_items)):
        yield chunk


def _is_done(future: Future[Result], stopped: threading.Event) -> bool:
    """Wait for a future; return False if `stopped` is set first."""
    while not future.done():
        if stopped.is_set():
            return False
        try:
            future.exception(STOP_SECONDS)
        except TimeoutError:
            continue
    return True
