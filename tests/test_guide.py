"""Tests of GUIDE.md: its code runs as written, and its table of backbones is that of the catalogue."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from guide import code_below, section
from logged_runs import log_session
from projects import with_databases

from satx.catalogue import BACKBONES
from satx.config import Configuration
from satx.search.space import SweepConfig, unfreeze_choices
from satx.session_config import load_session


def test_the_table_names_every_backbone_of_the_catalogue_with_its_size_and_cuts() -> None:
    rows = [line for line in section("Backbones").splitlines() if line.startswith("| `")]
    expected = [
        f"| `{name}` | {backbone.total_parameters / 1e6:.1f} | {backbone.default_size_px} | {', '.join(backbone.cuts)} "
        f"| {backbone.core_seconds_per_megapixel} |"
        for name, backbone in BACKBONES.items()
    ]
    assert rows == expected


def test_the_space_for_other_backbones_is_valid() -> None:
    (text,) = code_below("Backbones", "yaml")
    sweep = SweepConfig(name="mine", trials=4, **yaml.safe_load(text))
    defaults = Configuration.model_validate(load_session("2").defaults)
    assert {name: unfreeze_choices(sweep, name, defaults) for name in sweep.backbones} == {
        "efficientnetv2b0": ["none", "top", "block6"],
        "convnexttiny": ["none", "stage3"],
    }


def test_tiles_are_checked_as_written(
    tiny_tiles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "session2").symlink_to(tiny_tiles)
    monkeypatch.chdir(tmp_path)
    exec(code_below("Python", "python")[0], {})
    assert "('train', 'school')" in capsys.readouterr().out


def test_runs_are_read_as_written(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with_databases(home, home.parents[1])
    log_session("session2", built_up=3)
    exec(code_below("Python", "python")[1], {})
    assert "xception-best" in capsys.readouterr().out
