"""Tests of the ordered map in threads: order, a bounded number of items ahead, errors, and its end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from satx.imagery.ahead import in_chunks, mapped_in_order


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as threads:
        yield threads


@given(items=st.lists(st.integers(), max_size=60), window=st.integers(1, 9), num_threads=st.integers(1, 5))
def test_results_come_in_the_order_of_the_items(items: list[int], window: int, num_threads: int) -> None:
    with ThreadPoolExecutor(num_threads) as pool:
        assert list(mapped_in_order(lambda item: item * 2, items, pool=pool, window=window)) == [2 * n for n in items]


@pytest.mark.parametrize("window", [1, 3, 8])
def test_at_most_window_items_are_taken_ahead_of_the_results(pool: ThreadPoolExecutor, window: int) -> None:
    taken = 0

    def endless() -> Iterator[int]:
        nonlocal taken
        for number in count():
            taken += 1
            yield number

    results = mapped_in_order(lambda item: item, endless(), pool=pool, window=window)
    assert taken == 0, "nothing is taken before it is asked for"
    for num_yielded in range(50):
        assert next(results) == num_yielded
        assert taken == num_yielded + window


def test_items_are_computed_at_the_same_time(pool: ThreadPoolExecutor) -> None:
    together = threading.Barrier(4, timeout=60)
    assert len(list(mapped_in_order(lambda _: together.wait(), range(4), pool=pool, window=4))) == 4


def test_an_error_of_the_function_comes_in_its_turn_and_nothing_starts_after_it(pool: ThreadPoolExecutor) -> None:
    called = []

    def fails_at_5(item: int) -> int:
        called.append(item)
        if item == 5:
            raise TimeoutError("of the function")
        return item

    results = mapped_in_order(fails_at_5, count(), pool=pool, window=3)
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(TimeoutError, match="of the function"):
        next(results)
    assert max(called) <= 7
    assert list(results) == []


def test_an_error_of_the_items_is_raised(pool: ThreadPoolExecutor) -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise OSError("the list of tiles broke off")

    with pytest.raises(OSError, match="broke off"):
        list(mapped_in_order(lambda item: item, broken(), pool=pool, window=3))


def test_a_closed_iterator_starts_no_further_item() -> None:
    with ThreadPoolExecutor(1) as pool:
        proceed, called = threading.Event(), []

        def waits(item: int) -> int:
            called.append(item)
            assert item == 0 or proceed.wait(60)
            return item

        results = mapped_in_order(waits, count(), pool=pool, window=5)
        assert next(results) == 0
        results.close()
        proceed.set()
    assert len(called) <= 2, "at most the one that ran already"


def test_a_waiting_iterator_ends_when_it_is_stopped(pool: ThreadPoolExecutor) -> None:
    stopped, released, started = threading.Event(), threading.Event(), threading.Event()

    def waits(_item: int) -> bool:
        started.set()
        return released.wait(60)

    ended: list[list[bool]] = []
    results = mapped_in_order(waits, count(), pool=pool, window=2, stopped=stopped)
    consumer = threading.Thread(target=lambda: ended.append(list(results)))
    consumer.start()
    assert started.wait(60)
    stopped.set()
    consumer.join(30)
    assert ended == [[]], "it did not wait for the function"
    released.set()


def test_a_pool_that_was_shut_down_is_an_error_unless_the_iterator_was_stopped() -> None:
    pool, stopped = ThreadPoolExecutor(1), threading.Event()
    results = mapped_in_order(lambda item: item, count(), pool=pool, window=1, stopped=stopped)
    assert next(results) == 0
    pool.shutdown()
    with pytest.raises(RuntimeError, match="shutdown"):
        next(results)
    stopped.set()
    assert list(mapped_in_order(lambda item: item, count(), pool=pool, window=1, stopped=stopped)) == []


def test_a_window_of_nothing_is_refused(pool: ThreadPoolExecutor) -> None:
    with pytest.raises(ValueError, match="at least 1 item, got 0"):
        next(mapped_in_order(lambda item: item, [1], pool=pool, window=0))


@given(items=st.lists(st.integers()), num_items=st.integers(1, 7))
def test_chunks_have_all_items_in_order(items: list[int], num_items: int) -> None:
    chunks = list(in_chunks(items, num_items))
    assert [item for chunk in chunks for item in chunk] == items
    assert all(len(chunk) == num_items for chunk in chunks[:-1]) and all(chunks)
