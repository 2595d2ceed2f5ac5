"""Describe a classifier to MLflow, so that `mlflow.pyfunc` loads it and the registry shows what it takes and returns."""

from __future__ import annotations

import base64
import json
import platform
import shutil
import tempfile
from functools import partial
from pathlib import Path

from mlflow.entities import Run
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, Schema

import satx
from satx.errors import ConfigError
from satx.inference.pyfunc import IMAGE_COLUMN
from satx.models.classifier import DESCRIPTION_NAME, Classifier
from satx.registry.versions import model_path
from satx.storage import write_json
from satx.tracking.client import MlflowClient
from satx.tracking.runs import fetch_file, log_files

_EXAMPLE_NAME = "input_example.json"


def log_mlflow_model(client: MlflowClient, run: Run, classifier: Classifier, version: int, example: bytes) -> None:
    """Copy a run's model to a folder of a version, with the version's temperature and threshold, `MLmodel` and an example.

    So MLflow loads a model that returns the same probabilities as the export. The run's own model stays as it is, because a
    run may be promoted more than once, with different thresholds.

    Args:
        client: MLflow client.
        run: The run.
        classifier: Its classifier, with temperature and threshold.
        version: Version that the folder belongs to.
        example: An image file.

    Raises:
        ConfigError: The run's model was deleted meanwhile.
    """
    model = Model(artifact_path=model_path(version), run_id=str(run.info.run_id))
    model.signature = ModelSignature(
        inputs=Schema([ColSpec(DataType.binary, IMAGE_COLUMN)]),
        outputs=Schema([ColSpec(DataType.float, name) for name in classifier.classes]),
    )
    model.add_flavor("python_function", loader_module="satx.inference.pyfunc", python_version=platform.python_version())
    model.saved_input_example_info = {"artifact_path": _EXAMPLE_NAME, "type": "dataframe", "pandas_orient": "split"}
    table = {"columns": [IMAGE_COLUMN], "data": [[base64.b64encode(example).decode()]]}

    calibration = {
        "temperature": classifier.temperature,
        "threshold": classifier.threshold,
        "threshold_rule": classifier.threshold_rule,
    }

    def write(trained: Path, folder: Path) -> None:
        shutil.copytree(trained, folder)
        description = json.loads((trained / DESCRIPTION_NAME).read_text())
        write_json(folder / DESCRIPTION_NAME, description | calibration)
        (folder / "MLmodel").write_text(model.to_yaml())
        (folder / _EXAMPLE_NAME).write_text(json.dumps(table))
        (folder / "requirements.txt").write_text(f"satx=={satx.__version__}\n")

    with tempfile.TemporaryDirectory() as temporary:
        trained = fetch_file(client, str(run.info.run_id), "model", Path(temporary))
        if trained is None:
            raise ConfigError(
                f"Run {run.info.run_id}: expected its stored model, found none. It was deleted; pick another run."
            )
        log_files(client, run, {model_path(version): partial(write, trained)})
