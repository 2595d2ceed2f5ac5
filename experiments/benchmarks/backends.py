"""TensorFlow against JAX on this device: tiles per second in training and prediction, and the seconds of one trial.

    make bench NAME=backends ARGS="--size 160 --tiles 240 --weights DIR"
    make bench NAME=backends ARGS="--backends jax --size 256 --tiles 14000 --epochs 15 --precision mixed_bfloat16"

Every backbone is trained as a whole, where no cache helps, on rendered tiles: a trial has one head epoch and `--epochs`
tail epochs. Without `--weights DIR` it starts from random weights, and batch normalization is trained as well.
`train tiles/s` is for the median epoch after the first, which compiles; it excludes validation and includes reading the
tiles. `predict tiles/s` is for validation batches that are already in memory. The second command is the recipe of the
published original, 15 epochs of 256 steps of 32 tiles, on a GPU. Each pair of backend and backbone runs in a separate
process. Writes backends.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

NUM_BATCHES = 10  # number of batches used to time prediction


def main() -> None:
    """Measure each backbone with each backend, and print all results."""
    options = _options()
    if options.into:
        _measure(options)
        return
    rows: list[dict[str, Any]] = []
    for backbone in options.backbones:
        for backend in options.backends:
            with tempfile.TemporaryDirectory(prefix="satx-backends-") as folder:
                path = Path(folder) / "row.json"
                command = [sys.executable, __file__, *sys.argv[1:], "--backbones", backbone, "--into", str(path)]
                surroundings = os.environ | {"KERAS_BACKEND": backend, "SATX_HOME": folder}
                subprocess.run(command, check=True, env=surroundings)
                rows.append({"backbone": backbone, "backend": backend} | json.loads(path.read_text()))
        first = next(row for row in rows if row["backbone"] == backbone)
        for row in rows:
            if row["backbone"] == backbone:
                row["training's ratio"] = row["train tiles/s"] / first["train tiles/s"]
    from report import publish

    publish("backends", rows, size_px=options.size, batch_size=options.batch_size, epochs=options.epochs)


def _options() -> Any:
    parser = argparse.ArgumentParser()
    parser.add_argument("--backends", nargs="*", default=["tensorflow", "jax"])
    parser.add_argument("--backbones", nargs="*", default=["mobilenetv2", "xception"])
    parser.add_argument("--weights", default="none")
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--tiles", type=int, default=240, help="approximate number; two thirds are for training")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def _measure(options: Any) -> None:
    from satx.sample.sample import render_sample
    from satx.session_config import load_session
    from satx.sessions.prepare import SessionRequest, prepare_folder
    from satx.storage import satx_home, write_json
    from satx.tiles.layout import read_layout
    from satx.training.contract import TrainingData
    from satx.training.devices import device_name
    from satx.training.trainer import train

    (backbone,) = options.backbones
    sample = read_layout(render_sample(satx_home() / "sample", session=2, num_tiles=options.tiles))
    request = SessionRequest("2", weights=options.weights, image_size_px=options.size)
    prepared = prepare_folder(sample, load_session("2"), request, (backbone,))
    values = {
        "model.backbone": backbone,
        "model.unfreeze": "all",
        "train.head_epochs": 1,
        "train.finetune_epochs": options.epochs,
        "train.early_stopping_patience_epochs": options.epochs,
        "train.batch_size": options.batch_size,
        "train.precision": options.precision,
    }
    configuration = prepared.defaults.with_values(values, source="backends")
    positive_index = prepared.store.classes.index(prepared.session.positive_class)
    data = TrainingData(prepared.store, prepared.weights[backbone], positive_index, satx_home() / "cache")
    started = time.perf_counter()
    result = train(configuration, data, checkpoint_dir=satx_home() / "trial")
    trial_seconds = time.perf_counter() - started
    predicted = _predicted_a_second(configuration, prepared.weights[backbone])
    num_train, num_valid = len(prepared.store.rows("train")), len(prepared.store.rows("valid"))
    epochs = [epoch.epoch_seconds for epoch in result.history if epoch.phase == "tail"][1:]
    row = {
        "device": device_name(),
        "precision": options.precision,
        "training tiles": num_train,
        "train tiles/s": num_train / (statistics.median(epochs) - num_valid / predicted),
        "predict tiles/s": predicted,
        "trial s": trial_seconds,
    }
    write_json(options.into, row)


def _predicted_a_second(configuration: Any, weights: Any) -> float:
    import numpy as np
    from report import median_seconds

    from satx.training.compiled import workbench
    from satx.training.inputs import VALID_BATCH_SIZE

    size = configuration.image_size_px
    bench = workbench(weights, size, configuration.train.precision)
    steps = bench.steps("all", (size, size, 3), "uint8")  # the steps compiled for training, with the trained values
    tiles = np.random.default_rng(0).integers(0, 255, (VALID_BATCH_SIZE, size, size, 3), dtype=np.uint8)
    return VALID_BATCH_SIZE / median_seconds(lambda: steps.probabilities(tiles), repeats=NUM_BATCHES)


if __name__ == "__main__":
    main()
