"""What is found of windows of the same ground planted in a rendered country, and what tells re-encodings from chance.

    make bench NAME=pairs ARGS="--weights DIR --tiles DIR"

Planted windows have 50% to 90% of their area in common with another, under each flip and turn; the others are apart. They are
looked for by their coordinates, and without them by a network's features. Pictures are encoded again in several ways, flipped or
turned, and hashes and small pictures are compared; the same is done with all other pairs, which are alike by chance.
"""

from __future__ import annotations

import argparse
import csv
import io
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance
from report import publish

from satx.sample.country import Country, degrees_of, render_window
from satx.splits.footprints import read_footprints
from satx.splits.pairs import Pair, feature_neighbours, overlapping
from satx.splits.pictures import (
    MAX_HASH_DISTANCE,
    MIN_CORRELATION,
    NUM_TURNS,
    encoded_again,
    perceptual_hashes,
    sketch_of,
    turned,
)
from satx.tiles.decode import decode_tile
from satx.tiles.unsplit import UnsplitFolder, read_unsplit

COUNTRY = Country(seed=22)
APART_PX = 600  # windows at this distance have nothing in common, even if shifted
SCORES = (0.6, 0.7, 0.8)
# quality, brightness, size, contrast
ENCODINGS = ((85, 1.0, 1.0, 1.0), (40, 1.0, 1.0, 1.0), (40, 1.15, 0.5, 1.0), (40, 0.8, 0.7, 1.0), (70, 1.0, 0.5, 1.3))
Place = tuple[int, int, int, int]  # column and row of the first pixel, size and flip or turn


