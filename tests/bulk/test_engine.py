"""The engine: every tile once, in order, whatever fails, and the same bytes after any restart."""

from __future__ import annotations

import io
import itertools
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from bulk_played import MODEL, SIZE_PX, PlayedImagery, PlayedScorer, tile_file
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from satx.bulk import engine
from satx.bulk.engine import predict_blocks
from satx.bulk.ledger import Ledger, open_ledger
from satx.bulk.plan import Plan, plan_files, plan_grid
from satx.errors import DataError
from satx.grid.tiles import keys_of
from satx.imagery.contract import FAILED, MISSING, Fetched, Tile, Unscored


def grid_plan(width: int = 66) -> Plan:
    """Return a square of tiles at zoom 18: more than one block."""
    columns, rows = np.meshgrid(np.arange(width) + 130_000, np.arange(width) + 90_000)
    return plan_grid(keys_of(np.full(columns.size, 18), columns.ravel(), rows.ravel()))


def files_plan(num_files: int) -> Plan:
    return plan_files([f"{number:05d}.png" for number in range(num_files)])


def test_every_tile_of_the_plan_is_in_the_output_once_and_in_order(tmp_path: Path) -> None:
    plan, ledger = grid_plan(), open_ledger(str(tmp_path))
    seen: list[int] = []
    predict_blocks(plan, plan.blocks, PlayedImagery(), PlayedScorer(batch_size=64), ledger, on_tiles=seen.append)
    ids = [name for block in plan.blocks for name in ledger.read(block.name)["tile_id"].to_pylist()]
    assert len(plan.blocks) > 1 and ids == [tile.tile_id for block in plan.blocks for tile in plan.tiles(block)]
    assert sum(seen) == plan.num_tiles == 4356


def answered(tile: Tile) -> Fetched:
    """Return bytes for most tiles, and every kind of trouble for the others."""
    kind = int(tile.tile_id.split(".")[0]) % 7
    if kind == 1:
        return Unscored(MISSING, "the source has no such tile")
    if kind == 2:
        return b"<html>busy</html>"
    if kind == 3:
        return tile_file(tile)[:-30]
    if kind == 4:
        blank = io.BytesIO()
        Image.new("RGB", (SIZE_PX, SIZE_PX), (9, 9, 9)).save(blank, "png")
        return blank.getvalue()
    return Unscored(FAILED, "no answer") if kind == 5 else tile_file(tile)


def test_a_tile_without_a_score_has_status_and_reason_and_the_others_their_own_scores(tmp_path: Path) -> None:
    plan, ledger = files_plan(100), open_ledger(str(tmp_path))
    predict_blocks(plan, plan.blocks, PlayedImagery(answered), PlayedScorer(batch_size=1), ledger)
    rows = ledger.read(plan.blocks[0].name).to_pylist()
    expected = {0: "done", 1: "missing", 2: "broken", 3: "broken", 4: "blank", 5: "failed", 6: "done"}
    for number, row in enumerate(rows):
        assert row["status"] == expected[number % 7], row
        assert (row["reason"] is None) == (row["status"] == "done") == (row["prob_school"] is not None)
        if row["status"] == "done":
            pixels = np.asarray(Image.open(io.BytesIO(tile_file(Tile(row["tile_id"], -1, -1, -1)))))
            assert row["prob_school"] == pytest.approx(pixels.mean() / 255 * 0.999, abs=1e-6)
            assert row["above_threshold"] == (row["prob_school"] >= MODEL.threshold)
    assert Counter(row["status"] for row in rows) == Counter(expected[number % 7] for number in range(100))


def test_the_statuses_of_the_scorer_are_kept(tmp_path: Path) -> None:
    plan, ledger = files_plan(20), open_ledger(str(tmp_path))

    class Refusing(PlayedScorer):
        def score(self, tiles: np.ndarray, files: object) -> list[np.ndarray | Unscored]:
            scores = super().score(tiles, files)  # type: ignore[arg-type]  # the files, as they came
            return [Unscored("refused", "not of this kind") if row == 1 else score for row, score in enumerate(scores)]

    predict_blocks(plan, plan.blocks, PlayedImagery(), Refusing(batch_size=5), ledger)
    statuses = ledger.read(plan.blocks[0].name)["status"].to_pylist()
    assert [number for number, status in enumerate(statuses) if status == "refused"] == [1, 6, 11, 16]


@pytest.mark.parametrize("num_parallel", [1, 4])
def test_a_restart_in_any_block_gives_the_same_bytes(tmp_path: Path, num_parallel: int) -> None:
    plan = grid_plan()
    whole, parts = open_ledger(str(tmp_path / "whole")), open_ledger(str(tmp_path / "parts"))
    predict_blocks(plan, plan.blocks, PlayedImagery(), PlayedScorer(num_parallel=num_parallel), whole)
    for block in reversed(plan.blocks):  # each by a run of its own
        predict_blocks(plan, [block], PlayedImagery(), PlayedScorer(num_parallel=num_parallel), parts)
    names = sorted(path.name for path in (tmp_path / "whole" / "blocks").iterdir())
    assert len(names) == len(plan.blocks) > 1
    for name in names:
        assert (tmp_path / "whole/blocks" / name).read_bytes() == (tmp_path / "parts/blocks" / name).read_bytes()


