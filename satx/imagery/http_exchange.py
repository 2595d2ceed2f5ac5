"""One request for a tile, without a repetition: what came, or why nothing did."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from yarl import URL

from satx.imagery.contract import BROKEN, FAILED, REFUSED, Fetched, Tile, Unscored
from satx.imagery.polite import retry_after_seconds
from satx.imagery.template import Template

MAX_TILE_BYTES = 20_000_000
CONNECT_SECONDS = 10.0
KEEP_ALIVE_SECONDS = 30.0
_MAX_OTHER_BYTES = 65_536  # of an answer that is no tile; a connection can be used again if its answer was read


@dataclass(frozen=True)
class Answer:
    """What a server answered.

    Attributes:
        status: HTTP status.
        location: Where a redirect leads; empty for none.
        retry_after_seconds: How long the server asks to wait; None if it does not.
        body: The bytes, or why they are none of a tile.
    """

    status: int
    location: str
    retry_after_seconds: float | None
    body: Fetched


class NoAnswer(Exception):
    """A request got no complete answer.

    Attributes:
        verdict: What the tile becomes if no repetition tells more.
    """

    def __init__(self, verdict: Unscored) -> None:
        """Carry a verdict."""
        super().__init__(verdict.reason)
        self.verdict = verdict


class Connections:
    """The connections to a server, in one event loop."""

    def __init__(self, template: Template, *, limit: int, user_agent: str) -> None:
        """Open no connection yet; call it within the event loop.

        Args:
            template: The URLs.
            limit: Connections at a time.
            user_agent: How satx identifies itself.
        """
        import httpx  # for its certificates, which are there on machines without any, too

        self._authorization = template.authorization
        self._home = urlsplit(template.url(Tile("", 0, 0, 0)))
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=limit, ssl=httpx.create_ssl_context(), keepalive_timeout=KEEP_ALIVE_SECONDS
            ),
            headers={"User-Agent": user_agent},
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
        )
        # Once, because aiohttp would read the environment in a thread, for each request.
        self._proxy = None if proxy_bypass(self._home.hostname or "") else getproxies().get(self._home.scheme)

    async def close(self) -> None:
        """End all connections."""
        await self._session.close()

    async def answer(self, url: str, seconds: float) -> Answer:
        """Send a request and read its whole answer; redirects are not followed.

        Args:
            url: What to ask for, percent-encoded.
            seconds: Time limit of all of it.

        Raises:
            NoAnswer: The answer did not come, or not whole.
        """
        # The password is for the template's own server.
        is_home = bool(self._authorization) and is_same_server(self._home, urlsplit(url))
        headers = {"Authorization": self._authorization} if is_home else {}
        try:
            async with (
                asyncio.timeout(seconds),
                self._session.get(
                    URL(url, encoded=True), headers=headers, allow_redirects=False, proxy=self._proxy
                ) as response,
            ):
                body = await _body(response)
            wait_seconds = retry_after_seconds(response.headers.get("Retry-After"))
            return Answer(response.status, response.headers.get("Location", ""), wait_seconds, body)
        # ValueError: what is no HTTP, and an address that is none
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            verdict = _verdict(error, seconds)
        raise NoAnswer(verdict)  # outside, because the error above holds the address


def is_same_server(before: SplitResult, after: SplitResult) -> bool:
    """Return whether two addresses are of one server: same host and port, or the same host by https."""
    is_upgrade = (before.scheme, after.scheme) == ("http", "https") and before.port is None and after.port is None
    same_port = (before.scheme, before.port) == (after.scheme, after.port)
    return before.hostname == after.hostname and (same_port or is_upgrade)


async def _body(response: aiohttp.ClientResponse) -> Fetched:
    """Read the body, but not more of it than a tile has; of other answers only what keeps the connection usable."""
    is_tile = response.status == 200
    limit = MAX_TILE_BYTES if is_tile else _MAX_OTHER_BYTES
    too_large = Unscored(REFUSED, f"more than {MAX_TILE_BYTES / 1e6:.0f} MB")
    if (response.content_length or 0) > limit:
        return too_large
    parts, num_bytes = [], 0
    async for part in response.content.iter_any():
        num_bytes += len(part)
        if num_bytes > limit:
            return too_large
        parts.append(part)
    return b"".join(parts)


def _verdict(error: Exception, seconds: float) -> Unscored:
    """Return what a tile becomes after an error of the connection. The texts of libraries may hold addresses: none is used."""
    match error:
        case aiohttp.ServerTimeoutError():
            return Unscored(FAILED, f"no connection within {CONNECT_SECONDS:.0f} seconds")
        case TimeoutError():
            return Unscored(FAILED, f"no complete answer within {seconds:.3g} seconds")
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientConnectorSSLError():
            return Unscored(FAILED, "no secure connection: the server's certificate is not valid here")
        case aiohttp.ClientConnectorDNSError():
            return Unscored(FAILED, "the name of the server was not found")
        case aiohttp.ClientConnectorError():
            return Unscored(FAILED, f"no connection ({error.os_error.strerror or type(error.os_error).__name__})")
        case aiohttp.ClientPayloadError() if not isinstance(error.__cause__, OSError):
            return Unscored(BROKEN, "the server sent less than it announced")
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientPayloadError() | OSError():
            return Unscored(FAILED, "the server broke the connection")
        case _:
            return Unscored(FAILED, f"no answer as HTTP demands it ({type(error).__name__})")
