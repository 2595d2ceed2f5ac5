"""Imagery over HTTP against a server on loopback that is as bad as tile servers are."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import threading
import traceback
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hostile_tiles import Behavior, TileServer, busiest_second, pictures, running_tile_server

from satx import __version__
from satx.errors import ConfigError, DataError
from satx.imagery import http, turns
from satx.imagery.contract import BLANK, BROKEN, DONE, FAILED, MISSING, REFUSED, Fetched, Tile, Unscored
from satx.imagery.http import HttpImagery, open_http
from satx.imagery.http_requests import Patience
from satx.imagery.judge import judged

QUICK = Patience(
    num_attempts=4, request_seconds=1.0, tile_seconds=2.0, first_wait_seconds=0.02, longest_wait_seconds=0.2,
    jitter_seconds=0.02, num_refusals=3, outage_seconds=20.0, probe_seconds=0.1,
)  # fmt: skip
PATH = "/{z}/{x}/{y}.jpg"
SECRET = "pk.S3cret%+value"
STATUS_OF = {
    "good": DONE, "slow": DONE, "blank": BLANK, "html": BROKEN, "damaged": BROKEN, "truncated": BROKEN,
    "empty": MISSING, "missing": MISSING, "gone": MISSING, "bad request": REFUSED, "forbidden": REFUSED, "huge": REFUSED,
    "huge unannounced": REFUSED, "error": FAILED, "unavailable": FAILED, "reset": FAILED, "hanging": FAILED,
    "silent": FAILED, "throttled": FAILED,
}  # fmt: skip


def tiles(number: int) -> list[Tile]:
    return [Tile(f"18-{column}-7", 18, column, 7) for column in range(number)]


@contextmanager
def opened(server: TileServer | str, path: str = PATH, **options: Any) -> Iterator[HttpImagery]:
    url = server if isinstance(server, str) else server.url
    with closing(open_http(url + path, **({"patience": QUICK} | options))) as imagery:
        yield imagery


def status(fetched: Fetched) -> str:
    if isinstance(fetched, Unscored):
        return fetched.status
    found = judged(fetched, "tile", 64, frozenset())
    return found.status if isinstance(found, Unscored) else DONE


def test_every_tile_gets_the_status_of_what_the_server_did() -> None:
    kinds = dict.fromkeys(kind for kind in STATUS_OF if kind not in ("good", "hanging", "silent", "throttled"))
    shares = dict.fromkeys(kinds, 0.02) | {"error": 0.01, "reset": 0.01, "huge": 0.004}
    shares |= {"huge unannounced": 0.002, "error once": 0.05, "reset once": 0.05, "truncated once": 0.05}
    behavior = Behavior(shares=shares, seed=3)
    wanted = tiles(1000)
    with running_tile_server(behavior) as server, opened(server) as imagery:
        fetched = list(imagery.fetch(iter(wanted)))
        log = server.log()
    expected = [behavior.kind_of((18, tile.x, 7)).removesuffix(" once") for tile in wanted]
    final = [
        kind if behavior.kind_of((18, tile.x, 7)) == kind else "good"
        for kind, tile in zip(expected, wanted, strict=True)
    ]
    assert set(final) == {*kinds, "good"}  # each kind occurs
    assert [status(one) for one in fetched] == [STATUS_OF[kind] for kind in final]
    assert log["final"] == Counter(final)
    assert log["answers"]["unavailable"] >= 3 * log["final"]["unavailable"]  # nothing is given up after one answer
    good = pictures()
    assert all(
        one == good[(18 + place + 7) % 8] for place, one in enumerate(fetched) if final[place] in ("good", "slow")
    )
    assert log["connections"] <= 8 + 1  # one more to look whether the server is there


def test_requests_that_never_end_are_given_up_and_the_others_go_on() -> None:
    behavior = Behavior(shares={"hanging": 0.02, "silent": 0.02})
    with running_tile_server(behavior) as server, opened(server) as imagery:
        fetched = list(imagery.fetch(tiles(200)))
    kinds = [behavior.kind_of((18, place, 7)) for place in range(200)]
    assert {"hanging", "silent"} < set(kinds)
    assert [status(one) for one in fetched] == [STATUS_OF[kind] for kind in kinds]
    assert {one.reason for one in fetched if isinstance(one, Unscored)} == {"no complete answer within 1 seconds"}


def test_a_tile_that_alone_is_refused_as_one_too_many_fails_and_the_others_go_on() -> None:
    behavior = Behavior(shares={"throttled": 0.05})
    with running_tile_server(behavior) as server, opened(server) as imagery:
        fetched = list(imagery.fetch(tiles(60)))
    kinds = [behavior.kind_of((18, place, 7)) for place in range(60)]
    assert "throttled" in kinds
    assert [status(one) for one in fetched] == [STATUS_OF[kind] for kind in kinds]


@pytest.mark.parametrize("retry_after", ["1", "date", ""])
def test_the_limit_of_the_server_is_respected_and_no_tile_is_lost_by_it(retry_after: str) -> None:
    limit, burst = 200, 40
    behavior = Behavior(
        shares={"error once": 0.05, "missing": 0.05}, limit_per_second=limit, burst=burst, retry_after=retry_after
    )
    with running_tile_server(behavior) as server, opened(server, patience=Patience()) as imagery:
        statuses = Counter(status(one) for one in imagery.fetch(tiles(600)))
        log = server.log()
    assert statuses == {DONE: log["final"]["good"], MISSING: log["final"]["missing"]}
    assert log["answers"]["429"] == len(log["refused_at"]) > 0
    assert log["answers"]["429"] <= 0.05 * log["requests"]
    assert log["busiest_after_refusals"] <= limit + burst


def test_all_requests_wait_as_long_as_the_server_asks() -> None:
    behavior = Behavior(limit_per_second=30, burst=5, retry_after="3")
    with running_tile_server(behavior) as server, opened(server) as imagery:
        assert len(list(imagery.fetch(tiles(12)))) == 12
        log = server.log()
    first = log["refused_at"][0]
    # what was under way arrives within half a second; then there is silence
    assert not [at for at in log["accepted_at"] + log["refused_at"] if first + 0.5 < at < first + 2.5]
    assert busiest_second(log["accepted_at"]) <= 5 + 30


def test_a_server_that_asks_to_come_back_much_later_ends_the_run() -> None:
    behavior = Behavior(limit_per_second=0.001, burst=20, retry_after="3600")
    with running_tile_server(behavior) as server, opened(server) as imagery:
        got: list[Fetched] = []
        with pytest.raises(
            DataError, match=r"HTTP 429: the server asks to continue after 2\d{3}-\d\d-\d\d \d\d:\d\d"
        ) as caught:
            got.extend(imagery.fetch(tiles(100)))
        assert "Run the same command again" in str(caught.value)
        with pytest.raises(DataError, match="to continue after"):  # and the source stays so
            next(imagery.fetch(tiles(1)))
        assert server.log()["requests"] <= 20 + 8
    assert all(isinstance(one, bytes) for one in got)


def test_a_wrong_key_ends_the_run_after_a_few_requests() -> None:
    with running_tile_server(Behavior(key="right")) as server:
        with opened(server, PATH + "?key=${KEY}", environ={"KEY": "wrong" * 4}) as imagery:
            with pytest.raises(DataError, match=r"\?key=\$\{KEY\}: HTTP 403: the server refuses the key"):
                list(imagery.fetch(tiles(500)))
            assert server.log()["requests"] <= QUICK.num_without_access + 8
        with opened(server, PATH + "?key=${KEY}", environ={"KEY": "right"}) as imagery:
            assert [status(one) for one in imagery.fetch(tiles(9))] == [DONE] * 9


def test_a_plan_of_one_tile_without_access_is_an_error_and_no_refused_tile() -> None:
    with (
        running_tile_server(Behavior(key="right")) as server,
        opened(server) as imagery,
        pytest.raises(DataError, match="refuses access, and the template has no key"),
    ):
        list(imagery.fetch(tiles(1)))


def test_a_key_that_expires_refuses_no_tile() -> None:
    behavior = Behavior(key="right", most_good=100)
    with running_tile_server(behavior) as server, opened(server, PATH + "?key=right") as imagery:
        fetched: list[Fetched] = []
        with pytest.raises(DataError, match="refuses the key"):
            fetched.extend(imagery.fetch(tiles(500)))
        assert server.log()["requests"] <= 100 + 8 * 3
    assert all(isinstance(one, bytes) for one in fetched)


def test_an_outage_marks_no_tile_and_the_run_goes_on_after_it(caplog: pytest.LogCaptureFixture) -> None:
    # the new server has its first errors before it, too: tiles that failed in the outage have all their attempts again
    behavior = Behavior(shares={"error once": 0.3}, latency_seconds=0.01)
    with running_tile_server(behavior) as server, opened(server) as imagery:
        fetching = imagery.fetch(tiles(800))
        fetched = [next(fetching) for _ in range(50)]
        server.process.kill()
        server.process.wait()
        restarted = threading.Event()
        over = threading.Event()

        def restart() -> None:
            while "waiting for it" not in caplog.text and not over.wait(0.05):
                pass
            with running_tile_server(behavior, port=server.port):
                restarted.set()
                over.wait(60)

        thread = threading.Thread(target=restart)
        thread.start()
        try:
            fetched += fetching
        finally:
            over.set()
            thread.join()
    assert restarted.is_set()
    assert [status(one) for one in fetched] == [DONE] * 800
    assert "gives tiles again" in caplog.text


def test_an_outage_without_an_end_ends_the_run_and_marks_no_tile() -> None:
    patience = Patience(**(vars(QUICK) | {"outage_seconds": 0.5}))
    with running_tile_server(Behavior(latency_seconds=0.01)) as server, opened(server, patience=patience) as imagery:
        fetching = imagery.fetch(tiles(800))
        fetched = [next(fetching) for _ in range(50)]
        server.process.kill()
        with pytest.raises(DataError, match=r"given no tile since .*Run the same command again to continue"):
            fetched.extend(fetching)
    assert all(isinstance(one, bytes) for one in fetched)


def test_a_server_whose_every_answer_is_an_error_is_down() -> None:
    """As behind a load balancer that has lost its servers: it answers, but gives nothing."""
    patience = Patience(**(vars(QUICK) | {"outage_seconds": 1.5}))
    behavior = Behavior(most_good=100, afterwards="unavailable")
    with running_tile_server(behavior) as server, opened(server, patience=patience) as imagery:
        fetched: list[Fetched] = []
        with pytest.raises(DataError, match=r"given no tile since .*HTTP 503"):
            fetched.extend(imagery.fetch(tiles(4000)))
        asked_at = server.log()["accepted_at"]
    assert (
        sum(at > asked_at[-1] - 1 for at in asked_at) <= 1 / QUICK.probe_seconds + 8
    )  # only looks whether it is there again
    assert all(isinstance(one, bytes) for one in fetched)


def test_an_address_without_a_server_is_told_at_once() -> None:
    with running_tile_server(Behavior()) as server:
        url = server.url
    with opened(url) as imagery, pytest.raises(DataError, match=r"got none so far: no connection \("):
        list(imagery.fetch(tiles(3)))


@pytest.mark.parametrize("kind", ["silent", "hanging", "error"])
def test_closing_ends_what_waits(kind: str) -> None:
    patience = Patience(request_seconds=600.0, tile_seconds=600.0, first_wait_seconds=600.0, longest_wait_seconds=600.0)
    with running_tile_server(Behavior(shares={kind: 1.0})) as server:
        imagery = open_http(server.url + PATH, patience=patience)
        fetched: list[Fetched] = []
        consumer = threading.Thread(target=lambda: fetched.extend(imagery.fetch(tiles(100))))
        consumer.start()
        while not server.log()["requests"]:
            pass
        imagery.close()
        consumer.join(30)
        assert not consumer.is_alive() and not fetched
        assert not [thread for thread in threading.enumerate() if thread.name == "satx-http"]
        assert list(imagery.fetch(tiles(3))) == []
        imagery.close()


def test_ctrl_c_ends_a_wait_and_leaves_the_source_usable() -> None:
    patience = Patience(request_seconds=600.0)
    with (
        running_tile_server(Behavior(shares={"silent": 0.5}, seed=1)) as server,
        opened(server, patience=patience) as imagery,
    ):
        hanging = [tile for tile in tiles(40) if Behavior(shares={"silent": 0.5}, seed=1).kind_of(tile[1:]) == "silent"]
        good = [tile for tile in tiles(40) if tile not in hanging]
        timer = threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            next(imagery.fetch(hanging))
        timer.join()
        assert [status(one) for one in imagery.fetch(good)] == [DONE] * len(good)


def test_little_is_taken_and_kept_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "LOOK_AHEAD_TILES", 300)
    monkeypatch.setattr(turns, "LOOK_AHEAD_BYTES", 10 * len(pictures()[0]))
    taken = []

    def endless() -> Iterator[Tile]:
        for column in count():
            taken.append(column)
            yield Tile(f"18-{column}-7", 18, column, 7)

    with running_tile_server(Behavior()) as server, opened(server) as imagery:
        fetching = imagery.fetch(endless())
        for _ in range(20):
            next(fetching)
        quiet = -1
        while (requests := server.log()["requests"]) != quiet:  # until it stands still
            quiet = requests
            threading.Event().wait(0.3)
        assert len(taken) <= 20 + 300
        assert 20 + 5 <= requests <= 20 + 2 * 10 + 8  # pictures differ in size
        for _ in range(500):
            assert isinstance(next(fetching), bytes)


def test_the_tile_that_is_waited_for_starts_however_much_is_kept_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tile that is waited for may start, however much is kept behind it."""
    monkeypatch.setattr(turns, "LOOK_AHEAD_BYTES", 1)
    with running_tile_server(Behavior(shares={"error once": 0.3, "slow": 0.05})) as server, opened(server) as imagery:
        assert [status(one) for one in imagery.fetch(tiles(100))] == [DONE] * 100


