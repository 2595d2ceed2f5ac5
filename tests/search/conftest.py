"""A furnished desk for each test: a home with databases, tiles and weights, and a sweep that was opened in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from projects import TINY_SWEEP, furnish

from satx.search import driver, features, sharing
from satx.search.driver import Sweep, open_sweep
from satx.search.space import SweepConfig
from satx.storage import satx_home


@pytest.fixture
def tiny_ready(home: Path, tiny_tiles: Path) -> Any:
    """What `prepare` gives for the tiny tiles, in this test's home."""
    return furnish(home, tiny_tiles)


@pytest.fixture
def open_tiny(tiny_ready: Any) -> Callable[..., Sweep]:
    """Open the tiny sweep, as the driver does; `trials` and parts of its YAML can be given."""

    def opened(trials: int = 2, **parts: Any) -> Sweep:
        config = SweepConfig.model_validate(TINY_SWEEP | parts)
        return open_sweep(tiny_ready, config, trials, git_commit="0" * 40)

    return opened


@pytest.fixture
def bucket(clients: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """S3 of a sweep's own."""
    s3 = clients("s3")
    s3.create_bucket(Bucket="satx-test")
    monkeypatch.setenv("SATX_BUCKET", "s3://satx-test/fleet")
    for module in (sharing, features, driver):
        monkeypatch.setattr(module, "s3_client", lambda: s3)
    yield s3


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Sweep], Path]:
    """Go to another machine: databases are shared, all else of the first one's home is out of reach."""
    monkeypatch.setenv("SATX_STUDY_URL", f"sqlite:///{tmp_path / 'studies.db'}")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")

    def go(sweep: Sweep) -> Path:
        job = sweep.job
        sweep.study.set_user_attr("store", f"/first/machine/{job.store.folder.name}")
        weights = {name: found.as_dict() | {"file": "/first/machine/w.h5"} for name, found in job.weights.items()}
        sweep.study.set_user_attr("weights", weights)
        monkeypatch.setenv("SATX_HOME", str(tmp_path / "another"))
        return satx_home()

    return go
