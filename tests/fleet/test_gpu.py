"""GPU utilization is what the driver's own program, `nvidia-smi`, reports."""

from pathlib import Path

import optuna
import pytest

from satx.fleet.gpu import gpu_percent, gpu_percents, note_gpu_percent
from satx.fleet.metadata import Identity
from satx.study.database import open_storage


@pytest.fixture
def says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a folder on the PATH; return the path at which a test writes a fake `nvidia-smi`."""
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return tmp_path / "nvidia-smi"


@pytest.mark.parametrize(
    ("script", "percent"),
    [
        ("printf '40\\n90\\n'", 65.0),
        ("echo 0", 0.0),
        ("echo '[N/A]'", None),
        ("true", None),
        ("echo 40; exit 9", None),
    ],
)
def test_gpu_percent_is_the_mean_of_all_gpus_or_none_if_the_driver_reports_none(
    says: Path, script: str, percent: float | None
) -> None:
    says.write_text(f'#!/bin/sh\ntest "$1" = --query-gpu=utilization.gpu || exit 2\n{script}\n')
    says.chmod(0o755)
    assert gpu_percent() == percent


def test_gpu_percent_is_none_without_a_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu_percent() is None


def test_the_mean_since_the_last_call_is_recorded_for_each_machine(home: Path) -> None:
    study = optuna.create_study(study_name="s", storage=open_storage())
    first, second = (Identity(f"i-{name}", "g6.xlarge", "us-east-1", spot=True) for name in "ab")
    seen = [10.0, 20.0]
    note_gpu_percent(study, first, seen)
    assert seen == []
    note_gpu_percent(study, first, seen)
    note_gpu_percent(study, second, [99.0])
    assert gpu_percents(study) == {"i-a": 15.0, "i-b": 99.0}
