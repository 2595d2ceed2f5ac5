"""A tile server on loopback, in a process of its own, that answers as badly as tile servers do, and counts what it did.

    with running_tile_server(Behavior(shares={"html": 0.05}, limit_per_second=200)) as server:
        ...  # f"{server.url}/{{z}}/{{x}}/{{y}}.jpg"
        server.log()["final"]

What becomes of a tile is a function of the seed and of the tile alone.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from email.utils import formatdate
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg

EDGE_PX = 256
NUM_PICTURES = 8
DRIP_PARTS, DRIP_SECONDS = 5, 0.1
HUGE_BYTES = 30_000_000
# What satx makes of each kind:
STATUS_OF = {
    "good": "done",
    "blank": "blank",
    "missing": "missing",
    "bad request": "refused",
    "html": "broken",
    "damaged": "broken",
    "error": "failed",
}
ONCE = " once"  # a kind with this ending is followed by "good" when the tile is asked for again
_PATH = re.compile(r"/(\d+)/(\d+)/(\d+)(?:\.\w+)?$")
_OK = "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n"


@dataclass(frozen=True)
class Behavior:
    """How the server answers.

    Attributes:
        shares: Share of the tiles of each kind; all others are `good`. The kinds are in `Connection.answer`.
        seed: Of the choice of tiles.
        limit_per_second: Requests a second, as a token bucket; above it the answer is 429. None for no limit.
        burst: Size of the bucket.
        retry_after: Header of a 429: a number, `date` for the date in a second, or empty for none.
        latency_seconds: Before each answer.
        key: Value of the parameter `key`; others get 403. Empty for no key.
        most_good: After so many good tiles every answer is the next one.
        afterwards: Kind of the answers from then on.
        location: Where tiles of the kind `elsewhere` are: a template with {z}, {x}, {y} and {key}.
    """

    shares: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    limit_per_second: float | None = None
    burst: float = 50
    retry_after: str = "1"
    latency_seconds: float = 0.0
    key: str = ""
    most_good: int = 1_000_000_000
    afterwards: str = "key refused"
    location: str = ""

    def kind_of(self, tile: tuple[int, int, int]) -> str:
        """Return the kind of a tile."""
        digest = hashlib.blake2b(repr((self.seed, tile)).encode(), digest_size=8).digest()
        place = int.from_bytes(digest) / 2**64
        for kind, share in self.shares.items():
            place -= share
            if place < 0:
                return kind
        return "good"


@dataclass(frozen=True)
class TileServer:
    """A running server.

    Attributes:
        url: Scheme, host and port.
        process: Its process; a test may stop and continue it.
    """

    url: str
    process: subprocess.Popen[str]

    @property
    def port(self) -> int:
        """Port on loopback."""
        return int(self.url.rpartition(":")[2])

    def log(self) -> dict[str, Any]:
        """Return what the server counted.

        `final`: number of tiles by their last answer; `requests`; `answers`: by status or kind; `busiest_second`: most
        requests in any second, and `busiest_accepted`, most that were not 429; `busiest_after_refusals`: most requests in any
        second, from three seconds after the first 429; `refused_at`: seconds of each 429 since the first request;
        `connections`; `agents`: by User-Agent; `paths`: the last thousand, with their queries; `authorizations`.
        """
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{self.url}/log", timeout=30) as answer:
            return dict(json.load(answer))


@contextmanager
def running_tile_server(behavior: Behavior, *, port: int = 0) -> Iterator[TileServer]:
    """Run a server while the block runs.

    Args:
        behavior: How it answers.
        port: Port on loopback; 0 for any free one.
    """
    command = [sys.executable, str(Path(__file__).resolve()), json.dumps(asdict(behavior)), str(port)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        line = process.stdout.readline().strip()
        if not line:
            raise RuntimeError("Expected the port of the tile server, got the end of its output.")
        yield TileServer(f"http://127.0.0.1:{line}", process)
    finally:
        process.send_signal(signal.SIGCONT)  # a stopped process does not end
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def pictures() -> list[bytes]:
    """Return different JPEG files, of about 25 kB."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 255, (NUM_PICTURES, EDGE_PX // 4, EDGE_PX // 4, 3), np.uint8)
    return [simplejpeg.encode_jpeg(np.ascontiguousarray(np.kron(one, np.ones((4, 4, 1), np.uint8)))) for one in coarse]