def test_a_consumer_that_ends_in_a_pause_leaves_its_turn_to_others() -> None:
    behavior = Behavior(limit_per_second=1, burst=1, retry_after="2")
    with running_tile_server(behavior) as server, opened(server, concurrency=1) as imagery:
        fetching = imagery.fetch(tiles(20))
        next(fetching)
        while not server.log()["refused_at"]:
            pass
        threading.Event().wait(0.3)
        assert isinstance(fetching, Generator)
        fetching.close()
        assert [status(one) for one in imagery.fetch(tiles(1))] == [DONE]


def test_two_consumers_share_one_server() -> None:
    with running_tile_server(Behavior()) as server, opened(server) as imagery:
        first, second = imagery.fetch(tiles(60)), imagery.fetch(reversed(tiles(60)))
        pairs = list(zip(first, second, strict=True))
        assert [one for one, _ in pairs] == [one for _, one in reversed(pairs)]
        assert server.log()["connections"] <= 8


def test_redirects_are_followed_but_not_with_the_key_to_another_server() -> None:
    with running_tile_server(Behavior(key="S3cret-key")) as other, running_tile_server(Behavior()) as open_other:
        for location, path, expected in (
            (open_other.url + PATH, PATH, DONE),
            (open_other.url + PATH, PATH + "?key=${KEY}", DONE),
            (other.url + PATH + "?key={key}", PATH + "?key=${KEY}", REFUSED),
            ("/elsewhere" + PATH + "?key={key}", PATH + "?key=${KEY}", REFUSED),  # around in circles
            ("ftp://127.0.0.1/1", PATH, REFUSED),
            ("http://[", PATH, REFUSED),
        ):
            behavior = Behavior(shares={"elsewhere": 1.0}, location=location, key="S3cret-key" if "KEY" in path else "")
            with running_tile_server(behavior) as server:
                url = server.url.replace("//", "//me:${WORD}@")
                with opened(url, path, environ={"KEY": "S3cret-key", "WORD": "S3cret-word"}) as imagery:
                    assert [status(one) for one in imagery.fetch(tiles(5))] == [expected] * 5, location
                assert "" not in server.log()["authorizations"]
                assert server.log()["requests"] <= 5 * (1 + 3)
        assert other.log()["requests"] == 0
        assert set(open_other.log()["authorizations"]) == {""}


