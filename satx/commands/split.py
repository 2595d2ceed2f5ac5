"""`satx data split`: from tiles to train, valid and test, by blocks of the map, in `tiles.csv`."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from shlex import quote

import numpy as np

from satx.commands.console import next_commands, print_json, talk_on_stderr
from satx.commands.progress import progress_bars
from satx.commands.split_words import described, print_split
from satx.errors import ConfigError, DataError, WeightsError
from satx.models.weights_file import Weights
from satx.splits.answers import read_answers
from satx.splits.assignment import (
    Assignment,
    assign,
    check_every_class,
    check_splittable,
    ground_of,
    parse_shares,
)
from satx.splits.buffer import NOWHERE
from satx.splits.flattery import measure_flattery
from satx.splits.footprints import read_footprints
from satx.splits.neighbours import BACKBONE, NETWORK_PX, looks_of
from satx.splits.pairs import CONFIRMED, Pair, overlapping, same_pictures
from satx.storage import satx_home, write_text
from satx.tiles.layout import CSV_NAME, SPLITS, TileFile, has_table
from satx.tiles.listing import read_columns, with_cells
from satx.tiles.unsplit import UNSPLIT_COLUMNS, read_unsplit
from satx.tiles.walk import exists

BLOCK_ZOOM = 12

OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class Request:
    """What to split, and how.

    Attributes:
        folder: The tiles.
        block_zoom: Zoom of the blocks; None for `BLOCK_ZOOM` if tiles have a place.
        pairs: Table of pairs that a person answered; None for none.
        weights: Folder of weights; `none` measures no flattery; None for the usual weights, if they are found.
        shares: Shares of train, valid and test, such as `70:20:10`.
        seed: Other seeds give other splits.
        repeats: How often both kinds of split are drawn to measure flattery.
        out: Table to write; None for `tiles.csv` in the folder.
        replace: Whether a split that is there may be replaced.
    """

    folder: Path
    block_zoom: int | None
    pairs: Path | None
    weights: str | None
    shares: str
    seed: int
    repeats: int
    out: Path | None
    replace: bool

    @property
    def table(self) -> Path:
        """The table to write."""
        return self.folder / CSV_NAME if self.out is None else self.out


def split_command(request: Request, *, as_json: bool) -> None:
    """Split a folder, write the table, and measure what a random split would have flattered.

    Raises:
        ConfigError, DataError, WeightsError: The folder or an option does not allow a split; nothing was written.
    """
    if as_json:
        talk_on_stderr()
    shares = parse_shares(request.shares)
    files = read_unsplit(request.folder).files
    _check_replace(request, files)
    footprints = read_footprints(request.folder, files)
    block_zoom = _block_zoom(request, footprints)
    check_splittable(files, footprints, block_zoom, shares)
    weights, note = _weights(request)
    with progress_bars() as notify:
        pairs = _pairs(request, files, footprints, lambda done, total: notify("comparing tiles", done, total))
        ground = ground_of(files, footprints, pairs, block_zoom, shares)
        assignment = assign(ground, shares, request.seed)
        check_every_class(ground, assignment)
        write_text(request.table, _table_text(request.folder, files, assignment))
        flattery = None
        if ground.num_blocks == len(files):
            note = "Each tile is a block of its own, so this split is a random one."
        elif weights is not None:
            features = _features(files, weights, lambda done, total: notify("computing features", done, total))
            flattery = measure_flattery(
                features,
                ground,
                shares,
                seed=request.seed,
                repeats=request.repeats,
                on_progress=lambda done, total: notify("training on random and on block splits", done, total),
            )
            note = "" if flattery else "Too few of the other draws have every class in every split."
    document = {"folder": str(request.folder), "table": str(request.table), "seed": request.seed}
    document |= described(shares, pairs, ground, assignment)
    document |= {"flattery": None if flattery is None else asdict(flattery), "flattery_note": note}
    if as_json:
        print_json(document)
        return
    print_split(document, flattery)
    if request.out is None:
        folder = quote(str(request.folder))
        next_commands(
            {
                f"satx session new 3 --from 2 --add {folder}": "make a session of them",
                f"satx sweep --session 2 --data {folder}": "or sweep over them as they are",
            }
        )


def _check_replace(request: Request, files: tuple[TileFile, ...]) -> None:
    """Raise an error if a split would be replaced unasked."""
    if request.replace:
        return
    if request.out is not None and request.out.resolve() != (request.folder / CSV_NAME).resolve():
        if request.out.exists():
            raise ConfigError(
                f"--out: expected a new file, got {request.out}, which exists. Pass another, or --replace."
            )
        return
    num_split = sum(bool(file.split) for file in files)
    if num_split:
        raise ConfigError(
            f"{request.folder}: expected tiles without a split, got one for {num_split} of {len(files)}. Scores on a test split "
            f"cannot be compared with those on another; pass --replace if none are kept, or --out for another table."
        )


def _block_zoom(request: Request, footprints: np.ndarray) -> int | None:
    """Return the zoom of the blocks, None without places."""
    if np.isfinite(footprints).all(axis=1).any():
        return BLOCK_ZOOM if request.block_zoom is None else request.block_zoom
    if request.block_zoom is not None:
        raise ConfigError(
            f"--block-zoom: expected tiles with coordinates, got none in {request.folder}. Leave it out, or add the columns lon, "
            f"lat, z and window_px, or z, x and y, to {CSV_NAME}."
        )
    return None


def _weights(request: Request) -> tuple[Weights | None, str]:
    """Return the weights, or None and why flattery is not measured.

    Raises:
        WeightsError: A folder was named that does not have them.
    """
    if request.weights == "none":
        return None, "It needs pretrained weights; --weights none asked for none."
    from satx.environment import environment
    from satx.models.weights import find_weights

    folder = environment().weights_dir if request.weights is None else Path(request.weights)
    try:
        return find_weights(BACKBONE, folder, cache_dir=satx_home() / "cache", image_size_px=NETWORK_PX), ""
    except WeightsError as error:
        if request.weights is not None:
            raise
        return None, str(error)


def _pairs(
    request: Request, files: tuple[TileFile, ...], footprints: np.ndarray, on_progress: OnProgress
) -> list[Pair]:
    """Return the pairs that show the same ground, as far as no person said otherwise."""
    answers = {} if request.pairs is None else read_answers(request.pairs, files)
    found = [*overlapping(footprints), *same_pictures(files, on_progress)]
    kept = {(pair.first, pair.second): pair for pair in found if answers.get((pair.first, pair.second), True)}
    confirmed = {places: Pair(*places, CONFIRMED, 1.0) for places, is_same in answers.items() if is_same}
    return list((confirmed | kept).values())


def _features(files: tuple[TileFile, ...], weights: Weights, on_progress: OnProgress) -> np.ndarray:
    """Return the features of all tiles, (N, channels) float32, NaN for those that cannot be decoded."""
    looks = looks_of(files, weights, on_progress)
    features = np.full((len(files), looks.features.shape[1]), np.nan, np.float32)
    features[looks.numbers] = looks.features
    return features


def _table_text(root: Path, files: tuple[TileFile, ...], assignment: Assignment) -> str:
    """Return the text of the table; other columns, and lines without a tile, stay as they are."""
    cells = [
        {
            "split": SPLITS[split] if split != NOWHERE else "",
            "left_out": "" if near == NOWHERE else f"within one window of a {SPLITS[near]} tile",
        }
        for split, near in zip(assignment.splits, assignment.too_near, strict=True)
    ]
    if has_table(root):
        lines = read_columns(root / CSV_NAME, ())
        return with_cells(
            root / CSV_NAME, {lines[file.relative][0]: one for file, one in zip(files, cells, strict=True)}
        )
    stream = io.StringIO()
    writer = csv.DictWriter(stream, (*UNSPLIT_COLUMNS, "split", "left_out"), lineterminator="\n")
    writer.writeheader()
    for file, one in zip(files, cells, strict=True):
        if not exists(root / file.relative) or file.relative != file.relative.strip():
            raise DataError(
                f"{root}: expected names of files that a table can hold, got {file.relative!r}. Rename that file."
            )
        writer.writerow({"path": file.relative, "label": file.label, **one})
    return stream.getvalue()
