"""Tests of what every source of imagery promises, for all of them that read files and buckets."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from imagery_sources import (
    BUCKET,
    COLUMNS,
    ROWS,
    TILE_PX,
    Files,
    bucket_of,
    files_of_tiles,
    folder_of,
    geotiff_of,
    mbtiles_of,
    pmtiles_of,
    shown,
    tile_at,
)

from satx.errors import DataError
from satx.imagery import threaded
from satx.imagery.cog import open_cog
from satx.imagery.contract import MISSING, Tile, Unscored
from satx.imagery.folder import open_folder, open_folder_template
from satx.imagery.mbtiles import open_mbtiles
from satx.imagery.pmtiles import open_pmtiles
from satx.imagery.s3 import open_s3
from satx.imagery.threaded import ThreadedImagery

Make = Callable[[Files, str], ThreadedImagery]
KINDS = ("folder", "template", "mbtiles", "pmtiles", "geotiff", "s3")
SAYS_NOTHING_OF_ITS_TILES = ("folder", "template", "s3")  # in its identity; the plan and the template do


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Make]:
    """Yield a function that makes and opens a source of this kind, from files and a name; close them after the test."""
    opened = []

    def made(files: Files, name: str) -> ThreadedImagery:
        opened.append(_open(kind, files, tmp_path / name, request))
        return opened[-1]

    yield made
    for imagery in opened:
        imagery.close()


def _open(kind: str, files: Files, path: Path, request: pytest.FixtureRequest) -> ThreadedImagery:
    match kind:
        case "folder":
            return open_folder(folder_of(files, path))
        case "template":
            return open_folder_template(f"{folder_of(files, path)}/{{z}}/{{x}}/{{y}}.png")
        case "mbtiles":
            return open_mbtiles(mbtiles_of(files, path / "a.mbtiles"))
        case "pmtiles":
            return open_pmtiles(pmtiles_of(files, path / "a.pmtiles"))
        case "geotiff":
            return open_cog(geotiff_of(files, path / "a.tif"), TILE_PX)
        case _:
            return open_s3(bucket_of(files, request.getfixturevalue("clients")("s3"), path.name))


FILES = files_of_tiles()
OUTSIDE = (COLUMNS.stop + 3, ROWS.start)
EXPECTED = {place: shown(data) for place, data in FILES.items()} | {OUTSIDE: MISSING}


def test_tiles_come_in_the_order_they_were_asked_for_and_missing_ones_in_their_place(make: Make) -> None:
    drawn = random.Random(1)
    places = [drawn.choice(list(EXPECTED)) for _ in range(150)]
    fetched = list(make(FILES, "a").fetch(tile_at(*place) for place in places))
    assert [shown(one) for one in fetched] == [EXPECTED[place] for place in places]
    reasons = {one.reason for one in fetched if isinstance(one, Unscored)}
    assert len(reasons) == 1 and reasons != {""}


def test_only_a_bounded_number_of_tiles_is_taken_ahead(make: Make) -> None:
    imagery, taken = make(FILES, "a"), 0

    def endless() -> Iterator[Tile]:
        nonlocal taken
        for number in count():
            taken += 1
            yield tile_at(COLUMNS[number % 4], ROWS[number // 4 % 4])

    fetched = imagery.fetch(endless())
    assert taken == 0
    for num_yielded in range(40):
        next(fetched)
        assert num_yielded < taken <= num_yielded + imagery.num_ahead
    assert imagery.num_ahead <= 128
    fetched.close()


def test_two_readers_at_once_get_their_own_tiles(make: Make) -> None:
    imagery, places = make(FILES, "a"), list(FILES)
    pair = zip(imagery.fetch(map(_at, places)), imagery.fetch(map(_at, places[::-1])), strict=True)
    assert [(shown(one), shown(other)) for one, other in pair] == [
        (EXPECTED[one], EXPECTED[other]) for one, other in zip(places, places[::-1], strict=True)
    ]


def _at(place: tuple[int, int]) -> Tile:
    return tile_at(*place)


def test_no_thread_is_left_after_a_generator_and_its_source_were_closed_early(make: Make) -> None:
    before = set(threading.enumerate())
    imagery = make(FILES, "a")
    fetched = imagery.fetch(_at(place) for _ in count() for place in FILES)
    next(fetched)
    assert [thread for thread in threading.enumerate() if thread.name.startswith("satx-")], "threads read ahead"
    fetched.close()
    imagery.close()
    assert not [thread for thread in set(threading.enumerate()) - before if thread.name.startswith("satx-")]


def test_closing_twice_does_nothing_and_a_reader_ends(make: Make) -> None:
    imagery = make(FILES, "a")
    fetched = imagery.fetch(_at(place) for _ in count() for place in FILES)
    next(fetched)
    imagery.close()
    imagery.close()
    assert list(fetched) == []
    assert list(imagery.fetch(map(_at, FILES))) == []


def test_an_error_of_the_list_of_tiles_is_raised(make: Make) -> None:
    def broken() -> Iterator[Tile]:
        yield from map(_at, FILES)
        raise OSError("the list of tiles broke off")

    with pytest.raises(OSError, match="broke off"):
        list(make(FILES, "a").fetch(broken()))


def test_the_identity_is_the_same_for_the_same_content_in_another_place(make: Make, kind: str) -> None:
    first, second = make(FILES, "a"), make(FILES, "a" if kind == "s3" else "moved")
    assert first.identity == second.identity == json.loads(json.dumps(first.identity))
    assert first.identity["kind"] and "/moved" not in json.dumps(second.identity)
    if kind in SAYS_NOTHING_OF_ITS_TILES:
        return
    less = {place: data for place, data in list(FILES.items())[:-1]}
    assert make(less, "less").identity != first.identity


def test_the_attribution_is_plain_text(make: Make, kind: str) -> None:
    assert make(FILES, "a").attribution == ("Aerial © Example" if kind.endswith("mbtiles") or kind == "pmtiles" else "")


def test_large_tiles_are_not_read_ahead_by_whole_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threaded, "MAX_CHUNK_BYTES", 1000)
    calls, tiles = [], [tile_at(COLUMNS[0], row) for row in range(64)]

    def large(tile: Tile) -> bytes:
        calls.append(tile.y)
        return bytes([tile.y]) * 1001

    imagery = ThreadedImagery(large, identity={"kind": "test"}, num_threads=2, chunk_tiles=8)
    fetched = imagery.fetch(tiles)
    first = next(fetched)
    assert len(calls) <= 2 * 2, "one tile of each chunk"
    assert [first, *fetched] == [bytes([tile.y]) * 1001 for tile in tiles]
    assert sorted(calls) == list(range(64)), "each is read once"
    imagery.close()


def test_an_error_of_the_whole_source_is_raised_and_later_tiles_are_not_asked_for() -> None:
    def vanished(tile: Tile) -> bytes:
        if tile.y == 20:
            raise DataError("the source vanished")
        assert tile.y < 20 + imagery.num_ahead
        return b"x"

    imagery = ThreadedImagery(vanished, identity={"kind": "test"}, num_threads=2, chunk_tiles=4)
    fetched: Any = imagery.fetch(tile_at(0, row) for row in count())
    with pytest.raises(DataError, match="vanished"):
        for _ in range(100):
            next(fetched)
    imagery.close()


def test_tiles_wait_for_nothing_after_close_even_while_a_tile_is_read() -> None:
    stopped, reading = threading.Event(), threading.Event()

    def waits(_tile: Tile) -> bytes:
        reading.set()
        assert stopped.wait(60)
        return b"x"

    imagery = ThreadedImagery(waits, identity={"kind": "test"}, num_threads=1, chunk_tiles=1, stopped=stopped)
    ended: list[list[Any]] = []
    reader = threading.Thread(target=lambda: ended.append(list(imagery.fetch(tile_at(0, row) for row in count()))))
    reader.start()
    assert reading.wait(60)
    imagery.close()
    reader.join(60)
    assert not reader.is_alive() and len(ended[0]) <= 1


def test_the_bucket_of_the_tests_is_named_in_the_identity(clients: Any) -> None:
    imagery = open_s3(bucket_of({}, clients("s3"), "a"))
    assert BUCKET in imagery.identity["template"]
    imagery.close()
