"""Models in memory for tests of the protocols: no TensorFlow, and answers that a test can foresee or delay."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import numpy as np

from satx.serving.contract import Servable, ServingError, Signature, TensorSpec, VersionStatus

PREDICT = "tensorflow/serving/predict"
TILE = b"\xff\xd8 a tile"


def spec(dtype: object, *shape: int | None, name: str = "tensor:0") -> TensorSpec:
    return TensorSpec(name, np.dtype(dtype), shape)


IMAGE_BYTES = {"image_bytes": spec(object, None, name="serving_default_image_bytes:0")}
PROBABILITIES = {"probabilities": spec(np.float32, None, 2, name="StatefulPartitionedCall:0")}
SIGNATURES = {
    "serving_default": Signature(IMAGE_BYTES, PROBABILITIES, PREDICT),
    "explain": Signature(IMAGE_BYTES, {"label_bytes": spec(object, None), **PROBABILITIES}, PREDICT),
    "floats": Signature({"x": spec(np.float32, None, 2)}, {"y": spec(np.float32, None, 2)}, PREDICT),
    "images": Signature({"images": spec(np.uint8, None, None, None, 3)}, {"sums": spec(np.int64, None)}, PREDICT),
    "pair": Signature({"a": spec(np.int32, None), "b": spec(bool, None)}, {"a": spec(np.int32, None)}, PREDICT),
    "classes": Signature(IMAGE_BYTES, PROBABILITIES, "tensorflow/serving/classify"),
    "pass_bytes": Signature(IMAGE_BYTES, {"image_bytes": spec(object, None)}, PREDICT),
}


class FakeModels:
    """The model `school` in versions 1 and 3, the second with the label `champion`.

    A tile is what begins like a JPEG; its probabilities are 0.25 and 0.75.

    Attributes:
        calls: The signature and rows of each call of `predict`.
        gate: Calls of `predict` wait for it.
        error: What `predict` raises, if anything.
    """

    def __init__(self, model: str = "school") -> None:
        self.servables = {version: Servable(model, version, SIGNATURES) for version in (1, 3)}
        self.model = model
        self.calls: list[tuple[str, int]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: Exception | None = None

    def find(self, model: str, *, version: int | None = None, label: str | None = None) -> Servable:
        if model != self.model:
            raise ServingError(404, f"Servable not found for request: Latest({model})")
        if label not in (None, "champion"):
            raise ServingError(400, f"Unrecognized servable version label: {label}")
        if version is not None and version not in self.servables:
            raise ServingError(404, f"Servable not found for request: Specific({model}, {version})")
        return self.servables[3 if version is None else version]

    def statuses(self, model: str, *, version: int | None = None) -> list[VersionStatus]:
        if model != self.model:
            raise ServingError(404, f"Could not find any versions of model {model}")
        if version is None:
            return [VersionStatus(3, "AVAILABLE"), VersionStatus(1, "AVAILABLE")]
        if version not in self.servables:
            raise ServingError(404, f"Could not find version {version} of model {model}")
        return [VersionStatus(version, "AVAILABLE")]

    async def predict(
        self, servable: Servable, signature_name: str, inputs: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        first = next(iter(inputs.values()))
        self.calls.append((signature_name, len(first)))
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return _outputs(signature_name, inputs)


def _outputs(signature_name: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    if signature_name == "floats":
        return {"y": inputs["x"]}
    if signature_name == "images":
        return {"sums": inputs["images"].sum(axis=(1, 2, 3), dtype=np.int64)}
    if signature_name == "pair":
        return {"a": inputs["a"]}
    tiles = inputs["image_bytes"]
    if signature_name == "pass_bytes":
        return {"image_bytes": tiles}
    if not all(tile.startswith(b"\xff\xd8") for tile in tiles):
        raise ServingError(400, "Unknown image file format. One of JPEG, PNG, GIF, BMP required.")
    probabilities = np.tile(np.float32([0.25, 0.75]), (len(tiles), 1))
    labels = np.array([b"school"] * len(tiles), object)
    return {"probabilities": probabilities} | ({"label_bytes": labels} if signature_name == "explain" else {})
