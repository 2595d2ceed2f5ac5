"""Tiles in a bucket, one object each: `s3://bucket/prefix/{z}/{x}/{y}.jpg`."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError
from contextlib import closing, suppress
from typing import Any

import boto3
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ChecksumError,
    ClientError,
    ConnectionError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
)

from satx.bucket import MISSING as NOT_THERE
from satx.errors import ConfigError, DataError
from satx.imagery.contract import FAILED, MISSING, Fetched, Tile, Unscored
from satx.imagery.mbtiles import too_large
from satx.imagery.places import path_by_place
from satx.imagery.threaded import ThreadedImagery
from satx.tiles.decode import MAX_FILE_BYTES

SCHEME = "s3://"
NUM_REQUESTS = 32  # at a time
MAX_FAILURES = 100  # in a row
_NUM_READS = 3  # of the body; the client repeats only requests whose answer did not begin
_REQUESTS = Config(
    connect_timeout=5,
    read_timeout=10,
    retries={"total_max_attempts": 5, "mode": "standard"},
    max_pool_connections=NUM_REQUESTS,
)
# Codes that concern one object, or this moment, although their status is 4xx: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
_OF_ONE_TILE = ("InvalidObjectState", "RequestTimeout", "OperationAborted", "InvalidRange", "PreconditionFailed")
_BROKEN_OFF = (HTTPClientError, IncompleteReadError, ChecksumError, FlexibleChecksumError)
_OUTAGES = (*_BROKEN_OFF, ConnectionError)
_NOT_ALLOWED = ("AccessDenied", "403", "AllAccessDisabled")


def open_s3(template: str) -> ThreadedImagery:
    """Open tiles in a bucket, with the credentials that AWS's tools find; without any, as anybody.

    S3 answers "access denied" for an object that does not exist, too, unless the bucket may be listed. Therefore this answer is
    an error of the source: nobody can tell which tiles are missing.

    Args:
        template: `s3://bucket/…` with `{z}`, `{x}` and `{y}`, as `path_by_place` takes it.

    Raises:
        ConfigError: The template has no bucket, or lacks a placeholder.
    """
    bucket, _, key_template = template.removeprefix(SCHEME).partition("/")
    if not bucket or "{" in bucket:
        raise ConfigError(
            f"{template}: expected the name of a bucket. Write it like {SCHEME}bucket/{{z}}/{{x}}/{{y}}.jpg."
        )
    key_of = path_by_place(key_template)
    stopped = threading.Event()
    try:
        client = _client(stopped)
    except (BotoCoreError, ValueError) as error:  # ValueError: an endpoint that is no URL
        raise _unusable(template, error) from error
    failures = _Failures(template)

    def fetch_one(tile: Tile) -> Fetched:
        try:
            fetched = _read(client, bucket, key_of(tile))
        except ClientError as error:
            fetched = _judged_error(error, template)
        except _OUTAGES as error:
            fetched = Unscored(FAILED, f"S3 did not answer ({type(error).__name__})")
        except BotoCoreError as error:
            raise _unusable(template, error) from error
        failures.count(fetched)
        return fetched

    return ThreadedImagery(
        fetch_one,
        identity={"kind": "s3", "template": template},
        num_threads=NUM_REQUESTS,
        chunk_tiles=1,
        stopped=stopped,
        on_close=client.close,
    )


class _Failures:
    """Counts failures in a row: a network that is down is an error of the source, not of thousands of tiles."""

    def __init__(self, template: str) -> None:
        self._template = template
        self._lock = threading.Lock()
        self._num_failures = 0

    def count(self, fetched: Fetched) -> None:
        has_failed = isinstance(fetched, Unscored) and fetched.status == FAILED
        with self._lock:
            self._num_failures = self._num_failures + 1 if has_failed else 0
            num_failures = self._num_failures
        if num_failures >= MAX_FAILURES and isinstance(fetched, Unscored):
            raise DataError(
                f"{self._template}: {MAX_FAILURES} tiles in a row failed, the last with: {fetched.reason}. Check the network and "
                f"the endpoint, and run again; finished work is kept."
            )


def _client(stopped: threading.Event) -> Any:
    """Return a client that sends no request any more, nor repeats one, after `stopped` is set."""
    session = boto3.Session()
    has_credentials = session.get_credentials() is not None
    config = _REQUESTS if has_credentials else _REQUESTS.merge(Config(signature_version=UNSIGNED))
    client = session.client("s3", config=config)

    def check(**_details: object) -> None:
        if stopped.is_set():
            raise CancelledError

    client.meta.events.register("before-send.s3", check)
    return client


def _read(client: Any, bucket: str, key: str) -> Fetched:
    for _ in range(_NUM_READS - 1):
        with suppress(*_BROKEN_OFF):
            return _read_once(client, bucket, key)
    return _read_once(client, bucket, key)


def _read_once(client: Any, bucket: str, key: str) -> Fetched:
    answer = client.get_object(Bucket=bucket, Key=key)
    with closing(answer["Body"]) as body:
        num_bytes = answer["ContentLength"]
        return too_large(num_bytes) if num_bytes > MAX_FILE_BYTES else bytes(body.read())


def _judged_error(error: ClientError, template: str) -> Unscored:
    """Return what an answer says of one tile, or raise what it says of the source."""
    code, status = str(error.response["Error"]["Code"]), error.response["ResponseMetadata"]["HTTPStatusCode"]
    if code == "NoSuchBucket":
        raise DataError(
            f"{template}: there is no such bucket. Check its name, and AWS_ENDPOINT_URL if it is not Amazon's."
        ) from error
    if code in NOT_THERE:
        return Unscored(MISSING, "no such object")
    if code in _NOT_ALLOWED:
        raise DataError(
            f"{template}: S3 denies access ({code}). Allow s3:GetObject for the objects and s3:ListBucket for the bucket; "
            f"without the latter S3 denies access to objects that do not exist, too."
        ) from error
    if 400 <= status < 500 and status != 429 and code not in _OF_ONE_TILE:
        raise DataError(
            f"{template}: S3 refuses the requests ({code}). Check credentials, region and clock."
        ) from error
    return Unscored(FAILED, f"S3 answered {status} ({code})")


def _unusable(template: str, error: Exception) -> DataError:
    return DataError(f"{template}: no request can be sent ({error}). Check the credentials and settings of AWS.")
