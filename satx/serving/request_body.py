"""Bodies of requests: counted while they arrive, timed, inflated, and never more of them in memory than allowed."""

from __future__ import annotations

import asyncio
import time
import zlib

from starlette.types import Receive

from satx.serving.contract import ServingError
from satx.serving.settings import RestSettings

GZIP_WINDOW = 31  # zlib's code for a gzip header and a window of 32 KB
# What is still read of a request after it was refused, as nginx's `lingering_close` does.
LINGER_IDLE_SECONDS = 2.0
LINGER_SECONDS = 30.0
LINGER_BYTES = 128 * 2**20
LOOP_BYTES = 256 * 1024  # larger requests are read in a thread, because others would wait for milliseconds


class ClientGone(Exception):
    """The client closed the connection before it had its answer."""


class Memory:
    """Bytes that requests hold at the moment, over all of them. Used in the event loop only."""

    def __init__(self, limit_bytes: int) -> None:
        """Start with none held."""
        self.limit_bytes = limit_bytes
        self.held_bytes = 0

    def hold(self, num_bytes: int) -> None:
        """Count bytes as held.

        Raises:
            ServingError: All requests together would hold more than the limit (503).
        """
        if self.held_bytes + num_bytes > self.limit_bytes:
            raise ServingError(
                503,
                f"Expected at most {self.limit_bytes:,} bytes in the requests under way, got more. Try again later.",
                retry_after_seconds=1,
            )
        self.held_bytes += num_bytes

    def release(self, num_bytes: int) -> None:
        """Count bytes as no longer held."""
        self.held_bytes -= num_bytes


class Body:
    """The body of one request; whoever reads it releases it."""

    def __init__(self, receive: Receive, headers: dict[bytes, bytes], settings: RestSettings, memory: Memory) -> None:
        """Prepare to read a body.

        Args:
            receive: ASGI's channel of the request.
            headers: The request's headers, with names in lower case.
            settings: Limits.
            memory: What all requests hold.
        """
        self.receive = receive
        self.settings = settings
        self.memory = memory
        self.num_bytes = 0
        self.held_bytes = 0
        self.content = b""
        self.declared_bytes = int(headers.get(b"content-length", b"0"))
        self.is_gzip = b"gzip" in headers.get(b"content-encoding", b"")
        self.is_complete = not self.declared_bytes and b"transfer-encoding" not in headers

    async def read(self) -> None:
        """Receive the body, and keep it until it is taken.

        Raises:
            ServingError: The body is too large (413) or too slow (408), or too many bytes are held already (503).
            ClientGone: The client closed the connection.
        """
        if self.declared_bytes > self.settings.max_body_bytes:
            raise self._too_large()
        started = time.monotonic()
        chunks = []
        while not self.is_complete:
            allowed = self.settings.body_seconds + self.num_bytes / self.settings.min_bytes_per_second
            chunks.append(await self._chunk(started + allowed - time.monotonic()))
        self.content = b"".join(chunks)

    def take(self) -> bytes:
        """Return the body as it was received, and forget it."""
        content, self.content = self.content, b""
        return content

    async def client_gone(self) -> None:
        """Wait until the client closes the connection; to be called once the body is complete."""
        while (await self.receive())["type"] != "http.disconnect":
            pass

    async def _chunk(self, seconds: float) -> bytes:
        try:
            async with asyncio.timeout(seconds):
                message = await self.receive()
        except TimeoutError:
            raise ServingError(
                408,
                f"Expected the body within {self.settings.body_seconds:g} s and then at least "
                f"{self.settings.min_bytes_per_second:,} bytes/s, got {self.num_bytes:,} bytes. Send it faster.",
            ) from None
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunk: bytes = message.get("body", b"")
        self.num_bytes += len(chunk)
        self.is_complete = not message.get("more_body", False)
        if self.num_bytes > self.settings.max_body_bytes:
            raise self._too_large()
        self.hold(len(chunk))
        return chunk

    def hold(self, num_bytes: int) -> None:
        """Count bytes as held until the body is released.

        Raises:
            ServingError: All requests together would hold more than the limit (503).
        """
        self.memory.hold(num_bytes)
        self.held_bytes += num_bytes

    def _too_large(self) -> ServingError:
        got = f"{self.declared_bytes:,}" if self.declared_bytes else "more"
        return ServingError(
            413,
            f"Expected a body of at most {self.settings.max_body_bytes:,} bytes, got {got}. Send fewer rows a request.",
        )

    def release(self) -> None:
        """Count the body as no longer held."""
        self.memory.release(self.held_bytes)
        self.held_bytes = 0

    async def discard_rest(self) -> None:
        """Read what the client still sends, for a short while, and throw it away.

        A connection that is closed while data arrives is reset, and the client may lose the response that was sent before.
        """
        end = time.monotonic() + LINGER_SECONDS
        try:
            while not self.is_complete and self.num_bytes < LINGER_BYTES:
                async with asyncio.timeout(min(LINGER_IDLE_SECONDS, end - time.monotonic())):
                    message = await self.receive()
                self.num_bytes += len(message.get("body", b""))
                self.is_complete = not message.get("more_body", False)
        except TimeoutError:
            pass


def inflated(content: bytes, *, limit_bytes: int) -> bytes:
    """Return what a gzip body holds; as in TensorFlow Serving nothing if it is damaged or holds more than the limit."""
    inflater = zlib.decompressobj(GZIP_WINDOW)
    try:
        data = inflater.decompress(content, limit_bytes + 1)
    except zlib.error:
        return b""
    return data if inflater.eof and len(data) <= limit_bytes else b""
