"""Do a random split and a block split flatter? Both are compared with fresh ground of rendered countries.

    make bench NAME=split ARGS="--weights DIR"
    make bench NAME=split ARGS="--weights DIR --countries 20 --places 120"

Each country has another seed: other ground, colors, sun and places. In its west, places are collected as people do it: half of
them schools, half markets, factories, pitches and plain ground, several overlapping windows of each. In its east, `GAP_TILES`
beyond, the same number of places with one window each are fresh ground: what a model meets after it is delivered. Labels are the
truth. The windows are blurred to `--detail` pixels a side, some 20 m each, as of a satellite that maps whole countries: at the
full resolution the drawn schools are so easy to tell that every split says an AUC of 1.

Windows are read, grouped, split and measured by the code of `satx data split`: the features are those of a frozen MobileNetV2,
and the random and the block split are drawn `--repeats` times. Each classifier is also scored on the fresh ground. What a split
flatters in a country is its mean test AUC minus the mean AUC of the same classifiers on fresh ground. Countries are independent,
so the interval over them is Student's.

Tiles are written below `--home`; results go to `SATX_HOME/benchmarks/split.json`.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from report import publish
from scipy.stats import t

from satx.evaluation.metrics import roc_auc
from satx.sample.canvas import TILE_PX
from satx.sample.country import Country, degrees_of, render_window
from satx.sample.country_ground import CORRELATION_LENGTH_PX
from satx.sample.country_truth import Place, places
from satx.sample.sample import JPEG_QUALITY, NOT_SCHOOL, SCHOOL
from satx.splits.assignment import Ground, assign, ground_of, lacking_class, parse_shares
from satx.splits.buffer import TRAIN
from satx.splits.flattery import measure_flattery, random_like, trained_scores
from satx.splits.footprints import read_footprints
from satx.splits.pairs import overlapping
from satx.storage import replacing, satx_home
from satx.tiles.unsplit import UnsplitFolder, read_unsplit

SIDE_TILES = 64  # of the region in which places are collected, and of the fresh one
GAP_TILES = 32  # between them: 8,192 px, over four times the correlation length
SHIFT_PX = 64  # at most, of a window from the middle of its place
SHARES = parse_shares("70:20:10")


class Spot(NamedTuple):
    """A place to cut windows from: its class and kind, and the pixels in the middle of the windows."""

    label: str
    kind: str
    middles: tuple[tuple[int, int], ...]


def main() -> None:
    """Render, split, train and score every country, and print the differences."""
    options = _options()
    home = Path(options.home or tempfile.mkdtemp(prefix="satx-split-"))
    rows: list[dict[str, Any]] = []
    for seed in range(options.seed, options.seed + options.countries):
        near, far = cut_windows(home / str(seed), seed, options)
        row = {"country": seed} | compared(near, far, seed, options)
        rows.append(row)
        print(
            ", ".join(f"{name} {value:.3f}" if isinstance(value, float) else str(value) for name, value in row.items())
        )
    columns = {
        "random test minus fresh": ("random test", "random fresh"),
        "block test minus fresh": ("block test", "block fresh"),
        "random test minus block test": ("random test", "block test"),
    }
    differences = {
        name: _interval(np.array([row[one] - row[other] for row in rows])) for name, (one, other) in columns.items()
    }
    publish("split", rows, **differences, correlation_length_px=CORRELATION_LENGTH_PX, options=vars(options))


def compared(near: UnsplitFolder, far: UnsplitFolder, seed: int, options: Any) -> dict[str, Any]:
    """Return mean AUC of both splits on their test tiles and on fresh ground, and what satx measures without fresh ground."""
    features, fresh = features_of(near, options), features_of(far, options)
    fresh_labels = np.array([file.label == SCHOOL for file in far.files], np.int64)
    footprints = read_footprints(near.root, near.files)
    ground = ground_of(near.files, footprints, overlapping(footprints), options.block_zoom, SHARES)
    found = measure_flattery(
        features, ground, SHARES, seed=seed, repeats=options.repeats, on_progress=lambda done, total: None
    )
    if found is None:
        raise SystemExit(f"split: expected every class in every split of country {seed}. Pass more --places.")
    random_fresh, block_fresh = scores_on_fresh(features, ground, fresh, fresh_labels, seed, options.repeats)
    return {
        "random test": found.random_auc,
        "random fresh": random_fresh,
        "block test": found.block_auc,
        "block fresh": block_fresh,
        "satx measures": str(found.difference),
    }


def scores_on_fresh(
    features: np.ndarray, ground: Ground, fresh: np.ndarray, fresh_labels: np.ndarray, seed: int, repeats: int
) -> tuple[float, float]:
    """Return the mean AUC on fresh ground of the classifiers that `measure_flattery` trains on random and on block splits."""
    everything, labels = np.concatenate([features, fresh]), np.concatenate([ground.labels, fresh_labels])
    rows = np.arange(len(features), len(everything))
    of_random, of_block = [], []
    for number in range(seed, seed + repeats):
        splits = assign(ground, SHARES, number).splits
        if lacking_class(ground, splits):
            continue
        drawn = random_like(splits, ground.labels, np.random.default_rng(number))
        for found, kind in ((of_random, drawn), (of_block, splits)):
            scores = trained_scores(everything, labels, np.flatnonzero(kind == TRAIN), rows)
            found.append(roc_auc(fresh_labels, scores, positive_index=1))
    return float(np.mean(of_random)), float(np.mean(of_block))


def cut_windows(folder: Path, seed: int, options: Any) -> tuple[UnsplitFolder, UnsplitFolder]:
    """Cut the windows of a country, collected and fresh, into folders as `satx data fetch` leaves them."""
    country = Country(seed=seed, width_tiles=2 * SIDE_TILES + GAP_TILES, height_tiles=SIDE_TILES)
    if not folder.is_dir():
        rng = np.random.default_rng(seed)
        found = places(country)
        with replacing(folder) as temporary:
            for name, west_tile, num_windows in (
                ("collected", 0, options.windows),
                ("fresh", SIDE_TILES + GAP_TILES, 1),
            ):
                spots = choose(found, west_tile * TILE_PX, options.places, num_windows, rng)
                write_windows(temporary / name, country, spots, options.detail)
    return read_unsplit(folder / "collected"), read_unsplit(folder / "fresh")


def choose(found: list[Place], west_px: int, num: int, num_windows: int, rng: np.random.Generator) -> list[Spot]:
    """Choose places of a region, half of them schools, and windows of each.

    Of the places without a school, half are markets, factories and pitches, half plain ground; none of their windows shows much
    of a school.
    """
    side_px = SIDE_TILES * TILE_PX
    inside = [place for place in found if 0 <= place.x_px - west_px < side_px]
    schools = [place for place in inside if place.is_school]
    centers = np.array([place[:2] for place in schools])
    others = iter([inside[index] for index in rng.permutation(len(inside)) if not inside[index].is_school])
    spots = [
        Spot(SCHOOL, place.kind, _middles(place.x_px, place.y_px, num_windows, rng))
        for place in (schools[index] for index in rng.permutation(len(schools))[: num // 2])
    ]
    while len(spots) < num:
        place = next(others) if len(spots) % 2 else None
        x_px, y_px = place[:2] if place else rng.uniform(0, side_px, 2) + np.array((west_px, 0))
        if np.abs(centers - (x_px, y_px)).max(axis=1).min() > TILE_PX + SHIFT_PX:
            spots.append(Spot(NOT_SCHOOL, place.kind if place else "ground", _middles(x_px, y_px, num_windows, rng)))
    return spots


def write_windows(folder: Path, country: Country, spots: list[Spot], detail_px: int) -> None:
    """Render windows into a folder with a `tiles.csv`."""
    for label in (SCHOOL, NOT_SCHOOL):
        (folder / "tiles" / label).mkdir(parents=True)
    with ProcessPoolExecutor() as executor:
        write = partial(_write_spot, folder, country, detail_px)
        rows = [row for rows in executor.map(write, enumerate(spots), chunksize=4) for row in rows]
    with (folder / "tiles.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def features_of(folder: UnsplitFolder, options: Any) -> np.ndarray:
    """Return the features of a folder's tiles, (N, channels) float32."""
    from satx.models.weights import find_weights
    from satx.splits.neighbours import BACKBONE, NETWORK_PX, looks_of

    weights = find_weights(BACKBONE, Path(options.weights), cache_dir=satx_home() / "cache", image_size_px=NETWORK_PX)
    looks = looks_of(folder.files, weights)
    if len(looks.numbers) < len(folder.files):
        raise SystemExit(f"split: expected {len(folder.files)} tiles that can be decoded, got {len(looks.numbers)}.")
    return np.asarray(looks.features, np.float32)


