"""MLflow client for the embedded SQLite store under `SATX_HOME` or the server at `MLFLOW_TRACKING_URI`.

MLflow limits each wait for bytes by `MLFLOW_HTTP_REQUEST_TIMEOUT`, and repeats it. Here the same time limits a whole
request with its repetitions, so that a server that never answers, or sends one byte a second, holds no command for minutes.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import warnings
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any
from urllib.parse import urlsplit

import requests
from botocore.exceptions import BotoCoreError
from sqlalchemy.exc import SQLAlchemyError

from satx.deadline import within
from satx.environment import environment
from satx.errors import ConfigError, TrackerUnavailable
from satx.storage import locked, satx_home, sqlite_path, sqlite_uri
from satx.tracking.database_errors import check_database_file, database_problem, first_line

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLflow's own imports use deprecated names of its dependencies
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from mlflow.utils import rest_utils


logger = logging.getLogger(__name__)

REFUSED = ("UNAUTHENTICATED", "PERMISSION_DENIED")
AWAY = "API request to "  # in the client's error message when a server does not respond or is unable to serve

FAILS = (MlflowException, requests.exceptions.RequestException, BotoCoreError)  # raised by writes to MLflow

__all__ = [
    "FAILS",
    "MlflowClient",
    "MlflowException",
    "experiment_id",
    "is_away",
    "open_tracker",
    "tracker_that_may_be_away",
    "tracking_uri",
    "waiting_longer",
]


SLOWEST_BYTES_PER_SECOND = 50_000  # a file that is transferred more slowly counts as an answer that does not come

_http: Any = rest_utils  # without types; no public function covers all requests of the client
_request = _http._get_http_response_with_retries


_patience = [1]  # how many times `MLFLOW_HTTP_REQUEST_TIMEOUT` a request may take with all its repetitions


@contextmanager
def waiting_longer() -> Iterator[None]:
    """Allow requests five times the usual time: for sweeps and trainings, which must outlast a restart of the server."""
    _patience.append(5)
    try:
        yield
    finally:
        _patience.pop()


def _limited_request(
    method: str,
    url: str,
    retries: int,
    backoff_seconds: float,
    *arguments: Any,
    timeout: float | None = None,
    data: Any = None,
    **options: Any,
) -> Any:
    """Send a request of MLflow's client, limited as a whole to a multiple of `timeout` and the time that its file takes.

    Repeats it here and not in MLflow's client, so that nothing is sent once the caller has given up: a late repetition
    could undo what another process wrote since.

    Raises:
        requests.exceptions.Timeout: The answer was not complete in time. MLflow's client reports it with the URL.
    """
    if timeout is None:
        return _request(method, url, retries, backoff_seconds, *arguments, timeout=timeout, data=data, **options)
    size_bytes = os.fstat(data.fileno()).st_size if hasattr(data, "fileno") else 0
    given_up = threading.Event()

    def send() -> Any:
        for attempt in range(retries + 1):
            try:
                response = _request(method, url, 0, backoff_seconds, *arguments, timeout=timeout, data=data, **options)
                break
            except requests.exceptions.RequestException:
                if attempt == retries or given_up.wait(backoff_seconds * 2**attempt):
                    raise
                if hasattr(data, "seek"):
                    data.seek(0)
        if given_up.is_set():
            response.close()
        return response

    try:
        response = within(timeout * _patience[-1] + size_bytes / SLOWEST_BYTES_PER_SECOND, send)
    except TimeoutError as error:
        given_up.set()
        raise requests.exceptions.Timeout(str(error)) from error
    if options.get("stream"):
        itself = weakref.ref(response)  # a cycle would keep a response that MLflow never reads, and its socket, alive
        response.iter_content = lambda chunk_size=1, **_: _arriving(itself(), timeout, chunk_size)
    return response


def _arriving(response: Any, seconds: float, chunk_size: int) -> Iterator[bytes]:
    """Yield the content of a file as it arrives; raise an error if it arrives too slowly."""
    begun_at, num_bytes = time.monotonic(), 0
    with closing(response):  # MLflow does not close it, and reading to the end in this way does not either
        while chunk := response.raw.read1(chunk_size, decode_content=True):
            num_bytes += len(chunk)
            taken_seconds = time.monotonic() - begun_at
            if taken_seconds > seconds + num_bytes / SLOWEST_BYTES_PER_SECOND:
                raise requests.exceptions.Timeout(
                    f"{response.url}: only {num_bytes} bytes in {taken_seconds:.1f} seconds"
                )
            yield chunk


_http._get_http_response_with_retries = _limited_request

KIND_TAG = "mlflow.experimentKind"  # without it MLflow's UI opens experiments in the views for language models


def tracking_uri() -> str:
    """Return `MLFLOW_TRACKING_URI` if it is set, otherwise the URI of `SATX_HOME/mlflow.db`."""
    return environment().tracking_uri or sqlite_uri(satx_home() / "mlflow.db")


def open_tracker(uri: str | None = None) -> MlflowClient:
    """Return a client for a store that responds.

    A new embedded store is created, by one process at a time.

    Raises:
        ConfigError: The server rejects the user name or password, the URI contains a password, or the embedded store cannot
            be written, is damaged, or was written by another version of MLflow.
        TrackerUnavailable: The server or the database does not respond, or another process holds the store's lock.
    """
    uri = uri or tracking_uri()
    if urlsplit(uri).password:
        raise ConfigError(
            "MLFLOW_TRACKING_URI: expected no password in the URI, since MLflow writes the URI to logs. Set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD; for PostgreSQL, use the file that PGPASSFILE names."
        )
    try:
        with warnings.catch_warnings(), ExitStack() as held:
            warnings.simplefilter("ignore")
            if file := sqlite_path(uri):
                check_database_file(file)
                held.enter_context(locked(file))  # MLflow has a race when it opens a new file, from its constructor on
            client = MlflowClient(tracking_uri=uri, registry_uri=uri)
            client.search_experiments(max_results=1)
    except (MlflowException, SQLAlchemyError, ImportError, OSError) as error:
        if getattr(error, "error_code", "") in REFUSED:
            names = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
            given = "values that it rejects" if all(os.environ.get(name) for name in names) else "one or none of them"
            raise ConfigError(
                f"MLflow at {uri} denies access: expected a user name and a password with permission to read and write in "
                f"{' and '.join(names)}, got {given}. Set both, or ask the server's administrator."
            ) from error
        if problem := database_problem(error, [file] if (file := sqlite_path(uri)) else [], home=satx_home()):
            raise problem from error
        raise TrackerUnavailable(
            f"MLflow at {uri} does not answer: {first_line(error)}. Start it (`make ui`), or fix MLFLOW_TRACKING_URI."
        ) from error
    return client


def tracker_that_may_be_away() -> MlflowClient:
    """Return a client for a worker, even if the server does not respond.

    A worker writes through a spool, which waits for the server.

    Raises:
        ConfigError: The server rejects the user name or password, or the URI contains a password.
        TrackerUnavailable: The store is embedded and cannot be opened.
    """
    try:
        return open_tracker()
    except TrackerUnavailable as error:
        uri = tracking_uri()
        if not uri.startswith("http"):
            raise
        logger.warning("%s Until it answers, writes are queued on disk.", error)
        return MlflowClient(tracking_uri=uri, registry_uri=uri)


def is_away(error: Exception) -> bool:
    """Return whether MLflow's server or the artifact store did not respond, as opposed to rejecting the request."""
    return isinstance(error, FAILS) and (not isinstance(error, MlflowException) or AWAY in str(error))


def experiment_id(client: MlflowClient, name: str) -> str:
    """Return the id of the experiment of this name, which is created if it does not exist.

    If MLflow is satx's own, the artifacts of the experiment are stored under `SATX_HOME/mlartifacts`.
    """
    found = client.get_experiment_by_name(name)
    if found is None:
        # the server that a sweep starts for its workers is in no variable of the driver, and is satx's own
        is_own = tracking_uri().startswith("sqlite:///")
        location = (satx_home() / "mlartifacts" / name).as_uri() if is_own else None
        try:
            return str(
                client.create_experiment(name, artifact_location=location, tags={KIND_TAG: "custom_model_development"})
            )
        except MlflowException as error:  # another process created it between the two calls
            found = client.get_experiment_by_name(name)
            if error.error_code != "RESOURCE_ALREADY_EXISTS" or found is None:
                raise
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)
