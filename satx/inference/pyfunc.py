"""Loader of a registered model for `mlflow.pyfunc.load_model("models:/school@champion")`. Imports no MLflow, unpickles nothing.

MLflow finds it by its name in the file `MLmodel`, which `registry/mlflow_model.py` writes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from satx.inference.predictor import predict_files
from satx.models.classifier import Classifier, load_classifier

IMAGE_COLUMN = "image_bytes"


class ImageModel:
    """A classifier that takes image files, as the export does."""

    def __init__(self, classifier: Classifier) -> None:
        """Wrap a loaded classifier."""
        self.classifier = classifier

    def predict(self, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Return one row of calibrated probabilities for each image, with the classes as columns.

        Args:
            model_input: Its column `image_bytes` holds image files of any format that satx reads and of any size.
            params: Not used.

        Raises:
            BrokenTile: A file is damaged, or is no image that satx reads.
        """
        probabilities = predict_files(self.classifier, [bytes(data) for data in model_input[IMAGE_COLUMN]])
        return pd.DataFrame(probabilities, columns=list(self.classifier.classes), index=model_input.index)


def _load_pyfunc(folder: str) -> ImageModel:
    """Load the model of a folder; MLflow calls this.

    Raises:
        ConfigError: The folder holds no classifier of satx.
        WeightsError: Its weights are not those that satx wrote.
    """
    return ImageModel(load_classifier(Path(folder)))
