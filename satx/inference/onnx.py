"""Write the signature `images` of an export as an ONNX model, for other runtimes. Needs the extra `satx[onnx]`."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from satx.errors import ConfigError, PromotionRefused
from satx.inference.export import MAX_DIFFERENCE_OWN_SIZE
from satx.inference.graph import IMAGES_NAME, IMAGES_SIGNATURE, OUTPUT_NAME
from satx.inference.manifest import Export, verify_export
from satx.storage import replacing

OPSET = 17


def write_onnx(folder: Path, path: Path, tiles: np.ndarray) -> float:
    """Convert an export to ONNX, and compare both before the file is renamed to its final path.

    The model's input is `images`, `(n, S, S, 3)` uint8; its output is `probabilities`, calibrated, `(n, num_classes)` float32.
    Its metadata contains the classes as JSON, the positive class, the threshold and the digest of the export.

    Args:
        folder: The export.
        path: File to write.
        tiles: Tiles for the comparison, at least one, `(n, S, S, 3)` uint8 of the model's own size.

    Returns:
        The largest difference in probability between the file under ONNX Runtime and the export under TensorFlow.

    Raises:
        ConfigError: The extra is not installed.
        PromotionRefused: The difference is over `MAX_DIFFERENCE_OWN_SIZE`.
        WeightsError: The export's files are not those that were written.
    """
    onnx, onnxruntime, tf2onnx = _imported("onnx"), _imported("onnxruntime"), _imported("tf2onnx")
    import tensorflow as tf

    export = verify_export(folder)
    loaded = tf.saved_model.load(str(folder))
    signature = loaded.signatures[IMAGES_SIGNATURE]
    specification = tf.TensorSpec((None, *tiles.shape[1:]), tf.uint8, name=IMAGES_NAME)
    function = tf.function(lambda images: {OUTPUT_NAME: signature(images=images)[OUTPUT_NAME]})
    model, _ = tf2onnx.convert.from_function(function, input_signature=[specification], opset=OPSET)
    onnx.helper.set_model_props(model, _metadata(export))
    with replacing(path) as temporary:
        temporary.write_bytes(model.SerializeToString())
        session = onnxruntime.InferenceSession(str(temporary), providers=["CPUExecutionProvider"])
        (found,) = session.run([OUTPUT_NAME], {IMAGES_NAME: tiles})
        expected = np.asarray(signature(images=tf.constant(tiles))[OUTPUT_NAME])
        difference = float(np.abs(found - expected).max())
        if not difference <= MAX_DIFFERENCE_OWN_SIZE:  # also true for NaN
            raise PromotionRefused(
                f"{path}: expected the ONNX model and the export to differ by at most {MAX_DIFFERENCE_OWN_SIZE} in probability, "
                f"got {difference:.4g} on {len(tiles)} tiles. The file is not written. Use the SavedModel in {folder}."
            )
    return difference


def _metadata(export: Export) -> dict[str, str]:
    manifest = export.manifest
    return {
        "classes": json.dumps(manifest["classes"]),
        "positive_class": manifest["positive_class"],
        "threshold": repr(manifest["threshold"]),
        "export_digest": export.digest,
    }


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"Expected the package {name} to write ONNX, found none. Install it: pip install 'satx[onnx]'."
        ) from error
