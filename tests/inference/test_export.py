"""Tests of the SavedModel: its signature, predictions for files of all kinds, and that no other export is loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from inference.tiny import SIZE_PX, encoded, fitted_classifier, open_tiles, render_tiles
from satx.errors import PromotionRefused, WeightsError
from satx.inference.export import (
    MAX_DIFFERENCE,
    MAX_DIFFERENCE_OWN_SIZE,
    Parity,
    Provenance,
    compare_with_network,
    export_saved_model,
)
from satx.inference.manifest import CLASSES_NAME, MANIFEST_NAME, Export, verify_export
from satx.inference.predictor import ServedModel
from satx.inference.pyfunc import ImageModel
from satx.inference.warmup import WARMUP_NAME
from satx.models.classifier import Classifier
from satx.registry.candidate import golden_files
from satx.tiles.store import TileStore

PROVENANCE = Provenance(
    model_name="school-sample", version=3, run_id="r" * 32, weights_sha256="w" * 64, not_served={"WebP": 2}
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TileStore:
    folder = tmp_path_factory.mktemp("tiles")
    return open_tiles(render_tiles(folder / "sample"), folder / "cache")


@pytest.fixture(scope="module")
def classifier(store: TileStore) -> Classifier:
    return replace(fitted_classifier(store), temperature=2.0, threshold=0.3, threshold_rule="f2")


@pytest.fixture(scope="module")
def export(store: TileStore, classifier: Classifier, tmp_path_factory: pytest.TempPathFactory) -> Export:
    folder = tmp_path_factory.mktemp("exports") / "school-sample" / "3"
    return export_saved_model(classifier, folder, provenance=PROVENANCE, golden_bytes=golden_files(store))


@pytest.fixture(scope="module")
def served(export: Export) -> ServedModel:
    """Load the export once, since loading it takes seconds."""
    return ServedModel(export.folder)


@pytest.fixture
def copied(export: Export, tmp_path: Path) -> Path:
    return Path(shutil.copytree(export.folder, tmp_path / "3"))


def test_signature_takes_bytes_and_gives_one_output(export: Export) -> None:
    signature = tf.saved_model.load(str(export.folder)).signatures["serving_default"]
    _, inputs = signature.structured_input_signature
    assert {name: (spec.dtype, spec.shape.as_list()) for name, spec in inputs.items()} == {
        "image_bytes": (tf.string, [None])
    }
    outputs = {name: (spec.dtype, spec.shape.as_list()) for name, spec in signature.structured_outputs.items()}
    assert outputs == {"probabilities": (tf.float32, [None, 2])}


def test_the_export_records_its_classes_and_its_origin(export: Export, store: TileStore) -> None:
    assert json.loads((export.folder / CLASSES_NAME).read_text()) == ["not-school", "school"]
    about = json.loads((export.folder / MANIFEST_NAME).read_text())
    assert (about["task"], about["sample"], about["run_id"]) == ("school-sample", True, PROVENANCE.run_id)
    assert (about["version"], about["weights_sha256"]) == (3, PROVENANCE.weights_sha256)
    assert (about["served_formats"], about["not_served"]) == (["JPEG", "PNG", "GIF", "BMP"], {"WebP": 2})
    assert (about["temperature"], about["threshold"], about["threshold_rule"]) == (2.0, 0.3, "f2")
    assert about["warmup_requests"] == 8
    assert {"saved_model.pb", "variables/variables.index", CLASSES_NAME, WARMUP_NAME} <= about["files"].keys()
    assert MANIFEST_NAME not in about["files"]


def test_the_export_records_how_far_it_is_from_the_network_with_and_without_a_resize(
    export: Export, classifier: Classifier, store: TileStore
) -> None:
    parity = export.manifest["parity"]
    assert 0 <= parity["own_size"] <= MAX_DIFFERENCE_OWN_SIZE < parity["resized"] <= MAX_DIFFERENCE
    assert compare_with_network(export.folder, classifier, golden_files(store)) == Parity(**parity)


def test_files_of_the_own_size_have_no_difference_with_a_resize(
    export: Export, classifier: Classifier, store: TileStore
) -> None:
    pixels = np.asarray(store.pixels()[0])
    files = [encoded(pixels, "JPEG"), encoded(pixels, "PNG"), encoded(pixels, "BMP")]
    assert compare_with_network(export.folder, classifier, files).resized is None
    cmyk = encoded(pixels, "JPEG", mode="CMYK")  # may differ by a grey level
    assert compare_with_network(export.folder, classifier, [*files, cmyk]).resized is not None


@pytest.mark.parametrize(("own_size", "resized"), [(2e-4, 0.0), (0.0, 0.06), (np.nan, 0.0), (0.0, np.nan)])
def test_an_export_that_differs_more_than_its_limit_with_or_without_a_resize_is_refused(
    own_size: float,
    resized: float,
    export: Export,
    classifier: Classifier,
    store: TileStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    golden, predict = golden_files(store), ServedModel.predict
    errors = np.repeat([resized, own_size], len(golden))[:, None]
    monkeypatch.setattr(ServedModel, "predict", lambda model, files: predict(model, files) + errors)
    with pytest.raises(PromotionRefused, match="with a resize" if own_size == 0 else "without a resize"):
        compare_with_network(export.folder, classifier, golden)


def test_one_batch_can_mix_jpeg_png_gif_bmp_grey_and_alpha_of_any_size(served: ServedModel, store: TileStore) -> None:
    pixels = np.asarray(store.pixels()[0])
    files = [
        encoded(pixels, "JPEG"),
        encoded(pixels, "JPEG", mode="L", size=(200, 90)),
        encoded(pixels, "PNG"),
        encoded(pixels, "PNG", mode="RGBA", size=(17, 300)),
        encoded(pixels, "PNG", mode="L"),
        encoded(pixels, "GIF"),
        encoded(pixels, "BMP"),
    ]
    answers = served.predict(files)
    assert answers.shape == (7, 2) and answers.dtype == np.float32
    assert answers.sum(axis=1) == pytest.approx(1, abs=1e-5)
    assert np.ptp(answers[[2, 6], 1]) < 1e-6, "the same pixels in two kinds of file"
    assert len(np.unique(answers.round(6), axis=0)) > 3, "different images, different answers"


def test_the_export_agrees_with_the_network_on_tile_files_and_stored_tiles(
    served: ServedModel, classifier: Classifier, store: TileStore
) -> None:
    tiles = np.asarray(store.pixels()[:40])
    expected = classifier.predict(tiles)
    assert np.abs(expected - classifier.network.predict_on_batch(tiles)).max() > 0.01, "they are calibrated"
    files = [(store.report.root / name).read_bytes() for name in store.index["relative"][:40]]
    assert np.abs(served.predict(files) - expected).max() < MAX_DIFFERENCE
    stored = [encoded(tile, "PNG") for tile in tiles]
    assert np.abs(served.predict(stored) - expected).max() < 1e-4, "at the tiles' own size nothing is resized"
    table = ImageModel(classifier).predict(pd.DataFrame({"image_bytes": stored}))
    assert np.abs(table.to_numpy() - expected).max() < 1e-5
    assert ImageModel(classifier).predict(pd.DataFrame({"image_bytes": files[:1]})).shape == (1, 2)


@pytest.mark.slow
def test_an_export_of_another_network_is_refused(export: Export, classifier: Classifier, store: TileStore) -> None:
    other = fitted_classifier(store, sign=-1.0)
    with pytest.raises(PromotionRefused) as error:
        compare_with_network(export.folder, other, golden_files(store))
    assert str(export.folder) in str(error.value) and str(MAX_DIFFERENCE_OWN_SIZE) in str(error.value)


@pytest.mark.parametrize("data", [b"", b"no image", b"\xff\xd8\xff but no JPEG"])
def test_bytes_that_are_not_an_image_raise(served: ServedModel, data: bytes) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError):
        served.predict([data])


def test_a_comparison_with_a_file_that_the_export_does_not_decode_is_refused(
    export: Export, classifier: Classifier, store: TileStore
) -> None:
    tiff = encoded(np.asarray(store.pixels()[0]), "TIFF")
    with pytest.raises(PromotionRefused, match=r"refused one: .* The champion is unchanged"):
        compare_with_network(export.folder, classifier, [tiff])


def _change(folder: Path) -> None:
    path = folder / "variables" / "variables.data-00000-of-00001"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _rewrite_manifest(folder: Path) -> None:
    path = folder / MANIFEST_NAME
    path.write_text(path.read_text().replace('"version": 3', '"version": 4'))


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (_change, "changed: variables/"),
        (lambda folder: (folder / "saved_model.pb").unlink(), "missing: saved_model.pb"),
        (lambda folder: (folder / "variables" / "more").write_text(""), "added: variables/more"),
        (lambda folder: (folder / MANIFEST_NAME).unlink(), MANIFEST_NAME),
        (_rewrite_manifest, "SHA-256"),
    ],
)
def test_a_tampered_export_is_refused(
    export: Export, copied: Path, damage: Callable[[Path], object], named: str
) -> None:
    assert verify_export(copied, digest=export.digest).digest == export.digest
    damage(copied)
    with pytest.raises(WeightsError) as error:
        verify_export(copied, digest=export.digest)
    assert str(copied) in str(error.value) and named in str(error.value)


def test_an_export_that_fails_the_comparison_leaves_the_old_one_in_place(
    export: Export, copied: Path, classifier: Classifier, store: TileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_graph(_: Classifier, folder: Path, *, version: int) -> None:
        """Write the graph of the same classifier, without tracing it again."""
        shutil.copytree(export.folder, folder, ignore=shutil.ignore_patterns(str(Path(MANIFEST_NAME).parent)))

    monkeypatch.setattr("satx.inference.export.write_graph", write_graph)
    monkeypatch.setattr("satx.inference.export.MAX_DIFFERENCE_OWN_SIZE", -1.0)
    golden, another = golden_files(store), replace(PROVENANCE, version=4)
    with pytest.raises(PromotionRefused):
        export_saved_model(classifier, copied, provenance=another, golden_bytes=golden)
    assert verify_export(copied).digest == export.digest
    assert list(copied.parent.iterdir()) == [copied]


def test_golden_files_are_tile_files_or_pngs_of_stored_pixels(store: TileStore, tmp_path: Path) -> None:
    assert all(data.startswith(b"\xff\xd8\xff") for data in golden_files(store))
    gone = replace(store, report=replace(store.report, root=tmp_path))
    not_served = replace(store, index=store.index.assign(format="WebP"))
    changed = replace(store, index=store.index.assign(file_digest="0" * 64))
    for other in (gone, not_served, changed):
        assert all(data.startswith(b"\x89PNG") for data in golden_files(other))
    assert store.image_size_px == SIZE_PX
