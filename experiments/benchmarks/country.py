"""Bulk prediction over a rendered country: recall and precision of the candidates against its schools.

    make bench NAME=country ARGS="--weights DIR"
    make bench NAME=country ARGS="--champion --tiles 20164"     # the champion of SATX_HOME instead of a new model

Without `--champion` a model is trained first, on windows cut from other countries (other seeds: ground, colors, sun and places
all differ): the head of MobileNetV2 on the weights of `--weights`. Then `satx predict` scores every tile of the country. A
candidate is a group of touching tiles at or above a threshold; it is right if one of its tiles is at most one tile from a
school's, and a school is found if a candidate is right because of it. Two intervals are given: Wilson's, which takes all schools
as independent, and a bootstrap over squares of 12 x 12 tiles. Tiles and predictions are written below `--home`; the model
is trained and promoted in SATX_HOME, which should be empty, and results go to `SATX_HOME/benchmarks/country.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from country_matching import match, row_of
from PIL import Image
from report import publish

from satx.bulk.block_file import recorded_model
from satx.bulk.counts import collect
from satx.bulk.ledger import open_ledger
from satx.sample.canvas import TILE_PX
from satx.sample.country import Country, render_window
from satx.sample.country_files import MBTILES_NAME, country_of_size, render_country
from satx.sample.country_truth import places, schools
from satx.sample.sample import JPEG_QUALITY, NOT_SCHOOL, SCHOOL
from satx.storage import replacing, satx_home, write_json
from satx.tiles.layout import SAMPLE_MARKER

THRESHOLDS = (0.1, 0.3, 0.5, 0.7, 0.9, 0.95, 0.99)
SPLIT_SEEDS = {"train": (1, 2, 3, 4), "valid": (5,), "test": (6,)}  # added to the country's seed
SPLIT_SHARES = {"train": 0.7, "valid": 0.15, "test": 0.15}
TRAINING_COUNTRY_TILES = 5000  # holds about 75 schools
SHIFT_PX = 96  # at most, of a school from the middle of its window

Window = tuple[Country, str, int, int]  # country, class, pixel of the north-west corner


def main() -> None:
    """Render, train, predict, compare."""
    options = _options()
    home = Path(options.home or tempfile.mkdtemp(prefix="satx-country-"))
    country = country_of_size(options.tiles, options.seed)
    seconds: dict[str, float] = {}
    rendered = _timed(seconds, "render", lambda: render_country(home / "country", country, format="mbtiles"))
    model = options.model
    if not options.champion:
        data = _timed(seconds, "cut", lambda: cut_tiles(home / "session", options.seed, options.training_tiles))
        model = _timed(seconds, "train", lambda: _train(data, options))
    out = home / "predictions"
    predict = ["predict", str(rendered / MBTILES_NAME), "--out", str(out), *(["--model", model] if model else [])]
    _timed(seconds, "predict", lambda: _satx(*predict))
    scores, model_threshold = read_scores(out)
    truth = np.array([_tile_of(country, place.x_px, place.y_px) for place in schools(country)], np.int64).reshape(-1, 2)
    rows = [
        row_of(match(scores, threshold, truth), threshold, truth)
        for threshold in sorted({*THRESHOLDS, round(model_threshold, 4)})
    ]
    publish("country", rows, tiles=len(scores), seed=options.seed, model_threshold=model_threshold, **_named(seconds))


def cut_tiles(folder: Path, seed: int, num_tiles: int) -> Path:
    """Cut windows from countries of other seeds: a quarter schools, and of the rest a third market, factory or pitch."""
    marker = {
        "cut_from_seeds": {split: list(seeds) for split, seeds in SPLIT_SEEDS.items()},
        "tiles": num_tiles,
        "seed": seed,
    }
    if (folder / SAMPLE_MARKER).is_file() and json.loads((folder / SAMPLE_MARKER).read_text()) == marker:
        return folder
    windows: list[tuple[str, Window]] = []
    for split, seeds in SPLIT_SEEDS.items():
        for offset in seeds:
            country = country_of_size(TRAINING_COUNTRY_TILES, seed + offset)
            num = round(num_tiles * SPLIT_SHARES[split] / len(seeds))
            windows += [
                (split, window) for window in choose_windows(country, num, np.random.default_rng(seed + offset))
            ]
    with replacing(folder) as temporary:
        for split, window in windows:
            (temporary / split / window[1]).mkdir(parents=True, exist_ok=True)
        with ProcessPoolExecutor() as executor:
            list(executor.map(partial(_write_window, temporary), enumerate(windows), chunksize=16))
        write_json(temporary / SAMPLE_MARKER, marker)
    return folder


def choose_windows(country: Country, num: int, rng: np.random.Generator) -> list[Window]:
    """Choose where to cut: around schools, around other places, and anywhere without a school."""
    found = places(country)
    centers = np.array([place[:2] for place in found if place.is_school])
    others = [place for place in found if not place.is_school]
    windows: list[Window] = []
    for index in range(num):
        if index % 4 == 0:
            x, y = centers[rng.integers(len(centers))] + rng.uniform(-SHIFT_PX, SHIFT_PX, 2)
            windows.append((country, SCHOOL, int(x) - TILE_PX // 2, int(y) - TILE_PX // 2))
            continue
        while True:
            if index % 4 == 1:
                x, y = np.array(others[rng.integers(len(others))][:2]) + rng.uniform(-SHIFT_PX, SHIFT_PX, 2)
            else:
                x, y = rng.uniform(0, (country.width_tiles * TILE_PX, country.height_tiles * TILE_PX))
            if np.abs(centers - (x, y)).max(1).min() > TILE_PX:  # no part of a school's lot, or little of it
                windows.append((country, NOT_SCHOOL, int(x) - TILE_PX // 2, int(y) - TILE_PX // 2))
                break
    return windows


def read_scores(out: Path) -> tuple[pa.Table, float]:
    """Return the probability of each scored tile, with the columns of `satx.bulk.counts.POSITIVES`, and the model's threshold."""
    ledger = open_ledger(str(out))
    model = recorded_model(ledger.read_plan())
    blocks = (ledger.read(name) for name in sorted(ledger.finished()))
    return collect(blocks, model, threshold=0.0).positives, model.threshold


