"""Tests of tiles in a bucket: simulated Amazon for what it answers, a scripted server for what it answers on a bad day."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from itertools import count
from typing import Any

import pytest
from botocore.config import Config
from imagery_sources import BUCKET, COLUMNS, ROWS, ScriptedS3, bucket_of, files_of_tiles, scripted_s3, tile_at
from slow_servers import slow_server

from satx.errors import ConfigError, DataError
from satx.imagery import s3
from satx.imagery.contract import FAILED, MISSING, REFUSED, Fetched, Tile, Unscored
from satx.imagery.s3 import open_s3

TEMPLATE = f"s3://{BUCKET}/a/{{z}}/{{x}}/{{y}}.png"
TILES = [tile_at(x, y) for x in COLUMNS for y in ROWS]


def fetched(tiles: Iterable[Tile], template: str = TEMPLATE) -> list[Fetched]:
    imagery = open_s3(template)
    try:
        return list(imagery.fetch(tiles))
    finally:
        imagery.close()


@pytest.fixture
def once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a request be repeated once at most, so that the tests do not wait."""
    settings = {
        "retries": {"total_max_attempts": 2, "mode": "standard"},
        "read_timeout": 0.5,
        "max_pool_connections": 32,
    }
    monkeypatch.setattr(s3, "_REQUESTS", Config(**settings))


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., ScriptedS3]]:
    """Yield a function that starts a scripted S3 and points the client to it."""
    with ExitStack() as held:

        def start(answer: Callable[[int], tuple[int, str | bytes]]) -> ScriptedS3:
            url, server = held.enter_context(scripted_s3(answer))
            monkeypatch.setenv("AWS_ENDPOINT_URL", url)
            monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
            return server

        yield start


def test_rows_may_count_from_the_south_and_keys_may_have_any_form(clients: Any) -> None:
    client = clients("s3")
    client.create_bucket(Bucket=BUCKET)
    client.put_object(Bucket=BUCKET, Key="deep/er tiles/3-5-7 ä.jpg", Body=b"south")
    assert fetched([Tile("a", 3, 5, 0)], f"s3://{BUCKET}/deep/er tiles/{{z}}-{{x}}-{{-y}} ä.jpg") == [b"south"]


def test_a_bucket_that_vanishes_during_the_run_is_an_error_and_not_thousands_of_missing_tiles(clients: Any) -> None:
    client, files = clients("s3"), files_of_tiles()
    bucket_of(files, client, "a")
    imagery = open_s3(TEMPLATE)
    found = imagery.fetch(tile_at(*place) for _ in count() for place in files)
    assert [next(found) for _ in files] == list(files.values())
    for x, y in files:
        client.delete_object(Bucket=BUCKET, Key=f"a/12/{x}/{y}.png")
    client.delete_bucket(Bucket=BUCKET)
    with pytest.raises(DataError, match=rf"s3://{BUCKET}/a/.*: there is no such bucket"):
        for _ in range(1000):
            next(found)
    imagery.close()


@pytest.mark.parametrize(
    ("status", "code", "problem"),
    [
        (403, "AccessDenied", r"S3 denies access .* s3:ListBucket"),
        (403, "InvalidAccessKeyId", r"refuses the requests \(InvalidAccessKeyId\)"),
        (403, "RequestTimeTooSkewed", r"credentials, region and clock"),
        (400, "ExpiredToken", r"refuses the requests \(ExpiredToken\)"),
        (404, "NoSuchBucket", "there is no such bucket"),
    ],
)
def test_an_answer_about_the_source_is_an_error_of_the_whole_source(
    scripted: Callable[..., ScriptedS3], status: int, code: str, problem: str
) -> None:
    scripted(lambda _number: (status, code))
    with pytest.raises(DataError, match=problem) as caught:
        fetched(TILES)
    assert str(caught.value).startswith(TEMPLATE) and "\n" not in str(caught.value)


@pytest.mark.usefixtures("once")
@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (404, "NoSuchKey", Unscored(MISSING, "no such object")),
        (403, "InvalidObjectState", Unscored(FAILED, "S3 answered 403 (InvalidObjectState)")),
        (503, "SlowDown", Unscored(FAILED, "S3 answered 503 (SlowDown)")),
        (500, "InternalError", Unscored(FAILED, "S3 answered 500 (InternalError)")),
        (206, b"half a tile", Unscored(FAILED, "S3 did not answer (ResponseStreamingError)")),
    ],
)
def test_an_answer_about_a_tile_is_its_status(
    scripted: Callable[..., ScriptedS3], status: int, code: str | bytes, expected: Unscored
) -> None:
    scripted(lambda _number: (status, code))
    assert fetched(TILES[:2]) == [expected, expected]


