"""A machine asks EC2 about itself: a server on loopback answers as IMDSv2 does, and refuses who has no token."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from satx.fleet.metadata import Identity, identity, is_being_taken_back


class Metadata(ThreadingHTTPServer):
    taken_back = False


class Answers(BaseHTTPRequestHandler):
    server: Metadata

    def do_PUT(self) -> None:
        known = self.path == "/latest/api/token" and int(self.headers["X-aws-ec2-metadata-token-ttl-seconds"]) > 0
        self.answer(200 if known else 404, "a-token")

    def do_GET(self) -> None:
        document = {"instanceId": "i-0abc", "instanceType": "g6.xlarge", "region": "eu-west-1"}
        found = {
            "/latest/dynamic/instance-identity/document": json.dumps(document),
            "/latest/meta-data/instance-life-cycle": "spot",
        }
        if self.server.taken_back:
            found["/latest/meta-data/spot/instance-action"] = json.dumps({"action": "terminate"})
        if self.headers["X-aws-ec2-metadata-token"] != "a-token":
            self.answer(401, "")
        else:
            self.answer(200 if self.path in found else 404, found.get(self.path, ""))

    def answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def metadata(monkeypatch: pytest.MonkeyPatch) -> Iterator[Metadata]:
    with Metadata(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        yield server
        server.shutdown()


def test_a_machine_knows_itself(metadata: Metadata) -> None:
    assert identity() == Identity("i-0abc", "g6.xlarge", "eu-west-1", spot=True)


def test_a_notice_is_seen_when_it_is_there(metadata: Metadata) -> None:
    assert not is_being_taken_back()
    metadata.taken_back = True
    assert is_being_taken_back()


def test_where_there_is_no_ec2_nobody_is_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:9")
    assert identity() is None
    assert not is_being_taken_back()