def main() -> None:
    """Plant, look for and count; then encode again and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--weights", type=Path, help="folder of mobilenetv2_notop.weights.h5; without it by coordinates only"
    )
    parser.add_argument("--tiles", type=Path, help="folder of real tiles, whose encodings are compared too")
    parser.add_argument("--lone", type=int, default=600, help="windows without a pair")
    parser.add_argument("--planted", type=int, default=160, help="pairs")
    parser.add_argument("--edge", type=int, default=150, help="edge of the windows in pixels")
    arguments = parser.parse_args()
    places, pairs = plant(arguments.lone, arguments.planted, arguments.edge)
    with ProcessPoolExecutor() as pool:
        pictures = list(pool.map(rendered, places, chunksize=8))
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary) / "tiles"
        write_folder(root, places, pictures)
        rows = found_rows(read_unsplit(root), pairs, arguments.weights)
    publish("pairs", rows, num_windows=len(places), edge_px=arguments.edge, common_share="0.5 to 0.9")
    alone = {"rendered": pictures[: arguments.lone + arguments.planted]}
    if arguments.tiles:
        alone["real"] = [decode_tile(file.path.read_bytes(), "").pixels for file in read_unsplit(arguments.tiles).files]
    limits = {"max_distance": MAX_HASH_DISTANCE, "min_correlation": MIN_CORRELATION}
    publish("pairs-encoded", [row for name, several in alone.items() for row in encoded_rows(name, several)], **limits)


def plant(num_lone: int, num_planted: int, edge_px: int) -> tuple[list[Place], set[tuple[int, int]]]:
    """Return windows that are apart, then one that overlaps each of the last of them; and which pairs overlap."""
    random = np.random.default_rng(5)
    side_px = COUNTRY.width_tiles * 256 - APART_PX
    corners = [(x, y) for x in range(0, side_px, APART_PX) for y in range(0, side_px, APART_PX)]
    chosen = random.permutation(corners)[: num_lone + num_planted].tolist()
    places: list[Place] = [(x, y, edge_px, 0) for x, y in chosen]
    for number, (x, y) in enumerate(chosen[num_lone:]):
        share = random.uniform(0.5, 0.9)
        part = random.uniform(0, 1 - share)
        shift = np.round(np.array([part, 1 - share / (1 - part)]) * edge_px * random.choice([-1, 1], 2)).astype(int)
        places.append((x + int(shift[0]), y + int(shift[1]), edge_px, number % NUM_TURNS))
    first = range(num_lone, num_lone + num_planted)
    return places, {(number, number + num_planted) for number in first}


def rendered(place: Place) -> np.ndarray:
    """Return the pixels of a window, flipped or turned."""
    x, y, edge_px, turn = place
    return np.ascontiguousarray(turned(render_window(COUNTRY, x, y, edge_px), turn))


def write_folder(root: Path, places: list[Place], pictures: list[np.ndarray]) -> None:
    """Write windows as JPEG, with a table of their coordinates."""
    root.mkdir()
    with (root / "tiles.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("path", "label", "lon", "lat", "z", "window_px"))
        for number, ((x, y, edge_px, _), pixels) in enumerate(zip(places, pictures, strict=True)):
            Image.fromarray(pixels).save(root / f"{number:05d}.jpg", quality=90)
            longitude, latitude = degrees_of(COUNTRY, x + edge_px // 2, y + edge_px // 2)
            writer.writerow(
                (f"{number:05d}.jpg", "place", f"{longitude:.7f}", f"{latitude:.7f}", COUNTRY.zoom, edge_px)
            )


def found_rows(folder: UnsplitFolder, pairs: set[tuple[int, int]], weights: Path | None) -> list[dict[str, Any]]:
    """Look for the planted windows with coordinates and without; return a row for each."""
    started = time.process_time()
    footprints = read_footprints(folder.root, folder.files)
    rows = [found_row("coordinates", overlapping(footprints), pairs, time.process_time() - started)]
    if weights:
        from satx.cli_process import load_keras_quietly

        load_keras_quietly()
        from satx.models.weights import find_weights
        from satx.splits.neighbours import BACKBONE, NETWORK_PX

        found = find_weights(BACKBONE, weights, cache_dir=folder.root, image_size_px=NETWORK_PX)
        started = time.process_time()
        candidates = feature_neighbours(folder.files, np.full_like(footprints, np.nan), found)
        seconds = time.process_time() - started
        for score in SCORES:
            listed = [pair for pair in candidates if pair.score >= score]
            rows.append(found_row(f"features, score {score} or more", listed, pairs, seconds))
    return rows


def found_row(how: str, listed: list[Pair], pairs: set[tuple[int, int]], seconds: float) -> dict[str, Any]:
    """Count what is right of the pairs listed, and what is listed of the right ones."""
    right = pairs & {(pair.first, pair.second) for pair in listed}
    return {
        "how": how,
        "planted": len(pairs),
        "listed": len(listed),
        "precision": len(right) / max(len(listed), 1),
        "recall": len(right) / len(pairs),
        "processor seconds": seconds,
    }


def encoded_rows(name: str, pictures: list[np.ndarray]) -> list[dict[str, Any]]:
    """Return a row for each encoding: how many are found; and one for pairs of different pictures."""
    reduced = np.array([sketch_of(pixels, "").reduced for pixels in pictures])
    hashes = perceptual_hashes(reduced)
    rows = []
    for quality, brightness, size, contrast in ENCODINGS:
        copies = [
            encoded(turned(p, n % NUM_TURNS), quality, brightness, size, contrast) for n, p in enumerate(pictures)
        ]
        small = np.array([sketch_of(pixels, "").reduced for pixels in copies])
        distances = np.bitwise_count(perceptual_hashes(small)[:, :1] ^ hashes).min(axis=1)
        both = encoded_again(np.concatenate([reduced, small]))
        right = sum(likeness.second == likeness.first + len(pictures) for likeness in both)
        what = f"quality {quality}, brightness {brightness}, size {size}, contrast {contrast}"
        rows.append(
            {
                "tiles": name,
                "encoded": what,
                "median distance": float(np.median(distances)),
                "99% distance": float(np.quantile(distances, 0.99)),
                "found": right / len(pictures),
                "false pairs": len(both) - right,
            }
        )
    alone = encoded_again(reduced)
    blank = float("nan")
    rows.append(
        {
            "tiles": name,
            "encoded": f"not at all: {len(pictures)} different pictures",
            "median distance": blank,
            "99% distance": blank,
            "found": blank,
            "false pairs": len(alone),
        }
    )
    return rows


def encoded(pixels: np.ndarray, quality: int, brightness: float, size: float, contrast: float) -> np.ndarray:
    """Return what a picture becomes when it is resized, made brighter and of more contrast, and saved as JPEG."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if size != 1:
        image = image.resize((round(image.width * size), round(image.height * size)), Image.Resampling.BICUBIC)
    image = ImageEnhance.Contrast(ImageEnhance.Brightness(image).enhance(brightness)).enhance(contrast)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return decode_tile(stream.getvalue(), "").pixels


if __name__ == "__main__":
    main()
