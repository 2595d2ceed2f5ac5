"""Clients that send tiles to a server as fast as it answers: a process of its own with little work, for `serve`.

    python serve_clients.py --port 8501 --path /v1/models/tiles:predict --tiles FOLDER --clients 32 --requests 2000

Requests are encoded beforehand. Prints `ready`, waits for a line on its standard input, sends, and prints one JSON
object: seconds, its own processor seconds, the number of responses by status, and the latencies of the good ones in ms. A
second line, or the end of its input, stops it earlier. Each client has one connection and one request under way. A request
whose connection breaks counts as status 0, and the client connects again. Imports nothing outside the standard library.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import itertools
import json
import resource
import selectors
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

RECEIVE_BYTES = 65_536


@dataclass
class Client:
    """One connection, and the request that is under way on it."""

    connection: socket.socket
    sent_at: float = 0.0
    received: bytearray = field(default_factory=bytearray)


@dataclass
class Results:
    """Responses by status, and latencies of the good ones in ms."""

    statuses: Counter[int] = field(default_factory=Counter)
    latencies_ms: list[float] = field(default_factory=list)


def main() -> None:
    """Send until the number of requests is reached, or the input says to stop."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", required=True)
    parser.add_argument("--tiles", type=Path, required=True, help="folder of image files")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--requests", type=int, default=sys.maxsize)
    options = parser.parse_args()
    requests = [_request(options.path, path.read_bytes()) for path in sorted(options.tiles.iterdir())]
    clients = [Client(_connect(options.port)) for _ in range(options.clients)]
    print("ready", flush=True)
    sys.stdin.readline()
    results, before, started = Results(), _processor_seconds(), time.perf_counter()
    requests_left = itertools.islice(itertools.cycle(requests), options.requests)
    _send_all(clients, requests_left, results, options.port)
    seconds = time.perf_counter() - started
    done = {
        "seconds": seconds,
        "processor seconds": _processor_seconds() - before,
        "statuses": results.statuses,
        "latencies ms": [round(value, 3) for value in results.latencies_ms],
    }
    print(json.dumps(done), flush=True)


def _send_all(clients: list[Client], requests: Iterator[bytes], results: Results, port: int) -> None:
    selector = selectors.DefaultSelector()
    selector.register(sys.stdin, selectors.EVENT_READ)
    under_way = sum(_send(client, requests, selector) for client in clients)
    while under_way:
        for key, _ in selector.select():
            if key.fileobj is sys.stdin:
                selector.unregister(sys.stdin)
                requests = iter(())
                continue
            client: Client = key.data
            status = _received_status(client)
            if status is None:
                continue
            results.statuses[status] += 1
            if status == 200:
                results.latencies_ms.append((time.perf_counter() - client.sent_at) * 1000)
            selector.unregister(client.connection)
            if status == 0:
                client.connection.close()
                client.connection = _connect(port)
            under_way += _send(client, requests, selector) - 1


def _send(client: Client, requests: Iterator[bytes], selector: selectors.BaseSelector) -> int:
    """Send the next request, if there is one; return the number of requests sent."""
    request = next(requests, None)
    if request is None:
        return 0
    client.received.clear()
    client.sent_at = time.perf_counter()
    # If the server has closed the connection, it is readable, and reading from it tells so.
    with contextlib.suppress(OSError):
        client.connection.sendall(request)
    selector.register(client.connection, selectors.EVENT_READ, client)
    return 1


def _received_status(client: Client) -> int | None:
    """Read what has arrived; return the status of a complete response, 0 for a broken connection, None for a part."""
    try:
        part = client.connection.recv(RECEIVE_BYTES)
    except OSError:
        part = b""
    if not part:
        return 0
    client.received += part
    head, blank, body = client.received.partition(b"\r\n\r\n")
    if not blank:
        return None
    length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
    return int(head[9:12]) if len(body) >= length else None


def _request(path: str, image: bytes) -> bytes:
    body = json.dumps({"instances": [{"image_bytes": {"b64": base64.b64encode(image).decode()}}]})
    return f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


def _connect(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=120)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