def _options() -> Any:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tiles", type=int, default=20_164)
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--champion", action="store_true", help="predict with the champion of SATX_HOME, train nothing")
    parser.add_argument("--model", help="with --champion: name of its model, if SATX_HOME has several")
    parser.add_argument("--training-tiles", type=int, default=2400)
    parser.add_argument("--weights", default="none", help="folder of mobilenetv2_notop.weights.h5")
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--home", help="folder for tiles and predictions; a second run continues there")
    return parser.parse_args()


def _train(data: Path, options: Any) -> str:
    """Train a head and make it the champion, whatever the gate says; return the name of its model."""
    settings = {"model.backbone": "mobilenetv2", "model.unfreeze": "none", "train.head_epochs": options.epochs}
    command = [
        "train",
        "--session",
        "2",
        "--data",
        str(data),
        "--weights",
        options.weights,
        "--size",
        str(options.size),
    ]
    for name, value in settings.items():
        command += ["--set", f"{name}={value}"]
    runs = re.findall(r"\b[0-9a-f]{32}\b", "".join(_satx(*command).split("\n")))
    if not runs:
        raise SystemExit("country: expected the id of a run in what `satx train` printed, got none.")
    promoted = _satx("promote", "--run-id", runs[-1], "--force", "benchmark on a rendered country", "--json")
    return str(json.loads(promoted)["task"])


def _satx(*arguments: str) -> str:
    """Run a command of satx, show what it prints, and return it."""
    command = [sys.executable, "-m", "satx", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"COLUMNS": "200"})
    lines = []
    for line in process.stdout or ():
        print(line, end="", flush=True)
        lines.append(line)
    if process.wait():
        raise SystemExit(f"country: `satx {arguments[0]}` ended with {process.returncode}.")
    return "".join(lines)


def _write_window(folder: Path, numbered: tuple[int, tuple[str, Window]]) -> None:
    index, (split, (country, label, x_px, y_px)) = numbered
    image = Image.fromarray(render_window(country, x_px, y_px, TILE_PX))
    image.save(folder / split / label / f"{country.seed}-{index:05d}.jpg", quality=JPEG_QUALITY)


def _tile_of(country: Country, x_px: float, y_px: float) -> tuple[int, int]:
    return country.west_x + int(x_px // TILE_PX), country.north_y + int(y_px // TILE_PX)


def _timed(seconds: dict[str, float], name: str, call: Any) -> Any:
    started = time.perf_counter()
    result = call()
    seconds[name] = time.perf_counter() - started
    return result


def _named(seconds: dict[str, float]) -> dict[str, float]:
    return {f"{name} s": value for name, value in seconds.items()}


if __name__ == "__main__":
    print(f"SATX_HOME is {satx_home()}")
    main()
