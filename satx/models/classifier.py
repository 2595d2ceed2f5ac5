"""A trained classifier on disk: Keras weights plus satx's own JSON, never a pickle or a serialized Keras model.

`classifier.json` describes how to build the network, how to calibrate and judge its probabilities, and holds the SHA-256 of
`model.weights.h5`. A folder whose weights do not match the digest is refused.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import keras
import numpy as np
from pydantic import Field

from satx.config import Frozen, ModelConfig, validated
from satx.errors import ConfigError, WeightsError
from satx.models.backbones import Network, build_network, read_weights
from satx.storage import file_digest, replacing, write_json

CLASSIFIER_FORMAT = 1
WEIGHTS_NAME = "model.weights.h5"
DESCRIPTION_NAME = "classifier.json"
TILES_PER_BATCH = 32
SMALLEST_SOFTMAX = 1e-37  # about the smallest normal float32, so that its logarithm is finite


class Description(Frozen):
    """Contents of `classifier.json`."""

    format: int
    model: ModelConfig
    image_size_px: int
    classes: tuple[str, ...]
    positive_class: str
    task: str
    sample: bool
    weights_sha256: str
    # Files without the following keys were written before satx calibrated.
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
    threshold_rule: str = ""


@dataclass(frozen=True)
class Classifier:
    """A network and the meaning of its inputs and outputs.

    Attributes:
        network: `(batch, S, S, 3)` 0..255 to `(batch, num_classes)` float32, not calibrated.
        model: Settings it was built with.
        image_size_px: Edge of its square tiles.
        classes: Class names, in the order of the probabilities.
        positive_class: The class of interest.
        task: The classification task (`school`); names the registered model.
        sample: True if it was trained on rendered tiles.
        temperature: Divides the logarithms of the probabilities; 1 leaves them as they are.
        threshold: Calibrated probability of the class of interest from which a tile counts as positive.
        threshold_rule: How the threshold was chosen (`youden`); empty if it was not chosen.
    """

    network: Network
    model: ModelConfig
    image_size_px: int
    classes: tuple[str, ...]
    positive_class: str
    task: str
    sample: bool
    temperature: float = 1.0
    threshold: float = 0.5
    threshold_rule: str = ""

    @property
    def positive_index(self) -> int:
        """Index of the class of interest."""
        return self.classes.index(self.positive_class)

    def predict(self, tiles: np.ndarray) -> np.ndarray:
        """Return the calibrated probabilities of tiles.

        Args:
            tiles: `(n, S, S, 3)` uint8.

        Returns:
            `(n, num_classes)` float32.
        """
        parts = [np.zeros((0, len(self.classes)), np.float32)]
        for start in range(0, len(tiles), TILES_PER_BATCH):
            probabilities = self.network.predict_on_batch(tiles[start : start + TILES_PER_BATCH])
            parts.append(keras.ops.convert_to_numpy(with_temperature(probabilities, self.temperature)))
        return np.concatenate(parts)


def with_temperature(probabilities: Any, temperature: float) -> Any:
    """Calibrate probabilities by temperature scaling (Guo et al., 2017, "On Calibration of Modern Neural Networks").

    The network ends in a softmax, so the logarithms of its probabilities take the place of the logits. The exported graph
    contains these operations too.

    Args:
        probabilities: `(n, num_classes)` float32, an array or a tensor of the Keras backend.
        temperature: Above 0; over 1 makes probabilities less extreme, 1 returns them unchanged.

    Returns:
        A tensor of the same shape and dtype.
    """
    if temperature == 1:
        return probabilities
    logits = keras.ops.log(keras.ops.maximum(probabilities, SMALLEST_SOFTMAX))
    return keras.ops.softmax(logits / temperature)


def save_classifier(classifier: Classifier, folder: Path) -> None:
    """Write a classifier into a folder, atomically."""
    with replacing(folder) as temporary:
        temporary.mkdir()
        classifier.network.save_weights(temporary / WEIGHTS_NAME)
        description = Description(
            format=CLASSIFIER_FORMAT,
            model=classifier.model,
            image_size_px=classifier.image_size_px,
            classes=classifier.classes,
            positive_class=classifier.positive_class,
            task=classifier.task,
            sample=classifier.sample,
            weights_sha256=file_digest(temporary / WEIGHTS_NAME),
            temperature=classifier.temperature,
            threshold=classifier.threshold,
            threshold_rule=classifier.threshold_rule,
        )
        write_json(temporary / DESCRIPTION_NAME, description.model_dump(mode="json"))


def load_classifier(folder: Path, *, weights_sha256: str | None = None) -> Classifier:
    """Read a classifier that satx wrote.

    Args:
        folder: Folder with `classifier.json` and `model.weights.h5`.
        weights_sha256: The digest recorded elsewhere (in the run's tags), if the caller has it.

    Raises:
        ConfigError: The folder holds no classifier, or one of another format.
        WeightsError: The weights do not match a digest, or do not fit the network.
    """
    try:
        written: Any = json.loads((folder / DESCRIPTION_NAME).read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{folder}: expected a classifier written by satx ({DESCRIPTION_NAME}), found none."
        ) from error
    found_format = written.get("format") if isinstance(written, dict) else None
    if found_format != CLASSIFIER_FORMAT:
        raise ConfigError(
            f"{folder}: expected classifier format {CLASSIFIER_FORMAT}, got {found_format}. "
            f"Train it again with this satx, or use the satx that wrote it."
        )
    description = validated(Description, written, source=str(folder / DESCRIPTION_NAME))
    path = folder / WEIGHTS_NAME
    found = file_digest(path) if path.is_file() else "no file"
    for recorded in (description.weights_sha256, weights_sha256):
        if recorded is not None and found != recorded:
            raise WeightsError(
                f"{path}: expected SHA-256 {recorded[:12]}…, got {found[:12]}…. These are not the weights that were logged, "
                f"and they are not loaded. Pick another run."
            )
    network = build_network(
        description.model,
        image_size_px=description.image_size_px,
        num_classes=len(description.classes),
        weights_file=None,
    )
    read_weights(network, path, of=f"the network that {DESCRIPTION_NAME} describes", remedy="Pick another run.")
    return Classifier(
        network=network,
        model=description.model,
        image_size_px=description.image_size_px,
        classes=description.classes,
        positive_class=description.positive_class,
        task=description.task,
        sample=description.sample,
        temperature=description.temperature,
        threshold=description.threshold,
        threshold_rule=description.threshold_rule,
    )
