"""Tests of the queue of a model: the computation is a function that waits until the test lets it go on."""

import asyncio
import threading
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from satx.serving.batcher import BATCH_SIZES, Batcher, Limits
from satx.serving.contract import ServingError


@dataclass
class Doubler:
    """A model that doubles its input, refuses negative values, and computes a batch only when it may.

    Attributes:
        batches: The values of each batch that it got.
        computes: Set when a batch has arrived.
        may_go_on: Clear to make it wait.
    """

    batches: list[list[float]] = field(default_factory=list)
    computes: threading.Event = field(default_factory=threading.Event)
    may_go_on: threading.Event = field(default_factory=threading.Event)

    def run(self, signature_name: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        x = inputs["x"]
        self.batches.append(np.ravel(x).tolist())
        self.computes.set()
        assert self.may_go_on.wait(60)
        if (x < 0).any():
            raise ServingError(400, "negative")
        if (x > 1e6).any():
            raise RuntimeError("secret detail")
        return {"y": 2 * x, signature_name: x}


@contextmanager
def batcher_of(model: Doubler, limits: Limits | None = None) -> Iterator[Batcher]:
    batcher = Batcher(model.run, limits or Limits())
    try:
        yield batcher
    finally:
        model.may_go_on.set()
        batcher.close()


async def sent(batcher: Batcher, values: list[float], *, shares_batches: bool = True) -> list[float]:
    x = np.array(values, np.float32)
    async with asyncio.timeout(60):  # the thread may have ended
        with batcher.room(len(values)):
            outputs = await batcher.run("double", {"x": x}, rows=len(values), shares_batches=shares_batches)
    return outputs["y"].tolist()


async def error_of(coroutine: Coroutine[Any, Any, object]) -> ServingError:
    with pytest.raises(ServingError) as raised:
        await coroutine
    return raised.value


async def until(event: threading.Event) -> None:
    assert await asyncio.to_thread(event.wait, 60)


async def busy(model: Doubler, batcher: Batcher) -> "asyncio.Task[list[float]]":
    """Send a request that the model computes until it may go on."""
    task = asyncio.create_task(sent(batcher, [0.0]))
    await until(model.computes)
    return task


async def queued(batcher: Batcher, *requests: list[float]) -> "list[asyncio.Task[list[float]]]":
    """Send requests, and return once all of them are in the queue."""
    tasks = [asyncio.create_task(sent(batcher, values)) for values in requests]
    await asyncio.sleep(0)
    return tasks


def test_an_idle_model_starts_at_once_and_requests_gather_while_it_computes() -> None:
    async def scenario() -> None:
        first = await busy(model, batcher)
        later = await queued(batcher, [1.0], [2.0, 3.0], [4.0])
        model.may_go_on.set()
        assert await first == [0.0]
        assert await asyncio.gather(*later) == [[2.0], [4.0, 6.0], [8.0]]

    model = Doubler()
    with batcher_of(model) as batcher:
        asyncio.run(scenario())
    assert model.batches == [[0.0], [1.0, 2.0, 3.0, 4.0]]


def test_a_large_request_is_computed_in_several_batches() -> None:
    values = [float(number) for number in range(50)]
    model = Doubler()
    model.may_go_on.set()
    with batcher_of(model) as batcher:
        assert asyncio.run(sent(batcher, values)) == [2 * value for value in values]
    assert [len(batch) for batch in model.batches] == [32, 16, 2]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=12))
def test_every_request_gets_its_own_rows_and_every_batch_has_a_size_that_was_warmed_up(sizes: list[int]) -> None:
    async def scenario() -> list[list[float]]:
        first = await busy(model, batcher)
        later = await queued(batcher, *requests)
        model.may_go_on.set()
        await first
        return await asyncio.gather(*later)

    numbers = iter(range(1, 1000))
    requests = [[float(next(numbers)) for _ in range(size)] for size in sizes]
    model = Doubler()
    with batcher_of(model) as batcher:
        assert asyncio.run(scenario()) == [[2 * value for value in values] for values in requests]
    assert {len(batch) for batch in model.batches} <= set(BATCH_SIZES)
    assert list(chain(*model.batches)) == [0.0, *chain(*requests)]  # first come, first served; no row twice


