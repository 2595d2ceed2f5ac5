"""Images, a cluster and runs for tests of the Ray engine, and what the local engine writes for the same blocks."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image
from unreliable_endpoint import SIZE_PX, Unreliable

from satx.bulk import ray_engine
from satx.bulk.block_file import ModelIdentity
from satx.bulk.endpoint import open_endpoint
from satx.bulk.engine import predict_blocks
from satx.bulk.ledger import open_ledger
from satx.bulk.plan import Plan
from satx.bulk.ray_engine import predict_with_ray
from satx.bulk.scorer import open_scorer
from satx.imagery.open_imagery import open_imagery
from satx.testing.changed_environment import changed_environment

NUM_FILES, BLOCK_FILES = 96, 8


def write_images(folder: Path, names: list[str]) -> Path:
    """Write PNG files, each of its own pixels; every 17th is a page of HTML."""
    for row, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(row).integers(0, 255, (SIZE_PX, SIZE_PX, 3), np.uint8)
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "PNG")
        path.write_bytes(stream.getvalue() if row % 17 else b"<html>no such tile</html>")
    return folder


@contextmanager
def running_cluster() -> Iterator[None]:
    """Run a cluster with two workers, as two machines have, whose environment names another Keras backend than the tests use."""
    import ray

    with changed_environment(RAY_USAGE_STATS_ENABLED="0", KERAS_BACKEND="jax"):
        ray.init(
            address="local", num_cpus=2, include_dashboard=False, _node_ip_address="127.0.0.1", log_to_driver=False
        )
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ray_engine, "_workers", lambda: (2, {"num_cpus": 1}))
            yield
    finally:
        ray.shutdown()


def spec_of(imagery: Path | str, server: Unreliable, out: Path) -> dict[str, Any]:
    scorer = {"endpoint": server.url, "name": None, "version": None}
    return {"imagery": str(imagery), "scorer": scorer, "out": str(out), "placeholders": []}


def model_of(server: Unreliable) -> ModelIdentity:
    scorer = open_endpoint(server.url)
    scorer.close()
    return scorer.model


def with_ray(plan: Plan, spec: dict[str, Any], server: Unreliable, **more: Any) -> float:
    ledger = open_ledger(spec["out"])
    left = [block for block in plan.blocks if block.name not in ledger.finished()]
    return predict_with_ray(plan, left, spec, model_of(server), ledger, **more)


def files_of(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((out / "blocks").iterdir()) if path.is_file()}


def without_ray(plan: Plan, spec: dict[str, Any], out: Path) -> dict[str, bytes]:
    """Return the files that the local engine writes."""
    scorer, source = open_scorer(spec["scorer"]), open_imagery(spec["imagery"])
    predict_blocks(plan, plan.blocks, source, scorer, open_ledger(str(out)))
    scorer.close()
    source.close()
    return files_of(out)


def client_of(port: int) -> psutil.Process:
    """Return the process that has a connection from this port of loopback."""
    for connection in psutil.net_connections("tcp4"):
        if connection.laddr and connection.laddr.port == port and connection.pid is not None:
            return psutil.Process(connection.pid)
    raise AssertionError(f"No process has the port {port}.")
