"""A simulated EC2 instance metadata service on loopback, which refuses requests without a token."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Metadata(ThreadingHTTPServer):
    """A server like IMDSv2; the machine's id and region can be set."""

    is_interrupted = False
    instance_id, region = "i-0abc", "eu-west-1"


class Answers(BaseHTTPRequestHandler):
    server: Metadata

    def do_PUT(self) -> None:
        known = self.path == "/latest/api/token" and int(self.headers["X-aws-ec2-metadata-token-ttl-seconds"]) > 0
        self.answer(200 if known else 404, "a-token")

    def do_GET(self) -> None:
        document = {
            "instanceId": self.server.instance_id,
            "instanceType": "g6.xlarge",
            "region": self.server.region,
        }
        found = {
            "/latest/dynamic/instance-identity/document": json.dumps(document),
            "/latest/meta-data/instance-life-cycle": "spot",
        }
        if self.server.is_interrupted:
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
