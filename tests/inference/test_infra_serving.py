"""Tests of infra/serving without Docker: its files are parsed, and its scripts run against a server on this machine."""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import text_format
from PIL import Image

from inference.serving_messages import monitoring_config
from satx.inference.serving_files import ServedVersions, write_models_config

FOLDER = Path(__file__).parents[2] / "infra" / "serving"
SCRIPTS = ("serve.sh", "healthcheck.sh", "smoke.sh")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return dict(yaml.safe_load((FOLDER / "compose.yaml").read_text()))


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_is_valid_and_executable(script: str) -> None:
    subprocess.run(["bash", "-n", FOLDER / script], check=True)
    assert os.access(FOLDER / script, os.X_OK)


def test_only_this_machine_reaches_the_containers_and_they_have_no_privileges(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        assert service["ports"] and all(port.startswith("127.0.0.1:") for port in service["ports"])
        assert (service["cap_drop"], service["security_opt"]) == (["ALL"], ["no-new-privileges:true"])
        assert all(volume["read_only"] for volume in service["volumes"] if isinstance(volume, dict))


def test_images_are_named_by_a_digest_that_the_user_must_give(compose: dict[str, Any]) -> None:
    assert re.fullmatch(
        r"prom/prometheus:v[\d.]+@\$\{PROMETHEUS_DIGEST:\?.+\}", compose["services"]["prometheus"]["image"]
    )
    assert compose["services"]["serving"]["build"]["args"]["SERVING_DIGEST"].startswith("${SERVING_DIGEST:?")
    assert re.search(r"(?m)^FROM tensorflow/serving:[\d.]+@\$\{SERVING_DIGEST\} AS server$", dockerfile())
    readme = (FOLDER / "README.md").read_text()
    for image in (*re.findall(r"tensorflow/serving:[\d.]+(?=@)", dockerfile()), "prom/prometheus:v3.5.0"):
        assert f"'{{{{.Manifest.Digest}}}}' {image})" in readme


def test_the_exports_have_the_same_path_in_the_container(compose: dict[str, Any]) -> None:
    (volume,) = compose["services"]["serving"]["volumes"]
    assert volume["source"] == volume["target"]
    assert compose["services"]["serving"]["build"]["args"]["EXPORTS"].endswith("}/exports")


def test_the_image_runs_without_root_and_checks_its_health() -> None:
    instructions = [line.split(maxsplit=1) for line in dockerfile().splitlines() if re.match("[A-Z]+ ", line)]
    assert dict(instructions)["USER"] == "65534:65534"
    names = [name for name, _ in instructions]
    assert "HEALTHCHECK" in names and names.index("USER") > names.index("RUN")
    for copied in re.findall(r"(?m)^COPY --chmod=\d+ (.*) /opt/satx/$", dockerfile()):
        assert all((FOLDER / name).is_file() for name in copied.split())


def test_prometheus_asks_for_the_metrics_where_the_server_has_them(compose: dict[str, Any]) -> None:
    served = text_format.Parse((FOLDER / "monitoring.config").read_text(), monitoring_config()())
    assert served.prometheus_config.enable
    (job,) = yaml.safe_load((FOLDER / "prometheus.yml").read_text())["scrape_configs"]
    assert job["metrics_path"] == served.prometheus_config.path == "/monitoring/prometheus/metrics"
    assert job["static_configs"] == [{"targets": ["serving:8501"]}]
    assert "serving" in compose["services"]


def test_the_server_starts_with_the_files_that_a_promotion_writes(tmp_path: Path) -> None:
    """Run serve.sh with a program in the server's place that prints its arguments."""
    program = tmp_path / "tensorflow_model_server"
    program.write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    program.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "EXPORTS": "/a b/exports"}
    run = subprocess.run(
        [FOLDER / "serve.sh", "--more"], env=environment, check=True, capture_output=True, text=True, timeout=60
    )
    flags = dict(line.partition("=")[::2] for line in run.stdout.splitlines())
    assert flags["--model_config_file"] == "/a b/exports/models.config"
    assert flags["--batching_parameters_file"] == "/a b/exports/batching.conf" and flags["--enable_batching"] == "true"
    assert flags["--allow_version_labels_for_unavailable_models"] == "true"
    assert int(flags["--model_config_file_poll_wait_seconds"]) > 0
    assert flags["--monitoring_config_file"] == "/opt/satx/monitoring.config" and "--more" in flags


