"""MLflow behind servers that never finish an answer: every request ends, and the error names the server."""

from __future__ import annotations

import http.server
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from slow_servers import KINDS, slow_server

from satx.cli import main
from satx.errors import TrackerUnavailable
from satx.study.outages import as_satx_error
from satx.tracking import client as tracking_client
from satx.tracking.client import MlflowClient, MlflowException, is_away, open_tracker, tracker_that_may_be_away
from satx.tracking.runs import get_artifact_repository

LIMIT_SECONDS = "1"


@pytest.fixture(autouse=True)
def _brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", LIMIT_SECONDS)


@pytest.mark.parametrize("kind", KINDS)
def test_opening_a_server_that_gives_no_answer_ends_in_an_error_that_names_it(kind: str) -> None:
    with slow_server(kind) as uri, pytest.raises(TrackerUnavailable) as caught:
        open_tracker(uri)
    message = str(caught.value)
    assert uri in message and "MLFLOW_TRACKING_URI" in message and "make ui" in message
    assert "\n" not in message and ".." not in message


@pytest.mark.parametrize("kind", KINDS)
def test_a_later_request_that_gets_no_answer_ends_too_and_counts_as_an_outage(kind: str) -> None:
    """A worker queues what it could not write, and tries again."""
    with slow_server(kind) as uri, pytest.raises(MlflowException) as caught:
        MlflowClient(tracking_uri=uri, registry_uri=uri).set_tag("0" * 32, "name", "value")
    assert is_away(caught.value)
    error = as_satx_error(caught.value)
    assert isinstance(error, TrackerUnavailable) and uri in str(error)


def test_nothing_is_sent_once_a_request_was_given_up() -> None:
    """A late repetition could undo what another process wrote since."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        uri = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(MlflowException):
            MlflowClient(tracking_uri=uri, registry_uri=uri).set_tag("0" * 32, "name", "value")
        listener.settimeout(4 * float(LIMIT_SECONDS))
        sent = 0
        with suppress(TimeoutError):
            while True:
                listener.accept()[0].close()
                sent += 1
    assert sent == 1


def test_a_worker_starts_beside_a_server_that_drips(monkeypatch: pytest.MonkeyPatch) -> None:
    with slow_server("dripping body") as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        assert tracker_that_may_be_away().tracking_uri == uri


@pytest.mark.parametrize("kind", ["silent", "dripping body"])
def test_satx_show_ends_and_names_the_server(
    kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with slow_server(kind) as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        monkeypatch.setattr(sys, "argv", ["satx", "show"])
        with pytest.raises(SystemExit) as stopped:
            main()
    assert stopped.value.code == TrackerUnavailable.exit_code
    assert uri in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["silent", "dripping headers", "dripping body"])
def test_a_file_that_does_not_arrive_ends_in_an_error(kind: str, tmp_path: Path) -> None:
    with slow_server(kind) as uri:
        files = get_artifact_repository(f"{uri}/api/2.0/mlflow-artifacts/artifacts/1", tracking_uri=uri)
        with pytest.raises((MlflowException, OSError)) as caught:
            files._download_file("model.h5", str(tmp_path / "model.h5"))
    assert uri in str(caught.value)


class _Store(http.server.SimpleHTTPRequestHandler):
    """A server that keeps files, and confirms each one as slowly as a slow line would: no wait is long, but all together."""

    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        (Path(self.directory) / self.path.rpartition("/")[2]).write_bytes(content)
        self.send_response(200)
        for number in range(3):
            self.send_header(f"X-{number}", "")
            self.flush_headers()
            threading.Event().wait(0.9)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        content = (Path(self.directory) / self.path.rpartition("/")[2]).read_bytes()
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for start in range(0, len(content), 30_000):
            part = content[start : start + 30_000]
            self.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[str]:
    """Serve a folder in which files can be put; yield the URL."""
    (tmp_path / "served").mkdir()
    handler = partial(_Store, directory=str(tmp_path / "served"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/api/2.0/mlflow-artifacts/artifacts/1"
        server.shutdown()


def test_a_file_has_time_for_its_size_and_arrives_as_it_was_sent(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer to the upload takes longer than the limit of a request without a file."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    sent = tmp_path / "model.h5"
    sent.write_bytes(bytes(range(256)) * 2000)
    files = get_artifact_repository(store, tracking_uri=store)
    files.log_artifact(str(sent))
    files._download_file("model.h5", str(tmp_path / "back.h5"))
    assert (tmp_path / "back.h5").read_bytes() == sent.read_bytes()


def test_an_upload_without_time_for_its_size_would_be_broken_off(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking_client, "SLOWEST_BYTES_PER_SECOND", 1e12)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    (tmp_path / "model.h5").write_bytes(b"x" * 500_000)
    with pytest.raises(MlflowException) as caught:
        get_artifact_repository(store, tracking_uri=store).log_artifact(str(tmp_path / "model.h5"))
    assert store in str(caught.value)
