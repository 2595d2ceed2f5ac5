"""The export of a candidate, before and after it becomes that of a version."""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow.entities.model_registry import ModelVersion

from satx.inference.export import Provenance, export_saved_model
from satx.inference.manifest import Export, verify_export
from satx.inference.predictor import ServedModel
from satx.models.classifier import Classifier
from satx.registry.candidate import Candidate, fetch_version
from satx.registry.versions import export_folder
from satx.storage import WRITER, locked, replacing
from satx.tracking.client import MlflowClient

NUM_WARM, NUM_TIMED = 3, 20  # the first predictions also allocate memory


@contextmanager
def staging(name: str) -> Iterator[Path]:
    """Yield a temporary folder on the disk of a model's exports, which is removed at the end.

    It is locked as the temporary folders of `storage.replacing` are, so `satx gc` removes it after its process was killed.
    """
    exports = export_folder(name, 1).parent
    exports.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".staged.", dir=exports))
    try:
        with locked(folder / WRITER):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def stage(candidate: Candidate, classifier: Classifier, folder: Path, *, name: str, version: int) -> Export:
    """Write the export of a version into a staging folder.

    Args:
        candidate: The run.
        classifier: Its classifier, with temperature and threshold.
        folder: The staging folder.
        name: Name of the registered model.
        version: Version that the export is for.

    Raises:
        PromotionRefused: The export's probabilities differ too much from the network's.
    """
    run = candidate.run
    provenance = Provenance(
        name,
        version,
        str(run.info.run_id),
        run.data.tags.get("weights_sha256", ""),
        candidate.store.report.not_served,
    )
    return export_saved_model(
        classifier, folder / str(version), provenance=provenance, golden_bytes=candidate.golden_files
    )


def publish(export: Export, folder: Path) -> Export:
    """Move a staged export to its final folder; an export that is there already is replaced."""
    with replacing(folder) as temporary:
        export.folder.replace(temporary)
    return verify_export(folder, digest=export.digest)


def write_again(client: MlflowClient, candidate: Candidate, registered: ModelVersion) -> Export:
    """Write a missing or damaged export of a version again, from the model that was registered with it.

    Args:
        client: MLflow client.
        candidate: The version's run.
        registered: The version.

    Raises:
        ConfigError, WeightsError: Its model was deleted or changed.
        PromotionRefused: The export's probabilities differ too much from the network's.
    """
    name, version = registered.name, int(registered.version)
    classifier = fetch_version(client, registered)
    with staging(name) as folder:
        return publish(stage(candidate, classifier, folder, name=name, version=version), export_folder(name, version))


def median_seconds_per_tile(export: Export, tile: bytes) -> float:
    """Return the median time of a prediction of one image file with an export, on this machine.

    Raises:
        WeightsError: The export's files are not those that were written.
    """
    model = ServedModel(export.folder, digest=export.digest)
    seconds = []
    for _ in range(NUM_WARM + NUM_TIMED):
        began = time.perf_counter()
        model.predict([tile])
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[NUM_WARM:])


def size_gb(folder: Path) -> float:
    """Return the size of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e9