@given(
    num_files=st.integers(1, 40),
    batch_size=st.integers(1, 9),
    num_parallel=st.integers(1, 3),
    bad=st.sets(st.integers(0, 39)),
)
@settings(max_examples=25)
def test_any_number_of_tiles_in_any_batches(
    tmp_path_factory: pytest.TempPathFactory, num_files: int, batch_size: int, num_parallel: int, bad: set[int]
) -> None:
    plan, ledger = files_plan(num_files), open_ledger(str(tmp_path_factory.mktemp("any")))

    def answer(tile: Tile) -> Fetched:
        return Unscored(MISSING, "gone") if int(tile.tile_id[:5]) in bad else tile_file(tile)

    scorer = PlayedScorer(batch_size=batch_size, num_parallel=num_parallel)
    predict_blocks(plan, plan.blocks, PlayedImagery(answer), scorer, ledger)
    statuses = ledger.read(plan.blocks[0].name)["status"].to_pylist()
    assert statuses == ["missing" if number in bad else "done" for number in range(num_files)]
    num_done = statuses.count("done")
    assert scorer.num_batches == -(-num_done // batch_size)


def test_tiles_are_fetched_only_so_far_ahead_that_memory_is_bounded(tmp_path: Path) -> None:
    plan, imagery, scorer = grid_plan(64), PlayedImagery(), PlayedScorer(batch_size=8)
    ahead: list[int] = []
    scorer.before = lambda number: ahead.append(imagery.num_fetched - (number - 1) * scorer.batch_size)
    predict_blocks(plan, plan.blocks, imagery, scorer, open_ledger(str(tmp_path)))
    most = (engine.BATCHES_AHEAD + scorer.num_parallel) * scorer.batch_size + 2 * scorer.batch_size
    assert scorer.batch_size <= max(ahead) <= most


def test_a_source_that_ends_early_is_an_error(tmp_path: Path) -> None:
    plan, ledger = files_plan(1500), open_ledger(str(tmp_path))

    class Short(PlayedImagery):
        def fetch(self, tiles: Iterable[Tile]) -> Iterator[Fetched]:
            return itertools.islice(super().fetch(tiles), 1100)

    with pytest.raises(DataError, match=r"ended before tile 01100\.png"):
        predict_blocks(plan, plan.blocks, Short(), PlayedScorer(), ledger)
    assert ledger.finished() == {plan.blocks[0].name}


@pytest.mark.parametrize("where", ["imagery", "scorer", "output"])
def test_an_error_of_the_whole_run_ends_it_with_what_was_written(tmp_path: Path, where: str) -> None:
    plan, ledger, scorer = files_plan(3100), open_ledger(str(tmp_path)), PlayedScorer(batch_size=64)
    error = DataError("gone for good")

    class Stopping(PlayedImagery):
        def fetch(self, tiles: Iterable[Tile]) -> Iterator[Fetched]:
            for number, fetched in enumerate(super().fetch(tiles)):
                if where == "imagery" and number == 2700:
                    raise error
                yield fetched

    def fail(number: int) -> None:
        if where == "scorer" and number == 40:
            raise error

    scorer.before = fail
    if where == "output":
        write = ledger.write

        def full(name: str, table: object) -> None:
            if name == plan.blocks[2].name:
                raise OSError(28, "No space left on device")
            write(name, table)

        ledger.write = full  # type: ignore[method-assign]  # a disk that fills up
    with pytest.raises(OSError if where == "output" else DataError):
        predict_blocks(plan, plan.blocks, Stopping(), scorer, ledger)
    finished = ledger.finished()
    assert {block.name for block in plan.blocks[:2]} <= finished and plan.blocks[2].name not in finished
    own = ("satx-judge", "satx-score", "satx-write")
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith(own)]
    left = [block for block in plan.blocks if block.name not in ledger.finished()]
    predict_blocks(plan, left, PlayedImagery(), PlayedScorer(batch_size=64), Ledger(ledger.files))
    assert ledger.finished() == {block.name for block in plan.blocks}


def test_an_error_does_not_wait_for_a_batch_that_hangs(tmp_path: Path) -> None:
    plan, closed = files_plan(100), threading.Event()
    scorer = PlayedScorer(batch_size=8)
    ended: list[bool] = []
    scorer.before = lambda number: ended.append(closed.wait(20))

    class Stopping(PlayedImagery):
        def fetch(self, tiles: Iterable[Tile]) -> Iterator[Fetched]:
            yield from itertools.islice(super().fetch(tiles), 34)  # so that one batch is under way
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_blocks(plan, plan.blocks, Stopping(), scorer, open_ledger(str(tmp_path)))
    assert scorer.num_batches == 1 and not ended
    closed.set()  # as closing a scorer does
