"""Write a run: its parameters, the data set it read, numbers and files. One configuration, one run."""

from __future__ import annotations

import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.entities import Dataset, DatasetInput, Metric, Param, Run, RunTag
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from satx.errors import ConfigError
from satx.tiles.store import TileStore
from satx.tracking.client import MlflowClient, MlflowException
from satx.training.checkpoint import Epoch

CURVES = ("accuracy", "loss", "val_accuracy", "val_loss", "val_auc", "learning_rate", "epoch_seconds")
CONFIRMED = "confirmed_val_auc"  # mean over the seeds, the sweep's own among them
WAITING = "SCHEDULED"  # MLflow's word for a run that is not over and that nobody is working on
UNENDED = ("RUNNING", WAITING)
PAGE_SIZE = 1000  # runs a request


def runs_query(
    tags: Mapping[str, str] | None = None,
    *,
    having: Sequence[str] = (),
    excluding: Mapping[str, str] | None = None,
    status: str | None = None,
) -> str:
    """MLflow's filter for runs that match all of this.

    Args:
        tags: Tags and their values.
        having: Tags that are present, whatever their value.
        excluding: Tags that are present with another value.
        status: `RUNNING`, `FINISHED` and so on.

    Raises:
        ConfigError: A value has both kinds of quotes, which the filter cannot express.
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


def find_runs(client: MlflowClient, experiment_id: str, query: str) -> list[Run]:
    """All runs of an experiment that a query of `runs_query` matches, newest first."""
    found: list[Run] = []
    token: str | None = None
    while True:
        page = client.search_runs([experiment_id], query, max_results=PAGE_SIZE, page_token=token)
        found += page
        token = page.token
        if not token:
            return found


def find_run(client: MlflowClient, experiment_id: str, tags: Mapping[str, str]) -> Run | None:
    """The newest run that carries all these tags, or None."""
    newest_first = ["attributes.start_time DESC"]
    found = client.search_runs([experiment_id], runs_query(tags), order_by=newest_first, max_results=1)
    return found[0] if found else None


def best_first(run: Run) -> tuple[float, float, float]:
    """Sorts finished runs as a sweep chooses among them: those confirmed with more seeds first, by their mean."""
    return -run.data.metrics.get(CONFIRMED, 0.0), *own_score_first(run)


def own_score_first(run: Run) -> tuple[float, float]:
    """Sorts finished runs by validation AUC, ties by validation loss, whether they were confirmed or not."""
    numbers = run.data.metrics
    return -numbers.get("best_val_auc", 0.0), numbers.get("best_val_loss", float("inf"))


def get_run(client: MlflowClient, run_id: str) -> Run:
    """The run of this id.

    Raises:
        ConfigError: There is none.
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
    """How a run is found, and what it begins with.

    Attributes:
        identity: Tags that no other run has.
        name: For people.
        tags: Tags that are set when the run is made.
        params: Settings and sizes.
        parent: Id of the sweep's own run; None for a run without one.
        dataset: As `dataset_fields` gives it.
        trial_number: Of the attempt; None for a run that no trial stands for.
        attempt_tags: Tags that every attempt sets anew, such as its device.
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
    """The run of this identity, RUNNING: made, or resumed where an earlier attempt left it.

    Args:
        client: MLflow.
        experiment_id: Where runs are.
        opening: How it is found, and what it begins with.
        is_new: No earlier attempt can have made it, so it is not looked for.
        resume_ended: Also resume a run that has ended; otherwise a new one is made.

    Returns:
        The run, as it was found or made, and whether it was found.
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
    if "reason" in before:  # why it ended, which no longer holds
        client.delete_tag(found.info.run_id, "reason")
    return found, True


def dataset_fields(store: TileStore, session: str) -> dict[str, str]:
    """The tiles as a run's input: name, digest, counts; the folder's path stays out of it."""
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


def last_logged_step(client: MlflowClient, run: Run) -> int:
    """The last epoch whose curves a run has; 0 for one that has none."""
    sent = client.get_metric_history(run.info.run_id, CURVES[-1]) if run.data.metrics else []
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
        client: MLflow.
        run: The run; given by its id, MLflow would be asked once more where its files lie.
        files: `{"plots/roc.png": write}`, where `write(path)` makes the file or folder.
    """
    with tempfile.TemporaryDirectory() as folder:
        for name, write in files.items():
            path = Path(folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path)
        log_folder(client, run, Path(folder))


def log_folder(client: MlflowClient, run: Run, folder: Path) -> None:
    """Log what a folder holds."""
    _artifacts(client, run).log_artifacts(str(folder))


def fetch_file(client: MlflowClient, run_id: str, name: str, folder: Path) -> Path | None:
    """Download one artifact (file or folder) into `folder`; None when the run does not have it."""
    parent = str(Path(name).parent) if "/" in name else ""
    if name not in {item.path for item in client.list_artifacts(run_id, parent or None)}:
        return None
    return Path(client.download_artifacts(run_id, name, str(folder)))


def delete_folder(client: MlflowClient, run: Run, name: str) -> None:
    """Remove an artifact folder of a run."""
    _artifacts(client, run).delete_artifacts(name)


def _artifacts(client: MlflowClient, run: Run) -> Any:
    return get_artifact_repository(run.info.artifact_uri, tracking_uri=client.tracking_uri)


def history_frame(history: tuple[Epoch, ...] | list[Epoch]) -> pd.DataFrame:
    """One row an epoch."""
    return pd.DataFrame([asdict(epoch) for epoch in history])
