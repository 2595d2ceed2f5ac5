"""Tests of the exported graph: its signatures, and that it sees the pixels of the tile store for every kind of file."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from inference.tiny import encoded, untrained_classifier
from satx.inference.graph import decoded_tile, write_graph
from satx.inference.predictor import predict_files
from satx.inference.serving_files import MAX_BATCH_ROWS
from satx.inference.warmup import WARMUP_BATCH_SIZES, WARMUP_NAME, write_warmup
from satx.models.classifier import Classifier
from satx.tiles.decode import decode_tile, resize_tile

SIZE_PX = 16
VERSION = 12345678901


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return untrained_classifier(size_px=SIZE_PX)


@pytest.fixture(scope="module")
def folder(classifier: Classifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exports") / "1"
    write_graph(classifier, folder, version=VERSION)
    return folder


@pytest.fixture(scope="module")
def loaded(folder: Path) -> Any:
    return tf.saved_model.load(str(folder))


def noise(seed: int = 3, *, height_px: int = SIZE_PX, width_px: int = SIZE_PX) -> np.ndarray:
    """Return smooth noise, (H, W, 3) uint8: a JPEG of it is close to it."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(small).resize((width_px, height_px), Image.Resampling.BICUBIC))


def as_file(kind: str, *, mode: str = "RGB", pixels: np.ndarray | None = None, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(noise() if pixels is None else pixels).convert(mode).save(stream, kind, **options)
    return stream.getvalue()


def turned() -> bytes:
    """Return EXIF data that asks for a rotation by 90 degrees."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif.tobytes()


def with_alpha() -> np.ndarray:
    alpha = np.linspace(0, 255, SIZE_PX * SIZE_PX).astype(np.uint8).reshape(SIZE_PX, SIZE_PX, 1)
    return np.concatenate([noise(), alpha], axis=2)


KINDS = {
    "JPEG": lambda: as_file("JPEG"),
    "JPEG, progressive": lambda: as_file("JPEG", progressive=True),
    "JPEG, grey": lambda: as_file("JPEG", mode="L"),
    "JPEG, 4:4:4": lambda: as_file("JPEG", subsampling=0),
    "JPEG, turned by EXIF": lambda: as_file("JPEG", exif=turned()),
    "JPEG, CMYK": lambda: as_file("JPEG", mode="CMYK"),
    "PNG": lambda: as_file("PNG"),
    "PNG, grey": lambda: as_file("PNG", mode="L"),
    "PNG, 1 bit": lambda: as_file("PNG", mode="1"),
    "PNG, palette": lambda: as_file("PNG", mode="P"),
    "PNG, palette of 4 bits": lambda: as_file("PNG", mode="P", bits=4),
    "PNG, palette with transparency": lambda: as_file("PNG", mode="P", transparency=3),
    "PNG, alpha": lambda: as_file("PNG", mode="RGBA", pixels=with_alpha()),
    "PNG, grey with alpha": lambda: as_file("PNG", mode="LA", pixels=with_alpha()),
    "PNG, turned by EXIF": lambda: as_file("PNG", exif=turned()),
    "GIF": lambda: as_file("GIF", mode="P"),
    "GIF, interlaced": lambda: as_file("GIF", mode="P", interlace=True),
    "BMP": lambda: as_file("BMP"),
    "BMP, alpha": lambda: as_file("BMP", mode="RGBA", pixels=with_alpha()),
    "BMP, grey": lambda: as_file("BMP", mode="L"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_graph_has_the_pixels_of_the_tile_store(kind: str) -> None:
    data = KINDS[kind]()
    stored = resize_tile(decode_tile(data, kind).pixels, SIZE_PX)
    found = np.asarray(decoded_tile(tf.constant(data), SIZE_PX))
    assert (found.dtype, found.shape) == (np.uint8, stored.shape)
    assert np.abs(found.astype(int) - stored).max() <= (1 if "CMYK" in kind else 0)
    assert np.ptp(found) > 100, "there is a picture"


def test_files_of_all_kinds_get_the_probabilities_of_their_stored_pixels_from_each_signature(
    loaded: Any, classifier: Classifier
) -> None:
    files = [make() for kind, make in KINDS.items() if "CMYK" not in kind]
    expected = predict_files(classifier, files)
    assert len(np.unique(expected.round(5), axis=0)) >= 8, "different files, different probabilities"
    tiles = np.stack([resize_tile(decode_tile(data, "tile").pixels, SIZE_PX) for data in files])
    for name, inputs in (
        ("serving_default", {"image_bytes": tf.constant(files)}),
        ("explain", {"image_bytes": tf.constant(files)}),
        ("images", {"images": tf.constant(tiles)}),
    ):
        assert np.abs(loaded.signatures[name](**inputs)["probabilities"] - expected).max() < 1e-5, name


def test_each_signature_has_its_inputs_and_outputs(loaded: Any) -> None:
    found = {
        name: (
            {key: (spec.dtype, spec.shape.as_list()) for key, spec in signature.structured_input_signature[1].items()},
            {key: (spec.dtype, spec.shape.as_list()) for key, spec in signature.structured_outputs.items()},
        )
        for name, signature in loaded.signatures.items()
    }
    files, probabilities = {"image_bytes": (tf.string, [None])}, (tf.float32, [None, 3])
    assert found == {
        "serving_default": (files, {"probabilities": probabilities}),
        "images": (
            {"images": (tf.uint8, [None, SIZE_PX, SIZE_PX, 3])},
            {"probabilities": probabilities},
        ),
        "explain": (
            files,
            {
                "class_names": (tf.string, [None, 3]),
                "probabilities": probabilities,
                "threshold": (tf.float32, [None]),
                "version": (tf.int64, [None]),
            },
        ),
    }


def test_explain_names_the_classes_the_threshold_and_the_version_in_every_row(loaded: Any) -> None:
    found = loaded.signatures["explain"](image_bytes=tf.constant([as_file("PNG"), as_file("JPEG")]))
    assert found["class_names"].numpy().tolist() == [[b"clinic", b"other", b"school"]] * 2
    assert found["threshold"].numpy().tolist() == [pytest.approx(0.3)] * 2
    assert found["version"].numpy().tolist() == [VERSION] * 2


def test_the_network_is_in_the_graph_once(folder: Path) -> None:
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    functions = SavedModel.FromString((folder / "saved_model.pb").read_bytes()).meta_graphs[0].graph_def.library
    products = [node for function in functions.function for node in function.node_def if node.op == "MatMul"]
    assert len(products) == 1


@pytest.mark.parametrize(("kind", "named"), [("WEBP", "WebP"), ("TIFF", "TIFF")])
def test_a_format_that_only_some_servers_decode_is_refused_by_its_name(loaded: Any, kind: str, named: str) -> None:
    good = as_file("PNG")
    with pytest.raises(tf.errors.InvalidArgumentError, match=rf"JPEG, PNG, GIF, BMP; convert it. Got\]? .*{named}"):
        loaded.signatures["serving_default"](image_bytes=tf.constant([good, encoded(noise(), kind)]))


def test_a_temperature_of_one_leaves_no_operation_in_the_graph(tmp_path: Path) -> None:
    classifier = untrained_classifier(size_px=4, temperature=1.0)
    write_graph(classifier, tmp_path / "1", version=1)
    tiles = noise(height_px=4, width_px=4)[None]
    signature = tf.saved_model.load(str(tmp_path / "1")).signatures["images"]
    found = signature(images=tf.constant(tiles))["probabilities"]
    assert np.abs(found - np.asarray(classifier.network(tiles))).max() < 1e-6
    assert b"Log" not in {node.op.encode() for node in signature.graph.as_graph_def(add_shapes=False).node}


def test_warm_up_requests_fit_the_signatures_at_every_batch_size(loaded: Any, tmp_path: Path) -> None:
    from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

    assert max(WARMUP_BATCH_SIZES) == MAX_BATCH_ROWS
    assert write_warmup(tmp_path, model_name="school", image_size_px=SIZE_PX) == 2 * len(WARMUP_BATCH_SIZES)
    seen = []
    for record in tf.data.TFRecordDataset(str(tmp_path / WARMUP_NAME)):
        request = PredictionLog.FromString(record.numpy()).predict_log.request
        assert request.model_spec.name == "school"
        signature_name = request.model_spec.signature_name
        # parse_tensor reads the message with the code that TensorFlow Serving uses.
        inputs = {
            name: tf.io.parse_tensor(tensor.SerializeToString(), tf.as_dtype(tensor.dtype))
            for name, tensor in request.inputs.items()
        }
        found = loaded.signatures[signature_name](**inputs)["probabilities"]
        seen.append((signature_name, len(found)))
        assert np.abs(found - found[0]).max() < 1e-6, "all rows are the same grey tile"
    assert sorted(seen) == sorted(
        (name, batch_size) for name in ("serving_default", "images") for batch_size in WARMUP_BATCH_SIZES
    )
    assert (tmp_path / WARMUP_NAME).stat().st_size < 100_000
