"""Fetch, judge, score and write the tiles of a plan: every stage bounded, and all of them at the same time.

The order of tiles is the plan's from the first stage to the last, and a batch never spans two blocks. So the batches of a block
are the same whatever was done before it, and its file has the same bytes after a restart, on any number of machines.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import numpy as np

from satx.bulk.block_file import ModelIdentity, block_table
from satx.bulk.ledger import Ledger
from satx.bulk.plan import Block, Plan
from satx.bulk.scorer import Scorer
from satx.environment import num_processors
from satx.errors import DataError
from satx.imagery.ahead import mapped_in_order
from satx.imagery.contract import Fetched, Imagery, Tile, Unscored
from satx.imagery.judge import judged

BATCHES_AHEAD = 2  # judged or waiting while others are scored
FILES_AHEAD = 2  # finished blocks that wait to be written

Score = np.ndarray | Unscored


@dataclass
class _OpenBlock:
    """A block that is being scored."""

    block: Block
    tiles: list[Tile]
    scores: list[Score | None]
    num_settled: int = 0
    is_ended: bool = False


@dataclass
class _Batch:
    """Tiles of one block that are scored together."""

    of: _OpenBlock
    rows: list[int] = field(default_factory=list)
    tiles: list[np.ndarray] = field(default_factory=list)  # each (S, S, 3) uint8
    files: list[bytes] = field(default_factory=list)


def predict_blocks(
    plan: Plan,
    blocks: Sequence[Block],
    imagery: Imagery,
    scorer: Scorer,
    ledger: Ledger,
    *,
    placeholders: frozenset[str] = frozenset(),
    on_tiles: Callable[[int], None] = lambda _number: None,
) -> float:
    """Predict blocks and write their files.

    Args:
        plan: The plan.
        blocks: The blocks that have no file yet, in the order of the plan.
        imagery: Where the tiles are.
        scorer: What scores them.
        ledger: Where the files go.
        placeholders: Digests of pictures that stand for missing imagery.
        on_tiles: Called with the number of tiles that have a status since the last call.

    Returns:
        Processor seconds that decoding, judging and resizing took.

    Raises:
        SatxError: Imagery, model or output cannot be used any more. Files that were written stay.
    """
    size_px, judging_seconds = scorer.model.image_size_px, 0.0
    begun: deque[_OpenBlock] = deque()

    def all_tiles() -> Iterator[Tile]:
        for block in blocks:
            tiles = plan.tiles(block)
            begun.append(_OpenBlock(block, tiles, [None] * len(tiles)))
            yield from tiles

    def judge(fetched: Fetched) -> tuple[Fetched, Score, float]:
        if isinstance(fetched, Unscored):
            return fetched, fetched, 0.0
        started = time.thread_time()
        score = judged(fetched, "tile", size_px, placeholders)
        return fetched, score, time.thread_time() - started

    with ExitStack() as stack:
        writing = stack.enter_context(_Writing(ledger, scorer.model))
        scoring = stack.enter_context(_Scoring(scorer, writing, on_tiles))
        pool = stack.enter_context(ThreadPoolExecutor(num_processors(), "satx-judge"))
        window = (BATCHES_AHEAD + scorer.num_parallel) * scorer.batch_size
        judged_tiles = mapped_in_order(judge, imagery.fetch(all_tiles()), pool=pool, window=window)
        stack.enter_context(closing(judged_tiles))
        row = 0
        for fetched, found, seconds in judged_tiles:
            judging_seconds += seconds
            scoring.add(begun[0], row, fetched, found)
            row += 1
            if row == len(begun[0].tiles):
                scoring.end(begun.popleft())
                row = 0
        if begun:
            raise DataError(
                f"Expected imagery for every tile, but the source ended before tile {begun[0].tiles[row].tile_id}. "
                f"Repeat the command."
            )
        scoring.settle(0)
        writing.settle(0)
    return judging_seconds


class _Writing:
    """Writes the files of finished blocks in a thread."""

    def __init__(self, ledger: Ledger, model: ModelIdentity) -> None:
        self._ledger, self._model = ledger, model
        self._pool = ThreadPoolExecutor(1, "satx-write")
        self._pending: deque[Future[None]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown()  # a file that is being written is finished, whatever stopped the run

    def write(self, done: _OpenBlock) -> None:
        """Write a block's file soon; wait if too many wait already."""
        scores = [score for score in done.scores if score is not None]
        table = block_table(done.tiles, scores, self._model)
        self._pending.append(self._pool.submit(self._ledger.write, done.block.name, table))
        self.settle(FILES_AHEAD)

    def settle(self, limit: int) -> None:
        """Wait until at most `limit` files are not written; raise what went wrong."""
        while len(self._pending) > limit:
            self._pending.popleft().result()


class _Scoring:
    """Collects batches, has them scored in order, and hands blocks on when all their tiles have a score or a status."""

    def __init__(self, scorer: Scorer, writing: _Writing, on_tiles: Callable[[int], None]) -> None:
        self._scorer, self._writing, self._on_tiles = scorer, writing, on_tiles
        self._pool = ThreadPoolExecutor(scorer.num_parallel, "satx-score")
        self._pending: deque[tuple[_Batch, Future[list[Score]]]] = deque()
        self._batch: _Batch | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # After an error or Ctrl-C, a batch at an endpoint that is down may wait for minutes; closing the scorer ends that.
        self._pool.shutdown(wait=kind is None, cancel_futures=True)

    def add(self, of: _OpenBlock, row: int, fetched: Fetched, found: Score) -> None:
        """Take the next tile of a block."""
        if isinstance(found, Unscored) or isinstance(fetched, Unscored):
            self._settled(of, [row], [found])
            return
        batch = self._batch = self._batch or _Batch(of)
        batch.rows.append(row)
        batch.tiles.append(found)
        batch.files.append(fetched)
        if len(batch.rows) == self._scorer.batch_size:
            self._submit()

    def end(self, of: _OpenBlock) -> None:
        """Score what is left of a block whose last tile was added."""
        self._submit()
        of.is_ended = True
        self._write_if_complete(of)

    def settle(self, limit: int) -> None:
        """Wait until at most `limit` batches are not scored; raise what went wrong."""
        while len(self._pending) > limit:
            batch, future = self._pending.popleft()
            self._settled(batch.of, batch.rows, future.result())
            self._write_if_complete(batch.of)

    def _submit(self) -> None:
        if self._batch is not None:
            batch, self._batch = self._batch, None
            pixels = np.stack(batch.tiles)
            self._pending.append((batch, self._pool.submit(self._scorer.score, pixels, batch.files)))
            self.settle(self._scorer.num_parallel)

    def _settled(self, of: _OpenBlock, rows: list[int], scores: list[Score]) -> None:
        for row, score in zip(rows, scores, strict=True):
            of.scores[row] = score
        of.num_settled += len(rows)
        self._on_tiles(len(rows))

    def _write_if_complete(self, of: _OpenBlock) -> None:
        if of.is_ended and of.num_settled == len(of.tiles):
            self._writing.write(of)
