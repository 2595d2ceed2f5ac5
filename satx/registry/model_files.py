"""Fetch the files of a registered version: its classifier with temperature and threshold, for prediction without an export."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from satx.errors import ConfigError
from satx.registry.versions import champion_of, model_path, task_name
from satx.tracking.client import MlflowClient, MlflowException
from satx.tracking.runs import fetch_file


@dataclass(frozen=True)
class ModelFiles:
    """A registered version on this machine's disk.

    Attributes:
        name: Name of the registered model.
        version: Its version.
        folder: Its classifier, as `models.classifier` wrote it.
        weights_sha256: SHA-256 of its weights, as the registry recorded it.
    """

    name: str
    version: int
    folder: Path
    weights_sha256: str | None


def download_version(client: MlflowClient, name: str | None, version: int | None, folder: Path) -> ModelFiles:
    """Download a version's classifier.

    Args:
        client: MLflow client.
        name: Name of the registered model; None for the only one.
        version: The version; None for the champion.
        folder: Where to put the files.

    Raises:
        ConfigError: There is no such model or version, or its files were deleted.
    """
    name = task_name(client, name, option="--model")
    version = champion_of(client, name) if version is None else version
    try:
        registered = client.get_model_version(name, str(version))
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise ConfigError(f"--version: expected a version of {name}, got {version}. `satx show` lists them.") from error
    path = fetch_file(client, str(registered.run_id), model_path(version), folder)
    if path is None:
        raise ConfigError(
            f"{name} version {version}: expected its model among the artifacts of run {registered.run_id}, found none. Promote "
            f"the run again: `satx promote --run-id {registered.run_id}`."
        )
    return ModelFiles(name, version, path, registered.tags.get("weights_sha256"))
