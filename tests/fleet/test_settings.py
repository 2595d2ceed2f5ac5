"""Valid values in `infra/fleet.yaml`, and valid addresses of databases that machines must reach."""

from __future__ import annotations

from typing import Any

import pytest

from satx.config import read_yaml, validated
from satx.errors import ConfigError
from satx.fleet.settings import NAME, FleetConfig, shared_databases
from satx.storage import shipped_file

STUDY_URL, TRACKING_URI = "postgresql+psycopg://satx@10.0.0.5/satx", "https://10.0.0.5:5000"


def settings(**changed: Any) -> FleetConfig:
    """Return the settings of the shipped file, with its bucket filled in."""
    return validated(FleetConfig, read_yaml(shipped_file(NAME)) | {"bucket": "s3://tiles/satx"} | changed, source=NAME)


def test_the_shipped_file_leaves_databases_to_the_environment() -> None:
    assert (settings().study_url, settings().tracking_uri) == (None, None)
    found = settings(study_url=STUDY_URL, tracking_uri=TRACKING_URI)
    assert (found.study_url, found.tracking_uri) == (STUDY_URL, TRACKING_URI)


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("study_url", "mysql://satx:hunter2@10.0.0.5/satx", "mysql"),
        ("study_url", "hunter2", "invalid"),
        ("tracking_uri", "ftp://satx:hunter2@10.0.0.5", "ftp"),
    ],
)
def test_a_database_url_that_machines_cannot_use_is_refused_and_not_printed(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, found: str
) -> None:
    with pytest.raises(ConfigError) as error:
        settings(**{name: value})
    assert f"infra/fleet.yaml: {name}" in str(error.value) and found in str(error.value)
    assert "hunter2" not in str(error.value)
    variables = {"study_url": "SATX_STUDY_URL", "tracking_uri": "MLFLOW_TRACKING_URI"}
    monkeypatch.setenv("SATX_STUDY_URL", STUDY_URL)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", TRACKING_URI)
    assert shared_databases() == (STUDY_URL, TRACKING_URI)
    monkeypatch.setenv(variables[name], value)
    with pytest.raises(ConfigError) as error:
        shared_databases()
    assert variables[name] in str(error.value) and found in str(error.value)
    assert "hunter2" not in str(error.value)