class State:
    """What all connections share: the limit, and the counts."""

    def __init__(self, behavior: Behavior) -> None:
        self.behavior = behavior
        self.pictures = pictures()
        self.blank = simplejpeg.encode_jpeg(np.full((EDGE_PX, EDGE_PX, 3), 200, np.uint8))
        self.tokens, self.filled_at = behavior.burst, time.monotonic()
        self.last_answer: dict[tuple[int, int, int], str] = {}
        self.asked: Counter[tuple[int, int, int]] = Counter()
        self.answers: Counter[str] = Counter()
        self.agents: Counter[str] = Counter()
        self.authorizations: Counter[str] = Counter()
        self.requested_at: list[float] = []
        self.accepted_at: list[float] = []
        self.refused_at: list[float] = []
        self.paths: deque[str] = deque(maxlen=1000)
        self.connections = self.most_connections = self.num_good = 0

    def admits(self) -> bool:
        """Take a token from the bucket; return whether there was one."""
        limit, now = self.behavior.limit_per_second, time.monotonic()
        self.requested_at.append(now)
        if limit is not None:
            self.tokens = min(self.behavior.burst, self.tokens + (now - self.filled_at) * limit)
            self.filled_at = now
            if self.tokens < 1:
                self.refused_at.append(now)
                return False
            self.tokens -= 1
        self.accepted_at.append(now)
        return True

    def as_json(self) -> dict[str, Any]:
        start = self.requested_at[0] if self.requested_at else 0.0
        settled = self.refused_at[0] + 3 if self.refused_at else 0.0
        return {
            "final": Counter(self.last_answer.values()),
            "requests": len(self.requested_at),
            "answers": self.answers,
            "busiest_second": busiest_second(self.requested_at),
            "busiest_accepted": busiest_second(self.accepted_at),
            "busiest_after_refusals": busiest_second([at for at in self.requested_at if at >= settled]),
            "accepted_at": [at - start for at in self.accepted_at],
            "refused_at": [at - start for at in self.refused_at],
            "connections": self.most_connections,
            "agents": self.agents,
            "authorizations": self.authorizations,
            "paths": list(self.paths),
        }


def busiest_second(times: list[float]) -> int:
    """Return the most of ascending times that lie within one second."""
    first = most = 0
    for last, at in enumerate(times):
        while at - times[first] > 1:
            first += 1
        most = max(most, last - first + 1)
    return most


