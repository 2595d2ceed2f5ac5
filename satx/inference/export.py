"""Write a classifier as a SavedModel for TensorFlow Serving, and compare it with the network it was made of.

The signature takes the bytes of image files and returns one output: TensorFlow Serving's REST API then answers
`{"predictions": [[0.1, 0.9], ...]}`, a bare list for each instance, where several outputs would make each an object. The
graph decodes, resizes and rescales; `assets.extra/classes.json` names the classes in the order of the numbers. The only
module that needs TensorFlow itself.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from satx.errors import ConfigError, PromotionRefused
from satx.inference.manifest import CLASSES_NAME, Export, verify_export, write_manifest
from satx.models.classifier import Classifier
from satx.storage import replacing, write_json
from satx.tiles.decode import decode_tile, resize_tile

INPUT_NAME, OUTPUT_NAME = "image_bytes", "probabilities"
# Both paths decode a JPEG to the same pixels; resizing leaves 0 to 4% of a square one grey level apart. Measured in probability
# over 127 real tiles of 150 px at 160 px and three MobileNetV2 classifiers: at most 0.014, 0.001 on average.
MAX_DIFFERENCE = 0.05


@dataclass(frozen=True)
class Provenance:
    """Where an export comes from.

    Attributes:
        model_name: The registered model.
        version: Its version.
        run_id: The run that was trained.
        weights_sha256: Of that run's weights file.
    """

    model_name: str
    version: int
    run_id: str
    weights_sha256: str


def export_saved_model(
    classifier: Classifier, folder: Path, *, provenance: Provenance, golden_bytes: Sequence[bytes]
) -> Export:
    """Write a SavedModel, and compare it with the network before it gets its name.

    Args:
        classifier: What to export.
        folder: `exports/<model name>/<version>`; one that is there is replaced.
        provenance: Written into the manifest.
        golden_bytes: Image files to compare with, at least one.

    Returns:
        The export.

    Raises:
        ConfigError: Keras runs on another backend than TensorFlow, or the disk is full.
        PromotionRefused: The export answers otherwise than the network.
    """
    if keras.backend.backend() != "tensorflow":
        raise ConfigError(
            f"Expected Keras on TensorFlow to write a SavedModel, got {keras.backend.backend()}. Call again with "
            f"KERAS_BACKEND=tensorflow; the weights are the same for both."
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
            "task": classifier.task,
            "sample": classifier.sample,
            "backbone": classifier.model.backbone,
            "image_size_px": classifier.image_size_px,
            "classes": list(classifier.classes),
            "positive_class": classifier.positive_class,
        }
        write_manifest(temporary, about)
        compare_with_network(temporary, classifier, golden_bytes)
    return verify_export(folder)


def compare_with_network(folder: Path, classifier: Classifier, golden_bytes: Sequence[bytes]) -> float:
    """Largest difference in probability between the export, given files, and the network, given stored tiles.

    Args:
        folder: The export.
        classifier: What it was made of.
        golden_bytes: JPEG, PNG, GIF or BMP files of any size, at least one.

    Returns:
        The difference.

    Raises:
        PromotionRefused: It is over `MAX_DIFFERENCE`, or the export has another signature.
        WeightsError: The export is not the one that was written.
    """
    tiles = [resize_tile(decode_tile(data, "golden").image, classifier.image_size_px) for data in golden_bytes]
    expected = np.asarray(classifier.network.predict_on_batch(np.stack(tiles)), np.float32)  # (N, C) float32
    served = predict_served(folder, golden_bytes)
    if served.shape != expected.shape:
        raise PromotionRefused(
            f"{folder}: expected probabilities of shape {expected.shape}, the export answers {served.shape}. Nothing was moved."
        )
    difference = float(np.abs(served - expected).max())
    if not difference <= MAX_DIFFERENCE:  # also refuses NaN
        raise PromotionRefused(
            f"{folder}: expected the export and the network to differ by at most {MAX_DIFFERENCE} in probability, got "
            f"{difference:.4f} on {len(golden_bytes)} tiles. Nothing was moved; this model is too sensitive to a grey level, "
            f"or the export is wrong."
        )
    return difference


def predict_served(folder: Path, image_bytes: Sequence[bytes]) -> np.ndarray:
    """What the export answers to image files: `(N, C)` float32, as TensorFlow Serving would.

    Raises:
        WeightsError: The export is not the one that was written.
        PromotionRefused: It has another signature.
    """
    import tensorflow as tf

    verify_export(folder)
    signature = tf.saved_model.load(str(folder)).signatures["serving_default"]
    if list(signature.structured_outputs) != [OUTPUT_NAME]:
        outputs = ", ".join(signature.structured_outputs)
        raise PromotionRefused(f"{folder}: expected the one output {OUTPUT_NAME}, got {outputs}. Nothing was moved.")
    answer = signature(**{INPUT_NAME: tf.constant(list(image_bytes))})
    return np.asarray(answer[OUTPUT_NAME])  # (N, C) float32


def _write_graph(classifier: Classifier, folder: Path) -> None:
    import tensorflow as tf

    size_px = classifier.image_size_px

    def resize(image: Any, shape: tuple[Any, Any]) -> Any:
        values = tf.image.resize(tf.cast(image, tf.float32), shape, method="bilinear", antialias=True)
        return tf.cast(tf.clip_by_value(tf.floor(values + 0.5), 0.0, 255.0), tf.uint8)

    def decode(data: Any) -> Any:
        # The accurate inverse cosine transform is the one that Pillow uses; TensorFlow's default is another.
        image = tf.cond(
            tf.io.is_jpeg(data),
            lambda: tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE"),
            lambda: tf.io.decode_image(data, channels=3, expand_animations=False),
        )  # (height, width, 3) uint8
        image.set_shape((None, None, 3))
        # Pillow resizes across, rounds, then resizes down, and rounds: in one step a fifth of the pixels come out one grey
        # level apart. (Pillow 13 goes down first for many images taller than wide; there a fifth still does.)
        wide = resize(image, (tf.shape(image)[0], size_px))
        return tf.ensure_shape(resize(wide, (size_px, size_px)), (size_px, size_px, 3))  # (S, S, 3) uint8, as stored

    def serve(image_bytes: Any) -> dict[str, Any]:
        tile = tf.TensorSpec((size_px, size_px, 3), tf.uint8)
        tiles = tf.map_fn(decode, image_bytes, fn_output_signature=tile)  # (B, S, S, 3) uint8
        return {OUTPUT_NAME: classifier.network(tiles, training=False)}

    # Not Keras's ExportArchive: it traces the network twice and saves its layers beside the graph that is served.
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
            f"{folder}: the export needs {needed_gb:.2f} GB, {free_gb:.2f} GB are free there. Free some, or set SATX_HOME "
            f"to a larger disk."
        )
