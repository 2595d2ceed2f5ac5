"""Write a run: its parameters, the data set it read, numbers and files. One configuration, one run."""

from __future__ import annotations

import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict
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


def find_run(client: MlflowClient, experiment_id: str, tags: Mapping[str, str]) -> Run | None:
    """The newest run that carries all these tags, or None."""
    query = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
    found = client.search_runs(
        [experiment_id], filter_string=query, order_by=["attributes.start_time DESC"], max_results=1
    )
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


def take_up_run(client: MlflowClient, run: Run, owner: Mapping[str, str]) -> None:
    """Go on with a run that was left: RUNNING again, and its owner's."""
    client.update_run(run.info.run_id, status="RUNNING")
    log_numbers(client, run.info.run_id, {}, tags=owner)


def log_dataset(client: MlflowClient, run_id: str, store: TileStore, session: str) -> None:
    """Record the tiles as the run's input: name, digest, counts; the folder's path stays out of it."""
    log_dataset_fields(client, run_id, dataset_fields(store, session))


def log_dataset_fields(client: MlflowClient, run_id: str, fields: Mapping[str, str]) -> None:
    """The same, of tiles that were described before."""
    client.log_inputs(run_id, [DatasetInput(Dataset(**fields))])


def dataset_fields(store: TileStore, session: str) -> dict[str, str]:
    """What a run says of the tiles that it reads."""
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