def test_requests_of_other_shapes_or_signatures_are_not_joined() -> None:
    async def scenario() -> None:
        first = await busy(model, batcher)
        wide = np.ones((1, 2), np.float32)
        tasks = [
            asyncio.create_task(batcher.run(name, {"x": x}, rows=1, shares_batches=True))
            for name, x in (("double", wide), ("other", wide), ("double", np.ones(1, np.float32)), ("double", wide))
        ]
        await asyncio.sleep(0)
        model.may_go_on.set()
        await first
        answers = await asyncio.gather(*tasks)
        assert [list(answer) for answer in answers] == [
            ["y", "double"],
            ["y", "other"],
            ["y", "double"],
            ["y", "double"],
        ]
        assert [answer["y"].shape for answer in answers] == [(1, 2), (1, 2), (1,), (1, 2)]

    model = Doubler()
    with batcher_of(model) as batcher:
        asyncio.run(scenario())
    assert [len(batch) for batch in model.batches] == [1, 4, 2, 1]


def test_a_request_that_cannot_share_a_batch_is_computed_alone_and_whole() -> None:
    async def scenario() -> None:
        first = await busy(model, batcher)
        tasks = [asyncio.create_task(sent(batcher, values, shares_batches=False)) for values in ([1.0] * 3, [2.0], [])]
        await asyncio.sleep(0)
        model.may_go_on.set()
        await first
        assert await asyncio.gather(*tasks) == [[2.0] * 3, [4.0], []]

    model = Doubler()
    with batcher_of(model) as batcher:
        asyncio.run(scenario())
    assert model.batches == [[0.0], [1.0] * 3, [2.0], []]


def test_a_bad_request_does_not_fail_the_others_of_its_batch() -> None:
    async def scenario() -> None:
        first = await busy(model, batcher)
        good = await queued(batcher, *([float(number)] for number in range(1, 5)))
        bad = asyncio.create_task(error_of(sent(batcher, [-1.0, 5.0])))
        more = await queued(batcher, [6.0], [7.0])
        model.may_go_on.set()
        await first
        assert await asyncio.gather(*good, *more) == [[2.0], [4.0], [6.0], [8.0], [12.0], [14.0]]
        assert (await bad).status == 400

    model = Doubler()
    with batcher_of(model) as batcher:
        asyncio.run(scenario())
    assert model.batches[1] == [1.0, 2.0, 3.0, 4.0, -1.0, 5.0, 6.0, 7.0]


def test_the_rest_of_a_request_that_has_failed_is_not_computed() -> None:
    model = Doubler()
    model.may_go_on.set()
    with batcher_of(model) as batcher:
        assert asyncio.run(error_of(sent(batcher, [-1.0] * 64))).message == "negative"
        assert asyncio.run(sent(batcher, [1.0])) == [2.0]
    assert [len(batch) for batch in model.batches] == [32, 1]


def test_an_unexpected_error_is_logged_and_the_model_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    model = Doubler()
    model.may_go_on.set()
    with batcher_of(model) as batcher:
        error = asyncio.run(error_of(sent(batcher, [1e7])))
        assert error.status == 500 and "secret" not in error.message
        assert "secret detail" in caplog.text
        assert asyncio.run(sent(batcher, [1.0])) == [2.0]


def test_an_output_with_another_number_of_rows_is_an_error() -> None:
    batcher = Batcher(lambda _name, _inputs: {"y": np.zeros(3)}, Limits())
    error = asyncio.run(error_of(sent(batcher, [1.0, 2.0])))
    assert "expected 2 rows" in error.message
    batcher.close()


