"""What the answer of a tile server tells of a tile.

| answer | tile |
|---|---|
| 200 | its bytes, which are judged by their content |
| 204, 404, 410 | `missing` |
| other 2xx and 4xx, a redirect that is not followed, more than `MAX_TILE_BYTES` | `refused` |
| a body that ends early, repeatedly | `broken` |
| 408, 425, 5xx, no answer, no connection, repeatedly | `failed` |
| 401, 403 | `refused`; of the whole server, an error |
| 429 | none: the request waits and is repeated; `failed` if the server gives others and refuses this one many times |
"""

from __future__ import annotations

from urllib.parse import urljoin, urlsplit

from satx.imagery.contract import FAILED, MISSING, REFUSED, Fetched, Unscored
from satx.imagery.http_exchange import Answer, is_same_server
from satx.imagery.template import Template

MAX_REDIRECTS = 3
REDIRECTS = (301, 302, 303, 307, 308)
NO_ACCESS = (401, 403)
TOO_MANY = 429

_NO_TILE = (204, 404, 410)
_COME_BACK = (408, 425)


class Unsettled(Exception):
    """A request did not tell what the tile is.

    Attributes:
        verdict: What the tile becomes if the server gives others.
        started_at: When the request began.
        is_access: Whether the server refused the key.
    """

    def __init__(self, verdict: Unscored, started_at: float, *, is_access: bool = False) -> None:
        """Store what the request left open."""
        super().__init__(verdict.reason)
        self.verdict = verdict
        self.started_at = started_at
        self.is_access = is_access


def meaning(answer: Answer, started_at: float) -> Fetched:
    """Return what an answer tells of a tile.

    Args:
        answer: The answer; neither 429 nor a redirect with an address.
        started_at: When the request began.

    Raises:
        Unsettled: It tells nothing of the tile.
    """
    status = answer.status
    if status == 200:
        return answer.body
    if status in _NO_TILE:
        return Unscored(MISSING, f"HTTP {status}")
    if status in NO_ACCESS:
        raise Unsettled(Unscored(REFUSED, f"HTTP {status}"), started_at, is_access=True)
    if status in _COME_BACK or status >= 500:
        raise Unsettled(Unscored(FAILED, f"HTTP {status}"), started_at)
    return Unscored(REFUSED, f"HTTP {status}")


def redirected_to(template: Template, url: str, location: str, number: int) -> str | Unscored:
    """Return where a redirect leads, or why it is not followed.

    It is not followed from https to http, nor to another server if its address holds a key or a password.

    Args:
        template: The template of the tiles, which knows the keys.
        url: The address that was asked for.
        location: Where the server says it is.
        number: How many redirects there were, with this one.
    """
    if number > MAX_REDIRECTS:
        return Unscored(REFUSED, f"more than {MAX_REDIRECTS} redirects")
    try:
        target = urljoin(url, location)
        before, after = urlsplit(url), urlsplit(target)
        if after.scheme not in (before.scheme, "https") or not after.hostname:
            return Unscored(REFUSED, "redirect to another scheme")
        if not is_same_server(before, after) and template.is_betrayed_by(target):
            return Unscored(REFUSED, "redirect to another server with the key in its address")
    except ValueError:
        return Unscored(REFUSED, "redirect to no address")
    return target
