"""Describe a classifier to MLflow, so that `mlflow.pyfunc` loads it and the registry shows what it takes and returns."""

from __future__ import annotations

import base64
import json
import platform
from pathlib import Path

from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, Schema

import satx
from satx.inference.pyfunc import IMAGE_COLUMN
from satx.registry.candidate import Candidate
from satx.tracking.client import MlflowClient
from satx.tracking.runs import log_files

_EXAMPLE_NAME = "input_example.json"


def log_mlflow_model(client: MlflowClient, candidate: Candidate, example: bytes) -> None:
    """Write `MLmodel` and an input example beside the classifier that a run logged.

    Args:
        client: MLflow client.
        candidate: The run and its classifier.
        example: An image file.
    """
    model = Model(artifact_path="model", run_id=str(candidate.run.info.run_id))
    model.signature = ModelSignature(
        inputs=Schema([ColSpec(DataType.binary, IMAGE_COLUMN)]),
        outputs=Schema([ColSpec(DataType.float, name) for name in candidate.classifier.classes]),
    )
    model.add_flavor("python_function", loader_module="satx.inference.pyfunc", python_version=platform.python_version())
    model.saved_input_example_info = {"artifact_path": _EXAMPLE_NAME, "type": "dataframe", "pandas_orient": "split"}
    table = {"columns": [IMAGE_COLUMN], "data": [[base64.b64encode(example).decode()]]}

    def write_example(path: Path) -> None:
        path.write_text(json.dumps(table))

    def write_requirements(path: Path) -> None:
        path.write_text(f"satx=={satx.__version__}\n")

    files = {
        "model/MLmodel": lambda path: path.write_text(model.to_yaml()),
        f"model/{_EXAMPLE_NAME}": write_example,
        "model/requirements.txt": write_requirements,
    }
    log_files(client, candidate.run, files)
