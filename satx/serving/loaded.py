"""One version of a model, loaded from its export: its signatures, and their computation.

Versions are loaded in the server's own process, because TensorFlow 2.21 frees what it loaded: an earlier measurement of twenty
reloads under load saw no trend in the resident size (experiments/README.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from satx.errors import WeightsError
from satx.inference.graph import (
    EXPLAIN_SIGNATURE,
    IMAGES_NAME,
    IMAGES_SIGNATURE,
    INPUT_NAME,
    OUTPUT_NAME,
    SERVING_SIGNATURE,
)
from satx.inference.manifest import verify_export
from satx.serving.batcher import BATCH_SIZES
from satx.serving.contract import ServingError, Signature, TensorSpec
from satx.serving.shapes import has_rows

_SERVE_TAG = "serve"


@dataclass(frozen=True)
class TileDecoding:
    """What an export's manifest says of a classifier of tiles, whose files the server decodes itself.

    Attributes:
        image_size_px: Edge of its tiles.
        classes: Class names, in the order of the probabilities.
        threshold: Probability of the positive class from which it counts as found.
        version: Version of the registered model.
    """

    image_size_px: int
    classes: tuple[str, ...]
    threshold: float
    version: int

    def explained(self, probabilities: np.ndarray) -> dict[str, np.ndarray]:
        """Return the outputs of the signature `explain` for probabilities, (B, C) float32."""
        rows = len(probabilities)
        names = np.array([name.encode() for name in self.classes], dtype=object)
        return {
            "class_names": np.tile(names, (rows, 1)),  # (B, C) bytes
            OUTPUT_NAME: probabilities,
            "threshold": np.full(rows, self.threshold, np.float32),
            "version": np.full(rows, self.version, np.int64),
        }


class LoadedExport:
    """An export that is verified, loaded and warmed up.

    Attributes:
        signatures: Its signatures by name.
        images: How to decode its images; None for an export that decodes in its graph, or takes no images.
    """

    def __init__(self, folder: Path) -> None:
        """Load an export; takes seconds.

        Raises:
            WeightsError: The export's files are not those that were written, or TensorFlow cannot load them.
        """
        import tensorflow as tf

        export = verify_export(folder)
        try:
            self._model = tf.saved_model.load(str(folder), tags=[_SERVE_TAG])  # keeps the variables alive
            self._functions = dict(self._model.signatures)
            self.signatures = _read_signatures(folder, names=self._functions)
        except (OSError, ValueError, LookupError, tf.errors.OpError) as error:
            raise WeightsError(
                f"{folder}: expected a SavedModel that TensorFlow {tf.__version__} loads, got: {_first_line(error)}. Promote its "
                f"run again with this satx."
            ) from error
        self.images = _tile_decoding(export.manifest, self.signatures)
        self._warm_up()

    def decodes_outside(self, signature_name: str) -> bool:
        """Return whether the server decodes the images of requests to this signature."""
        return self.images is not None and signature_name in (SERVING_SIGNATURE, EXPLAIN_SIGNATURE)

    def run(self, signature_name: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Compute a signature.

        Args:
            signature_name: One of `signatures`.
            inputs: All its inputs, with their dtypes.

        Returns:
            Its outputs by name.

        Raises:
            ServingError: The model does not accept the inputs (400).
        """
        import tensorflow as tf

        specs = self.signatures[signature_name].inputs
        try:
            tensors = {name: tf.constant(inputs[name], tf.as_dtype(spec.dtype)) for name, spec in specs.items()}
            outputs = self._functions[signature_name](**tensors)
        except (tf.errors.InvalidArgumentError, tf.errors.OutOfRangeError) as error:
            raise ServingError(400, error.message) from error
        except tf.errors.ResourceExhaustedError as error:
            raise ServingError(503, error.message, retry_after_seconds=1) from error
        return {
            name: np.asarray(tensor.numpy(), spec.dtype) for name, tensor, spec in self._named(signature_name, outputs)
        }

    def shares_batches(self, signature_name: str) -> bool:
        """Return whether requests may be joined: the first axis of every input and output has an unknown size."""
        signature = self.signatures[signature_name]
        return bool(signature.inputs) and all(map(has_rows, (*signature.inputs.values(), *signature.outputs.values())))

    def _named(self, signature_name: str, outputs: Mapping[str, Any]) -> list[tuple[str, Any, TensorSpec]]:
        return [(name, outputs[name], spec) for name, spec in self.signatures[signature_name].outputs.items()]

    def _warm_up(self) -> None:
        """Compute every size of batch once: TensorFlow prepares its kernels for each shape when it first sees it."""
        for name, signature in self.signatures.items():
            shapes = [spec.shape for spec in signature.inputs.values()]
            is_known = all(shape is not None and None not in shape[1:] for shape in shapes)
            has_text = any(spec.dtype == object for spec in signature.inputs.values())
            if not is_known or has_text or not self.shares_batches(name) or self.decodes_outside(name):
                continue
            for rows in BATCH_SIZES:
                batch = {
                    key: np.zeros((rows, *(spec.shape or ())[1:]), spec.dtype) for key, spec in signature.inputs.items()
                }
                self.run(name, batch)


def _read_signatures(folder: Path, *, names: Mapping[str, Any]) -> dict[str, Signature]:
    """Read the signatures with the names of their tensors, which a loaded function no longer has."""
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    graph = next(graph for graph in saved.meta_graphs if _SERVE_TAG in graph.meta_info_def.tags)
    return {
        name: Signature(
            inputs={key: _tensor_spec(info) for key, info in sorted(graph.signature_def[name].inputs.items())},
            outputs={key: _tensor_spec(info) for key, info in sorted(graph.signature_def[name].outputs.items())},
            method_name=graph.signature_def[name].method_name,
        )
        for name in sorted(names)
    }


def _tensor_spec(info: Any) -> TensorSpec:
    import tensorflow as tf

    shape = info.tensor_shape
    sizes = None if shape.unknown_rank else tuple(None if axis.size < 0 else int(axis.size) for axis in shape.dim)
    return TensorSpec(info.name, np.dtype(tf.as_dtype(info.dtype).as_numpy_dtype), sizes)


def _tile_decoding(manifest: Mapping[str, Any], signatures: Mapping[str, Signature]) -> TileDecoding | None:
    """Return how to decode images, if the export has the signatures that satx writes."""
    images, files = signatures.get(IMAGES_SIGNATURE), signatures.get(SERVING_SIGNATURE)
    if images is None or files is None or [*images.inputs] != [IMAGES_NAME] or [*files.inputs] != [INPUT_NAME]:
        return None
    if not {"image_size_px", "classes", "threshold", "version"} <= manifest.keys():
        return None
    return TileDecoding(
        image_size_px=int(manifest["image_size_px"]),
        classes=tuple(manifest["classes"]),
        threshold=float(manifest["threshold"]),
        version=int(manifest["version"]),
    )


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0][:300] or type(error).__name__
