"""A source of imagery made of a function that gives one tile: it runs in threads, and the tiles come in order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from typing import Any

from satx.imagery.ahead import in_chunks, mapped_in_order
from satx.imagery.contract import Fetched, Tile

MAX_CHUNK_BYTES = 16_000_000  # far more than a chunk of common tiles has


def _nothing() -> None:
    """Close nothing."""


class ThreadedImagery:
    """Imagery whose tiles are fetched by a function, in several threads.

    Tiles are handed to the threads in chunks, since a job costs about as much as reading a small file. At most `num_ahead`
    tiles are in memory, and of each chunk only about `MAX_CHUNK_BYTES`: the tiles beyond are fetched when it is their turn.

    Attributes:
        identity: What the source is, as JSON.
        attribution: Text to print beside the imagery.
        num_ahead: Largest number of tiles taken beyond those that were yielded.
    """

    def __init__(
        self,
        fetch_one: Callable[[Tile], Fetched],
        *,
        identity: Mapping[str, Any],
        attribution: str = "",
        num_threads: int,
        chunk_tiles: int,
        on_close: Callable[[], None] = _nothing,
        stopped: threading.Event | None = None,
    ) -> None:
        """Start no thread yet.

        Args:
            fetch_one: Gives what one tile gives; raises only an error of the whole source.
            identity: What the source is, as JSON, without secrets.
            attribution: Text to print beside the imagery.
            num_threads: Threads that call `fetch_one`.
            chunk_tiles: Tiles that a thread fetches one after another.
            on_close: Called once, after all threads have ended.
            stopped: Is set by `close`, for a `fetch_one` that may wait for long.
        """
        self.identity = identity
        self.attribution = attribution
        self.num_ahead = 2 * num_threads * chunk_tiles
        self._fetch_one = fetch_one
        self._num_threads = num_threads
        self._chunk_tiles = chunk_tiles
        self._on_close = on_close
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix=f"satx-{identity['kind']}")
        self._closing = threading.Lock()
        self._stopped = stopped or threading.Event()

    def fetch(self, tiles: Iterable[Tile]) -> Iterator[Fetched]:
        """Yield what each tile gives, in the order of the tiles; after `close`, end early.

        Raises:
            DataError: The source cannot be used at all.
        """
        pooled = partial(mapped_in_order, pool=self._pool, stopped=self._stopped)
        chunks = in_chunks(tiles, self._chunk_tiles)
        with closing(pooled(self._fetch_chunk, chunks, window=2 * self._num_threads)) as fetched:
            for chunk, results in fetched:
                for tile, result in zip(chunk, results, strict=True):
                    if self._stopped.is_set():
                        return
                    if result is None:
                        yield from pooled(self._fetch_one, (tile,), window=1)
                    else:
                        yield result

    def close(self) -> None:
        """End the threads, after the tiles that they are fetching."""
        self._stopped.set()
        self._pool.shutdown(wait=True, cancel_futures=True)
        with self._closing:
            on_close, self._on_close = self._on_close, _nothing
        on_close()

    def _fetch_chunk(self, chunk: list[Tile]) -> tuple[list[Tile], list[Fetched | None]]:
        """Return the chunk, and what its tiles give; None for tiles to fetch later because those before them are large."""
        results: list[Fetched | None] = []
        num_bytes = 0
        for tile in chunk:
            if num_bytes > MAX_CHUNK_BYTES or self._stopped.is_set():
                results.append(None)
                continue
            result = self._fetch_one(tile)
            results.append(result)
            num_bytes += len(result) if isinstance(result, bytes) else 0
        return chunk, results
