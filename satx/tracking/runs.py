"""Find and write MLflow runs: parameters, data set, metrics and files. One configuration is one run."""

from __future__ import annotations

import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd
from mlflow.entities import Dataset, DatasetInput, Metric, Param, Run, RunTag
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from satx.errors import ConfigError
from satx.tiles.store import TileStore
from satx.tracking.client import MlflowClient, MlflowException
from satx.training.checkpoint import Epoch

# Metrics of an epoch, by the name of the field of `Epoch`. MLflow draws metrics in sections by what is before the slash,
# other sections before metrics without a slash, each in alphabetical order; so charts start with `val_accuracy`.
CURVES: Mapping[str, str] = MappingProxyType(
    {name: f"curves/{name}" for name in ("val_accuracy", "val_auc", "val_loss")}
    | {name: f"training/{name}" for name in ("accuracy", "loss", "learning_rate", "epoch_seconds")}
)
CONFIRMED = "confirmed_val_auc"  # mean over all seeds, including the sweep's own
WAITING = "SCHEDULED"  # MLflow status of a run that has not ended and that no process works on
UNENDED = ("RUNNING", WAITING)
PAGE_SIZE = 1000


def runs_query(
    tags: Mapping[str, str] | None = None,
    *,
    having: Sequence[str] = (),
    excluding: Mapping[str, str] | None = None,
    status: str | None = None,
) -> str:
    """Return MLflow's filter string for runs that match all conditions.

    Args:
        tags: Tags and their values.
        having: Tags that are present with any value.
        excluding: Tags that are present with a value other than this one.
        status: `RUNNING`, `FINISHED` and so on.

    Raises:
        ConfigError: A value contains both kinds of quotes, which the filter cannot express.
    """
    parts = [f"tags.`{name}` = {_quoted(value)}" for name, value in (tags or {}).items()]
    parts += [f"tags.`{name}` LIKE '%'" for name in having]
    parts += [f"tags.`{name}` != {_quoted(value)}" for name, value in (excluding or {}).items()]
    return " and ".join([*parts, *([f"attributes.status = {_quoted(status)}"] if status else [])])


def _quoted(value: str) -> str:
    if "'" not in value:
        return f"'{value}'"
    if '"' in value:
        raise ConfigError(f"Expected a name with at most one kind of quotes, got {value}. Rename it.")
    return f'"{value}"'


def find_runs(client: MlflowClient, experiment_id: str, query: str, *, page_size: int = PAGE_SIZE) -> list[Run]:
    """Return all runs of an experiment that match a query from `runs_query`, newest first.

    Args:
        client: MLflow client.
        experiment_id: Experiment to search.
        query: Result of `runs_query`.
        page_size: Runs per request.
    """
    found: list[Run] = []
    token: str | None = None
    while True:
        page = client.search_runs([experiment_id], query, max_results=page_size, page_token=token)
        found += page
        token = page.token
        if not token:
            return found


def find_run(client: MlflowClient, experiment_id: str, tags: Mapping[str, str]) -> Run | None:
    """Return the newest run that has all these tags, or None."""
    newest_first = ["attributes.start_time DESC"]
    found = client.search_runs([experiment_id], runs_query(tags), order_by=newest_first, max_results=1)
    return found[0] if found else None


def best_first(run: Run) -> tuple[float, float, float]:
    """Sort key that ranks finished runs as a sweep does: runs confirmed with more seeds first, by their mean."""
    return -run.data.metrics.get(CONFIRMED, 0.0), *own_score_first(run)


def own_score_first(run: Run) -> tuple[float, float]:
    """Sort key that ranks finished runs by validation AUC, ties by validation loss, confirmed or not."""
    numbers = run.data.metrics
    return -numbers.get("best_val_auc", 0.0), numbers.get("best_val_loss", float("inf"))


def get_run(client: MlflowClient, run_id: str) -> Run:
    """Return the run with this id.

    Raises:
        ConfigError: There is no such run.
    """
    try:
        return client.get_run(run_id)
    except MlflowException as error:
        raise ConfigError(
            f"Expected the id of a run, got {run_id!r}, which MLflow does not know. `satx show` and `make ui` list runs."
        ) from error


def start_run(
    client: MlflowClient,
    experiment_id: str,
    *,
    name: str,
    tags: Mapping[str, str],
    params: Mapping[str, Any],
    parent: str | None,
) -> Run:
    """Create a run with its tags and parameters, status RUNNING."""
    all_tags = {**tags, **({"mlflow.parentRunId": parent} if parent else {})}
    run = client.create_run(experiment_id, run_name=name, tags=all_tags)
    if params:
        client.log_batch(run.info.run_id, params=[Param(key, str(value)) for key, value in params.items()])
    return run


@dataclass(frozen=True)
class Opening:
    """How to find a run, and what to create it with.

    Attributes:
        identity: Tags that identify the run: no other run has all of them.
        name: Display name.
        tags: Tags that are set when the run is created.
        params: Parameters of the run: settings and sizes.
        parent: Run id of the sweep's parent run; None for a run without a parent.
        dataset: Fields of the data set, from `dataset_fields`.
        trial_number: Optuna trial number of this attempt; None for a run without a trial.
        attempt_tags: Tags that every attempt sets again, such as its device.
    """

    identity: dict[str, str]
    name: str
    tags: dict[str, str]
    params: dict[str, Any]
    parent: str | None
    dataset: dict[str, str]
    trial_number: int | None = None
    attempt_tags: dict[str, str] = field(default_factory=dict)