def _middles(x_px: float, y_px: float, num: int, rng: np.random.Generator) -> tuple[tuple[int, int], ...]:
    shifted = rng.uniform(-SHIFT_PX, SHIFT_PX, (num, 2)) + np.array((x_px, y_px))
    return tuple((int(x), int(y)) for x, y in shifted)


def _write_spot(folder: Path, country: Country, detail_px: int, numbered: tuple[int, Spot]) -> list[dict[str, Any]]:
    """Render the ground around a place once, and cut its windows from it."""
    number, spot = numbered
    low, high = np.min(spot.middles, axis=0) - TILE_PX // 2, np.max(spot.middles, axis=0) + TILE_PX // 2
    picture = Image.fromarray(render_window(country, int(low[0]), int(low[1]), int((high - low).max())))
    rows = []
    for index, (x_px, y_px) in enumerate(spot.middles):
        left, top = x_px - TILE_PX // 2 - int(low[0]), y_px - TILE_PX // 2 - int(low[1])
        window = picture.crop((left, top, left + TILE_PX, top + TILE_PX))
        coarse = window.resize((detail_px, detail_px), Image.Resampling.BOX).resize((TILE_PX, TILE_PX))
        path = f"tiles/{spot.label}/{number:04d}-{index}.jpg"
        coarse.save(folder / path, quality=JPEG_QUALITY)
        longitude, latitude = degrees_of(country, x_px, y_px)
        place = {"lon": f"{longitude:.9f}", "lat": f"{latitude:.9f}", "z": country.zoom, "window_px": TILE_PX}
        rows.append({"path": path, "label": spot.label, "split": "", "slice": spot.kind, **place, "status": "done"})
    return rows


def _interval(values: np.ndarray) -> str:
    """Return mean and 95% interval of independent values, in words."""
    reach = float(t.ppf(0.975, len(values) - 1)) * float(values.std(ddof=1)) / len(values) ** 0.5
    mean = float(values.mean())
    return f"{mean:+.4f} ({mean - reach:+.4f} to {mean + reach:+.4f})"


def _options() -> Any:
    parser = argparse.ArgumentParser()
    parser.add_argument("--weights", required=True, help="folder of mobilenetv2_notop.weights.h5")
    parser.add_argument("--seed", type=int, default=100, help="seed of the first country")
    parser.add_argument("--countries", type=int, default=16, help="at least 2")
    parser.add_argument("--places", type=int, default=60, help="in each region")
    parser.add_argument("--windows", type=int, default=3, help="of each collected place")
    parser.add_argument("--detail", type=int, default=8, help="pixels of detail along a window of 256")
    parser.add_argument("--block-zoom", type=int, default=14)
    parser.add_argument("--repeats", type=int, default=10, help="draws of both splits in each country")
    parser.add_argument("--home", help="folder of the tiles; a second run continues there")
    return parser.parse_args()


if __name__ == "__main__":
    print(f"SATX_HOME is {satx_home()}")
    main()
