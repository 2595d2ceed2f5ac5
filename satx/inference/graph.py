"""The graph of an export: it decodes image files, resizes them, runs the network and calibrates.

Signatures:

- `serving_default`: image files to `probabilities`, its only output, so that TensorFlow Serving's REST API returns a plain
  list for each instance; with several outputs each would be an object.
- `images`: tiles of the model's own size to `probabilities`, for clients that decode.
- `explain`: image files to `class_names`, `probabilities`, `threshold` and `version`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from satx.models.classifier import Classifier, with_temperature
from satx.tiles.formats import SERVED_FORMATS

SERVING_SIGNATURE, IMAGES_SIGNATURE, EXPLAIN_SIGNATURE = "serving_default", "images", "explain"
INPUT_NAME, IMAGES_NAME, OUTPUT_NAME = "image_bytes", "images", "probabilities"
_WEBP = b"RIFF"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def write_graph(classifier: Classifier, folder: Path, *, version: int) -> None:
    """Write a SavedModel with the three signatures.

    Args:
        classifier: The classifier; Keras must use its TensorFlow backend.
        folder: Folder to write.
        version: Version of the registered model, which `explain` returns.
    """
    import tensorflow as tf

    size_px, num_classes = classifier.image_size_px, len(classifier.classes)

    def images(tiles: Any) -> dict[str, Any]:
        probabilities = classifier.network(tiles, training=False)
        return {OUTPUT_NAME: with_temperature(probabilities, classifier.temperature)}

    module = tf.Module()
    tile = tf.TensorSpec((size_px, size_px, 3), tf.uint8)
    module.images = tf.function(images, input_signature=[tf.TensorSpec((None, *tile.shape), tf.uint8, IMAGES_NAME)])

    def serve(image_bytes: Any) -> dict[str, Any]:
        tiles = tf.map_fn(lambda data: decoded_tile(data, size_px), image_bytes, fn_output_signature=tile)
        # One function for all signatures, so that the network is in the graph once.
        return {OUTPUT_NAME: module.images(tiles)[OUTPUT_NAME]}

    def explain(image_bytes: Any) -> dict[str, Any]:
        num_rows = tf.shape(image_bytes)[0]
        return {
            **serve(image_bytes),
            "class_names": tf.ensure_shape(tf.tile([list(classifier.classes)], (num_rows, 1)), (None, num_classes)),
            "threshold": tf.fill((num_rows,), tf.constant(classifier.threshold, tf.float32)),
            "version": tf.fill((num_rows,), tf.constant(version, tf.int64)),
        }

    # Keras's ExportArchive is not used: it traces the network twice, and saves its layers beside the served graph.
    files = [tf.TensorSpec((None,), tf.string, name=INPUT_NAME)]
    module.serve = tf.function(serve, input_signature=files)
    module.explain = tf.function(explain, input_signature=files)
    module.weights = [variable.value for variable in classifier.network.variables]
    signatures = {
        SERVING_SIGNATURE: module.serve,
        IMAGES_SIGNATURE: module.images,
        EXPLAIN_SIGNATURE: module.explain,
    }
    tf.saved_model.save(module, str(folder), signatures=signatures)


def decoded_tile(data: Any, size_px: int) -> Any:
    """Return an image file as the tile that the store would contain, (S, S, 3) uint8.

    Args:
        data: The file's bytes as a string tensor, in one of `SERVED_FORMATS`.
        size_px: Edge of the tile.
    """
    import tensorflow as tf

    def resize(image: Any, shape: tuple[Any, Any]) -> Any:
        values = tf.image.resize(tf.cast(image, tf.float32), shape, method="bilinear", antialias=True)
        return tf.cast(tf.clip_by_value(tf.floor(values + 0.5), 0.0, 255.0), tf.uint8)

    image = decoded_image(data)  # (H, W, 3) uint8
    # Pillow resizes horizontally, rounds, resizes vertically, and rounds again. Resizing in one step would make a
    # fifth of the pixels differ by one grey level. (Pillow 13 resizes vertically first for many images that are
    # taller than wide; for those a fifth of the pixels still differ.)
    wide = resize(image, (tf.shape(image)[0], size_px))
    return tf.ensure_shape(resize(wide, (size_px, size_px)), (size_px, size_px, 3))


def decoded_image(data: Any) -> Any:
    """Return the pixels of an image file as the exported graph decodes it, (H, W, 3) uint8.

    Args:
        data: The file's bytes as a string tensor, in one of `SERVED_FORMATS`. WebP and TIFF are refused by name, WebP because
            only some servers decode it.
    """
    import tensorflow as tf

    head = tf.strings.substr(data, 0, 4)
    is_other = tf.reduce_any(head == [_WEBP, *_TIFF])
    name = tf.where(head == _WEBP, "WebP", "TIFF")
    expected = f"expected an image in one of the formats {', '.join(SERVED_FORMATS)}; convert it. Got"
    with tf.control_dependencies([tf.debugging.Assert(~is_other, [expected, name])]):
        data = tf.identity(data)
    # The tile store uses the accurate inverse DCT; TensorFlow's default is another one.
    image = tf.cond(
        tf.io.is_jpeg(data),
        lambda: tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE"),
        lambda: tf.io.decode_image(data, channels=3, expand_animations=False),
    )
    image.set_shape((None, None, 3))
    return image
