"""`satx data pairs`: which tiles show the same ground, for certain or perhaps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np

from satx.commands.console import next_commands, out, print_json, table, talk_on_stderr
from satx.commands.progress import progress_bars
from satx.environment import environment
from satx.models.weights_file import Weights
from satx.splits.answers import Row, read_rows, write_pairs
from satx.splits.footprints import read_footprints
from satx.splits.neighbours import BACKBONE, NETWORK_PX
from satx.splits.pairs import Pair, feature_neighbours, overlapping, same_pictures
from satx.splits.pairs_picture import draw_pairs
from satx.storage import replacing, satx_home
from satx.tiles.layout import TileFile
from satx.tiles.unsplit import read_unsplit

NO_WEIGHTS = "none"
MAX_ROWS = 20  # of the printed table
_ANSWERS = {True: "yes", False: "no", None: ""}
_KINDS = {
    "overlap": "squares on the map overlap",
    "pixels": "the same picture, flipped or turned or not",
    "hash": "the same picture encoded again",
    "features": "look alike and fit on each other: a person decides",
}


@dataclass(frozen=True)
class PlacedTiles:
    """The tiles of a folder and where they lie.

    Attributes:
        folder: The folder.
        files: The tiles.
        footprints: (N, 4) float64 from `read_footprints`.
    """

    folder: Path
    files: tuple[TileFile, ...]
    footprints: np.ndarray

    @property
    def num_unplaced(self) -> int:
        """Number of tiles whose place is unknown."""
        return int(np.isnan(self.footprints).any(axis=1).sum())


def placed_tiles(folder: Path) -> PlacedTiles:
    """Find the tiles of a folder and read where they lie.

    Raises:
        DataError: The folder or its `tiles.csv` cannot be read.
    """
    found = read_unsplit(folder)
    return PlacedTiles(folder, found.files, read_footprints(folder, found.files))


def pairs_command(tiles: PlacedTiles, *, weights: str | None, max_pairs: int, table_file: Path, as_json: bool) -> None:
    """List pairs of the same ground; write them as a table for a person to answer, and as a picture.

    Raises:
        DataError: There is a file of another kind in the table's place.
        WeightsError: Some tiles have no place on the map, and the weights of the network are not found.
    """
    if as_json:
        talk_on_stderr()
    if table_file.exists():
        read_rows(table_file)  # a wrong file is refused before the work, not after it
    found = _found_weights(weights) if tiles.num_unplaced and weights != NO_WEIGHTS else None
    with progress_bars() as on_progress:
        certain = _certain(tiles, on_progress)
        candidates = [] if found is None else _candidates(tiles, found, certain, on_progress)
    listed = [*candidates[:max_pairs], *certain]
    rows = write_pairs(table_file, listed, tiles.files)
    picture = table_file.with_suffix(".png")
    if listed:
        with replacing(picture) as temporary:
            temporary.write_bytes(draw_pairs(listed[:max_pairs], tiles.files))
    if as_json:
        print_json(_document(tiles, listed, rows, len(candidates), table_file, picture))
        return
    _print_pairs(tiles, listed, rows, len(candidates), searched=found is not None)
    out.print(f"Pairs are in {table_file}" + (f", and side by side in {picture}." if listed else "."))
    if candidates:
        out.print("Write yes or no into the column same_ground; repeating this command keeps the answers.")
    split = f"satx data split {quote(str(tiles.folder))} --pairs {quote(str(table_file))}"
    next_commands({split: "keep each pair that is answered yes in one split"})


def _found_weights(weights: str | None) -> Weights:
    from satx.models.weights import find_weights

    folder = environment().weights_dir if weights is None else Path(weights)
    return find_weights(BACKBONE, folder, cache_dir=satx_home() / "cache", image_size_px=NETWORK_PX)


def _certain(tiles: PlacedTiles, on_progress: Callable[[str, int, int], None]) -> list[Pair]:
    """Return the pairs that need no answer, each two tiles once."""
    pairs = [*overlapping(tiles.footprints), *same_pictures(tiles.files, partial(on_progress, "reading tiles"))]
    found: dict[tuple[int, int], Pair] = {}
    for pair in pairs:
        found.setdefault((pair.first, pair.second), pair)
    return list(found.values())


def _candidates(
    tiles: PlacedTiles, weights: Weights, certain: Sequence[Pair], on_progress: Callable[[str, int, int], None]
) -> list[Pair]:
    return feature_neighbours(tiles.files, tiles.footprints, weights, certain=certain, on_progress=on_progress)


def _document(
    tiles: PlacedTiles,
    listed: Sequence[Pair],
    rows: Sequence[Row],
    num_candidates: int,
    table_file: Path,
    picture: Path,
) -> dict[str, Any]:
    return {
        "folder": str(tiles.folder),
        "num_tiles": len(tiles.files),
        "num_without_place": tiles.num_unplaced,
        "num_candidates": num_candidates,
        "counts": dict(Counter(pair.how for pair in listed)),
        "pairs": [
            {
                "first": row.first,
                "second": row.second,
                "how": row.how,
                "score": float(row.score or "nan"),
                "same_ground": row.is_same,
            }
            for row in rows
        ],
        "table": str(table_file),
        "picture": str(picture) if listed else None,
    }


def _print_pairs(
    tiles: PlacedTiles, listed: Sequence[Pair], rows: Sequence[Row], num_candidates: int, *, searched: bool
) -> None:
    counts = Counter(pair.how for pair in listed)
    found = [[how, words, counts[how]] for how, words in _KINDS.items() if how != "features" or searched]
    table(f"Pairs of the same ground in {tiles.folder}", ["how", "what", "pairs"], found, right=(2,))
    if rows:
        cells = [[row.first, row.second, row.how, row.score, _ANSWERS[row.is_same]] for row in rows[:MAX_ROWS]]
        title = f"First {MAX_ROWS} of {len(rows)} pairs" if len(rows) > MAX_ROWS else f"{len(rows)} pairs"
        table(title, ["first", "second", "how", "score", "same ground"], cells, right=(3,))
    if num_candidates > counts["features"]:
        out.print(f"{num_candidates - counts['features']} more candidates with lower scores: raise --max-pairs.")
    if tiles.num_unplaced and not searched:
        out.print(f"{tiles.num_unplaced} tiles have no place on the map; no candidates were looked for, as requested.")
