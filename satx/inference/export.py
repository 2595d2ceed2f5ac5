"""Write a classifier as a SavedModel for TensorFlow Serving, and compare it with the network it was made from.

The signature takes the bytes of image files and returns one output. TensorFlow Serving's REST API then returns
`{"predictions": [[0.1, 0.9], ...]}`, a plain list for each instance; with several outputs each would be an object. The
graph decodes, resizes and rescales; `assets.extra/classes.json` lists the classes in the order of the probabilities.
With Keras on JAX, only this module and `inference.predictor` need TensorFlow.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from satx.errors import ConfigError, PromotionRefused
from satx.inference.manifest import CLASSES_NAME, Export, verify_export, write_manifest
from satx.inference.predictor import INPUT_NAME, OUTPUT_NAME, ServedModel, predict_files
from satx.models.classifier import Classifier
from satx.storage import replacing, write_json
from satx.tiles.formats import SERVED_FORMATS

# The export and the tile store decode a JPEG to the same pixels. After resizing, 0 to 4% of the pixels of a square
# image differ by one grey level. The difference in probability was measured over 127 real tiles of 150 px, resized to
# 160 px, and three MobileNetV2 classifiers: at most 0.014, on average 0.001.
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


def export_saved_model(
    classifier: Classifier,
    folder: Path,
    *,
    provenance: Provenance,
    golden_bytes: Sequence[bytes],
    max_difference: float = MAX_DIFFERENCE,
) -> Export:
    """Write a SavedModel, and compare it with the network before it is renamed to its final path.

    Args:
        classifier: The classifier to export.
        folder: `exports/<model name>/<version>`; an existing export is replaced.
        provenance: Written into the manifest.
        golden_bytes: Image files for the comparison, at least one.
        max_difference: Largest accepted difference in probability between the export and the network.

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
        _write_graph(classifier, temporary)
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
        }
        write_manifest(temporary, about)
        compare_with_network(temporary, classifier, golden_bytes, max_difference=max_difference)
    return verify_export(folder)


def compare_with_network(
    folder: Path, classifier: Classifier, golden_bytes: Sequence[bytes], *, max_difference: float = MAX_DIFFERENCE
) -> float:
    """Return the largest difference in probability between an export and its network.

    The export gets image files; the network gets the same images decoded and resized as in the tile store.

    Args:
        folder: The export.
        classifier: The classifier it was made from.
        golden_bytes: JPEG, PNG, GIF or BMP files of any size, at least one.
        max_difference: Largest accepted difference.

    Returns:
        The difference.

    Raises:
        PromotionRefused: The difference is over `max_difference`, or the export has another signature.
        WeightsError: The export's files are not those that were written.
    """
    expected = predict_files(classifier.network, golden_bytes, classifier.image_size_px)  # (N, C) float32
    served = _served(folder, golden_bytes)
    if served.shape != expected.shape:
        raise PromotionRefused(
            f"{folder}: expected probabilities of shape {expected.shape}, got {served.shape} from the export. The champion is "
            f"unchanged."
        )
    difference = float(np.abs(served - expected).max())
    if not difference <= max_difference:  # also true for NaN
        raise PromotionRefused(
            f"{folder}: expected the export and the network to differ by at most {max_difference} in probability, got "
            f"{difference:.4f} on {len(golden_bytes)} tiles. The champion is unchanged. Either the model is too sensitive to one "
            f"grey level, or the export is wrong."
        )
    return difference


def decoded_image(data: Any) -> Any:
    """Return the pixels of an image file as the exported graph decodes it, (H, W, 3) uint8.

    Args:
        data: The file's bytes as a string tensor, in one of `SERVED_FORMATS`.
    """
    import tensorflow as tf

    # The tile store uses the accurate inverse DCT; TensorFlow's default is another one.
    image = tf.cond(
        tf.io.is_jpeg(data),
        lambda: tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE"),
        lambda: tf.io.decode_image(data, channels=3, expand_animations=False),
    )
    image.set_shape((None, None, 3))
    return image


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


def _write_graph(classifier: Classifier, folder: Path) -> None:
    import tensorflow as tf

    size_px = classifier.image_size_px

    def resize(image: Any, shape: tuple[Any, Any]) -> Any:
        values = tf.image.resize(tf.cast(image, tf.float32), shape, method="bilinear", antialias=True)
        return tf.cast(tf.clip_by_value(tf.floor(values + 0.5), 0.0, 255.0), tf.uint8)

    def decode(data: Any) -> Any:
        image = decoded_image(data)  # (H, W, 3) uint8
        # Pillow resizes horizontally, rounds, resizes vertically, and rounds again. Resizing in one step would make a
        # fifth of the pixels differ by one grey level. (Pillow 13 resizes vertically first for many images that are
        # taller than wide; for those a fifth of the pixels still differ.)
        wide = resize(image, (tf.shape(image)[0], size_px))
        return tf.ensure_shape(resize(wide, (size_px, size_px)), (size_px, size_px, 3))  # (S, S, 3) uint8, as stored

    def serve(image_bytes: Any) -> dict[str, Any]:
        tile = tf.TensorSpec((size_px, size_px, 3), tf.uint8)
        tiles = tf.map_fn(decode, image_bytes, fn_output_signature=tile)  # (B, S, S, 3) uint8
        return {OUTPUT_NAME: classifier.network(tiles, training=False)}

    # Keras's ExportArchive is not used: it traces the network twice, and saves its layers beside the served graph.
    module = tf.Module()
    module.serve = tf.function(serve, input_signature=[tf.TensorSpec((None,), tf.string, name=INPUT_NAME)])
    module.weights = [variable.value for variable in classifier.network.variables]
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.serve})


def _check_disk(classifier: Classifier, folder: Path) -> None:
    needed_gb = (2 * 4 * classifier.network.count_params() + 50_000_000) / 1e9
    folder.parent.mkdir(parents=True, exist_ok=True)
    free_gb = shutil.disk_usage(folder.parent).free / 1e9
    if free_gb < needed_gb:
        raise ConfigError(
            f"{folder}: expected {needed_gb:.2f} GB of free disk space for the export, found {free_gb:.2f} GB. Free some, or set "
            f"SATX_HOME to a larger disk."
        )