def test_satx_identifies_itself_and_keeps_few_connections() -> None:
    with running_tile_server(Behavior(latency_seconds=0.005)) as server:
        with opened(server, contact="maps@agency.example", concurrency=3) as imagery:
            assert len(list(imagery.fetch(tiles(60)))) == 60
        log = server.log()
    assert log["agents"] == {f"satx/{__version__} (maps@agency.example)": 60}
    assert log["connections"] <= 3


def test_a_run_continues_with_another_key_and_not_with_another_layer() -> None:
    def identity(path: str, **environ: str) -> str:
        with opened("https://t.example", path, environ=environ, attribution="© Agency") as imagery:
            assert imagery.attribution == "© Agency"
            return json.dumps(imagery.identity)

    assert identity(PATH + "?key=${KEY}", KEY="one") == identity(PATH + "?key=${KEY}", KEY="two")
    assert identity(PATH + "?layer=1") != identity(PATH + "?layer=2")


@pytest.mark.parametrize(
    "options", [{"concurrency": 0}, {"concurrency": 65}, {"contact": "a\r\nX: y"}, {"contact": "ü"}]
)
def test_wrong_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="Expected a con"):
        open_http("https://t.example" + PATH, **options)


def test_no_secret_is_in_a_log_an_error_an_identity_or_a_representation(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    caplog.set_level(logging.DEBUG)
    for name in list(logging.root.manager.loggerDict):
        caplog.set_level(logging.DEBUG, logger=name)
    shares = {
        "error once": 0.2,
        "reset once": 0.1,
        "truncated": 0.1,
        "hanging": 0.02,
        "forbidden": 0.05,
        "elsewhere": 0.1,
    }
    shown: list[str] = []
    for behavior in (
        Behavior(shares=shares, location="http://127.0.0.1:9/{z}/{x}/{y}?key={key}", key="pk.S3cret%25%2Bvalue"),
        Behavior(key="another"),
        Behavior(shares={"error": 1.0}),
        Behavior(limit_per_second=0.001, burst=5, retry_after="9999"),
    ):
        with running_tile_server(behavior) as server:
            url = server.url.replace("//", "//me:S3cret@")
            with opened(url, PATH + "?key=${KEY}&token=S3cret-literal", environ={"KEY": SECRET}) as imagery:
                try:
                    shown += [str(one) for one in imagery.fetch(tiles(100)) if isinstance(one, Unscored)]
                except DataError as error:
                    shown += [str(error), repr(error), *traceback.format_exception(error)]
                shown += [repr(imagery), json.dumps(imagery.identity), *(repr(task) for task in _tasks(imagery))]
            assert "key=pk.S3cret%25%2Bvalue" in server.log()["paths"][0]  # it was sent
    shown += [caplog.text, *(str(vars(record)) for record in caplog.records), *capfd.readouterr()]
    assert len(shown) > 20 and len(caplog.records) > 4
    assert "S3cret" not in "\n".join(shown)


def _tasks(imagery: HttpImagery) -> set[asyncio.Task[Any]]:
    return asyncio.all_tasks(imagery._loop)
