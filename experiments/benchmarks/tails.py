"""Time one training step of every tail in three ways, to explain why satx is below the floor that `replay` computes.

    make bench NAME=tails ARGS="--weights DIR --size 160"

`keras ms` is the tail as a Keras model with Keras's optimizer: `train_on_batch` on feature maps that are already in
memory, which is what remains of plain Keras training when nothing frozen is computed. `satx, Keras's layers ms` is
satx's compiled step on the same layers. `satx ms` is the same step with the operations of `models/faster.py`, as trials
run it. All three alternate on the same maps with batch size 32, and medians are reported. `of multiply-adds` is the
time the step would take if its multiply-adds ran as fast as those of the whole backbone in Keras; late layers have more
channels and smaller maps, and run faster. Writes tails.json.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from plain import Frozen
from report import publish

from satx.catalogue import ALL, BACKBONES
from satx.config import Configuration, ModelConfig
from satx.models.backbones import build_backbone, split_backbone
from satx.models.weights_file import Weights
from satx.search.space import load_sweep, unfreeze_choices
from satx.storage import file_digest
from satx.training.batch import Batch, OptimizerSettings
from satx.training.compiled import CompiledSteps, Workbench, workbench
from satx.training.head import initial_head

BATCH_SIZE, NUM_CLASSES, UNITS, RATE = 32, 2, 256, 1e-5


def main() -> None:
    """Measure every cut of the sweep, in the order of its space."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--sweep", default="seed200")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    sweep, rows = load_sweep(options.sweep), []
    for backbone in sweep.backbones:
        path = options.weights / f"{backbone}_notop.weights.h5"
        weights = Weights(backbone, str(path), file_digest(path), "file")
        cuts = [cut for cut in unfreeze_choices(sweep, backbone, Configuration()) if cut != "none"]
        found = {cut: measured(weights, cut, options.size, options.rounds) for cut in cuts}
        whole = found[ALL]["keras ms"] if ALL in found else float("nan")
        for cut, row in found.items():
            share = BACKBONES[backbone].tail_share(cut)
            gains = {
                "of multiply-adds": whole * share,
                "keras / satx": row["keras ms"] / row["satx ms"],
                "multiply-adds / satx": whole * share / row["satx ms"],
            }
            rows.append({"class": f"{backbone} {cut}", **row, **gains})
    publish("tails", rows, batch_size=BATCH_SIZE, image_size_px=options.size)


def measured(weights: Weights, cut: str, size_px: int, rounds: int) -> dict[str, Any]:
    """Return the milliseconds of one step of a tail for each way; the three alternate."""
    shared = workbench(weights, size_px, "float32")
    backbone = build_backbone(weights.backbone, size_px, weights.verified_file())
    original = {
        variable.path: np.array(variable) for variable in backbone.variables
    }  # not `shared.original`: unnamed layers get new numbers
    plain = Workbench(weights, "float32", backbone, original)
    trunk, tail = split_backbone(plain.backbone, weights.backbone, cut)
    shape = (size_px, size_px, 3) if trunk is None else tuple(trunk.output.shape[1:])
    dtype = "uint8" if trunk is None else "float16"
    draw = np.random.default_rng(0)
    inputs = (
        draw.integers(0, 256, (BATCH_SIZE, *shape)).astype(np.uint8)
        if trunk is None
        else draw.random((BATCH_SIZE, *shape))
    )
    targets = np.eye(NUM_CLASSES, dtype=np.float32)[np.arange(BATCH_SIZE) % NUM_CLASSES]
    ones = np.ones(BATCH_SIZE, np.float32)
    batch = Batch(inputs.astype(dtype), targets, ones, np.ones((1, 1), np.float32))
    model, values = keras_model(tail, shape), inputs.astype(np.float32)
    ways: dict[str, Callable[[], object]] = {
        "keras ms": lambda: model.train_on_batch(values, targets, sample_weight=ones),
        "satx, Keras's layers ms": stepping(plain.steps(cut, shape, dtype), plain, batch),
        "satx ms": stepping(shared.steps(cut, shape, dtype), shared, batch),
    }
    for step in ways.values():  # the first call compiles
        step()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, step in ways.items():
            started = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - started)
    return {name: 1000 * statistics.median(found) for name, found in seconds.items()}


def keras_model(tail: Any, shape: tuple[int, ...]) -> Any:
    """Build tail and head from Keras's layers, with the tail in inference mode as in plain Keras training."""
    inputs = keras.Input(shape)
    values = keras.layers.GlobalAveragePooling2D()(Frozen(tail)(inputs))
    values = keras.layers.Dense(UNITS, activation="relu")(values)
    model = keras.Model(inputs, keras.layers.Dense(NUM_CLASSES, activation="softmax")(values))
    model.compile(optimizer=keras.optimizers.Adam(RATE), loss="categorical_crossentropy", jit_compile=False)
    return model


def stepping(steps: CompiledSteps, bench: Workbench, batch: Batch) -> Callable[[], object]:
    """Return a function that runs one training step and waits for it."""
    name = bench.weights.backbone
    model = ModelConfig(backbone=name, unfreeze="none", dense_units=UNITS)
    head = initial_head(BACKBONES[name].num_features, NUM_CLASSES, model, seed=1)
    steps.begin([*bench.tail_values(steps), *head], None, settings=OptimizerSettings("adam", 0.0), activation="relu")
    return lambda: float(steps.train_on_batch(batch, RATE)[0])


if __name__ == "__main__":
    main()
