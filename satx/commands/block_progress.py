"""Progress of reading the blocks of a bulk prediction: nothing for a small one, a bar from two seconds on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa

from satx.bulk.ledger import Ledger
from satx.commands.progress import progress_bars

QUIET_SECONDS = 2.0


@contextmanager
def block_progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Yield `on_block(done, total)`, which shows the progress of `what` once it has taken `QUIET_SECONDS`."""
    began = time.monotonic()
    with progress_bars() as on_progress:

        def on_block(done: int, total: int) -> None:
            if time.monotonic() - began >= QUIET_SECONDS:
                on_progress(what, done, total)

        yield on_block


def read_blocks(ledger: Ledger, names: Sequence[str], what: str) -> Iterator[pa.Table]:
    """Yield the tables of blocks, with the progress of `what`.

    Raises:
        FileNotFoundError: A block is not done.
        DataError: A file is damaged.
    """
    with block_progress(what) as on_block:
        for number, name in enumerate(names, start=1):
            yield ledger.read(name)
            on_block(number, len(names))
