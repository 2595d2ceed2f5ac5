"""The state of every task in the registry: champion, export, verdicts, history. Read-only, and without TensorFlow."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion

from satx.errors import ConfigError
from satx.registry.judged import Forced, GateFile, Verdict
from satx.registry.served import served_version
from satx.registry.transitions import Transition, is_in_progress
from satx.registry.versions import (
    CHAMPION,
    HISTORY_TAG,
    PENDING_TAG,
    PREVIOUS,
    TASK_TAG,
    export_folder,
    export_state,
    registered_state,
    versions_of,
)
from satx.reports.doubts import doubts
from satx.tracking.client import MlflowClient
from satx.tracking.runs import get_run


@dataclass(frozen=True)
class VersionRecord:
    """One version of a task's model.

    Attributes:
        version: Version number.
        run_id: Id of the run it came from.
        backbone: Backbone of its network.
        test_auc: Test AUC with its interval, as text; "" if there were no test tiles.
        promoted_at: When it became champion, UTC; "" if the promotion never finished.
        restored_at: When a rollback last made it champion again, UTC; or "".
        rolled_back_at: When a rollback last replaced it, UTC; or "".
        forced: Why, by whom and when it was promoted against the gate; None if the gate did not refuse.
        refusal: The words of the rules that refused; "" if none did.
        verdicts: Verdict of each rule of the gate; empty for versions of an older satx.
        gate: The file with the gate's rules; None if it is not recorded.
        temperature: Temperature of its probabilities, as text; "" if not recorded.
        threshold: Threshold of the class of interest and the rule that chose it, as text; "" if not recorded.
        not_served: Number of the session's tiles in each format that not every server of the export decodes, as text; or "".
        card: Where its model card is; "" if it has none, or if not checked.
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
    restored_at: str
    rolled_back_at: str
    forced: Forced | None
    refusal: str
    verdicts: tuple[Verdict, ...]
    gate: GateFile | None
    temperature: str
    threshold: str
    not_served: str
    card: str
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
        served: Version that `exports/models.config` on this machine labels as champion; None if it does not list the model.
        pending: A change of the champion that has begun; None if there is none.
        in_progress: Whether it may still be going on; False if it was stopped, or there is none.
        events: Changes of the champion, newest first; older ones may have been dropped.
        history: All versions, newest first.
    """

    name: str
    champion: VersionRecord | None
    previous: VersionRecord | None
    served: int | None
    pending: Transition | None
    in_progress: bool
    events: tuple[Transition, ...]
    history: tuple[VersionRecord, ...]


def registered_tasks(client: MlflowClient) -> list[TaskRecord]:
    """Return every task that has a model, with the exports of champion and previous verified."""
    models = client.search_registered_models(max_results=1000)
    return [_task_record(client, model.name) for model in models if TASK_TAG in model.tags]


def verdict_tags(verdicts: tuple[Verdict, ...], forced: Forced | None, gate: GateFile | None) -> dict[str, str]:
    """Return the tags of a version from which its verdicts, their gate, and why it was forced, are read again."""
    forcing = asdict(forced) if forced else dict.fromkeys(("reason", "by", "at"), "")
    return {
        "verdicts": json.dumps([asdict(verdict) for verdict in verdicts]),
        "gate": gate.name if gate else "",
        "gate_sha256": gate.sha256 if gate else "",
        "forced": str(forced is not None).lower(),
        "forced_past": refusal_of(verdicts),
        "refused_rules": ", ".join(verdict.rule for verdict in verdicts if not verdict.passed),
        **{f"forced_{name}": value for name, value in forcing.items()},
    }


def refusal_of(verdicts: tuple[Verdict, ...]) -> str:
    """Return what the rules that refuse say, one line each; empty if all pass."""
    return "\n".join(
        f"{verdict.rule}: expected {verdict.asked}; seen: {verdict.seen}." for verdict in verdicts if not verdict.passed
    )


def recorded_verdicts(tags: dict[str, str]) -> tuple[Verdict, ...]:
    """Return the verdicts from a version's tags; empty for versions of an older satx."""
    return tuple(Verdict(**verdict) for verdict in json.loads(tags.get("verdicts", "[]")))


def recorded_forced(tags: dict[str, str]) -> Forced | None:
    """Return why a version was promoted against the gate; None if the gate did not refuse."""
    if tags.get("forced") != "true":
        return None
    return Forced(tags.get("forced_reason", ""), tags.get("forced_by", ""), tags.get("forced_at", ""))


def _task_record(client: MlflowClient, name: str) -> TaskRecord:
    aliases, tags = registered_state(client, name)
    if aliases.get(PREVIOUS) == aliases.get(CHAMPION):
        aliases.pop(PREVIOUS, None)  # a change of the champion stopped between setting the two aliases
    serving = {version: alias for alias, version in aliases.items() if alias in (CHAMPION, PREVIOUS)}
    history = tuple(_record(client, name, version, serving) for version in versions_of(client, name))
    by_alias = {record.serves: record for record in history if record.serves}
    events = [Transition(**event) for event in json.loads(tags.get(HISTORY_TAG, "[]"))]
    pending = Transition(**json.loads(tags[PENDING_TAG])) if PENDING_TAG in tags else None
    return TaskRecord(
        name=name,
        champion=by_alias.get(CHAMPION),
        previous=by_alias.get(PREVIOUS),
        served=served_version(name),
        pending=pending,
        in_progress=pending is not None and is_in_progress(name, pending),
        events=tuple(reversed(events)),
        history=history,
    )


def _record(client: MlflowClient, name: str, version: ModelVersion, serving: dict[int, str]) -> VersionRecord:
    number, tags = int(version.version), version.tags
    run = _run(client, str(version.run_id)) if number in serving else None
    return VersionRecord(
        version=number,
        run_id=str(version.run_id),
        backbone=tags.get("backbone", ""),
        test_auc=tags.get("test_auc", ""),
        promoted_at=tags.get("promoted_at", ""),
        restored_at=tags.get("restored_at", ""),
        rolled_back_at=tags.get("rolled_back_at", ""),
        forced=recorded_forced(tags),
        refusal=tags.get("forced_past", ""),
        verdicts=recorded_verdicts(tags),
        gate=GateFile(tags["gate"], tags["gate_sha256"]) if tags.get("gate") else None,
        temperature=f"{float(tags['temperature']):.4g}" if "temperature" in tags else "",
        threshold=f"{float(tags['threshold']):.4g} ({tags['threshold_rule']})" if "threshold" in tags else "",
        not_served=tags.get("not_served", ""),
        card=_card(run, tags["card"]) if run and "card" in tags else "",
        export_folder=str(export_folder(name, number)),
        export_state=export_state(version) if number in serving else "",
        serves=serving.get(number, ""),
        doubt=" ".join(doubts([run])) if run else "",
    )


def _run(client: MlflowClient, run_id: str) -> Run | None:
    try:
        return get_run(client, run_id)
    except ConfigError:  # the run was deleted; its model is not affected
        return None


def _card(run: Run, path: str) -> str:
    """Return the path of a model card among a run's artifacts, or its place in MLflow if they are not in a local folder."""
    uri: Any = run.info.artifact_uri
    return f"{uri.removeprefix('file://')}/{path}"
