"""Tests of the ONNX model of an export, under ONNX Runtime."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from inference.tiny import encoded, untrained_classifier
from satx.errors import ConfigError, PromotionRefused, WeightsError
from satx.inference.export import Provenance, export_saved_model
from satx.inference.manifest import Export
from satx.inference.onnx import write_onnx

onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra satx[onnx]")
pytest.importorskip("tf2onnx", reason="needs the extra satx[onnx]")

SIZE_PX = 8
CLASSIFIER = untrained_classifier(size_px=SIZE_PX)
TILES = np.random.default_rng(5).integers(0, 256, (5, SIZE_PX, SIZE_PX, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Export:
    return export_saved_model(
        CLASSIFIER,
        tmp_path_factory.mktemp("exports") / "1",
        provenance=Provenance("school", 1, "r" * 32, "w" * 64, {}),
        golden_bytes=[encoded(TILES[0], "PNG")],
    )


def test_the_onnx_model_gives_the_probabilities_of_the_export_for_any_number_of_tiles(
    export: Export, tmp_path: Path
) -> None:
    path = tmp_path / "school.onnx"
    assert write_onnx(export.folder, path, TILES) <= 1e-4
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for tiles in (TILES, TILES[:1]):
        (found,) = session.run(["probabilities"], {"images": tiles})
        assert np.abs(found - CLASSIFIER.predict(tiles)).max() < 1e-4
    assert session.get_modelmeta().custom_metadata_map == {
        "classes": '["clinic", "other", "school"]',
        "positive_class": "school",
        "threshold": "0.3",
        "export_digest": export.digest,
    }


def test_an_onnx_model_that_differs_from_the_export_is_not_written(
    export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("satx.inference.onnx.MAX_DIFFERENCE_OWN_SIZE", -1.0)
    with pytest.raises(PromotionRefused, match="The file is not written"):
        write_onnx(export.folder, tmp_path / "school.onnx", TILES)
    assert not list(tmp_path.iterdir())


def test_a_changed_export_is_not_converted(export: Export, tmp_path: Path) -> None:
    (export.folder / "more").write_text("")
    with pytest.raises(WeightsError, match="added: more"):
        write_onnx(export.folder, tmp_path / "school.onnx", TILES)
    (export.folder / "more").unlink()


def test_without_the_extra_the_command_that_installs_it_is_named(
    export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    with pytest.raises(ConfigError, match=r"pip install 'satx\[onnx\]'"):
        write_onnx(export.folder, tmp_path / "school.onnx", TILES)
