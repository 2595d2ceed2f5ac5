from __future__ import annotations

import http.server
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from slow_servers import slow_server

from satx.errors import WeightsError
from satx.models import weights
from satx.models.backbones import Network, build_backbone, calibrate_batch_normalization
from satx.models.weights import find_weights, random_weights
from satx.models.weights_file import Weights
from satx.storage import file_digest

PX = 32
NAME = "mobilenetv2_notop.weights.h5"


@pytest.fixture(scope="module")
def network() -> Any:
    keras.utils.set_random_seed(11)
    return build_backbone("mobilenetv2", PX, None)


@pytest.fixture(scope="module")
def written(network: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the network's weights to a folder, under satx's file name and under one like that of Keras's download."""
    folder = tmp_path_factory.mktemp("written")
    network.save_weights(folder / NAME)
    network.save_weights(folder / "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.weights.h5")
    return folder


@pytest.fixture(scope="module")
def damaged_into() -> Any:
    """Return the network into which all damaged files are read."""
    return build_backbone("mobilenetv2", PX, None)


def kernel(network: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(network.get_layer("block_16_project").kernel))


def test_weights_are_read_from_a_folder(network: Any, written: Path, tmp_path: Path) -> None:
    found = find_weights("mobilenetv2", written, cache_dir=tmp_path, image_size_px=PX)
    assert found == Weights("mobilenetv2", str((written / NAME).resolve()), file_digest(written / NAME), "file")
    assert found.verified_file() == (written / NAME).resolve()
    assert Weights(**found.as_dict()) == found
    assert np.array_equal(kernel(build_backbone("mobilenetv2", PX, found.verified_file())), kernel(network))


@pytest.mark.parametrize("folder", ["empty", "absent"])
def test_a_weights_folder_without_the_file_is_refused_with_all_remedies(tmp_path: Path, folder: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match=r"xception_notop.*SATX_WEIGHTS_DIR.*--weights none"):
        find_weights("xception", tmp_path / folder, cache_dir=tmp_path, image_size_px=96)


def break_file(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif how == "zeroed at the end":
        path.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))
    elif how == "text":
        path.write_text("these are no weights")
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "a folder":
        path.unlink()
        path.mkdir()
    elif how == "of another width":
        other = keras.applications.MobileNetV2(
            weights=None, include_top=False, input_shape=(PX, PX, 3), alpha=0.35
        )  # same layers, other shapes
        other.save_weights(path)
    elif how == "of another backbone":
        build_backbone("efficientnetv2b0", PX, None).save_weights(path)


