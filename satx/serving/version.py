"""A version of a model that answers requests: it decodes what they contain, and runs them through its queue."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field

import numpy as np

from satx.inference.graph import EXPLAIN_SIGNATURE, IMAGES_NAME, IMAGES_SIGNATURE, INPUT_NAME, OUTPUT_NAME
from satx.serving.batcher import Batcher, Limits
from satx.serving.contract import Servable, ServingError
from satx.serving.decoding import decoded
from satx.serving.loaded import LoadedExport, TileDecoding
from satx.serving.metrics import Metrics
from satx.serving.shapes import check_shapes


@dataclass(frozen=True, eq=False)
class ServedVersion(Servable):
    """A loaded version with its queue. It is unloaded when nothing refers to it any more, so never under a request.

    Attributes:
        export: The loaded export.
        batcher: Its queue.
        pool: Threads that decode images.
        metrics: Where to count.
    """

    export: LoadedExport
    batcher: Batcher
    pool: Executor
    metrics: Metrics = field(repr=False)

    async def predict(self, signature_name: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the outputs of a signature for a request; see `contract.Models.predict`."""
        rows = check_shapes(self.signatures[signature_name], inputs)
        limits = self.batcher.limits
        try:
            with self.batcher.room(rows):
                async with asyncio.timeout(limits.deadline_seconds):
                    if self.export.images is not None and self.export.decodes_outside(signature_name):
                        return await self._predict_files(self.export.images, signature_name, inputs[INPUT_NAME])
                    shares = self.export.shares_batches(signature_name) and rows > 0
                    return await self.batcher.run(signature_name, inputs, rows=rows, shares_batches=shares)
        except TimeoutError as error:
            message = f"Deadline exceeded: expected an answer within {limits.deadline_seconds:g} seconds"
            raise ServingError(504, message) from error

    async def _predict_files(
        self, images: TileDecoding, signature_name: str, files: np.ndarray
    ) -> dict[str, np.ndarray]:
        if not len(files):
            probabilities = np.zeros((0, len(images.classes)), np.float32)
        else:
            tiles = await decoded(
                list(files), images.image_size_px, pool=self.pool, on_decoded=self.metrics.decode_seconds.observe
            )
            outputs = await self.batcher.run(
                IMAGES_SIGNATURE, {IMAGES_NAME: tiles}, rows=len(tiles), shares_batches=True
            )
            probabilities = outputs[OUTPUT_NAME]
        return images.explained(probabilities) if signature_name == EXPLAIN_SIGNATURE else {OUTPUT_NAME: probabilities}


def serve_export(
    export: LoadedExport,
    *,
    model: str,
    version: int,
    limits: Limits,
    pool: Executor,
    metrics: Metrics,
    on_unloaded: Callable[[], None],
) -> ServedVersion:
    """Return a loaded export as a version that answers.

    Args:
        export: The export.
        model: Name of the model.
        version: Its version.
        limits: When to refuse a request.
        pool: Threads that decode images.
        metrics: Where to count.
        on_unloaded: Called when nothing refers to the version any more; in any thread.
    """
    batcher = Batcher(export.run, limits, on_batch=metrics.batch_sizes.labels(model).observe)
    served = ServedVersion(model, version, export.signatures, export, batcher, pool, metrics)
    weakref.finalize(served, _unload, batcher, on_unloaded)
    return served


def _unload(batcher: Batcher, on_unloaded: Callable[[], None]) -> None:
    batcher.close()  # its thread ends, and drops the graph
    on_unloaded()
