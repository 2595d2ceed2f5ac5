"""The pace against simulated servers, in simulated time; and the header `Retry-After`."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from satx.imagery import polite
from satx.imagery.polite import Pace, retry_after_seconds

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


class _Clock:
    """Time that passes only when somebody sleeps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(polite, "time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(polite, "asyncio", SimpleNamespace(sleep=self._sleep, Event=asyncio.Event))

    async def _sleep(self, seconds: float) -> None:
        self.now += max(seconds, 1e-6)


class _Bucket:
    """A server with a token bucket."""

    def __init__(self, clock: _Clock, per_second: float, size: float) -> None:
        self.clock, self.per_second, self.size = clock, per_second, size
        self.tokens, self.filled_at = size, clock.now
        self.accepted_at: list[float] = []
        self.refused_at: list[float] = []

    def accepts(self) -> bool:
        now = self.clock.now
        self.tokens = min(self.size, self.tokens + (now - self.filled_at) * self.per_second)
        self.filled_at = now
        is_accepted = self.tokens >= 1
        self.tokens -= is_accepted
        (self.accepted_at if is_accepted else self.refused_at).append(now)
        return is_accepted


def _run(
    clock: _Clock, bucket: _Bucket, *, seconds: float, fastest_per_second: float, wait_seconds: float | None
) -> Pace:
    async def run() -> Pace:
        pace = Pace()
        end = clock.now + seconds
        while clock.now < end:
            started_at = await pace.turn()
            if bucket.accepts():
                pace.accepted()
            else:
                pace.refused(started_at, wait_seconds)
            clock.now += 1 / fastest_per_second
        return pace

    return asyncio.run(run())


@pytest.mark.parametrize("wait_seconds", [1.0, 5.0, None])
@pytest.mark.parametrize(("limit", "burst"), [(5, 5), (50, 1), (200, 50), (200, 200), (1000, 100)])
def test_the_limit_of_a_server_is_respected_and_used(
    monkeypatch: pytest.MonkeyPatch, limit: float, burst: float, wait_seconds: float | None
) -> None:
    clock = _Clock(monkeypatch)
    bucket = _Bucket(clock, limit, burst)
    _run(clock, bucket, seconds=300, fastest_per_second=1500, wait_seconds=wait_seconds)
    settled = bucket.refused_at[0] + 30
    accepted = sum(at >= settled for at in bucket.accepted_at) / (clock.now - settled)
    assert (0.8 if wait_seconds != 5 else 0.7) * limit <= accepted <= limit * 1.01
    assert len(bucket.refused_at) <= 0.03 * len(bucket.accepted_at) + 20


def test_a_server_without_refusals_is_not_slowed_down(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = _Clock(monkeypatch)
    bucket = _Bucket(clock, 1e9, 1e9)
    _run(clock, bucket, seconds=10, fastest_per_second=1000, wait_seconds=1.0)
    assert len(bucket.accepted_at) >= 9990


def test_nothing_starts_while_the_server_asks_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = _Clock(monkeypatch)
    bucket = _Bucket(clock, 20, 10)
    _run(clock, bucket, seconds=200, fastest_per_second=500, wait_seconds=7.0)
    starts = sorted(bucket.accepted_at + bucket.refused_at)
    for refused_at in bucket.refused_at:
        assert not [at for at in starts if refused_at < at < refused_at + 6.99]


def test_the_pause_grows_where_the_server_does_not_say_how_long(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = _Clock(monkeypatch)
    bucket = _Bucket(clock, 1e-9, 0)
    _run(clock, bucket, seconds=300, fastest_per_second=500, wait_seconds=None)
    pauses = [after - before for before, after in zip(bucket.refused_at, bucket.refused_at[1:], strict=False)]
    assert pauses[:6] == pytest.approx([1, 2, 4, 8, 16, 32], rel=0.3)
    assert max(pauses) <= 62


def test_requests_of_before_a_refusal_do_not_slow_down_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    _Clock(monkeypatch)

    async def run() -> tuple[float, float]:
        pace = Pace()
        starts = [await pace.turn() for _ in range(8)]
        pace.refused(starts[0], 1.0)
        once = pace.per_second
        for started_at in starts[1:]:
            pace.refused(started_at, 1.0)
        return once, pace.per_second

    once, in_all = asyncio.run(run())
    assert once == in_all


@given(st.integers(0, 10**6), st.integers(-(10**6), 10**6))
def test_retry_after_is_seconds_or_a_date(seconds: int, offset: int) -> None:
    assert retry_after_seconds(f" {seconds} ") == seconds
    moment = NOW + timedelta(seconds=offset)
    assert retry_after_seconds(format_datetime(moment, usegmt=True), NOW) == max(0, offset)


@given(st.one_of(st.text(), st.from_regex(r"[A-Z][a-z]{2}, \d+ [A-Z][a-z]{2} \d+ [\d:]+ .*"), st.from_regex(r"\d+")))
def test_any_retry_after_is_a_bounded_number_or_none(value: str) -> None:
    found = retry_after_seconds(value)
    assert found is None or 0 <= found <= polite.LONGEST_WAIT_SECONDS


def test_no_retry_after_is_none() -> None:
    assert retry_after_seconds(None) is None
    assert retry_after_seconds("soon") is None


def test_a_date_without_a_zone_is_in_utc() -> None:
    assert retry_after_seconds("Sun, 01 Mar 2026 12:00:09 -0000", NOW) == 9
