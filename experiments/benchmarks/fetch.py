"""Imagery over HTTP: what a tile costs with each client, and how well a server's limit is used.

    make bench NAME=fetch
    make bench NAME=fetch ARGS="--tiles 3000 --limit 200 --limited-tiles 12000"

Clients: tiles of about 25 kB from a server on loopback in another process, 8 at a time, in several rounds. What counts is
the processor time of a tile, since the model needs the processors too. `satx` is the whole source: limits, repetitions and
the order of the tiles included. HTTP/2 is measured with the package h2 if it is installed; satx does not need it.

Limit: a server that refuses what is above its limit (a token bucket), with `Retry-After: 1`, and answers one request of
twenty by an error. The throughput is that of the time from the first refusal to the last tile, pauses included.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import aiohttp
import httpx
from report import publish

from satx.imagery.contract import Tile, Unscored
from satx.imagery.http import open_http

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "imagery"))
from hostile_tiles import Behavior, pictures, running_tile_server

CONCURRENCY = 8
SECONDS = 20.0
LIMITS = httpx.Limits(max_connections=CONCURRENCY, max_keepalive_connections=CONCURRENCY)


def main() -> None:
    """Measure both, and print tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiles", type=int, default=2000, help="tiles of each client and round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", type=float, default=200.0, help="requests a second that the limited server accepts")
    parser.add_argument("--limited-tiles", type=int, default=12_000)
    parser.add_argument("--serve-http2", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve_http2:
        asyncio.run(_serve_http2())
        return
    rows = _measure_clients(arguments.tiles, arguments.rounds)
    publish("fetch", rows, **_measure_limit(arguments.limit, arguments.limited_tiles))


def _measure_clients(num_tiles: int, num_rounds: int) -> list[dict[str, Any]]:
    clients = {"httpx in threads": _httpx_threads, "httpx": _httpx, "aiohttp": _aiohttp, "satx": _satx}
    measured: dict[str, list[tuple[float, float]]] = {}
    with running_tile_server(Behavior()) as server, _http2_server() as http2_url:
        for _ in range(num_rounds):
            for name, client in clients.items():
                measured.setdefault(name, []).append(_timed(client, server.url, num_tiles))
            if http2_url:
                measured.setdefault("httpx, HTTP/2", []).append(_timed(_httpx_http2, http2_url, num_tiles))
    return [
        {
            "client": name,
            "tiles/s": num_tiles / statistics.median(seconds for seconds, _ in times),
            "processor ms a tile": 1000 * statistics.median(used for _, used in times) / num_tiles,
        }
        for name, times in measured.items()
    ]


def _timed(client: Callable[[str, int], int], url: str, num_tiles: int) -> tuple[float, float]:
    started, used = time.perf_counter(), time.process_time()
    num_bytes = client(url, num_tiles)
    expected = [len(picture) for picture in pictures()]
    if not num_tiles * min(expected) <= num_bytes <= num_tiles * max(expected):
        raise SystemExit(f"Expected {num_tiles} whole tiles, got {num_bytes:,} bytes.")
    return time.perf_counter() - started, time.process_time() - used


def _urls(url: str, num_tiles: int) -> Iterator[str]:
    return (f"{url}/18/{column}/7.jpg" for column in range(num_tiles))


def _httpx_threads(url: str, num_tiles: int) -> int:
    with httpx.Client(limits=LIMITS, timeout=SECONDS) as client, ThreadPoolExecutor(CONCURRENCY) as pool:
        return sum(pool.map(lambda one: len(client.get(one).content), _urls(url, num_tiles)))


def _httpx(url: str, num_tiles: int, **options: Any) -> int:
    async def run() -> int:
        async with httpx.AsyncClient(limits=LIMITS, timeout=SECONDS, **options) as client:

            async def fetch(one: str) -> int:
                async with asyncio.timeout(SECONDS):
                    return len((await client.get(one)).content)

            return await _eight_at_a_time(fetch, _urls(url, num_tiles))

    return asyncio.run(run())


def _httpx_http2(url: str, num_tiles: int) -> int:
    return _httpx(url, num_tiles, http1=False, http2=True)


def _aiohttp(url: str, num_tiles: int) -> int:
    async def run() -> int:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CONCURRENCY)) as session:

            async def fetch(one: str) -> int:
                async with asyncio.timeout(SECONDS), session.get(one) as response:
                    return len(await response.read())

            return await _eight_at_a_time(fetch, _urls(url, num_tiles))

    return asyncio.run(run())


