"""uvicorn's HTTP protocol with a time limit for the head of a request, which uvicorn itself does not have."""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 10.0


class BoundedProtocol(H11Protocol):
    """Answers 408 and closes the connection if a request's head is not complete `HEAD_SECONDS` after it was due.

    It is due from the start of the connection, and from the first byte after an answer. Without a byte after an answer,
    uvicorn's own limit of keep-alive closes the connection.
    """

    _head_due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn declares a narrower transport than asyncio
        """Start the limit."""
        super().connection_made(transport)
        self._head_due = self.loop.call_later(HEAD_SECONDS, self._head_is_late)

    def data_received(self, data: bytes) -> None:
        """End the limit once the head is complete, or start it for the next one."""
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._end_limit()
        elif self._head_due is None:
            self._head_due = self.loop.call_later(HEAD_SECONDS, self._head_is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        """End the limit."""
        self._end_limit()
        super().connection_lost(exc)

    def _end_limit(self) -> None:
        if self._head_due is not None:
            self._head_due.cancel()
            self._head_due = None

    def _head_is_late(self) -> None:
        if self.transport.is_closing() or self.conn.our_state is not h11.IDLE:
            return
        message = f"Expected the head of a request within {HEAD_SECONDS:g} seconds"
        body = json.dumps({"error": message}).encode()
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body))), ("Connection", "close")]
        events: list[Any] = [
            h11.Response(status_code=408, headers=headers, reason="Request Timeout"),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ]
        # In one piece: a client that still sends resets the connection when it is closed, and may lose the rest.
        self.transport.write(b"".join(cast(bytes, self.conn.send(event)) for event in events))
        self.transport.close()
