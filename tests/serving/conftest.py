"""Small exports, and the file that lists them, for the tests of a running server."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.running_server import write_both, write_exports


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_exports(tmp_path_factory.mktemp("server"))


@pytest.fixture
def config(exports: Path, tmp_path: Path) -> Path:
    return write_both(tmp_path / "models.config", exports)
