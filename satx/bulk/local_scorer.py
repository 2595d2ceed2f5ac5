"""Score tiles with a classifier in this process, on the Keras backend of the process, TensorFlow or JAX."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from satx.bulk.block_file import ModelIdentity
from satx.errors import ConfigError
from satx.imagery.contract import Unscored
from satx.models.backbones import Network
from satx.models.classifier import WEIGHTS_NAME, Classifier, load_classifier, with_temperature
from satx.models.faster import faster
from satx.storage import file_digest
from satx.training.devices import device_name, precision_policy

CPU_BATCH_SIZE, GPU_BATCH_SIZE = 32, 256
FEWEST_ROWS = 8  # the last batch of a block is padded to a power of two from here on, so that few shapes are compiled
MAX_DIFFERENCE = 0.05  # in probability, as between an export and its network (`inference.export`)
POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}


class LocalScorer:
    """A classifier that scores tiles in this process; see `scorer.Scorer`."""

    num_parallel = 1

    def __init__(
        self, classifier: Classifier, model: ModelIdentity, precision: str, *, reference: Classifier | None
    ) -> None:
        """Use a loaded classifier.

        Args:
            classifier: The classifier, built with the policy of `precision`.
            model: What it is.
            precision: `float32` or `bfloat16`.
            reference: The same classifier in float32, if the other is not: the first batch is scored by both.
        """
        self.model, self._precision = model, precision
        self.batch_size = GPU_BATCH_SIZE if device_name() == "gpu" else CPU_BATCH_SIZE
        self._network = _faster(classifier, fold=precision == "float32")
        self._temperature = classifier.temperature
        self._reference = reference
        self._difference: float | None = None

    def score(self, tiles: np.ndarray, files: Sequence[bytes]) -> list[np.ndarray | Unscored]:
        """Return the calibrated probabilities of a batch; the files are not used.

        Raises:
            ConfigError: The probabilities in bfloat16 differ too much from those in float32.
        """
        found = self._probabilities(tiles)
        if self._reference is not None:
            self._difference = float(np.abs(found - self._reference.predict(tiles)).max())
            self._reference = None
            if self._difference > MAX_DIFFERENCE:
                raise ConfigError(
                    f"--precision: expected probabilities in bfloat16 within {MAX_DIFFERENCE} of float32, got a difference of "
                    f"{self._difference:.3f}. Pass --precision float32 and another --out."
                )
        return list(found)

    def about(self) -> dict[str, Any]:
        """Return backend, device, precision, and the largest difference from float32 in the first batch."""
        return {
            "backend": keras.backend.backend(),
            "device": device_name(),
            "precision": self._precision,
            "difference_from_float32": self._difference,
            "batch_size": self.batch_size,
        }

    def close(self) -> None:
        """Drop the network."""
        del self._network

    def _probabilities(self, tiles: np.ndarray) -> np.ndarray:
        rows = max(FEWEST_ROWS, 1 << (len(tiles) - 1).bit_length())
        batch = np.concatenate([tiles, np.zeros((rows - len(tiles), *tiles.shape[1:]), np.uint8)])
        probabilities = with_temperature(self._network.predict_on_batch(batch), self._temperature)
        return np.asarray(keras.ops.convert_to_numpy(probabilities), np.float32)[: len(tiles)]


def open_local_scorer(
    folder: Path, *, name: str, version: int, weights_sha256: str | None, precision: str
) -> LocalScorer:
    """Load a classifier to score with.

    Args:
        folder: Its folder, as `models.classifier` wrote it.
        name: Name of the registered model.
        version: Its version.
        weights_sha256: SHA-256 of its weights as recorded elsewhere, if the caller has it.
        precision: `float32` or `bfloat16`.

    Raises:
        ConfigError, WeightsError: The folder holds no classifier, or another one.
    """
    with precision_policy(POLICIES[precision]):
        classifier = load_classifier(folder, weights_sha256=weights_sha256)
    reference = None if precision == "float32" else load_classifier(folder, weights_sha256=weights_sha256)
    model = ModelIdentity(
        name=name,
        version=version,
        digest=file_digest(folder / WEIGHTS_NAME),
        classes=classifier.classes,
        positive_class=classifier.positive_class,
        threshold=classifier.threshold,
        image_size_px=classifier.image_size_px,
        sample=classifier.sample,
    )
    return LocalScorer(classifier, model, precision, reference=reference)


def _faster(classifier: Classifier, *, fold: bool) -> Network:
    """Return the network with faster operations: on two cores, MobileNetV2 at 160 px took 8% less processor time."""
    network = classifier.network
    trunk, tail = (None if part is None else faster(part, fold=fold) for part in (network.trunk, network.tail))
    return Network(classifier.model.backbone, trunk, tail, network.head)


def resolved_precision(precision: str) -> str:
    """Return the precision that `auto` means on this process's device: `bfloat16` on a GPU, else `float32`."""
    if precision == "auto":
        return "bfloat16" if device_name() == "gpu" else "float32"
    return precision