@pytest.mark.parametrize(
    "how",
    [
        "truncated",
        "zeroed at the end",
        "text",
        "empty",
        "a folder",
        "of another width",
        pytest.param("of another backbone", marks=pytest.mark.slow),
    ],
)
def test_a_file_that_does_not_fit_is_refused_in_one_line(
    written: Path, damaged_into: Any, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(shutil.copy(written / NAME, tmp_path))
    break_file(path, how)
    monkeypatch.setattr(keras.applications, "MobileNetV2", lambda **_: damaged_into)  # building one takes seconds
    with pytest.raises(WeightsError) as caught:
        build_backbone("mobilenetv2", PX, path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "mobilenetv2" in message
    assert "save_weights('mobilenetv2_notop.weights.h5')" in message
    assert "\n" not in message


def test_weights_that_were_changed_or_removed_after_recording_are_refused(written: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(written / NAME, tmp_path))
    recorded = Weights("mobilenetv2", str(path), file_digest(path), "file")
    assert recorded.verified_file() == path
    with path.open("r+b") as stream:
        stream.seek(5000)
        stream.write(b"\x01")
    with pytest.raises(WeightsError, match=recorded.digest[:12]):
        recorded.verified_file()
    path.unlink()
    with pytest.raises(WeightsError):
        recorded.verified_file()


@pytest.fixture
def host(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Serve those weights in place of Keras's host; yield the requested paths."""
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            asked.append(self.path)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(written)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    point_keras_at(f"http://127.0.0.1:{server.server_address[1]}/", tmp_path, monkeypatch)
    yield asked
    server.shutdown()
    thread.join()
    server.server_close()


def point_keras_at(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from keras.src.applications import mobilenet_v2
    from keras.src.backend import config

    monkeypatch.setattr(mobilenet_v2, "BASE_WEIGHT_PATH", url)
    monkeypatch.setattr(config, "_KERAS_DIR", str(tmp_path))  # KERAS_HOME is read when Keras is imported


@pytest.fixture
def published(network: Any, written: Path) -> None:
    """Write the weights as Keras publishes them: in legacy HDF5, named after the input size that fits."""
    import h5py
    from keras.src.legacy.saving import legacy_h5_format

    with h5py.File(written / "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_96_no_top.h5", "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, network)


@pytest.mark.usefixtures("published")
def test_weights_are_downloaded_once_by_keras_and_kept_in_the_cache(
    host: list[str], network: Any, tmp_path: Path
) -> None:
    found = find_weights("mobilenetv2", None, cache_dir=tmp_path / "cache", image_size_px=96)
    assert found.source == "imagenet"
    assert Path(found.file).is_relative_to(tmp_path / "cache")
    assert len(host) == 1
    loaded = kernel(build_backbone("mobilenetv2", 96, found.verified_file()))
    assert np.array_equal(loaded, kernel(network))
    assert find_weights("mobilenetv2", None, cache_dir=tmp_path / "cache", image_size_px=96) == found
    assert len(host) == 1


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_an_unreachable_host_is_reported_with_all_remedies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point_keras_at(f"http://127.0.0.1:{closed_port()}/", tmp_path, monkeypatch)
    with pytest.raises(WeightsError) as caught:
        find_weights("mobilenetv2", None, cache_dir=tmp_path / "cache", image_size_px=96)
    for remedy in ("SATX_WEIGHTS_DIR", "mobilenetv2_notop.weights.h5", "--weights none"):
        assert remedy in str(caught.value)
    assert not list((tmp_path / "cache").rglob("*.h5"))


@pytest.mark.parametrize(
    ("kind", "silent_seconds", "download_seconds"),
    [("silent", 0.2, 60.0), ("dripping headers", 60.0, 1.0), ("dripping body", 60.0, 1.0)],
)
def test_a_host_that_never_finishes_an_answer_is_reported_like_one_that_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, silent_seconds: float, download_seconds: float
) -> None:
    monkeypatch.setattr(weights, "SILENT_SECONDS", silent_seconds)
    monkeypatch.setattr(weights, "DOWNLOAD_SECONDS", download_seconds)
    with slow_server(kind) as uri:
        point_keras_at(f"{uri}/", tmp_path, monkeypatch)
        with pytest.raises(WeightsError) as caught:
            find_weights("mobilenetv2", None, cache_dir=tmp_path / "cache", image_size_px=96)
    assert weights.HOST in str(caught.value) and "SATX_WEIGHTS_DIR" in str(caught.value)
    assert (f"{download_seconds:g} seconds" in str(caught.value)) == (download_seconds < silent_seconds)
    assert socket.getdefaulttimeout() is None


def test_a_file_that_is_missing_on_the_host_is_reported(
    host: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(WeightsError, match="404"):
        find_weights("mobilenetv2", None, cache_dir=tmp_path / "cache", image_size_px=128)
    assert host


@pytest.mark.usefixtures("host")
def test_a_download_that_is_not_a_weights_file_is_reported_with_a_remedy(written: Path, tmp_path: Path) -> None:
    page = written / "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_192_no_top.h5"
    page.write_text("<html>Please log in to this network</html>")
    with pytest.raises(WeightsError):
        find_weights("mobilenetv2", None, cache_dir=tmp_path / "cache", image_size_px=192)


def pooled(weights: Weights, pixels: np.ndarray) -> np.ndarray:
    network = Network(
        weights.backbone, build_backbone(weights.backbone, pixels.shape[1], weights.verified_file()), None, None
    )
    return np.asarray(keras.ops.convert_to_numpy(network(pixels)))


def assert_features_are_alive(features: np.ndarray) -> None:
    assert np.isfinite(features).all()
    assert 0.02 < features.std() < 20
    assert np.abs(features).max() < 1000
    between_tiles = features.std(axis=0)
    assert (between_tiles > 1e-3).mean() > 0.5


def test_features_of_random_weights_neither_vanish_nor_explode(tiny_store: Any, tiny_weights: Weights) -> None:
    features = pooled(tiny_weights, tiny_store.pixels()[tiny_store.rows("valid")])
    assert_features_are_alive(features)
    assert tiny_weights.source == "random"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["xception", "efficientnetv2b0", "efficientnetv2s", "convnexttiny"])
def test_random_features_of_other_backbones_neither_vanish_nor_explode(
    tiny_tiles: Path, tmp_path: Path, name: str
) -> None:
    from satx.tiles.layout import read_layout
    from satx.tiles.store import build_store

    store = build_store(read_layout(tiny_tiles), image_size_px=96, cache_dir=tmp_path)
    weights = random_weights(name, store.pixels(), store.rows("train"), seed=20, cache_dir=tmp_path)
    assert_features_are_alive(pooled(weights, store.pixels()[store.rows("valid")]))


def test_features_of_random_weights_vanish_without_calibration_for_which_few_tiles_are_enough(tiny_store: Any) -> None:
    keras.utils.set_random_seed(20)
    backbone = build_backbone("mobilenetv2", PX, None)
    network = Network("mobilenetv2", backbone, None, None)
    pixels = np.asarray(tiny_store.pixels()[tiny_store.rows("train")[:20]])
    assert keras.ops.convert_to_numpy(network(pixels)).std() < 1e-3
    calibrate_batch_normalization(backbone, "mobilenetv2", pixels)
    assert_features_are_alive(keras.ops.convert_to_numpy(network(pixels)))
    layers = [layer for layer in backbone.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert {layer.momentum for layer in layers} == {0.999}


RANDOM = """
import sys
import numpy as np
from pathlib import Path
from satx.models.weights import random_weights
tiles = np.load(sys.argv[1])
print(random_weights("mobilenetv2", tiles, np.arange(len(tiles)), seed=int(sys.argv[3]), cache_dir=Path(sys.argv[2])).digest)
"""


def test_random_weights_are_determined_by_seed_and_tiles_and_are_cached(
    tiny_store: Any, tiny_weights: Weights, tmp_path: Path
) -> None:
    tiles = tiny_store.pixels(), tiny_store.rows("train")
    again = random_weights("mobilenetv2", *tiles, seed=20, cache_dir=tmp_path)
    assert again.digest == tiny_weights.digest
    written_at = Path(again.file).stat().st_mtime_ns
    assert random_weights("mobilenetv2", *tiles, seed=20, cache_dir=tmp_path) == again
    assert Path(again.file).stat().st_mtime_ns == written_at


@pytest.mark.slow
def test_processes_that_start_together_share_one_file_of_random_weights(tiny_store: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "tiles.npy", np.asarray(tiny_store.pixels()[tiny_store.rows("train")]))
    command = [sys.executable, "-c", RANDOM, str(tmp_path / "tiles.npy"), str(tmp_path / "cache"), "20"]
    started = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"})
        for _ in range(2)
    ]
    digests = {process.communicate(timeout=300)[0].strip() for process in started}
    assert len(digests) == 1
    assert digests != {""}
    assert len(list((tmp_path / "cache" / "weights").glob("*.h5"))) == 1
