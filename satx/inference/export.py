"""Write a classifier as a SavedModel for TensorFlow Serving, and compare it with the network it was made from.

`inference.graph` describes its signatures; `assets.extra/classes.json` lists the classes in the order of the probabilities.
With Keras on JAX, only writing and loading exports needs TensorFlow.
"""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import keras
import numpy as np
from PIL import Image

from satx.errors import ConfigError, PromotionRefused
from satx.inference.graph import write_graph
from satx.inference.manifest import CLASSES_NAME, Export, verify_export, write_manifest
from satx.inference.predictor import ServedModel
from satx.inference.warmup import write_warmup
from satx.models.classifier import Classifier
from satx.storage import replacing, write_json
from satx.tiles.decode import decode_tile, resize_tile
from satx.tiles.formats import SERVED_FORMATS

# At the model's own size, the export and the tile store decode a file to the same pixels. After resizing, 0 to 4% of the
# pixels of a square image differ by one grey level. The difference in probability was measured over 127 real tiles of
# 150 px, resized to 160 px, and three MobileNetV2 classifiers: at most 0.014, on average 0.001.
MAX_DIFFERENCE_OWN_SIZE = 1e-4
MAX_DIFFERENCE = 0.05


@dataclass(frozen=True)
class Provenance:
    """Origin of an export.

    Attributes:
        model_name: Name of the registered model.
        version: Version of the registered model.
        run_id: Id of the training run.
        weights_sha256: SHA-256 of that run's weights file.
        not_served: Number of the session's tiles in each format that not every server of the export decodes.
    """

    model_name: str
    version: int
    run_id: str
    weights_sha256: str
    not_served: Mapping[str, int]


@dataclass(frozen=True)
class Parity:
    """Largest differences in probability between an export and its network.

    Attributes:
        own_size: For tiles of the model's own size, which reach both networks with the same pixels.
        resized: For files whose pixels may differ by a grey level: those that are resized, and CMYK. None if there are none.
    """

    own_size: float
    resized: float | None


def export_saved_model(
    classifier: Classifier, folder: Path, *, provenance: Provenance, golden_bytes: Sequence[bytes]
) -> Export:
    """Write a SavedModel, and compare it with the network before it is renamed to its final path.

    Args:
        classifier: The classifier to export.
        folder: `exports/<model name>/<version>`; an existing export is replaced.
        provenance: Written into the manifest.
        golden_bytes: Image files for the comparison, at least one.

    Returns:
        The export.

    Raises:
        ConfigError: Keras does not use the TensorFlow backend, or the disk has too little free space.
        PromotionRefused: The export's probabilities differ too much from the network's.
    """
    if keras.backend.backend() != "tensorflow":
        raise ConfigError(
            f"Expected the Keras backend tensorflow to write a SavedModel, got {keras.backend.backend()}. Run the command again "
            f"with KERAS_BACKEND=tensorflow; it loads the same weights."
        )
    _check_disk(classifier, folder)
    with replacing(folder) as temporary:
        write_graph(classifier, temporary, version=provenance.version)
        num_requests = write_warmup(temporary, model_name=provenance.model_name, image_size_px=classifier.image_size_px)
        write_json(temporary / CLASSES_NAME, list(classifier.classes))
        about = {
            "model_name": provenance.model_name,
            "version": provenance.version,
            "run_id": provenance.run_id,
            "weights_sha256": provenance.weights_sha256,
            "served_formats": SERVED_FORMATS,
            "not_served": dict(provenance.not_served),
            "task": classifier.task,
            "sample": classifier.sample,
            "backbone": classifier.model.backbone,
            "image_size_px": classifier.image_size_px,
            "classes": list(classifier.classes),
            "positive_class": classifier.positive_class,
            "temperature": classifier.temperature,
            "threshold": classifier.threshold,
            "threshold_rule": classifier.threshold_rule,
            "warmup_requests": num_requests,
        }
        write_manifest(temporary, about)
        parity = compare_with_network(temporary, classifier, golden_bytes)
        write_manifest(temporary, {**about, "parity": asdict(parity)})
    return verify_export(folder)


