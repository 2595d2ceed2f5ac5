"""Requests to a serving endpoint, which are repeated while it is not reachable or overloaded."""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Sequence
from typing import Any

import httpx
import tenacity

from satx.deadline import within
from satx.errors import DataError, Interrupted

NUM_PARALLEL = 4  # while one request is computed, the next ones are sent and decoded
REQUEST_SECONDS = 60.0  # satx serve and TensorFlow Serving give up after 30
CONNECT_SECONDS = 10.0
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.5, 30.0
MAX_REPLY_BYTES = 1_000_000  # 32 rows of probabilities have a few kilobytes, the metadata some ten
BUSY_STATUSES = (408, 429, 500, 502, 503, 504)
REFUSED_STATUSES = (400, 413)
REASON_CHARACTERS = 160
NOT_SERVING = "Pass the URL of a model that satx serve or TensorFlow Serving serves."


class Refused(Exception):
    """The endpoint does not accept the content of a request."""


class Gone(Exception):
    """The endpoint does not have this model or version."""


class _Busy(Exception):
    """The endpoint did not answer, or asks to come back later."""

    def __init__(self, reason: str, wait_seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.wait_seconds = wait_seconds


class Connection:
    """Requests to one server; thread-safe.

    Attributes:
        base: Its URL, before `/v1/models`.
        num_repeated: Number of requests that had to be repeated.
    """

    def __init__(self, base: str) -> None:
        """Make a client; nothing is sent yet."""
        timeout = httpx.Timeout(REQUEST_SECONDS, connect=CONNECT_SECONDS)
        # no limit of connections: a request that took too long keeps its own
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=NUM_PARALLEL)
        self.base, self.num_repeated = base, 0
        self._client = httpx.Client(timeout=timeout, limits=limits)
        self._closed, self._counting = threading.Event(), threading.Lock()

    def get(self, path: str, *, patience_seconds: float) -> Any:
        """Return the JSON document at a path.

        Args:
            path: Path after `base`.
            patience_seconds: How long the request is repeated.

        Raises:
            Refused, Gone: The server says so.
            DataError: It gave another error, or no JSON, or did not answer for `patience_seconds`.
            Interrupted: The connection was closed.
        """
        return self._answer("GET", path, None, patience_seconds)

    def predict(self, path: str, files: Sequence[bytes], *, patience_seconds: float, signature: str = "") -> list[Any]:
        """Return what a model answers for image files, one member for each; see `get` for the errors.

        Args:
            path: Path of the model or of its version.
            files: Image files.
            patience_seconds: How long the request is repeated.
            signature: Name of the signature; empty for the default one.
        """
        instances = [{"b64": base64.b64encode(data).decode()} for data in files]
        request = {"instances": instances} | ({"signature_name": signature} if signature else {})
        answer = self._answer("POST", f"{path}:predict", json.dumps(request).encode(), patience_seconds)
        rows = answer.get("predictions") if isinstance(answer, dict) else None
        if not isinstance(rows, list) or len(rows) != len(files):
            found = f"{len(rows)} rows" if isinstance(rows, list) else "none"
            raise DataError(
                f"{self.base}{path}: expected predictions of {len(files)} tiles, got {found}. {NOT_SERVING}"
            )
        return rows

    def close(self) -> None:
        """End the connections, and all waits for the server."""
        self._closed.set()
        self._client.close()

    def _answer(self, method: str, path: str, content: bytes | None, patience_seconds: float) -> Any:
        # tenacity rather than stamina, whose waits cannot be ended
        repeated = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_Busy),
            wait=_wait_seconds,
            stop=tenacity.stop_any(
                tenacity.stop_before_delay(patience_seconds), tenacity.stop_when_event_set(self._closed)
            ),
            sleep=tenacity.sleep_using_event(self._closed),
            reraise=True,
        )
        try:
            body = repeated(self._once, method, path, content)
        except _Busy as error:
            self._require_open()
            raise DataError(
                f"{self.base}: expected an answer within {patience_seconds:.0f} seconds, got: {error}. No tile was marked as "
                f"failed. Run the same command again once the endpoint answers; finished blocks are kept."
            ) from error
        try:
            return json.loads(body)
        except ValueError as error:
            raise DataError(f"{self.base}{path}: expected JSON, got {body[:60]!r}. {NOT_SERVING}") from error

    def _once(self, method: str, path: str, content: bytes | None) -> bytes:
        self._require_open()
        try:
            # The whole request is limited too: the client's own limits are for each wait.
            status, headers, body = within(REQUEST_SECONDS, lambda: self._exchange(method, path, content))
        except (httpx.RequestError, TimeoutError) as error:
            raise self._busy(str(error) or type(error).__name__) from error
        if status == httpx.codes.OK:
            return body
        message = f"status {status}: {_error_message(body)}"
        if status in REFUSED_STATUSES:
            raise Refused(_error_message(body))
        if status == httpx.codes.NOT_FOUND:
            raise Gone(message)
        if status in BUSY_STATUSES:
            raise self._busy(message, _retry_after_seconds(headers.get("Retry-After", "")))
        raise DataError(
            f"{self.base}{path}: expected status 200, got {message}. Check the endpoint, and who may use it."
        )

    def _exchange(self, method: str, path: str, content: bytes | None) -> tuple[int, httpx.Headers, bytes]:
        headers = {"Content-Type": "application/json"} if content is not None else {}
        with self._client.stream(method, self.base + path, content=content, headers=headers) as response:
            body = bytearray()
            for chunk in response.iter_bytes():
                body += chunk
                if len(body) > MAX_REPLY_BYTES:
                    raise DataError(
                        f"{self.base}{path}: expected at most {MAX_REPLY_BYTES:,} bytes, got more. {NOT_SERVING}"
                    )
            return response.status_code, response.headers, bytes(body)

    def _busy(self, reason: str, wait_seconds: float = 0.0) -> _Busy:
        with self._counting:
            self.num_repeated += 1
        return _Busy(reason, wait_seconds)

    def _require_open(self) -> None:
        if self._closed.is_set():
            raise Interrupted("The connection to the endpoint was closed; run the same command again to continue.")


def brief(text: str) -> str:
    """Return a text in one line, shortened to `REASON_CHARACTERS`."""
    text = " ".join(text.split())
    return text if len(text) <= REASON_CHARACTERS else f"{text[: REASON_CHARACTERS - 1]}…"


# With full jitter: AWS Architecture Blog 2015, "Exponential Backoff And Jitter".
_BACKOFF = tenacity.wait_random_exponential(multiplier=FIRST_WAIT_SECONDS, max=LONGEST_WAIT_SECONDS)


def _wait_seconds(state: tenacity.RetryCallState) -> float:
    """Return what the server asks for, plus an exponential wait."""
    error = state.outcome.exception() if state.outcome is not None else None
    asked = error.wait_seconds if isinstance(error, _Busy) else 0.0
    return asked + float(_BACKOFF(state))


def _retry_after_seconds(value: str) -> float:
    """Return the seconds of a `Retry-After`; 0 for a date, where the exponential wait has to do."""
    return float(value) if re.fullmatch("[0-9]{1,6}", value.strip()) else 0.0


def _error_message(body: bytes) -> str:
    try:
        return brief(str(json.loads(body)["error"]))
    except (ValueError, LookupError, TypeError):
        return brief(body[:1000].decode(errors="replace")) or "no message"
