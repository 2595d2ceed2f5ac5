"""What `serve` measures: exports of pretrained networks, a running `satx serve`, and processes of clients."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil

MODEL = "tiles"
BATCH_SIZE = 32
CLIENTS = Path(__file__).with_name("serve_clients.py")


def write_versions(folder: Path, *, backbone: str, size_px: int, weights: Path, golden_bytes: Sequence[bytes]) -> Path:
    """Write a network with a random head as versions 1 and 2 of a model; return the folder of its versions."""
    import keras

    from satx.config import ModelConfig
    from satx.inference.export import Provenance, export_saved_model
    from satx.models.backbones import build_network
    from satx.models.classifier import Classifier

    keras.utils.set_random_seed(20)
    model = ModelConfig(backbone=backbone, unfreeze="none")
    file = weights / f"{backbone}_notop.weights.h5"
    network = build_network(model, image_size_px=size_px, num_classes=2, weights_file=file)
    classifier = Classifier(
        network=network,
        model=model,
        image_size_px=size_px,
        classes=("not-school", "school"),
        positive_class="school",
        task="school",
        sample=False,
    )
    for version in (1, 2):
        export_saved_model(
            classifier,
            folder / MODEL / str(version),
            provenance=Provenance(MODEL, version, "0" * 32, "0" * 64, {}),
            golden_bytes=golden_bytes,
        )
    return folder / MODEL


def serve_version(config: Path, versions: Path, version: int) -> None:
    """Write the `models.config` that serves one version."""
    from satx.inference.serving_files import ServedVersions, write_models_config

    write_models_config(config, {MODEL: ServedVersions(versions, (version,), {"champion": version})})


def direct_predictor(export: Path, size_px: int) -> Callable[[Sequence[bytes]], np.ndarray]:
    """Return a function from image files to probabilities, `(N, 2)` float32, that uses this process alone.

    It decodes as the server does, in one thread for each processor, and runs the export's signature for batches of tiles.
    """
    import tensorflow as tf

    from satx.environment import num_processors
    from satx.tiles.decode import decode_tile, resize_tile

    loaded = tf.saved_model.load(str(export))
    pool = ThreadPoolExecutor(num_processors())

    def decoded(data: bytes) -> np.ndarray:
        return resize_tile(decode_tile(data, "tile").pixels, size_px)

    def predict(files: Sequence[bytes]) -> np.ndarray:
        signature, parts = loaded.signatures["images"], []  # a signature alone does not keep its variables alive
        for start in range(0, len(files), BATCH_SIZE):
            tiles = np.stack(list(pool.map(decoded, files[start : start + BATCH_SIZE])))
            parts.append(signature(images=tf.constant(tiles))["probabilities"].numpy())
        return np.concatenate(parts)

    return predict


class RunningServer:
    """`satx serve` on a free port of this machine."""

    def __init__(self, config: Path, log: Path) -> None:
        """Start it, and wait until version 1 answers."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        command = [
            sys.executable,
            "-P",
            "-m",
            "satx",
            "serve",
            "--models-config",
            str(config),
            "--port",
            str(self.port),
        ]
        with log.open("w") as stream:
            self._process = subprocess.Popen(command, stdout=stream, stderr=stream)
        self._log = log
        self.wait_for_version(1)

    def wait_for_version(self, version: int) -> None:
        """Wait until a version is the only one that is available."""
        while True:
            if self._process.poll() is not None:
                raise SystemExit(f"satx serve has ended. Its output: {self._log.read_text()[-2000:]}")
            if self._available() == {version}:
                return
            time.sleep(0.2)

    def _available(self) -> set[int]:
        try:
            response = httpx.get(f"http://127.0.0.1:{self.port}/v1/models/{MODEL}", timeout=60)
        except httpx.TransportError:
            return set()
        statuses = response.json().get("model_version_status", [])
        return {int(one["version"]) for one in statuses if one["state"] in ("AVAILABLE", "UNLOADING")}

    def resident_mb(self) -> float:
        """Return the resident size of the server, in MB."""
        return float(psutil.Process(self._process.pid).memory_info().rss / 1e6)

    def stop(self) -> None:
        """Stop it as a user does."""
        self._process.terminate()
        self._process.wait(120)


@contextmanager
def running_server(config: Path, log: Path) -> Iterator[RunningServer]:
    """Run a server until the block ends."""
    server = RunningServer(config, log)
    try:
        yield server
    finally:
        server.stop()


class RunningClients:
    """A process of clients that is ready to send."""

    def __init__(self, port: int, tiles: Path, *, num_clients: int, num_requests: int | None = None) -> None:
        """Start the process, and wait until its requests are encoded; without `num_requests` it sends until `finish`."""
        command = [sys.executable, "-P", str(CLIENTS), "--port", str(port), "--path", f"/v1/models/{MODEL}:predict"]
        command += ["--tiles", str(tiles), "--clients", str(num_clients)]
        command += ["--requests", str(num_requests)] if num_requests else []
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._read()

    def start(self) -> None:
        """Let them send."""
        self._write()

    def results(self) -> dict[str, Any]:
        """Wait until all requests are answered, and return what was measured."""
        done: dict[str, Any] = json.loads(self._read())
        self._process.wait(60)
        return done

    def finish(self) -> dict[str, Any]:
        """Let them send no more, and return what was measured."""
        self._write()
        return self.results()

    def _write(self) -> None:
        if self._process.stdin is None:
            raise AssertionError("the process was started without a pipe")
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def _read(self) -> str:
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            raise SystemExit("The process of clients ended without results.")
        return line


def link_tiles(files: Sequence[Path], folder: Path) -> Path:
    """Make a folder with links to image files, numbered in their order."""
    folder.mkdir(parents=True)
    for number, path in enumerate(files):
        (folder / f"{number:06d}{path.suffix}").symlink_to(path.resolve())
    return folder
