"""Warm-up requests of an export: TensorFlow Serving runs them when it loads a version, before the first client waits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from satx.inference.graph import IMAGES_NAME, IMAGES_SIGNATURE, INPUT_NAME, SERVING_SIGNATURE

WARMUP_NAME = "assets.extra/tf_serving_warmup_requests"
WARMUP_BATCH_SIZES = (1, 8, 16, 32)  # 32 is the largest batch that `serving_files.write_batching` allows


def write_warmup(folder: Path, *, model_name: str, image_size_px: int) -> int:
    """Write requests with grey tiles: a TFRecord file of `PredictionLog`, for the signatures that clients call often.

    Args:
        folder: Folder of the export.
        model_name: Name of the served model.
        image_size_px: Edge of the model's tiles.

    Returns:
        How many requests it contains.
    """
    import tensorflow as tf

    tile = np.full((image_size_px, image_size_px, 3), 127, np.uint8)
    file = tf.io.encode_jpeg(tile).numpy()
    path = folder / WARMUP_NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    requests = []
    for batch_size in WARMUP_BATCH_SIZES:
        # A tensor with a single value for its whole shape, which readers repeat, keeps the file small.
        pixels = tf.compat.v1.make_tensor_proto(127, dtype=tf.uint8, shape=(batch_size, *tile.shape))
        files = tf.make_tensor_proto([file] * batch_size, dtype=tf.string)
        requests += [
            _request(model_name, SERVING_SIGNATURE, INPUT_NAME, files),
            _request(model_name, IMAGES_SIGNATURE, IMAGES_NAME, pixels),
        ]
    with tf.io.TFRecordWriter(str(path)) as writer:
        for request in requests:
            writer.write(request.SerializeToString())
    return len(requests)


def _request(model_name: str, signature_name: str, input_name: str, tensor: Any) -> Any:
    from tensorflow_serving.apis import model_pb2, predict_pb2, prediction_log_pb2

    request = predict_pb2.PredictRequest(
        model_spec=model_pb2.ModelSpec(name=model_name, signature_name=signature_name), inputs={input_name: tensor}
    )
    return prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
