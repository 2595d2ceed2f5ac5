"""Three programs that called the original's TensorFlow Serving, restated: what they send, and what they read of a response.

Each is kept as it calls, oddities included: no Content-Type, a version with leading zeros, 50 images in one request. None
of them checks more than it did.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence

import httpx


def predict_chips(url: str, model: str, chips: Sequence[bytes]) -> list[list[float]]:
    """Post images as a plain string, without a Content-Type, as *chip-n-scale* does, and return the predictions."""
    instances = [{"image_bytes": {"b64": base64.b64encode(chip).decode()}} for chip in chips]
    response = httpx.post(f"{url}/v1/models/{model}:predict", content=json.dumps({"instances": instances}), timeout=60)
    response.raise_for_status()
    predictions: list[list[float]] = json.loads(response.content)["predictions"]
    return predictions


def is_chip_model_ready(url: str, model: str, chip: bytes) -> bool:
    """Return whether *chip-n-scale*'s check of an endpoint passes: the model answers, and predictions are an array."""
    if httpx.get(f"{url}/v1/models/{model}", timeout=60).status_code != httpx.codes.OK:
        return False
    return isinstance(predict_chips(url, model, [chip]), list)


def predict_enabled(url: str, tiles: Sequence[bytes]) -> list[float]:
    """Ask for the model's input first, then post to a version with leading zeros, as *ml-enabler* does.

    Returns:
        The second number of each prediction.
    """
    httpx.get(f"{url}/v1/models/default", timeout=60).raise_for_status()  # the health check
    described = httpx.get(f"{url}/v1/models/default/metadata", timeout=60).json()
    inputs = described["metadata"]["signature_def"]["signature_def"]["serving_default"]["inputs"]
    name = next(iter(inputs))
    if inputs[name]["dtype"] != "DT_STRING":
        raise ValueError(f"expected an input of images, got {inputs[name]['dtype']}")
    payload = {"instances": [{name: {"b64": base64.b64encode(tile).decode("utf-8")}} for tile in tiles]}
    response = httpx.post(f"{url}/v1/models/default/versions/001:predict", json=payload, timeout=60)
    preds = response.json()["predictions"]
    return [preds[i][1] for i in range(len(tiles))]


def predict_not_school(url: str, files: Sequence[bytes], *, model: str, batch: int = 50) -> list[float]:
    """Send 50 images a request, as the script for the ROC curve of the school project does.

    Returns:
        The first number of each prediction, which that script takes for the class `not-school`.
    """
    scores = []
    for start in range(0, len(files), batch):
        instances = [{"image_bytes": {"b64": base64.b64encode(data).decode()}} for data in files[start : start + batch]]
        response = httpx.post(
            f"{url}/v1/models/{model}:predict", content=json.dumps({"instances": instances}), timeout=60
        )
        scores += [item[0] for item in response.json()["predictions"]]
    return scores