@contextmanager
def answering(states: dict[str, str], *, predictions: object) -> Iterator[int]:
    """Answer as TensorFlow Serving does, with a state for each model; yields the port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state = states.get(self.path.removeprefix("/v1/models/"))
            status = {"model_version_status": [{"version": "3", "state": state}]}
            self.answer(200, status) if state else self.answer(404, {"error": "Could not find any versions"})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            is_image = len(body["instances"][0]["image_bytes"]["b64"]) > 40
            self.answer(200, {"predictions": predictions}) if is_image else self.answer(400, {"error": "no image"})

        def answer(self, status: int, content: object) -> None:
            body = json.dumps(content, indent=1).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("states", "is_healthy"),
    [
        ({"school": "AVAILABLE", "clinic": "AVAILABLE"}, True),
        ({"school": "AVAILABLE", "clinic": "LOADING"}, False),
        ({"school": "AVAILABLE"}, False),
    ],
)
def test_the_container_is_healthy_when_every_model_has_a_version_that_answers(
    states: dict[str, str], is_healthy: bool, tmp_path: Path
) -> None:
    write_models_config(
        tmp_path / "models.config", {name: ServedVersions(tmp_path / name, (3,)) for name in ("clinic", "school")}
    )
    with answering(states, predictions=[]) as port:
        run = subprocess.run(
            [FOLDER / "healthcheck.sh", str(port)],
            env={**os.environ, "EXPORTS": str(tmp_path)},
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert (run.returncode == 0) == is_healthy
    assert is_healthy or "clinic: expected a version in the state AVAILABLE" in run.stderr


def test_the_container_is_not_healthy_without_a_model_or_a_server(tmp_path: Path) -> None:
    write_models_config(tmp_path / "models.config", {})
    environment = {**os.environ, "EXPORTS": str(tmp_path)}
    run = subprocess.run([FOLDER / "healthcheck.sh"], env=environment, check=False, capture_output=True, timeout=60)
    assert run.returncode == 1 and b"expected at least one model" in run.stderr
    write_models_config(tmp_path / "models.config", {"school": ServedVersions(tmp_path, (3,))})
    run = subprocess.run(
        [FOLDER / "healthcheck.sh", "1"], env=environment, check=False, capture_output=True, timeout=60
    )
    assert run.returncode != 0


@pytest.mark.parametrize(
    ("state", "predictions", "passes"),
    [
        ("AVAILABLE", [[0.25, 0.75]], True),
        ("AVAILABLE", [[1.5e-7, 1.0]], True),
        ("LOADING", [[0.25, 0.75]], False),
        ("AVAILABLE", [{"probabilities": [0.25, 0.75]}], False),
        ("AVAILABLE", [], False),
    ],
)
def test_the_smoke_test_passes_only_with_an_available_model_and_a_plain_list(
    state: str, predictions: object, passes: bool, tmp_path: Path
) -> None:
    tile = tmp_path / "a tile.jpg"
    Image.new("RGB", (16, 16)).save(tile)
    with answering({"school": state}, predictions=predictions) as port:
        run = subprocess.run(
            [FOLDER / "smoke.sh", tile, "school", f"http://127.0.0.1:{port}"],
            check=False,
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert (run.returncode == 0) == passes, run.stderr
    assert passes or "expected status 200" in run.stderr


def dockerfile() -> str:
    return (FOLDER / "Dockerfile").read_text().replace("\\\n", "")