@pytest.mark.usefixtures("once")
@pytest.mark.parametrize("trouble", [(503, "SlowDown"), (500, "InternalError"), (206, b"half a tile")])
def test_a_request_is_repeated_after_an_error_of_the_server_or_half_an_answer(
    scripted: Callable[..., ScriptedS3], trouble: tuple[int, str | bytes]
) -> None:
    server = scripted(lambda number: trouble if number == 0 else (200, b"whole"))
    assert fetched(TILES[:1]) == [b"whole"]
    assert len(server.requests) == 2


@pytest.mark.usefixtures("once")
def test_a_server_that_is_silent_fails_its_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    with slow_server("silent") as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        assert fetched(TILES[:2]) == [Unscored(FAILED, "S3 did not answer (ReadTimeoutError)")] * 2


@pytest.mark.usefixtures("once")
def test_a_network_that_is_down_is_an_error_after_some_failures_in_a_row(
    scripted: Callable[..., ScriptedS3], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "MAX_FAILURES", 10)
    scripted(lambda number: (200, b"whole") if number < 5 else (400, "RequestTimeout"))
    found: list[Fetched] = []
    imagery = open_s3(TEMPLATE)
    with pytest.raises(DataError, match=r"10 tiles in a row failed, the last with: S3 answered 400 \(RequestTimeout\)"):
        for one in imagery.fetch(tile_at(0, row) for row in range(100)):
            found.append(one)
    imagery.close()
    assert len(found) < 15


@pytest.mark.usefixtures("once")
def test_failures_with_tiles_in_between_go_on(
    scripted: Callable[..., ScriptedS3], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "MAX_FAILURES", 3)
    monkeypatch.setattr(s3, "NUM_REQUESTS", 1)
    scripted(lambda number: (403, "InvalidObjectState") if number % 3 else (200, b"whole"))
    found = fetched(tile_at(0, row) for row in range(30))
    assert len(found) == 30 and found.count(b"whole") == 10


def test_an_object_far_larger_than_a_tile_is_not_read(
    scripted: Callable[..., ScriptedS3], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "MAX_FILE_BYTES", 10)
    scripted(lambda _number: (200, bytes(11)))
    assert [one.status for one in fetched(TILES[:1]) if isinstance(one, Unscored)] == [REFUSED]


@pytest.mark.parametrize("has_credentials", [True, False])
def test_without_credentials_requests_are_sent_without_a_signature(
    scripted: Callable[..., ScriptedS3], monkeypatch: pytest.MonkeyPatch, tmp_path: Any, has_credentials: bool
) -> None:
    if not has_credentials:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    server = scripted(lambda _number: (200, b"public"))
    assert fetched(TILES[:1]) == [b"public"]
    assert ("Authorization" in server.requests[0]) is has_credentials


def test_closing_ends_a_reader_that_waits_for_repeated_requests(
    scripted: Callable[..., ScriptedS3], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = threading.Event()

    def always_busy(number: int) -> tuple[int, str]:
        if number == 40:
            asked.set()
        return 503, "SlowDown"

    monkeypatch.setattr(
        s3, "_REQUESTS", s3._REQUESTS.merge(Config(retries={"total_max_attempts": 100, "mode": "legacy"}))
    )
    server, imagery, ended = scripted(always_busy), open_s3(TEMPLATE), []
    reader = threading.Thread(target=lambda: ended.append(list(imagery.fetch(tile_at(0, row) for row in count()))))
    reader.start()
    assert asked.wait(120)
    imagery.close()
    reader.join(120)
    assert ended == [[]]
    num_requests = len(server.requests)
    assert num_requests < 2000
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("satx-s3")]


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("s3:///{z}/{x}/{y}.jpg", "expected the name of a bucket"),
        ("s3://{z}/{x}/{y}.jpg", "expected the name of a bucket"),
        ("s3://bucket/{x}/{y}.jpg", r"\{z\} is missing"),
        ("s3://bucket", r"\{z\} and \{x\} and \{y\} are missing"),
    ],
)
def test_a_template_without_bucket_or_placeholder_is_refused(template: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        open_s3(template)


def test_settings_that_no_client_can_use_are_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(DataError, match=r"no request can be sent .*nobody"):
        open_s3(TEMPLATE)
