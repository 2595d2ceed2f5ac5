"""The models that the conformance cases are sent to, written as exports with a `models.config` and a `batching.conf`.

    PYTHONPATH=tests .venv/bin/python -m inference.conformance.fixtures FOLDER

writes them into a folder for any server that reads these files: `satx serve`, or TensorFlow Serving in a container that
mounts the folder at the same path, since `models.config` names absolute paths. `infra/serving/README.md` has the command.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from satx.inference.manifest import write_manifest
from satx.inference.serving_files import ServedVersions, write_batching, write_models_config
from satx.storage import locked

CONFIG_NAME = "models.config"
SCHOOL_SCRIPT_MODEL = "2nd-iter_more-schools_tf-serving"


def main() -> None:
    """Write the models into the folder of the first argument."""
    write_models(Path(sys.argv[1]).resolve())


def shared_models(folder: Path) -> Path:
    """Return the `models.config` of the models in a folder; the first of several processes writes them."""
    with locked(folder):
        return folder / CONFIG_NAME if (folder / CONFIG_NAME).is_file() else write_models(folder)


def write_models(folder: Path) -> Path:
    """Write all models into a folder, and return the path of their `models.config`."""
    _write_school(folder / "school" / "1")
    for name, version, write in (
        ("two", 1, _two),
        ("floats", 1, _floats(1.0)),
        ("floats", 2, _floats(2.0)),
        ("bytes", 1, _bytes),
        ("pixels", 1, _pixels),
        ("slow", 1, _slow),
    ):
        _write_function(folder / name / str(version), write)
    write_batching(folder / "batching.conf")
    school = ServedVersions(base_path=folder / "school", versions=(1,), labels={"champion": 1})
    models = {name: school for name in ("school", "default", SCHOOL_SCRIPT_MODEL)}
    models |= {
        name: ServedVersions(base_path=folder / name, versions=(1,), labels={})
        for name in ("two", "bytes", "pixels", "slow")
    }
    labels = {"previous": 1, "champion": 2}
    models["floats"] = ServedVersions(base_path=folder / "floats", versions=(1, 2), labels=labels)
    write_models_config(folder / CONFIG_NAME, models)
    return folder / CONFIG_NAME


def _write_school(folder: Path) -> None:
    """Write a small classifier of two classes as `satx promote` writes a champion."""
    from inference.tiny import encoded, fitted_classifier, open_tiles, render_tiles
    from satx.inference.export import Provenance, export_saved_model

    with tempfile.TemporaryDirectory(prefix="satx-conformance-") as temporary:
        store = open_tiles(render_tiles(Path(temporary) / "tiles"), Path(temporary) / "cache")
        export_saved_model(
            fitted_classifier(store),
            folder,
            provenance=Provenance("school", folder_version(folder), "r" * 32, "w" * 64, {}),
            golden_bytes=[encoded(tile, "PNG") for tile in store.pixels()[:8]],
        )


def folder_version(folder: Path) -> int:
    """Return the version that an export's folder is named by."""
    return int(folder.name)


def _write_function(folder: Path, write: Callable[[Any], Any]) -> None:
    """Write one TensorFlow function as the signature `serving_default` of an export."""
    import tensorflow as tf

    module = tf.Module()
    module.function = write(tf)
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.function})
    write_manifest(folder, {"model_name": folder.parent.name, "version": folder_version(folder)})


def _two(tf: Any) -> Any:
    """Two outputs."""
    return tf.function(
        lambda x: {"doubled": 2.0 * x, "increased": x + 1.0},
        input_signature=[tf.TensorSpec((None,), tf.float32, name="x")],
    )


def _floats(factor: float) -> Callable[[Any], Any]:
    """Numbers in, numbers out, multiplied by the version so that a response tells which version gave it."""
    return lambda tf: tf.function(
        lambda x: {"y": x * factor}, input_signature=[tf.TensorSpec((None,), tf.float32, name="x")]
    )


def _bytes(tf: Any) -> Any:
    """A string whose name says that it is to be encoded as base64."""
    return tf.function(
        lambda text: {"text_bytes": tf.identity(text)},
        input_signature=[tf.TensorSpec((None,), tf.string, name="text")],
    )


def _pixels(tf: Any) -> Any:
    """Small images of one band, uint8."""
    return tf.function(
        lambda pixels: {"mean": tf.reduce_mean(tf.cast(pixels, tf.float32), axis=(1, 2))},
        input_signature=[tf.TensorSpec((None, 2, 2), tf.uint8, name="pixels")],
    )


def _slow(tf: Any) -> Any:
    """Computes for as long as its largest input says, in seconds."""

    def wait(seconds: Any) -> Any:
        ends_at = tf.timestamp() + tf.cast(tf.reduce_max(seconds), tf.float64)
        now = tf.while_loop(lambda now: now < ends_at, lambda now: (tf.timestamp(),), (tf.timestamp(),))
        with tf.control_dependencies(tf.nest.flatten(now)):
            return {"waited": tf.identity(seconds)}

    return tf.function(wait, input_signature=[tf.TensorSpec((None,), tf.float32, name="seconds")])


if __name__ == "__main__":
    main()
