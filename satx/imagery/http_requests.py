"""The requests for the tiles of one server: which ones are repeated, and when the server is down.

A tile is not given up because of what may be the fault of the server as a whole. After its last repetition, the server has to
give another tile, one that was asked for later or one that it gave before; then the tile is asked for once more. A server
that gives none is down: all requests pause until it answers again, or for `Patience.outage_seconds`.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

import tenacity

from satx.errors import DataError
from satx.imagery.contract import FAILED, Fetched, Tile, Unscored
from satx.imagery.http_answers import NO_ACCESS, REDIRECTS, TOO_MANY, Unsettled, meaning, redirected_to
from satx.imagery.http_exchange import Answer, Connections, NoAnswer
from satx.imagery.polite import Pace
from satx.imagery.template import Template
from satx.imagery.turns import Turns, Window

CONTINUE = "Run the same command again to continue; finished work is kept."

_Turn = Callable[[], AbstractAsyncContextManager[float]]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Patience:
    """How long to wait for a server.

    Attributes:
        num_attempts: Requests for a tile, until the server itself is in doubt.
        request_seconds: For one request with all its bytes.
        tile_seconds: For all requests for a tile together; pauses that the server asks for do not count.
        first_wait_seconds: Before the first repetition; doubled before each further one.
        longest_wait_seconds: The largest of these waits.
        jitter_seconds: A random part, up to which is added to each of them.
        num_refusals: Answers of 429 to one tile, until the server itself is in doubt.
        num_without_access: Answers of 401 and 403, before the server gave anything, after which its key is wrong.
        longest_pause_seconds: The longest `Retry-After` to wait for.
        outage_seconds: How long the server may be down.
        probe_seconds: Time between two looks at a server that is down.
    """

    num_attempts: int = 5
    request_seconds: float = 20.0
    tile_seconds: float = 60.0
    first_wait_seconds: float = 0.25
    longest_wait_seconds: float = 10.0
    jitter_seconds: float = 1.0
    num_refusals: int = 10
    num_without_access: int = 10
    longest_pause_seconds: float = 600.0
    outage_seconds: float = 600.0
    probe_seconds: float = 5.0


@dataclass
class _Budget:
    """Seconds that are left for the requests for a tile."""

    seconds: float


class TileServer:
    """Requests to one server, in one event loop."""

    def __init__(self, template: Template, *, concurrency: int, user_agent: str, patience: Patience) -> None:
        """Open no connection yet; call it within the event loop.

        Args:
            template: The URLs.
            concurrency: Requests under way at a time.
            user_agent: How satx identifies itself.
            patience: How long to wait.
        """
        self.pace = Pace()
        self.turns = Turns(self.pace, concurrency)
        self._template, self._patience = template, patience
        # One more than there are turns, for a look at a server that is in doubt.
        self._connections = Connections(template, limit=concurrency + 1, user_agent=user_agent)
        self._checking = asyncio.Lock()
        self._given: str | None = (
            None  # address of a request that the server settled, of a tile that it gave if there is one
        )
        self._good_at = -math.inf  # when the latest request began that told what a tile is
        self._outage_ended_at = -math.inf
        self._num_without_access = 0

    async def close(self) -> None:
        """End all connections."""
        await self._connections.close()

    async def fetched(self, tile: Tile, window: Window, index: int) -> Fetched:
        """Return what a tile gives.

        Args:
            tile: The tile.
            window: The consumer who waits for it.
            index: Its place among the consumer's tiles.

        Raises:
            DataError: The server refuses the key, has been down for too long, or gave no tile at all.
        """
        url = self._template.url(tile)
        attempt = partial(self._attempt, url, partial(self.turns.turn, window, index), self._patience.num_refusals)
        is_last = False
        while True:
            try:
                if is_last:
                    return await attempt(_Budget(self._patience.request_seconds))
                return await self._repeated(attempt)
            except Unsettled as error:
                doubtful = error
            was_down = await self._outlast(doubtful)
            if not was_down and (is_last or doubtful.is_access):
                return doubtful.verdict
            is_last = not was_down

    async def _repeated(self, attempt: Callable[[_Budget], Awaitable[Fetched]]) -> Fetched:
        """Request a tile several times, with growing waits and jitter, as far as the answers leave open what it is."""
        patience = self._patience
        budget = _Budget(patience.tile_seconds)

        def is_to_repeat(error: BaseException) -> bool:
            if not isinstance(error, Unsettled) or budget.seconds <= 0:
                return False
            return not error.is_access or self._given is None

        # Most tiles come at once; the machinery of repetitions begins with an error.
        try:
            return await attempt(budget)
        except Unsettled as error:
            unseen = [error]

        async def again() -> Fetched:
            if unseen:
                raise unseen.pop()
            return await attempt(budget)

        wait = tenacity.wait_exponential(patience.first_wait_seconds, patience.longest_wait_seconds)
        repeated = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception(is_to_repeat),
            stop=tenacity.stop_after_attempt(patience.num_attempts),
            wait=wait + tenacity.wait_random(0, patience.jitter_seconds),
            reraise=True,
        )
        return await repeated(again)

    async def _attempt(self, url: str, turn: _Turn, most_refusals: int, budget: _Budget) -> Fetched:
        """Request a tile, with its redirects, and again when the server asked to wait.

        Args:
            url: Address of the tile.
            turn: Gives the time when a request may start, and is held while it is under way.
            most_refusals: Answers of 429, after which the attempt ends.
            budget: Its seconds are used up.

        Raises:
            Unsettled: The answers do not tell what the tile is.
            DataError: They tell that the whole server cannot be used.
        """
        num_refusals = num_redirects = 0
        target = url
        while True:
            async with turn() as started_at:
                answer = await self._answer(target, started_at, budget)
                self._note(answer, started_at)
            if answer.status == TOO_MANY:
                num_refusals += 1
                if num_refusals >= most_refusals:
                    raise Unsettled(Unscored(FAILED, "HTTP 429, too many requests"), started_at)
            elif answer.status in REDIRECTS and answer.location:
                num_redirects += 1
                redirected = redirected_to(self._template, target, answer.location, num_redirects)
                if isinstance(redirected, Unscored):
                    return redirected
                target = redirected
            else:
                fetched = self._meaning(answer, started_at)
                self._good_at = max(self._good_at, started_at)
                self._given = url if answer.status == 200 else self._given or url
                return fetched

    async def _answer(self, url: str, started_at: float, budget: _Budget) -> Answer:
        seconds = min(self._patience.request_seconds, max(budget.seconds, 0.1))
        try:
            return await self._connections.answer(url, seconds)
        except NoAnswer as error:
            raise Unsettled(error.verdict, started_at) from None
        finally:
            budget.seconds -= time.monotonic() - started_at

    def _note(self, answer: Answer, started_at: float) -> None:
        """Learn from an answer how fast the server may be asked."""
        wait = answer.retry_after_seconds
        if wait is not None and wait > self._patience.longest_pause_seconds and answer.status in (TOO_MANY, 503):
            raise DataError(
                f"{self._template.shown}: HTTP {answer.status}: the server asks to continue after {_clock(wait)}. No tile was "
                f"marked as failed because of it. {CONTINUE}"
            )
        if answer.status == TOO_MANY:
            self.pace.refused(started_at, wait)
            return
        self.pace.accepted()
        if answer.status == 503 and wait is not None:
            self.pace.pause(wait)

    def _meaning(self, answer: Answer, started_at: float) -> Fetched:
        """Return what an answer tells of a tile; a server that only ever refused access makes the key wrong."""
        if answer.status in NO_ACCESS:
            self._num_without_access += 1
            if self._given is None and self._num_without_access >= self._patience.num_without_access:
                raise self._no_access(f"HTTP {answer.status}")
        return meaning(answer, started_at)

    async def _outlast(self, doubtful: Unsettled) -> bool:
        """Find out whether the server gives other tiles, and wait if it does not; return whether it was down.

        Raises:
            DataError: It did not answer for `outage_seconds`, it refuses the key, or it never gave a tile.
        """
        async with self._checking:
            if doubtful.started_at <= self._outage_ended_at:
                return True
            if doubtful.started_at <= self._good_at:
                return False
            if self._given is None:
                raise self._never(doubtful)
            reason = await self._probe(self._given, 0)
            if not reason:
                return False
            self.pace.hold()
            try:
                await self._wait_for(self._given, reason)
            finally:
                self.pace.release()
            self._outage_ended_at = time.monotonic()
            return True

    async def _wait_for(self, url: str, reason: str) -> None:
        limit_seconds = self._patience.outage_seconds
        down_at, moment = time.monotonic(), _clock(0)
        logger.warning(
            "The tile server gives no tiles (%s); waiting for it, at most %.0f seconds.", reason, limit_seconds
        )
        while reason:
            if time.monotonic() - down_at >= limit_seconds:
                raise DataError(
                    f"{self._template.shown}: the server has given no tile since {moment}: {reason}. No tile was marked as "
                    f"failed because of it. {CONTINUE}"
                )
            reason = await self._probe(url, self._patience.probe_seconds)
        logger.warning("The tile server gives tiles again.")

    async def _probe(self, url: str, wait_seconds: float) -> str:
        """Ask for a tile that the server gave before; return why it does not give it, or an empty text."""
        await asyncio.sleep(max(wait_seconds, self.pace.pause_left_seconds()))
        try:
            await self._attempt(url, _at_once, 1, _Budget(self._patience.request_seconds))
        except Unsettled as error:
            doubtful = error
        else:
            return ""
        reason = doubtful.verdict.reason
        if doubtful.is_access:
            raise self._no_access(reason)
        return reason

    def _no_access(self, reason: str) -> DataError:
        refused = "refuses the key" if self._template.secrets else "refuses access, and the template has no key"
        return DataError(
            f"{self._template.shown}: {reason}: the server {refused}. Check whether the key is valid, whether it may ask for "
            f"these tiles, and the terms of use. {CONTINUE} If the server answers so for tiles that it does not have, begin "
            f"with an area where it has some."
        )

    def _never(self, doubtful: Unsettled) -> DataError:
        reason = doubtful.verdict.reason
        if doubtful.is_access:
            return self._no_access(reason)
        return DataError(
            f"{self._template.shown}: expected tiles, got none so far: {reason}. Check the address and the network. {CONTINUE}"
        )


@asynccontextmanager
async def _at_once() -> AsyncIterator[float]:
    """Let a request start without a turn."""
    yield time.monotonic()


def _clock(seconds: float) -> str:
    """Return the time of day, in so many seconds, in words."""
    return (datetime.now().astimezone() + timedelta(seconds=seconds)).strftime("%Y-%m-%d %H:%M:%S %Z")
