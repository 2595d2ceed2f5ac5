"""Tiles a second from a folder of JPEGs to Parquet, against the bare model on decoded tiles, both in one run.

    make bench NAME=predict ARGS="--seconds 20 --rounds 5"

A round times the engine on a folder (read, decode, judge, resize, score, write), then the model alone on the same tiles, decoded
before. Decoding takes processor time from the model when all processors are in use, so the ratio is also given with that time
deducted: the seconds of the engine less the processor seconds of the judges, divided by the number of processors. Weights are
random; the tiles are rendered.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image
from report import publish

from satx.bulk.engine import predict_blocks
from satx.bulk.ledger import open_ledger
from satx.bulk.local_scorer import LocalScorer, open_local_scorer
from satx.bulk.plan import plan_files
from satx.config import ModelConfig
from satx.environment import num_processors
from satx.imagery.folder import list_files, open_folder
from satx.models.backbones import Network, build_backbone, build_head
from satx.models.classifier import Classifier, save_classifier
from satx.sample.sample import render_tile
from satx.tiles.decode import decode_tile, resize_tile

NUM_PICTURES = 64  # different ones; the folder has copies of them


def main() -> None:
    """Time both backbones at both sizes."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=float, default=20.0, help="about how long one measurement takes")
    options.add_argument("--rounds", type=int, default=5)
    arguments = options.parse_args()
    pictures = [picture(number) for number in range(NUM_PICTURES)]
    rows = []
    for backbone in ("mobilenetv2", "xception"):
        for size_px in (160, 256):
            with TemporaryDirectory() as temporary:
                rows.append(measured(backbone, size_px, pictures, Path(temporary), arguments.seconds, arguments.rounds))
    publish("predict", rows)


def measured(
    backbone: str, size_px: int, pictures: list[bytes], folder: Path, seconds: float, rounds: int
) -> dict[str, object]:
    """Return the medians over rounds for one backbone and size."""
    scorer = make_scorer(backbone, size_px, folder / "model")
    decoded = np.stack([resize_tile(decode_tile(data, "tile").pixels, size_px) for data in pictures])
    bare_seconds(scorer, decoded, 2 * len(decoded))  # compiles
    num_tiles = max(1, round(seconds / bare_seconds(scorer, decoded, 128) * 128 / 256)) * 256
    tiles = folder / "tiles"
    tiles.mkdir()
    for number in range(num_tiles):
        (tiles / f"{number:06d}.jpg").write_bytes(pictures[number % len(pictures)])
    plan = plan_files(list_files(tiles))
    found = []
    for number in range(rounds):
        ledger, imagery = open_ledger(str(folder / f"out-{number}")), open_folder(tiles)
        began = time.perf_counter()
        judging = predict_blocks(plan, plan.blocks, imagery, scorer, ledger)
        engine = time.perf_counter() - began
        imagery.close()
        bare = bare_seconds(scorer, decoded, num_tiles)
        found.append((engine, judging, bare, bare / engine, bare / (engine - judging / num_processors())))
        print(f"{backbone}, {size_px} px, round {number + 1} of {rounds}: ratio {found[-1][-1]:.3f}", flush=True)
    engine, judging, bare, ratio, deducted = (median(column) for column in zip(*found, strict=True))
    return {
        "backbone": backbone,
        "tile px": size_px,
        "tiles": num_tiles,
        "engine tiles/s": num_tiles / engine,
        "bare tiles/s": num_tiles / bare,
        "ratio": ratio,
        "judging ms a tile": judging / num_tiles * 1000,
        "ratio, judging deducted": deducted,
        "lowest": min(item[-1] for item in found),
        "highest": max(item[-1] for item in found),
    }


def make_scorer(backbone: str, size_px: int, folder: Path) -> LocalScorer:
    """Return the scorer of a classifier with random weights, loaded as a champion is."""
    model = ModelConfig(backbone=backbone, unfreeze="none")
    trunk = build_backbone(backbone, size_px, None)
    network = Network(backbone, trunk, None, build_head(trunk.output_shape[-1], 2, model))
    classes = ("not-school", "school")
    save_classifier(
        Classifier(network, model, size_px, classes, positive_class="school", task="school", sample=True), folder
    )
    return open_local_scorer(folder, name="school", version=1, weights_sha256=None, precision="float32")


def bare_seconds(scorer: LocalScorer, decoded: np.ndarray, num_tiles: int) -> float:
    """Return the seconds of scoring decoded tiles, in batches as the engine makes them."""
    began = time.perf_counter()
    for batch in batches(decoded, num_tiles, scorer.batch_size):
        scorer.score(batch, [b""] * len(batch))
    return time.perf_counter() - began


def batches(decoded: np.ndarray, num_tiles: int, batch_size: int) -> Iterator[np.ndarray]:
    """Yield batches of a number of tiles."""
    for start in range(0, num_tiles, batch_size):
        yield decoded[np.arange(start, min(start + batch_size, num_tiles)) % len(decoded)]


def picture(number: int) -> bytes:
    """Return a rendered tile as JPEG."""
    file = io.BytesIO()
    label = "school" if number % 2 else "not-school"
    Image.fromarray(render_tile(label, "urban" if number % 4 < 2 else "rural", number)).save(file, "jpeg", quality=85)
    return file.getvalue()


if __name__ == "__main__":
    main()
