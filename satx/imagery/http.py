"""Imagery over HTTP: the tiles of a server, asked for as fast as it allows and not faster.

aiohttp rather than httpx, because of what a tile costs, and HTTP/1.1 rather than HTTP/2: `experiments/benchmarks/fetch.py`
measures both.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from functools import partial
from itertools import islice
from typing import Any

from satx import __version__
from satx.errors import ConfigError
from satx.imagery.contract import Fetched, Tile
from satx.imagery.http_requests import Patience, TileServer, logger
from satx.imagery.template import read_template
from satx.imagery.turns import Window

LOOK_AHEAD_TILES = 4000  # what a fast server gives while one tile is repeated
MAX_CONCURRENCY = 64
CLOSE_SECONDS = 5.0


def open_http(
    template_text: str,
    *,
    environ: Mapping[str, str] = os.environ,
    concurrency: int = 8,
    attribution: str = "",
    contact: str = "",
    patience: Patience | None = None,
) -> HttpImagery:
    """Open a tile server as a source of imagery.

    The server's terms of use apply: that of OpenStreetMap, for one, forbids to download in bulk. There is no default server.

    Args:
        template_text: URL of a tile, as `read_template` reads it.
        environ: The environment, where keys are.
        concurrency: Requests under way at a time, from 1 to `MAX_CONCURRENCY`.
        attribution: Text to print beside the imagery.
        contact: Where the operator of the server reaches the user, such as an address of electronic mail; sent with each
            request after the name and version of satx.
        patience: How long to wait; None for the defaults.

    Raises:
        ConfigError: The template or an option is wrong.
    """
    template = read_template(template_text, environ)
    if not 1 <= concurrency <= MAX_CONCURRENCY:
        raise ConfigError(f"Expected a concurrency from 1 to {MAX_CONCURRENCY}, got {concurrency}.")
    if not (contact.isascii() and contact.isprintable()):
        raise ConfigError(f"Expected a contact of printable ASCII characters, got {contact!r}.")
    if template.warning:
        logger.warning(template.warning)
    user_agent = f"satx/{__version__}" + (f" ({contact})" if contact else "")
    server = partial(
        TileServer, template, concurrency=concurrency, user_agent=user_agent, patience=patience or Patience()
    )
    identity = {"kind": "http", "template": template.shown, "digest": template.digest}
    return HttpImagery(server, identity=identity, attribution=attribution)


class _Consumer:
    """A generator of `fetch`: its window, and the tasks of its tiles. Both are used in the event loop only."""

    def __init__(self) -> None:
        self.window = Window()
        self.tasks: set[asyncio.Task[Fetched]] = set()


class HttpImagery:
    """The tiles of a server, fetched by an event loop in a thread of its own.

    Attributes:
        identity: Kind of the source, its template without secrets, and the digest of what the template hides besides.
        attribution: Text to print beside the imagery.
    """

    def __init__(self, server: Callable[[], TileServer], *, identity: Mapping[str, Any], attribution: str) -> None:
        """Start the thread; nothing is asked for yet.

        Args:
            server: Makes the server, in the event loop.
            identity: What the source is, as JSON, without secrets.
            attribution: Text to print beside the imagery.
        """
        self.identity = identity
        self.attribution = attribution
        self._failure: BaseException | None = None
        self._consumers: set[_Consumer] = set()
        self._calling = threading.Lock()
        self._is_closed = False
        self._server: TileServer
        self._loop: asyncio.AbstractEventLoop
        self._stopped: asyncio.Event
        started: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(server, started), name="satx-http", daemon=True)
        self._thread.start()
        started.result()

    def fetch(self, tiles: Iterable[Tile]) -> Iterator[Fetched]:
        """Yield what each tile gives, in the order of the tiles; after `close`, end early.

        At most `LOOK_AHEAD_TILES` tiles are taken beyond those that were yielded, and not many more than
        `turns.LOOK_AHEAD_BYTES` bytes wait to be yielded. Several generators share the server's limits.

        Raises:
            DataError: The server refuses the key, has been down for too long, or gave no tile at all.
        """
        if self._failure is not None:
            raise self._failure
        consumer = _Consumer()
        remaining = enumerate(tiles)
        pending: deque[Future[Fetched | None]] = deque()
        try:
            while True:
                for index, tile in islice(remaining, LOOK_AHEAD_TILES - len(pending)):
                    pending.append(Future())
                    if not self._call(self._begin, consumer, index, tile, pending[-1]):
                        return
                fetched = pending.popleft().result() if pending else None
                if fetched is None:
                    return
                self._call(self._took, consumer, len(fetched) if isinstance(fetched, bytes) else 0)
                yield fetched
        finally:
            self._call(self._end, consumer)

    def close(self) -> None:
        """End the thread and its connections, whatever they wait for; generators of `fetch` end soon after."""
        with self._calling:
            if not self._is_closed:
                self._is_closed = True
                self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(CLOSE_SECONDS)  # a search for the name of a server cannot be ended

    def _call(self, function: Callable[..., None], *arguments: Any) -> bool:
        """Call a function in the event loop, later; return False if the source was closed.

        What is called before `close` runs before the loop ends, so each tile that was begun gets a result.
        """
        with self._calling:
            if not self._is_closed:
                self._loop.call_soon_threadsafe(function, *arguments)
            return not self._is_closed

    def _run(self, server: Callable[[], TileServer], started: Future[None]) -> None:
        try:
            asyncio.run(self._serve(server, started))
        except BaseException as error:
            if started.done():
                raise
            started.set_exception(error)

    async def _serve(self, server: Callable[[], TileServer], started: Future[None]) -> None:
        """Run until `close`."""
        self._loop, self._stopped, self._server = asyncio.get_running_loop(), asyncio.Event(), server()
        giving = asyncio.create_task(self._server.turns.give())
        giving.add_done_callback(self._fail_with)
        started.set_result(None)
        try:
            await self._stopped.wait()
        finally:
            giving.cancel()
            tasks = [task for consumer in self._consumers for task in consumer.tasks]
            for task in tasks:
                task.cancel()
            await asyncio.gather(giving, *tasks, return_exceptions=True)
            await self._server.close()

    def _begin(self, consumer: _Consumer, index: int, tile: Tile, result: Future[Fetched | None]) -> None:
        if self._failure is not None:
            result.set_exception(self._failure)
            return
        if consumer not in self._consumers:
            self._consumers.add(consumer)
            self._server.turns.windows.append(consumer.window)
        task = self._loop.create_task(self._server.fetched(tile, consumer.window, index))
        consumer.tasks.add(task)
        task.add_done_callback(partial(self._finish, consumer, result))

    def _finish(self, consumer: _Consumer, result: Future[Fetched | None], task: asyncio.Task[Fetched]) -> None:
        consumer.tasks.discard(task)
        self._fail_with(task)
        if self._failure is not None and (task.cancelled() or task.exception() is not None):
            result.set_exception(self._failure)
        elif task.cancelled():
            result.set_result(None)
        else:
            fetched = task.result()
            consumer.window.num_bytes += len(fetched) if isinstance(fetched, bytes) else 0
            result.set_result(fetched)

    def _took(self, consumer: _Consumer, num_bytes: int) -> None:
        self._server.turns.took(consumer.window, num_bytes)

    def _end(self, consumer: _Consumer) -> None:
        if consumer in self._consumers:
            self._consumers.discard(consumer)
            self._server.turns.windows.remove(consumer.window)
        for task in consumer.tasks:
            task.cancel()

    def _fail_with(self, task: asyncio.Task[Any]) -> None:
        """If a task failed, end all others with its error, which is one of the whole source."""
        error = None if task.cancelled() else task.exception()
        if error is not None and self._failure is None:
            self._failure = error
            for consumer in self._consumers:
                for other in consumer.tasks:
                    other.cancel()
