"""What is here is found, and what is broken is said with its remedy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from projects import furnish

from satx.commands import doctor
from satx.commands.doctor import doctor_command
from satx.errors import ConfigError


def findings(capsys: Any) -> dict[str, dict[str, str]]:
    return {item["what"]: item for item in json.loads(capsys.readouterr().out)}


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "KERAS_WEIGHTS", "http://127.0.0.1:9/")


def test_a_machine_on_which_a_sweep_works_is_well(home: Path, tiny_tiles: Path, nowhere: None, capsys: Any) -> None:
    furnish(home, tiny_tiles)
    doctor_command(fleet=False, as_json=True)
    found = findings(capsys)
    assert {name: item["state"] for name, item in found.items()} == {
        "Python": "ok",
        "disk": "ok",
        "device": "ok",
        "weights": "note",
        "study database": "ok",
        "MLflow": "ok",
    }
    assert "WEIGHTS=DIR" in found["weights"]["remedy"]


def test_what_is_broken_is_named_with_its_remedy(
    home: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SATX_WEIGHTS_DIR", str(tmp_path))
    monkeypatch.setenv("SATX_STUDY_URL", "sqlite:////proc/none/x.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(ConfigError, match="found broken: weights, study database, mlflow"):
        doctor_command(fleet=False, as_json=True)
    found = findings(capsys)
    assert "SATX_STUDY_URL" in found["study database"]["remedy"]
    assert "MLFLOW_TRACKING_URI" in found["mlflow"]["remedy"]
