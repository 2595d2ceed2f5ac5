"""Load what a promotion needs from a run id: the model, its session, and tiles it was not trained on."""

from __future__ import annotations

import io
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion
from PIL import Image

from satx.errors import ConfigError
from satx.models.classifier import Classifier, load_classifier
from satx.registry.versions import model_path
from satx.session_config import SessionConfig
from satx.storage import file_digest
from satx.tiles.formats import SERVED_FORMATS
from satx.tiles.store import TileStore, open_store
from satx.tracking.client import MlflowClient
from satx.tracking.kept_models import TRAINED
from satx.tracking.provenance import recorded_inputs
from satx.tracking.results import write_model
from satx.tracking.runs import fetch_file, get_run

NUM_GOLDEN = 8


@dataclass(frozen=True)
class Candidate:
    """A run that may become champion.

    Attributes:
        run: The MLflow run.
        classifier: Its model.
        session: The session it was trained on.
        store: Tile store of that session.
    """

    run: Run
    classifier: Classifier
    session: SessionConfig
    store: TileStore

    @cached_property
    def golden_files(self) -> list[bytes]:
        """The files of `golden_files` for its tiles, read once."""
        return golden_files(self.store)


def load_candidate(client: MlflowClient, run_id: str) -> Candidate:
    """Load a finished run with its model, session and tiles.

    Raises:
        ConfigError: There is no such run, it is not finished, it is not a training, or its model was not kept.
        WeightsError: Its weights, or the trained values for writing its model, differ from those that were logged.
        DataError: Its tile store is missing or damaged.
    """
    run = get_run(client, run_id)
    if run.info.status != "FINISHED":
        raise ConfigError(
            f"Run {run_id}: expected a finished run, got status {run.info.status}. Let it finish, or pick another run; "
            f"`make ui` lists them."
        )
    session, store_folder, weights = recorded_inputs(run_id, run.data.tags)
    store = open_store(store_folder)
    if run.data.tags.get("model") == TRAINED:  # its sweep stopped early; models are written at the end
        write_model(client, run, weights, store=store, session=session)
        run = get_run(client, run_id)
    return Candidate(run, fetch_classifier(client, run), session, store)


def fetch_version(client: MlflowClient, registered: ModelVersion) -> Classifier:
    """Return a version's model, with its temperature and threshold.

    Raises:
        ConfigError: Its run or its model was deleted.
        WeightsError: The weights differ from those that were logged.
    """
    path = model_path(int(registered.version))
    if not str(registered.source).endswith(path):  # registered in MLflow itself: the run's model, not calibrated
        path = "model"
    return fetch_classifier(client, get_run(client, str(registered.run_id)), path=path)


def fetch_classifier(client: MlflowClient, run: Run, *, path: str = "model") -> Classifier:
    """Return a run's model, checked against the digest in the run's tags.

    Args:
        client: MLflow client.
        run: The run.
        path: Its folder among the run's artifacts.

    Raises:
        ConfigError: The model was not kept.
        WeightsError: The weights differ from those that were logged.
    """
    run_id = str(run.info.run_id)
    with tempfile.TemporaryDirectory() as folder:
        found = fetch_file(client, run_id, path, Path(folder))
        if found is None:
            raise ConfigError(
                f"Run {run_id}: expected a run with a stored model, got one without. A sweep stores the models of the best runs "
                f"of each backbone (tag `model` = `kept`). Pick one of these, or train again and store the model: "
                f"`satx train --from-run {run_id}`."
            )
        return load_classifier(found, weights_sha256=run.data.tags.get("weights_sha256"))


def golden_files(store: TileStore) -> list[bytes]:
    """Return the bytes of a few tile files, from the test split if there is one.

    A file that is missing, has changed, or has a format that serving does not read is replaced by a PNG of its stored
    pixels.
    """
    rows = next(rows for split in ("test", "valid", "train") if len(rows := store.rows(split)))
    chosen = np.unique(np.linspace(0, len(rows) - 1, NUM_GOLDEN).round().astype(int))
    return [_file_bytes(store, int(row)) for row in rows[chosen]]


def _file_bytes(store: TileStore, row: int) -> bytes:
    tile = store.index.iloc[row]
    path = store.report.root / str(tile["relative"])
    if tile["format"] in SERVED_FORMATS and path.is_file() and file_digest(path) == tile["file_digest"]:
        return path.read_bytes()
    stream = io.BytesIO()
    Image.fromarray(np.asarray(store.pixels()[row])).save(stream, "PNG")
    return stream.getvalue()
