"""State of a task in the registry: versions, champion, and whether their exports are intact. Read-only."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from mlflow.entities.model_registry import ModelVersion

from satx.errors import ConfigError, WeightsError
from satx.inference.manifest import verify_export
from satx.reports.doubts import doubts
from satx.storage import satx_home
from satx.tracking.client import MlflowClient, MlflowException
from satx.tracking.runs import get_run

CHAMPION, PREVIOUS = "champion", "previous"
TASK_TAG = "satx.task"  # set on registered models that satx made; all others are ignored


@dataclass(frozen=True)
class VersionRecord:
    """One version of a task's model.

    Attributes:
        version: Version number.
        run_id: Id of the run it came from.
        backbone: Backbone of its network.
        test_auc: Test AUC with its interval, as text; "" if there were no test tiles.
        promoted_at: When it became champion, UTC; "" if the promotion never finished.
        forced: The gate's objection that `--force` overrode; "" if the gate did not object.
        not_served: Number of the session's tiles in each format that not every server of the export decodes, as text; or "".
        export_folder: Path of its SavedModel.
        export_state: `intact`, `missing`, `damaged`, or "" if not checked.
        serves: Alias that points at it: `champion`, `previous` or "".
        doubt: Note on a run that an older satx may have trained only partly; "" for others, or if not checked.
    """

    version: int
    run_id: str
    backbone: str
    test_auc: str
    promoted_at: str
    forced: str
    not_served: str
    export_folder: str
    export_state: str
    serves: str
    doubt: str


@dataclass(frozen=True)
class TaskRecord:
    """A task's champion and history.

    Attributes:
        name: Name of the registered model.
        champion: The current champion; None if no promotion ever finished.
        previous: The champion before, or None.
        history: All versions, newest first.
    """

    name: str
    champion: VersionRecord | None
    previous: VersionRecord | None
    history: tuple[VersionRecord, ...]


def export_folder(name: str, version: int) -> Path:
    """Return the path of a version's SavedModel, in the layout that TensorFlow Serving expects."""
    return satx_home() / "exports" / name / str(version)


def export_state(folder: Path, digest: str | None) -> str:
    """Return `intact`, `missing` or `damaged`."""
    if not folder.is_dir():
        return "missing"
    try:
        verify_export(folder, digest=digest)
    except WeightsError:
        return "damaged"
    return "intact"


def aliases_of(client: MlflowClient, name: str) -> dict[str, int]:
    """Return a model's aliases, as `{"champion": 3, "previous": 2}`; empty if the model is not registered."""
    try:
        found = client.get_registered_model(name).aliases
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return {}
    return {alias: int(version) for alias, version in found.items()}


def versions_of(client: MlflowClient, name: str) -> list[ModelVersion]:
    """Return all versions, newest first."""
    found = client.search_model_versions(f"name = '{name}'", max_results=1000)
    return sorted(found, key=lambda version: -int(version.version))


def registered_tasks(client: MlflowClient) -> list[TaskRecord]:
    """Return every task that has a model, with the exports of champion and previous verified."""
    models = client.search_registered_models(max_results=1000)
    return [_task_record(client, model.name) for model in models if TASK_TAG in model.tags]


def _task_record(client: MlflowClient, name: str) -> TaskRecord:
    aliases = aliases_of(client, name)
    if aliases.get(PREVIOUS) == aliases.get(CHAMPION):
        aliases.pop(PREVIOUS, None)  # a promotion stopped between setting the two aliases
    serving = {version: alias for alias, version in aliases.items() if alias in (CHAMPION, PREVIOUS)}
    history = tuple(_record(client, name, version, serving) for version in versions_of(client, name))
    by_alias = {record.serves: record for record in history if record.serves}
    return TaskRecord(name, by_alias.get(CHAMPION), by_alias.get(PREVIOUS), history)


def _record(client: MlflowClient, name: str, version: ModelVersion, serving: dict[int, str]) -> VersionRecord:
    number, tags = int(version.version), version.tags
    folder = export_folder(name, number)
    return VersionRecord(
        version=number,
        run_id=str(version.run_id),
        backbone=tags.get("backbone", ""),
        test_auc=tags.get("test_auc", ""),
        promoted_at=tags.get("promoted_at", ""),
        forced=tags.get("forced_past", "") if tags.get("forced") == "true" else "",
        not_served=tags.get("not_served", ""),
        export_folder=str(folder),
        export_state=export_state(folder, tags.get("export_digest")) if number in serving else "",
        serves=serving.get(number, ""),
        doubt=_doubt(client, str(version.run_id)) if number in serving else "",
    )


def _doubt(client: MlflowClient, run_id: str) -> str:
    try:
        return " ".join(doubts([get_run(client, run_id)]))
    except ConfigError:  # the run was deleted; its model is not affected
        return ""


def now_utc() -> str:
    """Return the current time, as `2026-01-31T12:00:00+00:00`."""
    return datetime.now(UTC).isoformat(timespec="seconds")
