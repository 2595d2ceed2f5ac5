"""Tests of what `satx promote` prints."""

from __future__ import annotations

import csv
import shlex
from pathlib import Path
from typing import Any

import pytest

from satx.commands.promote import docker_line
from satx.inference.manifest import Export
from satx.registry.champion import Promotion


@pytest.mark.parametrize("name", ["plain", "it's $HOME; `odd`", 'a, "b"'])
def test_the_printed_command_mounts_the_export_whatever_its_folder_is_called(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name / "exports" / "school" / "3"
    candidate: Any = None  # not printed
    promotion = Promotion("school", 3, candidate, Export(folder, "", {}), None, None, None, None, False)
    words = shlex.split(docker_line(promotion))
    (mount,) = csv.reader([words[words.index("--mount") + 1]])  # as docker reads it
    assert mount == ["type=bind", f"source={folder}", "target=/models/school/3", "readonly"]
