"""Exports that are written in a second: models whose answers tell which version gave them."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image

from satx.inference.manifest import write_manifest
from satx.inference.serving_files import ServedVersions, write_models_config

SIZE_PX = 8
CLASSES = ("not-school", "school")


def write_numbers(base_path: Path, version: int) -> Path:
    """Write a model that multiplies by its version, and refuses negative numbers."""

    def scaled(x: Any) -> Any:
        with tf.control_dependencies([tf.debugging.assert_non_negative(x, "negative number")]):
            return {"y": x * version}

    def total(x: Any) -> Any:
        return {"total": tf.reduce_sum(x)}

    numbers = [tf.TensorSpec((None,), tf.float32, name="x")]
    module = tf.Module()
    module.scaled = tf.function(scaled, input_signature=numbers)
    module.total = tf.function(total, input_signature=numbers)
    folder = base_path / str(version)
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.scaled, "total": module.total})
    write_manifest(folder, {"model_name": base_path.name, "version": version})
    return folder


def write_colours(base_path: Path, version: int, *, about: Mapping[str, Any] | None = None) -> Path:
    """Write a model with the signatures of satx's classifiers: the probability of a school is the share of red."""

    def images(tiles: Any) -> Any:
        red = tf.reduce_mean(tf.cast(tiles[..., 0], tf.float32), axis=(1, 2)) / 255.0
        return {"probabilities": tf.stack([1.0 - red, red], axis=1)}

    def serve(files: Any) -> Any:
        # never called by satx, which decodes outside the graph; it would refuse every file
        with tf.control_dependencies([tf.debugging.assert_less(tf.size(files), 0, "decoded in the graph")]):
            return {"probabilities": tf.zeros((tf.size(files), 2))}

    def explain(files: Any) -> Any:
        rows = tf.size(files)
        return serve(files) | {
            "class_names": tf.fill((rows, 2), ""),
            "threshold": tf.zeros((rows,)),
            "version": tf.zeros((rows,), tf.int64),
        }

    module = tf.Module()
    module.images = tf.function(
        images, input_signature=[tf.TensorSpec((None, SIZE_PX, SIZE_PX, 3), tf.uint8, name="images")]
    )
    files = [tf.TensorSpec((None,), tf.string, name="image_bytes")]
    module.serve, module.explain = (
        tf.function(serve, input_signature=files),
        tf.function(explain, input_signature=files),
    )
    folder = base_path / str(version)
    signatures = {"serving_default": module.serve, "images": module.images, "explain": module.explain}
    tf.saved_model.save(module, str(folder), signatures=signatures)
    described = {
        "model_name": base_path.name,
        "version": version,
        "image_size_px": SIZE_PX,
        "classes": CLASSES,
        "threshold": 0.25,
    }
    write_manifest(folder, described | dict(about or {}))
    return folder


def served(base_path: Path, *versions: int, **labels: int) -> dict[str, ServedVersions]:
    """Return what to serve of a model that is named as its folder."""
    return {base_path.name: ServedVersions(base_path, versions, labels)}


def write_config(path: Path, base_path: Path, *versions: int, **labels: int) -> Path:
    write_models_config(path, served(base_path, *versions, **labels))
    return path


def coloured(red: int, kind: str = "PNG", *, size_px: int = SIZE_PX) -> bytes:
    """Return an image file of one colour."""
    stream = io.BytesIO()
    Image.new("RGB", (size_px, size_px), (red, 0, 0)).save(stream, kind)
    return stream.getvalue()


def files_of(*files: bytes) -> dict[str, np.ndarray]:
    """Return the inputs of a request with image files."""
    return {"image_bytes": np.array(files, dtype=object)}
