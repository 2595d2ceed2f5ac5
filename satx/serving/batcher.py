"""Gather the requests of one model into batches, and run the batches one after the other in a thread.

While a batch is computed, requests gather for the next one; an idle model starts at once. So batches grow with the load,
and no request waits for a timer. The thread takes its next batch itself: the event loop may be busy with other requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from satx.inference.serving_files import MAX_BATCH_ROWS, MAX_REQUEST_ROWS
from satx.serving.batch_rows import cut, joined, rows_of, shapes
from satx.serving.contract import ServingError
from satx.serving.shapes import check_row_limit

logger = logging.getLogger(__name__)

# Sizes of executed batches, all of which are warmed up. A batch takes the largest size that the waiting rows fill: a row
# of padding would take as long as a real one.
BATCH_SIZES = (1, 2, *range(4, MAX_BATCH_ROWS + 1, 4))
RETRY_AFTER_SECONDS = 1

Run = Callable[[str, Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Limits:
    """What a model accepts.

    Attributes:
        request_rows: Most rows of one request.
        waiting_rows: Most rows of all requests that are being decoded, wait or are computed. One request is always accepted.
        queue_seconds: Longest time that a request waits until its first batch starts.
        deadline_seconds: Longest time until its answer.
    """

    request_rows: int = MAX_REQUEST_ROWS
    waiting_rows: int = 1024
    queue_seconds: float = 20.0
    deadline_seconds: float = 30.0


@dataclass(eq=False)
class _Request:
    """A request in the queue.

    Attributes:
        signature_name: What to run.
        group: Requests of one group can share a batch; None if the request must be run alone, whole.
        inputs: Its inputs.
        rows: Number of its rows.
        answer: Receives its outputs, or the error. Touched in the event loop only.
        next_row: The first row that no batch has taken yet.
        parts: Outputs of the rows so far.
        is_over: Whether nobody waits for it any more.
    """

    signature_name: str
    group: object | None
    inputs: Mapping[str, np.ndarray]
    rows: int
    answer: asyncio.Future[dict[str, np.ndarray]]
    next_row: int = 0
    parts: list[Mapping[str, np.ndarray]] = field(default_factory=list)
    is_over: bool = False


class _Piece(NamedTuple):
    """Rows of a request that are in one batch."""

    request: _Request
    start: int
    stop: int

    @property
    def rows(self) -> int:
        return self.stop - self.start


_Result = tuple[_Request, dict[str, np.ndarray] | ServingError]


class Batcher:
    """The queue of one version of a model, and the thread that computes it."""

    def __init__(self, run: Run, limits: Limits, *, on_batch: Callable[[int], None] = lambda _rows: None) -> None:
        """Start the thread.

        Args:
            run: Computes a signature for a batch: its name and inputs in, outputs with as many rows out.
            limits: When to refuse a request.
            on_batch: Called in the thread with the number of rows of each batch.
        """
        self.limits = limits
        self.waiting_rows = 0  # changed in the event loop only
        self._run = run
        self._on_batch = on_batch
        self._queue: deque[_Request] = deque()
        self._changed = threading.Condition()
        self._is_closed = False
        threading.Thread(target=self._work, name="satx-batches", daemon=True).start()

    @contextlib.contextmanager
    def room(self, rows: int) -> Iterator[None]:
        """Hold the place of a request, from before its images are decoded until it is answered.

        Raises:
            ServingError: It has too many rows (400), or the queue is full (503).
        """
        check_row_limit(rows, largest=self.limits.request_rows)
        if self.waiting_rows and self.waiting_rows + rows > self.limits.waiting_rows:
            message = "The batch scheduling queue to which this task was submitted is full"
            raise ServingError(503, message, retry_after_seconds=RETRY_AFTER_SECONDS)
        self.waiting_rows += rows
        try:
            yield
        finally:
            self.waiting_rows -= rows

    async def run(
        self, signature_name: str, inputs: Mapping[str, np.ndarray], *, rows: int, shares_batches: bool
    ) -> dict[str, np.ndarray]:
        """Return the outputs of a signature for one request.

        Args:
            signature_name: The signature.
            inputs: Its inputs; with `shares_batches`, each has `rows` as first axis.
            rows: Number of rows, at least 1 with `shares_batches`.
            shares_batches: Whether requests may be joined along the first axis and cut along it.

        Raises:
            ServingError: The model refused the inputs (400), or the request waited too long (429).
        """
        loop = asyncio.get_running_loop()
        group = (signature_name, shapes(inputs)) if shares_batches else None
        request = _Request(signature_name, group, inputs, rows, loop.create_future())
        with self._changed:
            self._queue.append(request)
            self._changed.notify()
        timer = loop.call_later(self.limits.queue_seconds, self._waited_out, request)
        try:
            return await request.answer
        finally:
            timer.cancel()
            request.is_over = True  # rows that no batch has taken yet are not computed any more
            # An error refers to this frame, and the request to the error: together they would keep the version in memory.
            del request

    def close(self) -> None:
        """Let the thread end once the queue is empty; safe to call from any thread, and more than once."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()

    def _waited_out(self, request: _Request) -> None:
        if request.next_row > 0 or request.answer.done():
            return
        message = "Run() timeout exceeded while waiting in batching queue"
        request.answer.set_exception(ServingError(429, message, retry_after_seconds=RETRY_AFTER_SECONDS))

    def _work(self) -> None:
        while self._step():
            pass

    def _step(self) -> bool:
        """Compute the next batch; return False after `close`.

        What a batch leaves behind, such as an error with its traceback, ends with this frame. In the frame of `_work` it would
        keep the version in memory until the next batch, which may never come.
        """
        pieces = self._next_pieces()
        if pieces:
            self._compute(pieces)
        return bool(pieces)

    def _next_pieces(self) -> list[_Piece]:
        """Wait for requests and return the next batch; an empty list after `close`."""
        with self._changed:
            while True:
                self._queue = deque(request for request in self._queue if not request.is_over)
                if self._queue:
                    return self._take()
                if self._is_closed:
                    return []
                self._changed.wait()

    def _take(self) -> list[_Piece]:
        """Take the first request, and those of its group in their order, up to the largest size that they fill."""
        first = self._queue[0]
        if first.group is None:
            self._queue.popleft()
            first.next_row = max(1, first.rows)
            return [_Piece(first, 0, first.rows)]
        same = [request for request in self._queue if request.group == first.group]
        waiting = sum(request.rows - request.next_row for request in same)
        left = max(size for size in BATCH_SIZES if size <= waiting)
        pieces = []
        for request in same:
            stop = min(request.rows, request.next_row + left)
            pieces.append(_Piece(request, request.next_row, stop))
            left -= stop - request.next_row
            request.next_row = stop
            if stop == request.rows:
                self._queue.remove(request)
            if not left:
                break
        return pieces

    def _compute(self, pieces: Sequence[_Piece]) -> None:
        """Compute a batch and answer its requests. No error leaves this method: it would end the thread."""
        request = pieces[0].request
        try:
            complete = self._answers(pieces)
        except Exception as error:  # whatever a model raises is the answer to its request; the thread serves all others
            if len(pieces) > 1:  # one of the requests may be at fault: the others are answered
                for piece in pieces:
                    self._compute([piece])
            else:
                request.is_over = True
                _tell([(request, _as_serving_error(error))])
            return
        _tell(complete)

    def _answers(self, pieces: Sequence[_Piece]) -> list[_Result]:
        """Give each request its rows of a batch; return the requests that are complete, with all their outputs.

        After an error no request has got any rows.
        """
        first = pieces[0].request
        if first.group is None:
            whole = self._run(first.signature_name, first.inputs)
            self._on_batch(first.rows)
            return [(first, dict(whole))]
        batch = joined([rows_of(piece.request.inputs, piece.start, piece.stop) for piece in pieces])
        outputs = self._run(first.signature_name, batch)
        parts = cut(outputs, [piece.rows for piece in pieces])
        self._on_batch(sum(piece.rows for piece in pieces))
        complete: list[_Result] = [
            (piece.request, joined([*piece.request.parts, part]))
            for piece, part in zip(pieces, parts, strict=True)
            if piece.stop == piece.request.rows
        ]
        for piece, part in zip(pieces, parts, strict=True):
            piece.request.parts.append(part)
        return complete


def _as_serving_error(error: Exception) -> ServingError:
    """Return the error of a request whose batch failed.

    `ValueError` and `TypeError` come from a signature that does not accept the inputs. It is always a new error: the
    traceback of the one that was raised refers to the request, which refers to its answer.
    """
    if isinstance(error, ServingError):
        return ServingError(error.status, error.message, retry_after_seconds=error.retry_after_seconds)
    if isinstance(error, ValueError | TypeError):
        return ServingError(400, str(error))
    logger.error("A batch failed.", exc_info=error)
    return ServingError(500, f"The model failed: {type(error).__name__}. The server's log has the details.")


def _tell(results: Sequence[_Result]) -> None:
    """Answer requests, in the event loop."""

    def answer() -> None:
        for request, result in results:
            if request.answer.done():  # cancelled
                continue
            if isinstance(result, ServingError):
                request.answer.set_exception(result)
            else:
                request.answer.set_result(result)

    if results:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the server was stopped without waiting
            results[0][0].answer.get_loop().call_soon_threadsafe(answer)
