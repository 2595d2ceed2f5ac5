"""A project of its own for each test."""

from __future__ import annotations

from pathlib import Path

import pytest
from projects import make_project


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create a project and make it the current folder."""
    folder = make_project(tmp_path / "project")
    monkeypatch.chdir(folder)
    return folder