def compare_with_network(folder: Path, classifier: Classifier, golden_bytes: Sequence[bytes]) -> Parity:
    """Return the largest differences in probability between an export and its network.

    The export gets image files; the network gets the same images decoded and resized as in the tile store. The export also
    gets PNG files of these tiles, so that its graph is compared without a resize whatever size the files have.

    Args:
        folder: The export.
        classifier: The classifier it was made from.
        golden_bytes: JPEG, PNG, GIF or BMP files of any size, at least one.

    Returns:
        The differences.

    Raises:
        PromotionRefused: A difference is larger than `MAX_DIFFERENCE_OWN_SIZE`, or with a resize than `MAX_DIFFERENCE`; or
            the export has another signature.
        WeightsError: The export's files are not those that were written.
        BrokenTile: A file is damaged, or is no image that satx reads.
    """
    images = [decode_tile(data, "golden file") for data in golden_bytes]
    tiles = np.stack([resize_tile(image.pixels, classifier.image_size_px) for image in images])  # (N, S, S, 3) uint8
    is_exact = np.array([image.pixels.shape == tiles.shape[1:] and image.converted_from != "CMYK" for image in images])
    expected = classifier.predict(tiles)  # (N, C) float32
    served = _served(folder, [*golden_bytes, *(_png(tile) for tile in tiles)])
    if served.shape != (2 * len(tiles), expected.shape[1]):
        raise PromotionRefused(
            f"{folder}: expected {expected.shape[1]} probabilities for each file, got an array of shape {served.shape} for "
            f"{2 * len(tiles)} files from the export. The champion is unchanged."
        )
    of_files, of_tiles = np.abs(served.reshape(2, *expected.shape) - expected).max(axis=2)
    own_size = float(max(of_tiles.max(), of_files[is_exact].max(initial=0.0)))
    resized = None if is_exact.all() else float(of_files[~is_exact].max())
    _check_difference(folder, own_size, MAX_DIFFERENCE_OWN_SIZE, "without a resize")
    if resized is not None:
        _check_difference(folder, resized, MAX_DIFFERENCE, "with a resize")
    return Parity(own_size, resized)


def _check_difference(folder: Path, difference: float, limit: float, when: str) -> None:
    if not difference <= limit:  # also true for NaN
        raise PromotionRefused(
            f"{folder}: expected the export and the network to differ by at most {limit} in probability {when}, got "
            f"{difference:.4g} on the session's tiles. The champion is unchanged. Either the model is too sensitive to one "
            f"grey level, or the export is wrong."
        )


def _png(tile: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(tile).save(stream, "PNG")
    return stream.getvalue()


def _served(folder: Path, golden_bytes: Sequence[bytes]) -> np.ndarray:
    import tensorflow as tf

    try:
        return ServedModel(folder).predict(golden_bytes)
    except tf.errors.InvalidArgumentError as error:
        raise PromotionRefused(
            f"{folder}: expected the export to decode {len(golden_bytes)} tiles of the session, but it refused one: "
            f"{_reason(error.message)}. The champion is unchanged. "
            f"`satx data check` on the session's folder tells which files are unusual."
        ) from error


def _reason(message: str) -> str:
    """Return the sentence of a TensorFlow error that tells the reason, without the names of graph nodes around it."""
    lines = [line for line in message.splitlines() if line and not line.startswith(("\t", "Detected", "<"))]
    return re.sub(r"\{\{.*?\}\}\s*|\s*\[Op:.*?\].*", "", lines[-1] if lines else message).rstrip(".")


def _check_disk(classifier: Classifier, folder: Path) -> None:
    needed_gb = (2 * 4 * classifier.network.count_params() + 50_000_000) / 1e9
    folder.parent.mkdir(parents=True, exist_ok=True)
    free_gb = shutil.disk_usage(folder.parent).free / 1e9
    if free_gb < needed_gb:
        raise ConfigError(
            f"{folder}: expected {needed_gb:.2f} GB of free disk space for the export, found {free_gb:.2f} GB. Free some, or set "
            f"SATX_HOME to a larger disk."
        )
