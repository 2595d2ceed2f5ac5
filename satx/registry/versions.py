"""Versions, aliases, files and exports of a task's model in the registry. Read-only."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from mlflow.entities.model_registry import ModelVersion

from satx.errors import ConfigError, WeightsError, nearest_name
from satx.inference.manifest import Export, verify_export
from satx.storage import satx_home
from satx.tracking.client import MlflowClient, MlflowException

CHAMPION, PREVIOUS = "champion", "previous"

# Tags of a registered model.
TASK_TAG = "satx.task"  # on models that satx made; all others are ignored
HISTORY_TAG = "satx.history"  # changes of the champion, as JSON
PENDING_TAG = "satx.pending"  # a change of the champion that has begun, as JSON


def export_folder(name: str, version: int) -> Path:
    """Return the path of a version's SavedModel, in the layout that TensorFlow Serving expects."""
    return satx_home() / "exports" / name / str(version)


def promotion_lock(name: str) -> Path:
    """Return the path of the lock that only one promotion or rollback of a model on this machine holds."""
    return satx_home() / "locks" / f"promote-{name}"


def model_path(version: int) -> str:
    """Return the path of a version's model among the artifacts of its run: the run's model, calibrated."""
    return f"promoted/{version}/model"


def card_path(version: int) -> str:
    """Return the path of a version's model card, as HTML, among the artifacts of its run."""
    return f"card/{version}/model_card.html"


def verified_export(registered: ModelVersion) -> Export:
    """Return a version's export on this machine, after checking its files and that it is the export of this version.

    The registry does not record the digest of an export: each machine writes its own, and no two have the same bytes.

    Raises:
        WeightsError: There is no export, its files are not those that were written, or it is of another version, run,
            temperature or threshold.
    """
    version, tags = int(registered.version), registered.tags
    export = verify_export(export_folder(registered.name, version))
    expected: dict[str, object] = {"model_name": registered.name, "version": version, "run_id": registered.run_id}
    if "weights_sha256" in tags:  # not if it was registered and made champion in MLflow itself
        expected["weights_sha256"] = tags["weights_sha256"]
        expected |= {key: float(tags[key]) for key in ("temperature", "threshold")}
    for key, value in expected.items():
        if (found := export.manifest.get(key)) != value:
            raise WeightsError(
                f"{export.folder}: expected the export of version {version} with {key} {value}, as in the registry, got {found}. "
                f"The export is not loaded. Promote its run again to write a new one."
            )
    return export


def export_state(registered: ModelVersion) -> str:
    """Return `intact`, `missing` or `damaged`."""
    if not export_folder(registered.name, int(registered.version)).is_dir():
        return "missing"
    try:
        verified_export(registered)
    except WeightsError:
        return "damaged"
    return "intact"


def registered_state(client: MlflowClient, name: str) -> tuple[dict[str, int], dict[str, str]]:
    """Return a model's aliases, as `{"champion": 3, "previous": 2}`, and tags, of one moment; empty if it is not registered."""
    try:
        found = client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return {}, {}
    return {alias: int(version) for alias, version in found.aliases.items()}, dict(found.tags)


def aliases_of(client: MlflowClient, name: str) -> dict[str, int]:
    """Return a model's aliases; empty if the model is not registered."""
    return registered_state(client, name)[0]


def registered_tags(client: MlflowClient, name: str) -> dict[str, str]:
    """Return a model's tags; empty if the model is not registered."""
    return registered_state(client, name)[1]


def versions_of(client: MlflowClient, name: str) -> list[ModelVersion]:
    """Return all versions, newest first."""
    found = client.search_model_versions(f"name = '{name}'", max_results=1000)
    return sorted(found, key=lambda version: -int(version.version))


def now_utc() -> str:
    """Return the current time, as `2026-01-31T12:00:00+00:00`."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def task_name(client: MlflowClient, task: str | None, *, option: str = "--task") -> str:
    """Return the name of a registered model of satx: the one that is named, or the only one.

    Args:
        client: MLflow client.
        task: The name, or None.
        option: The option that names it, for messages.

    Raises:
        ConfigError: There is no such model, none at all, or several and none was named.
    """
    names = sorted(model.name for model in client.search_registered_models(max_results=1000) if TASK_TAG in model.tags)
    if task is None and len(names) == 1:
        return str(names[0])
    if not names:
        raise ConfigError("Expected a task with a champion, found none. Promote a run: `satx promote --run-id RUN`.")
    if task is None:
        raise ConfigError(f"{option}: expected one of {', '.join(names)}, got none. Name one.")
    if task not in names:
        raise ConfigError(f"{option}: expected a task with a champion, got {task!r}. {nearest_name(task, names)}")
    return task


def champion_of(client: MlflowClient, name: str) -> int:
    """Return the version that is champion.

    Raises:
        ConfigError: There is none.
    """
    version = aliases_of(client, name).get(CHAMPION)
    if version is None:
        raise ConfigError(f"{name}: expected a champion, got none. Promote a run: `satx promote --run-id RUN`.")
    return version
