"""Sample sessions: rendered tiles for users without imagery, in two sessions that differ as the real ones did.

In session 1 most not-school tiles show open land, so its models are over-confident where there are houses. Session 2
contains all of session 1, more schools, and many not-school tiles of built-up places. Both have the same valid and test
tiles.
"""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from satx.errors import ConfigError, DataError, nearest_name
from satx.sample.scenes import BUILT_UP_KINDS, OPEN_LAND_KINDS, SCHOOL_KINDS, render_scene
from satx.storage import replacing, write_json
from satx.tiles.layout import SAMPLE_MARKER, SPLITS

RENDERER_VERSION = 1  # increment when the same seed gives other pixels
SCHOOL, NOT_SCHOOL = "school", "not-school"
MIN_TILES = 40

JPEG_QUALITY = 92
_CSV_HEADER = ("path", "label", "split", "slice", "source_class")
# Tiles per split: (schools, built-up not-schools, open-land not-schools).
_EVALUATION_SIZES = (100, 60, 40)
_TRAIN_SIZES = {1: (220, 30, 150), 2: (320, 270, 210)}
# (label, kinds, slices to cycle through): schools are everywhere, most houses in towns, most open land outside.
_GROUPS = (
    (SCHOOL, SCHOOL_KINDS, ("rural", "urban")),
    (NOT_SCHOOL, BUILT_UP_KINDS, ("urban", "urban", "rural", "urban")),
    (NOT_SCHOOL, OPEN_LAND_KINDS, ("rural", "rural", "urban", "rural")),
)


@dataclass(frozen=True)
class _Tile:
    path: str
    label: str
    split: str
    slice: str
    kind: str
    entropy: tuple[int, ...]


def render_sample(
    folder: Path,
    *,
    session: int,
    num_tiles: int | None = None,
    seed: int = 20,
    workers: int | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Render a sample session; the pixels depend on the seed, not on the number of workers.

    Args:
        folder: Output folder, written completely or not at all. Replaces a sample with other settings in its place.
        session: 1 or 2.
        num_tiles: Approximate number of tiles, in unchanged proportions; None gives 800 in session 1 and 1,200 in
            session 2. The sessions have the same valid and test tiles if both are scaled by the same factor.
        seed: Seed of the tiles.
        workers: Number of processes; None uses one per processor.
        on_progress: Called with (done, total).

    Returns:
        The folder, with `train|valid|test/<class>/*.jpg`, `tiles.csv` and the sample marker.

    Raises:
        ConfigError: The session does not exist, or there are too few tiles for every kind of place to appear.
        DataError: The folder contains files but no sample.
    """
    tiles = _plan(session, num_tiles, seed)
    marker = _marker(tiles, session, seed)
    if _is_complete(folder, tiles, marker):
        return folder
    refuse_other_files(folder)
    with replacing(folder) as temporary:
        for subfolder in {Path(tile.path).parent for tile in tiles}:
            (temporary / subfolder).mkdir(parents=True)
        _render_all(tiles, temporary, os.cpu_count() or 1 if workers is None else workers, on_progress)
        _write_csv(temporary / "tiles.csv", tiles)
        write_json(temporary / SAMPLE_MARKER, marker)
    return folder


def render_tile(label: str, slice_name: str, seed: int) -> NDArray[np.uint8]:
    """Render one tile of a class, with a random kind of place.

    Args:
        label: "school" or "not-school".
        slice_name: "rural" or "urban".
        seed: Determines everything else.

    Returns:
        (256, 256, 3) uint8.

    Raises:
        ConfigError: The class or slice is unknown.
    """
    kinds = {SCHOOL: SCHOOL_KINDS, NOT_SCHOOL: (*BUILT_UP_KINDS, *OPEN_LAND_KINDS)}
    if label not in kinds:
        raise ConfigError(f"Expected a class of the sample, got {label!r}. {nearest_name(label, kinds)}")
    if slice_name not in ("rural", "urban"):
        raise ConfigError(
            f"Expected a slice of the sample, got {slice_name!r}. {nearest_name(slice_name, ('rural', 'urban'))}"
        )
    rng = np.random.default_rng(seed)
    return render_scene(kinds[label][rng.integers(len(kinds[label]))], slice_name, rng)


def refuse_other_files(folder: Path) -> None:
    """Check that a folder may be replaced.

    Raises:
        DataError: It contains files but no sample.
    """
    if folder.exists() and not (folder / SAMPLE_MARKER).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(
            f"Expected a new or empty folder or an earlier sample, got {folder}, which contains other files. Pass another folder."
        )


def _plan(session: int, num_tiles: int | None, seed: int) -> list[_Tile]:
    if session not in _TRAIN_SIZES:
        raise ConfigError(f"Expected sample session 1 or 2, got {session}. Pass one of these.")
    if num_tiles is not None and num_tiles < MIN_TILES:
        raise ConfigError(f"Expected at least {MIN_TILES} tiles in a sample, got {num_tiles}. Pass a larger number.")
    full = sum(_TRAIN_SIZES[session]) + 2 * sum(_EVALUATION_SIZES)
    scale = 1.0 if num_tiles is None else num_tiles / full
    tiles = []
    for split_index, split in enumerate(SPLITS):
        sizes = _TRAIN_SIZES[session] if split == "train" else _EVALUATION_SIZES
        for group_index, (size, (label, kinds, slices)) in enumerate(zip(sizes, _GROUPS, strict=True)):
            for index in range(max(1, round(size * scale))):
                kind, slice_name = kinds[index % len(kinds)], slices[index // len(kinds) % len(slices)]
                path = f"{split}/{label}/{kind}-{slice_name}-{index:04d}.jpg"
                tiles.append(_Tile(path, label, split, slice_name, kind, (seed, split_index, group_index, index)))
    return tiles


def _marker(tiles: Sequence[_Tile], session: int, seed: int) -> dict[str, Any]:
    counts = Counter(f"{tile.split}/{tile.label}" for tile in tiles)
    return {"renderer_version": RENDERER_VERSION, "seed": seed, "session": session, "counts": dict(counts)}


def _is_complete(folder: Path, tiles: Sequence[_Tile], marker: dict[str, Any]) -> bool:
    marker_file = folder / SAMPLE_MARKER
    if not marker_file.is_file() or not (folder / "tiles.csv").is_file():
        return False
    try:
        found = json.loads(marker_file.read_text())
    except ValueError:
        return False
    return bool(found == marker) and all((folder / tile.path).is_file() for tile in tiles)


def _render_all(tiles: Sequence[_Tile], folder: Path, workers: int, on_progress: Callable[[int, int], None]) -> None:
    write = partial(_write_tile, folder)
    if workers <= 1:
        for done, tile in enumerate(tiles, start=1):
            write(tile)
            on_progress(done, len(tiles))
        return
    # Spawn, do not fork: the caller may have threads, such as TensorFlow's, that do not survive a fork.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as executor:
        for done, _ in enumerate(executor.map(write, tiles, chunksize=8), start=1):
            on_progress(done, len(tiles))


def _write_tile(folder: Path, tile: _Tile) -> None:
    pixels = render_scene(tile.kind, tile.slice, np.random.default_rng(tile.entropy))
    Image.fromarray(pixels).save(folder / tile.path, quality=JPEG_QUALITY)


def _write_csv(path: Path, tiles: Sequence[_Tile]) -> None:
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(_CSV_HEADER)
        writer.writerows((tile.path, tile.label, tile.split, tile.slice, tile.kind) for tile in tiles)
