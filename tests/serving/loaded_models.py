"""Models in the test's own process, without a server."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from satx.serving.batcher import Limits
from satx.serving.metrics import Metrics
from satx.serving.models import ServedModels


@contextmanager
def models_of(lines: list[str] | None = None, limits: Limits | None = None) -> Iterator[ServedModels]:
    models = ServedModels(limits or Limits(), Metrics(), report=(lines if lines is not None else []).append)
    try:
        yield models
    finally:
        models.close()


async def answer(models: ServedModels, x: float, *, version: int | None = None, label: str | None = None) -> float:
    servable = models.find("numbers", version=version, label=label)
    outputs = await models.predict(servable, "serving_default", {"x": np.array([x], np.float32)})
    return float(outputs["y"][0])


def states(models: ServedModels) -> dict[int, str]:
    return {status.version: status.state for status in models.statuses("numbers")}
