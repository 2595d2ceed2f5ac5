"""Servers on loopback that never finish an answer, or never give a useful one."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

DRIP_SECONDS = 0.05  # far below every limit on a single wait
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
BUSY = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 3600\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
KINDS = ("silent", "dripping headers", "dripping body", "always busy")


@contextmanager
def slow_server(kind: str) -> Iterator[str]:
    """Run a server of one of `KINDS` while the block runs; yield its URL.

    `silent` accepts connections and sends nothing. The dripping ones send a byte every `DRIP_SECONDS`, without an end.
    `always busy` answers 503 at once and asks for a new try in an hour.
    """
    stopped = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_accept, args=(listener, kind, stopped), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            stopped.set()
            listener.shutdown(socket.SHUT_RDWR)


def _accept(listener: socket.socket, kind: str, stopped: threading.Event) -> None:
    while not stopped.is_set():
        try:
            connection, _ = listener.accept()
        except OSError:  # the test is over
            return
        threading.Thread(target=_answer, args=(connection, kind, stopped), daemon=True).start()


def _answer(connection: socket.socket, kind: str, stopped: threading.Event) -> None:
    begin, byte = {
        "silent": (b"", b""),
        "dripping headers": (HEAD + b"X: ", b"x"),
        "dripping body": (HEAD + b"Content-Length: 1000000\r\n\r\n", b" "),
        "always busy": (BUSY, b""),
    }[kind]
    try:
        with connection:
            connection.recv(65536)
            connection.sendall(begin)
            while kind != "always busy" and not stopped.wait(DRIP_SECONDS):
                connection.sendall(byte)
    except OSError:  # the client has gone
        pass