def open_run(
    client: MlflowClient, experiment_id: str, opening: Opening, *, is_new: bool = False, resume_ended: bool = True
) -> tuple[Run, bool]:
    """Return the run of this identity with status RUNNING: an earlier attempt's run is resumed, or a new one created.

    Args:
        client: MLflow client.
        experiment_id: Experiment of the run.
        opening: How to find the run, and what to create it with.
        is_new: No earlier attempt can have created the run, so it is not searched for.
        resume_ended: Also resume a run that has ended; otherwise create a new one.

    Returns:
        The run as it was found or created, and whether it was found.
    """
    found = None if is_new else find_run(client, experiment_id, opening.identity)
    if found is None or not (resume_ended or found.info.status in UNENDED):
        number = {} if opening.trial_number is None else {"trial_numbers": str(opening.trial_number)}
        tags = opening.tags | opening.attempt_tags | opening.identity | number
        made = start_run(
            client, experiment_id, name=opening.name, tags=tags, params=opening.params, parent=opening.parent
        )
        client.log_inputs(made.info.run_id, [DatasetInput(Dataset(**opening.dataset))])
        return made, False
    before = found.data.tags
    wanted = dict(opening.attempt_tags)
    if opening.trial_number is not None:
        numbers = [*filter(None, before.get("trial_numbers", "").split(","))]
        wanted["trial_numbers"] = ",".join(dict.fromkeys([*numbers, str(opening.trial_number)]))
    changed = {name: value for name, value in wanted.items() if before.get(name) != value}
    client.update_run(found.info.run_id, status="RUNNING")
    if changed:
        log_numbers(client, found.info.run_id, {}, tags=changed)
    if "reason" in before:  # why the earlier attempt ended; no longer true
        client.delete_tag(found.info.run_id, "reason")
    return found, True


def dataset_fields(store: TileStore, session: str) -> dict[str, str]:
    """Return the tiles as a run's input: name, digest and counts, without the path of the folder."""
    counts = Counter(zip(store.index["split"], store.index["label"], strict=True))
    profile = {f"{split}/{label}": count for (split, label), count in counts.items()}
    schema = {"image_size_px": store.image_size_px, "classes": list(store.classes)}
    return {
        "name": session,
        "digest": store.digest[:16],
        "source_type": "tiles",
        "source": json.dumps({"session": session}),
        "schema": json.dumps(schema),
        "profile": json.dumps(profile),
    }


def curve_of(client: MlflowClient, run_id: str, name: str) -> list[Metric]:
    """Return the logged points of a curve, a key of `CURVES`; runs of satx 0.2 have it without its section."""
    found = list(client.get_metric_history(run_id, CURVES[name]))
    if found and min(metric.step for metric in found) <= 1:
        return found
    return [*client.get_metric_history(run_id, name), *found]  # begun by satx 0.2, perhaps continued since


def last_logged_step(client: MlflowClient, run: Run) -> int:
    """Return the last step whose metrics a run has, or 0 if it has none."""
    sent = curve_of(client, run.info.run_id, "epoch_seconds") if run.data.metrics else []
    return max((metric.step for metric in sent), default=0)


def log_numbers(
    client: MlflowClient, run_id: str, numbers: Mapping[str, float], *, tags: Mapping[str, str] | None = None
) -> None:
    """Log metrics without steps, and tags, in one request."""
    now_ms = int(time.time() * 1000)
    metrics = [Metric(name, float(value), now_ms, 0) for name, value in numbers.items()]
    client.log_batch(run_id, metrics=metrics, tags=[RunTag(key, value) for key, value in (tags or {}).items()])


def log_files(client: MlflowClient, run: Run, files: Mapping[str, Callable[[Path], object]]) -> None:
    """Write files into a temporary folder and log them.

    Args:
        client: MLflow client.
        run: The run. An id instead would cost another request for the artifact location.
        files: `{"plots/roc.png": write}`, where `write(path)` makes the file or folder.
    """
    with tempfile.TemporaryDirectory() as folder:
        for name, write in files.items():
            path = Path(folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path)
        log_folder(client, run, Path(folder))


def log_folder(client: MlflowClient, run: Run, folder: Path) -> None:
    """Log the content of a folder."""
    _artifacts(client, run).log_artifacts(str(folder))


def fetch_file(client: MlflowClient, run_id: str, name: str, folder: Path) -> Path | None:
    """Download one artifact (file or folder) into `folder`; return None if the run does not have it."""
    parent = str(Path(name).parent) if "/" in name else ""
    if name not in {item.path for item in client.list_artifacts(run_id, parent or None)}:
        return None
    return Path(client.download_artifacts(run_id, name, str(folder)))


def delete_folder(client: MlflowClient, run: Run, name: str) -> None:
    """Delete an artifact folder of a run."""
    _artifacts(client, run).delete_artifacts(name)


def _artifacts(client: MlflowClient, run: Run) -> Any:
    return get_artifact_repository(run.info.artifact_uri, tracking_uri=client.tracking_uri)


def history_frame(history: tuple[Epoch, ...] | list[Epoch]) -> pd.DataFrame:
    """Return a frame with one row per epoch."""
    return pd.DataFrame([asdict(epoch) for epoch in history])