def test_rows_of_another_shape_than_those_before_are_an_error_of_that_request_and_the_model_goes_on() -> None:
    def widening(_name: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        x = inputs["x"]
        return {"y": np.zeros((len(x), 2 if len(x) == BATCH_SIZES[-1] else 1))}

    batcher = Batcher(widening, Limits())
    error = asyncio.run(error_of(sent(batcher, [0.0] * (BATCH_SIZES[-1] + 1))))
    assert error.status == 400 and "Tensor y: expected all rows in shape [2]" in error.message
    assert asyncio.run(sent(batcher, [0.0])) == [[0.0]]
    batcher.close()


def test_a_request_that_shares_a_batch_is_not_failed_by_one_whose_rows_have_several_shapes() -> None:
    async def scenario() -> None:
        first = await busy(model, batcher)
        large = asyncio.create_task(error_of(sent(batcher, [1.0] * (BATCH_SIZES[-1] + 1))))
        small = await queued(batcher, [2.0], [2.0], [2.0])
        model.may_go_on.set()
        await first
        assert (await large).status == 400
        assert [len(answer) for answer in await asyncio.gather(*small)] == [1, 1, 1]

    def widening(name: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        x = model.run(name, inputs)["y"]
        return {"y": np.ones((len(x), 2 if len(x) == BATCH_SIZES[-1] else 1))}

    model = Doubler()
    batcher = Batcher(widening, Limits())
    asyncio.run(scenario())
    batcher.close()


@pytest.mark.parametrize("outputs", [None, {"y": 3}, {"y": np.zeros(())}])
def test_a_model_that_returns_no_tensors_fails_the_request_and_the_model_goes_on(outputs: Any) -> None:
    answers = iter([outputs, {"y": np.ones(1)}])
    batcher = Batcher(lambda _name, _inputs: next(answers), Limits())
    assert asyncio.run(error_of(sent(batcher, [1.0]))).status in (400, 500)
    assert asyncio.run(sent(batcher, [1.0])) == [1.0]
    batcher.close()


def test_an_error_of_the_metrics_fails_the_request_and_the_model_goes_on() -> None:
    def fails_once(_rows: int) -> None:
        if not counted:
            counted.append(True)
            raise RuntimeError

    counted: list[bool] = []
    model = Doubler()
    model.may_go_on.set()
    batcher = Batcher(model.run, Limits(), on_batch=fails_once)
    assert asyncio.run(error_of(sent(batcher, [1.0]))).status == 500
    assert asyncio.run(sent(batcher, [1.0])) == [2.0]
    batcher.close()


def test_a_request_with_too_many_rows_is_refused() -> None:
    with batcher_of(Doubler()) as batcher:
        error = asyncio.run(error_of(sent(batcher, [1.0] * 129)))
    assert error.status == 400
    assert error.message == "Task size 129 is larger than maximum input batch size 128"


def test_a_full_queue_refuses_and_accepts_again_once_a_request_is_answered() -> None:
    async def scenario() -> None:
        first = await busy(model, batcher)
        waiting = await queued(batcher, [1.0, 2.0], [3.0])
        error = await error_of(sent(batcher, [5.0]))
        assert error.status == 503 and error.retry_after_seconds == 1
        assert error.message.startswith("The batch scheduling queue to which this task was submitted is full")
        model.may_go_on.set()
        await asyncio.gather(first, *waiting)
        assert batcher.waiting_rows == 0
        assert await sent(batcher, [5.0]) == [10.0]

    model = Doubler()
    with batcher_of(model, Limits(waiting_rows=4)) as batcher:
        asyncio.run(scenario())


def test_an_empty_queue_accepts_a_request_of_any_allowed_size() -> None:
    model = Doubler()
    model.may_go_on.set()
    with batcher_of(model, Limits(waiting_rows=4)) as batcher:
        assert asyncio.run(sent(batcher, [1.0] * 8)) == [2.0] * 8


def test_a_request_that_waits_too_long_is_refused_and_not_computed_but_one_that_has_started_is_answered() -> None:
    async def scenario() -> None:
        first = await busy(model, batcher)
        error = await error_of(sent(batcher, [1.0]))
        assert error.status == 429 and error.retry_after_seconds == 1
        assert error.message == "Run() timeout exceeded while waiting in batching queue"
        model.may_go_on.set()
        assert await first == [0.0]
        assert await sent(batcher, [2.0]) == [4.0]

    model = Doubler()
    with batcher_of(model, Limits(queue_seconds=0.05)) as batcher:
        asyncio.run(scenario())
    assert model.batches == [[0.0], [2.0]]


def test_a_request_whose_client_has_gone_is_not_computed() -> None:
    async def scenario() -> None:
        first = await busy(model, batcher)
        gone, stays = await queued(batcher, [1.0], [2.0])
        gone.cancel()
        await asyncio.sleep(0)
        model.may_go_on.set()
        assert await asyncio.gather(first, stays) == [[0.0], [4.0]]
        assert gone.cancelled() and batcher.waiting_rows == 0

    model = Doubler()
    with batcher_of(model) as batcher:
        asyncio.run(scenario())
    assert model.batches == [[0.0], [2.0]]


def test_a_closed_batcher_answers_what_it_has_accepted_and_then_ends_its_thread() -> None:
    async def scenario() -> None:
        first = await busy(model, batcher)
        later = await queued(batcher, [1.0])
        batcher.close()
        model.may_go_on.set()
        assert await asyncio.gather(first, *later) == [[0.0], [2.0]]

    before = set(threading.enumerate())
    model = Doubler()
    with batcher_of(model) as batcher:
        (thread,) = set(threading.enumerate()) - before
        asyncio.run(scenario())
        thread.join(60)
        assert not thread.is_alive()
