"""How fast a server may be asked: what it says by `429` and `Retry-After` holds for all requests to it.

The pace is learnt as TCP learns the rate of a path: multiplicative decrease when the server refuses, and an increase while it
does not that is slow near the rate that was refused, and faster later (Ha, Rhee and Xu 2008, "CUBIC: A New TCP-Friendly
High-Speed TCP Variant"). Before the first refusal only the number of requests under way is bounded.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

SMALLEST_DECREASE, LARGEST_DECREASE = 0.95, 0.5  # of the rate, at a refusal: a lasting one was nearly right
STEADY_SECONDS = 2.0
# After so long the rate is e times as high as after a refusal: soon, while the limit is not known well, and 5% higher after 27
# seconds, when it is.
GROWTH_SECONDS, STEADY_GROWTH_SECONDS = 45.0, 120.0
LARGEST_GROWTH = 20.0  # exponent; any pace by then
SLOWEST_PER_SECOND = 0.02
CATCH_UP_SECONDS = 0.1  # of requests that a late wake-up delayed
MEASURED_SECONDS, SHORTEST_SECONDS = 1.0, 0.05  # over which rates are measured
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 60.0  # where the server does not say how long
LONGEST_WAIT_SECONDS = 1e8  # three years; more is no number that anybody means


class Pace:
    """When the next request to a server may start. All methods are called in one event loop, `turn` by one task.

    Attributes:
        per_second: Requests that may start in a second; infinite until the server refuses one.
    """

    def __init__(self) -> None:
        """Start without a limit."""
        self.per_second = math.inf
        self._next_at = 0.0
        self._recent: deque[float] = deque()  # starts of the last second
        self._refused_at = self._reduced_at = self._turned_at = -math.inf
        self._reduced_to = math.inf
        self._growth_seconds = GROWTH_SECONDS
        self._busy_seconds = 0.0  # since the last reduction, without pauses
        self._since: float | None = None  # when the counting of accepted requests began
        self._num_accepted = 0
        self._refusals_in_a_row = 0
        self._open = asyncio.Event()
        self._open.set()

    async def turn(self) -> float:
        """Wait until a request may start; return the time of its start."""
        while True:
            await self._open.wait()
            now = time.monotonic()
            if now >= self._next_at:
                break
            await asyncio.sleep(self._next_at - now)
        self._increase(now)
        self._next_at = max(self._next_at, now - CATCH_UP_SECONDS) + 1 / self.per_second
        self._since = now if self._since is None else self._since
        self._recent.append(now)
        while self._recent[0] < now - MEASURED_SECONDS:
            self._recent.popleft()
        return now

    def accepted(self) -> None:
        """Note that the server answered a request, otherwise than by a refusal."""
        self._num_accepted += 1
        self._refusals_in_a_row = 0

    def refused(self, started_at: float, pause_seconds: float | None) -> None:
        """Slow down and pause, because the server refused a request as one too many.

        The pace is reduced once in `MEASURED_SECONDS`: sooner nobody knows what the last reduction has led to.

        Args:
            started_at: What `turn` returned for the request.
            pause_seconds: What the server asks for; None if it does not say.
        """
        now = time.monotonic()
        if started_at > self._refused_at:
            self._refusals_in_a_row += 1
            self._refused_at = now
        if started_at > self._reduced_at + MEASURED_SECONDS:
            self._reduce(now)
        if pause_seconds is None:
            pause_seconds = min(FIRST_PAUSE_SECONDS * 2 ** (self._refusals_in_a_row - 1), LONGEST_PAUSE_SECONDS)
        self.pause(pause_seconds)

    def pause(self, seconds: float) -> None:
        """Let no request start for some seconds."""
        self._next_at = max(self._next_at, time.monotonic() + seconds)

    def pause_left_seconds(self) -> float:
        """Return the seconds until the next request may start."""
        return max(0.0, self._next_at - time.monotonic())

    def hold(self) -> None:
        """Let no request start until `release`."""
        self._open.clear()

    def release(self) -> None:
        """End `hold`."""
        self._open.set()

    def _reduce(self, now: float) -> None:
        """Reduce the rate a little if it lasted, else about to what the server accepted meanwhile.

        After a pause a bucket holds some tokens, nobody knows how many. So the requests accepted in a second are too many to
        go on with, and too few if the pause counts: the rate is the geometric mean.
        """
        recent_seconds = max(now - self._recent[0], SHORTEST_SECONDS) if self._recent else MEASURED_SECONDS
        rate = min(self.per_second, max(len(self._recent), 1) / recent_seconds)
        is_steady = self._busy_seconds >= STEADY_SECONDS
        if is_steady:
            rate *= SMALLEST_DECREASE
        else:
            busy_seconds = max(self._busy_seconds, SHORTEST_SECONDS)
            seconds = max(now - self._since if self._since is not None else 0.0, busy_seconds)
            accepted = self._num_accepted / math.sqrt(busy_seconds * seconds)
            rate = max(rate * LARGEST_DECREASE, min(rate * SMALLEST_DECREASE, accepted))
        self.per_second = self._reduced_to = max(rate, SLOWEST_PER_SECOND)
        self._growth_seconds = STEADY_GROWTH_SECONDS if is_steady else GROWTH_SECONDS
        self._reduced_at = self._turned_at = self._since = now
        self._busy_seconds, self._num_accepted = 0.0, 0

    def _increase(self, now: float) -> None:
        # more than half a second without a request is a pause, which proves nothing about the pace
        self._busy_seconds += min(now - self._turned_at, max(0.5, 1 / self.per_second))
        self._turned_at = now
        growth = min((self._busy_seconds / self._growth_seconds) ** 2, LARGEST_GROWTH)
        self.per_second = self._reduced_to * math.exp(growth)


def retry_after_seconds(value: str | None, now: datetime | None = None) -> float | None:
    """Return the seconds of a `Retry-After` header, which holds seconds or a date (RFC 9110, section 10.2.3).

    Args:
        value: The header; None if there is none.
        now: The present; None for the clock.

    Returns:
        At least 0; None if there is no header, or none that can be read.
    """
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.replace(".", "", 1).isdigit():
        return min(float(text), LONGEST_WAIT_SECONDS)
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):  # its parser raises all of them on malformed dates
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return min(max(0.0, (moment - (now or datetime.now(UTC))).total_seconds()), LONGEST_WAIT_SECONDS)
