"""Which request starts next: the one for the earliest tile, while few are under way and little waits to be taken."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from satx.imagery.polite import Pace

LOOK_AHEAD_BYTES = 64_000_000


class Window:
    """The tiles of one consumer that are ahead of what it took.

    Attributes:
        num_taken: Number of tiles that the consumer took; the next one is the tile of this index.
        num_bytes: Size of what was fetched and not taken yet.
    """

    def __init__(self) -> None:
        """Begin before the first tile."""
        self.num_taken = self.num_bytes = 0
        self._waiting: list[tuple[int, asyncio.Future[float]]] = []

    def wait(self, index: int) -> asyncio.Future[float]:
        """Return what is resolved, with the time, when a request for the tile of an index may start."""
        turn: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (index, turn))
        return turn

    def next_turn(self) -> asyncio.Future[float] | None:
        """Remove and return the turn of the earliest tile; None if there is none, or no room for what it brings.

        There is always room for the tile that the consumer takes next, since nothing gets free before.
        """
        while self._waiting and self._waiting[0][1].done():  # cancelled
            heapq.heappop(self._waiting)
        if self._waiting and (self.num_bytes < LOOK_AHEAD_BYTES or self._waiting[0][0] == self.num_taken):
            return heapq.heappop(self._waiting)[1]
        return None


class Turns:
    """Gives turns to the requests to one server: the earliest tiles first, at its pace, `concurrency` at a time.

    A tile that is repeated comes before all later ones, because the consumer waits for it.

    Attributes:
        windows: Those who wait, in the order of their beginning.
    """

    def __init__(self, pace: Pace, concurrency: int) -> None:
        """Give no turn before `give` runs."""
        self.windows: list[Window] = []
        self._pace = pace
        self._free = asyncio.Semaphore(concurrency)
        self._changed = asyncio.Event()

    @asynccontextmanager
    async def turn(self, window: Window, index: int) -> AsyncIterator[float]:
        """Wait for a turn, and hold it; yield the time of its start."""
        turn = window.wait(index)
        self._changed.set()
        try:
            yield await turn
        finally:
            if not turn.cancelled():  # a cancelled one was never given
                self._free.release()

    def took(self, window: Window, num_bytes: int) -> None:
        """Note that a consumer took a tile of so many bytes."""
        window.num_taken += 1
        window.num_bytes -= num_bytes
        self._changed.set()

    async def give(self) -> None:
        """Give turns, without an end."""
        while True:
            await self._free.acquire()
            turn = await self._next()
            started_at = await self._pace.turn()
            if turn.done():
                self._free.release()
            else:
                turn.set_result(started_at)

    async def _next(self) -> asyncio.Future[float]:
        while True:
            for window in self.windows:
                turn = window.next_turn()
                if turn is not None:
                    return turn
            self._changed.clear()
            await self._changed.wait()
