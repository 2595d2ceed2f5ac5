"""An endpoint on loopback whose model is the share of red, and which fails as it is told to."""

from __future__ import annotations

import base64
import io
import json
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

BAD = b"\x89PNG\r\n\x1a\nbad"
SIZE_PX = 8
HOLD_SECONDS = 0.2


class Answer(NamedTuple):
    """An answer; status 0 resets the connection."""

    status: int
    body: bytes = b""
    retry_after: str = ""


class Unreliable:
    """The endpoint.

    Attributes:
        url: URL of its model.
        faults: Answers in place of scores; each is used once.
        requests: Path and image files of each request for scores.
        on_request: Called with the client's port and the files before each of them is answered.
        num_meeting: If it is not 0, requests that overlap are all refused if one is, as in a batch of TensorFlow Serving, and
            the first ones wait for each other.
    """

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/v1/models/school"
        self.faults = deque[Answer]()
        self.requests = list[tuple[str, list[bytes]]]()
        self.num_meeting = 0
        self.on_request: Callable[[int, list[bytes]], None] = do_nothing
        self._running = list[list[bytes]]()
        self._changed = threading.Condition()

    def look(self, path: str) -> Answer:
        """Answer a GET."""
        if path.endswith("/metadata"):
            dims = [{"size": str(size)} for size in (-1, SIZE_PX, SIZE_PX, 3)]
            images = {"inputs": {"images": {"tensor_shape": {"dim": dims}}}}
            return as_json({"metadata": {"signature_def": {"signature_def": {"images": images}}}})
        return as_json({"model_version_status": [{"version": "3", "state": "AVAILABLE"}]})

    def predict(self, path: str, request: dict[str, Any], port: int) -> Answer:
        """Answer a POST of a client with this port."""
        files = [base64.b64decode(instance["b64"]) for instance in request["instances"]]
        if request.get("signature_name") == "explain":
            about = {"class_names": ["not-school", "school"], "threshold": 0.25, "version": 3}
            return as_json({"predictions": [about | {"probabilities": share_of_red(data)} for data in files]})
        self.on_request(port, files)
        with self._changed:
            self.requests.append((path, files))
            if self.faults:
                return self.faults.popleft()
        if BAD in (self._batch(files) if self.num_meeting else files):
            return as_json({"error": f"Image 0 of the request:\n  a bad one {'x' * 500}"}, 400)
        return as_json({"predictions": [share_of_red(data) for data in files]})

    def _batch(self, files: list[bytes]) -> list[bytes]:
        """Return the files of all requests that overlap with this one."""
        with self._changed:
            self._running.append(files)
            self._changed.notify_all()
            if len(self.requests) <= self.num_meeting:
                assert self._changed.wait_for(lambda: len(self.requests) >= self.num_meeting, 60)
            batch = [data for request in self._running for data in request]
        time.sleep(HOLD_SECONDS)
        with self._changed:
            batch += [data for request in self._running for data in request]
            self._running.remove(files)
        return batch


def do_nothing(port: int, files: list[bytes]) -> None:
    """Let a request be answered."""


@contextmanager
def unreliable_endpoint() -> Iterator[Unreliable]:
    """Run the endpoint until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send(endpoint.look(self.path))

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.send(endpoint.predict(self.path, request, self.client_address[1]))

        def send(self, answer: Answer) -> None:
            if not answer.status:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
                self.close_connection = True
                return
            self.send_response(answer.status)
            self.send_header("Content-Length", str(len(answer.body)))
            if answer.retry_after:
                self.send_header("Retry-After", answer.retry_after)
            self.end_headers()
            self.wfile.write(answer.body)

        def log_message(self, *arguments: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        endpoint = Unreliable(server.server_port)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        try:
            yield endpoint
        finally:
            server.shutdown()


def as_json(value: Any, status: int = 200) -> Answer:
    """Return an answer with a JSON document."""
    return Answer(status, json.dumps(value).encode())


def share_of_red(data: bytes) -> list[float]:
    """Return the probabilities of an image file."""
    red = float(np.asarray(Image.open(io.BytesIO(data)))[..., 0].mean()) / 255
    return [1 - red, red]