def _satx(url: str, num_tiles: int) -> int:
    with closing(open_http(url + "/{z}/{x}/{y}.jpg", concurrency=CONCURRENCY)) as imagery:
        fetched = imagery.fetch(Tile(f"18-{column}-7", 18, column, 7) for column in range(num_tiles))
        return sum(len(one) for one in fetched if isinstance(one, bytes))


async def _eight_at_a_time(fetch: Callable[[str], Any], urls: Iterator[str]) -> int:
    async def work() -> int:
        return sum([await fetch(url) for url in urls])

    return sum(await asyncio.gather(*(work() for _ in range(CONCURRENCY))))


def _measure_limit(limit: float, num_tiles: int) -> dict[str, Any]:
    behavior = Behavior(shares={"error once": 0.05}, limit_per_second=limit, burst=limit / 4)
    with running_tile_server(behavior) as server, closing(open_http(server.url + "/{z}/{x}/{y}.jpg")) as imagery:
        tiles = (Tile(f"18-{column}-7", 18, column, 7) for column in range(num_tiles))
        lost = sum(isinstance(one, Unscored) for one in imagery.fetch(tiles))
        log = server.log()
    if lost or log["final"] != {"good": num_tiles}:
        raise SystemExit(f"Expected {num_tiles} tiles, got {log['final']}, and {lost} without a picture.")
    accepted, refused = log["accepted_at"], log["refused_at"]
    if not refused:  # it was never exceeded: its use cannot be told
        return {"limit, requests/s": limit, "share of refused requests": 0.0, "processors": os.cpu_count()}
    first = refused[0]
    return {
        "limit, requests/s": limit,
        "accepted after the first refusal, requests/s": sum(at > first for at in accepted) / (accepted[-1] - first),
        "accepted from 30 s after it, requests/s": sum(at > first + 30 for at in accepted)
        / max(accepted[-1] - first - 30, 1e-9),
        "share of refused requests": len(refused) / log["requests"],
        "most requests in a second, from 3 s after it": log["busiest_after_refusals"],
        "processors": os.cpu_count(),
    }


@contextmanager
def _http2_server() -> Iterator[str]:
    """Run a server of HTTP/2 in another process; yield its URL, or nothing if h2 is not installed."""
    if find_spec("h2") is None:
        yield ""
        return
    command = [sys.executable, __file__, "--serve-http2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            port = process.stdout.readline().strip() if process.stdout else ""
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()


async def _serve_http2() -> None:
    tiles = pictures()
    server = await asyncio.start_server(lambda *streams: _answer_http2(tiles, *streams), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


async def _answer_http2(tiles: list[bytes], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer the requests of a connection; a tile fits the window of a stream, so only that of the connection counts."""
    from h2.config import H2Configuration
    from h2.connection import H2Connection
    from h2.events import RequestReceived

    connection = H2Connection(H2Configuration(client_side=False))
    connection.initiate_connection()
    waiting: list[int] = []
    async for data in _parts(reader):
        waiting += [event.stream_id for event in connection.receive_data(data) if isinstance(event, RequestReceived)]
        while waiting and connection.local_flow_control_window(waiting[0]) >= len(tiles[0]) * 2:
            stream, tile = waiting.pop(0), tiles[0]
            connection.send_headers(stream, [(":status", "200"), ("content-type", "image/jpeg")])
            for start in range(0, len(tile), connection.max_outbound_frame_size):
                connection.send_data(stream, tile[start : start + connection.max_outbound_frame_size])
            connection.end_stream(stream)
        writer.write(connection.data_to_send())
    writer.close()


async def _parts(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while data := await reader.read(65_536):
        yield data


if __name__ == "__main__":
    main()