class Connection(asyncio.Protocol):
    """One connection; it answers one request after another."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.received = b""
        self.is_counted = False  # one that only reads the log is not
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, _error: Exception | None) -> None:
        self.state.connections -= self.is_counted

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, end, rest = self.received.partition(b"\r\n\r\n")
        if not end:
            return
        self.received = rest
        lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        path, _, query = lines[0].split(" ")[1].partition("?")
        if self.state.behavior.latency_seconds and path != "/log":
            loop = asyncio.get_running_loop()
            loop.call_later(self.state.behavior.latency_seconds, self.receive, path, query, headers)
        else:
            self.receive(path, query, headers)

    def receive(self, path: str, query: str, headers: Mapping[str, str]) -> None:
        state, found = self.state, _PATH.search(path)
        if path == "/log":
            self.send("200 OK", "application/json", json.dumps(state.as_json()).encode())
            return
        state.connections += not self.is_counted
        self.is_counted = True
        state.most_connections = max(state.most_connections, state.connections)
        state.agents[headers.get("user-agent", "")] += 1
        state.authorizations[headers.get("authorization", "")] += 1
        state.paths.append(f"{path}?{query}")
        if not state.admits():
            state.answers["429"] += 1
            wait = state.behavior.retry_after
            wait = formatdate(time.time() + 1.999, usegmt=True) if wait == "date" else wait
            self.send("429 Too Many Requests", extra=f"Retry-After: {wait}\r\n" if wait else "")
            return
        if found is None:
            self.send("404 Not Found")
            return
        tile = (int(found[1]), int(found[2]), int(found[3]))
        kind = self.kind(tile, query)
        state.answers[kind] += 1
        state.last_answer[tile] = kind
        self.answer(kind, tile)

    def kind(self, tile: tuple[int, int, int], query: str) -> str:
        behavior = self.state.behavior
        if behavior.key and f"key={behavior.key}" not in query:
            return "key refused"
        if self.state.num_good >= behavior.most_good:
            return behavior.afterwards
        kind = behavior.kind_of(tile)
        self.state.asked[tile] += 1
        if kind.endswith(ONCE):
            kind = kind.removesuffix(ONCE) if self.state.asked[tile] == 1 else "good"
        self.state.num_good += kind == "good"
        return kind

    def answer(self, kind: str, tile: tuple[int, int, int]) -> None:
        picture = self.state.pictures[sum(tile) % NUM_PICTURES]
        match kind:
            case "good":
                self.send("200 OK", "image/jpeg", picture)
            case "blank":
                self.send("200 OK", "image/jpeg", self.state.blank)
            case "html":
                self.send("200 OK", "text/html", b"<!DOCTYPE html><html><body>Please log in</body></html>")
            case "damaged":  # whole for HTTP, half an image
                self.send("200 OK", "image/jpeg", picture[: len(picture) // 2])
            case "truncated":
                self.write(_OK.format(kind="image/jpeg", length=len(picture)).encode() + picture[: len(picture) // 2])
                self.transport.close()
            case "huge":
                self.send("200 OK", "image/jpeg", bytes(HUGE_BYTES))
            case "huge unannounced":
                head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
                chunk = b"100000\r\n" + bytes(0x100000) + b"\r\n"
                self.write(head + chunk * (HUGE_BYTES >> 20) + b"0\r\n\r\n")
            case "slow":
                self.write(_OK.format(kind="image/jpeg", length=len(picture)).encode())
                self.drip(picture, -(-len(picture) // DRIP_PARTS))
            case "hanging":
                self.write(_OK.format(kind="image/jpeg", length=len(picture)).encode() + picture[:100])
            case "silent":
                pass
            case "reset":
                linger = struct.pack("ii", 1, 0)  # close with RST
                self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                self.transport.abort()
            case "elsewhere":
                z, x, y = tile
                location = self.state.behavior.location.format(z=z, x=x, y=y, key=self.state.behavior.key)
                self.send("302 Found", extra=f"Location: {location}\r\n")
            case "throttled":  # this tile alone, always
                self.send("429 Too Many Requests", extra="Retry-After: 0\r\n")
            case _:
                self.send(_STATUSES[kind])

    def drip(self, data: bytes, num_bytes: int) -> None:
        self.write(data[:num_bytes])
        if len(data) > num_bytes:
            asyncio.get_running_loop().call_later(DRIP_SECONDS, self.drip, data[num_bytes:], num_bytes)

    def send(self, status: str, kind: str = "text/plain", body: bytes = b"", *, extra: str = "") -> None:
        length = "" if status.startswith("204") else f"Content-Length: {len(body)}\r\n"
        self.write(f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n{length}{extra}\r\n".encode() + body)

    def write(self, data: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(data)


_STATUSES = {
    "error": "500 Internal Server Error",
    "unavailable": "503 Service Unavailable",
    "empty": "204 No Content",
    "missing": "404 Not Found",
    "gone": "410 Gone",
    "bad request": "400 Bad Request",
    "forbidden": "403 Forbidden",
    "key refused": "403 Forbidden",
}


async def serve(behavior: Behavior, port: int) -> None:
    """Serve on loopback until standard input ends; print the port."""
    state = State(behavior)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(state), "127.0.0.1", port, reuse_address=True)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    ended = asyncio.Event()
    loop.add_reader(sys.stdin, ended.set)
    await ended.wait()


if __name__ == "__main__":
    asyncio.run(serve(Behavior(**json.loads(sys.argv[1])), int(sys.argv[2])))
