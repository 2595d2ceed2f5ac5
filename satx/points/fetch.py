"""Fetch a picture for each point: tiles in the order of need, each asked for once while memory has it, then cut and written.

All stages run at the same time and are bounded: the source fetches ahead, threads decode tiles, and threads encode and write
pictures. A window is written as PNG, because the tiles are JPEG mostly, and a second compression would lose detail.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from functools import lru_cache, partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from satx.environment import num_processors
from satx.errors import ConfigError, DataError
from satx.imagery.ahead import mapped_in_order
from satx.imagery.contract import BLANK, DONE, MISSING, REFUSED, STATUSES, Fetched, Imagery, Tile, Unscored
from satx.imagery.judge import Placeholders, judged
from satx.points.fetch_plan import CONTEXT, TILES, FetchPlan, View
from satx.points.fetched_table import (
    ENDINGS,
    LEDGER,
    Outcome,
    all_outcomes,
    changing,
    count_outcomes,
    has_splits,
    is_complete,
    points_left,
    put_picture,
    read_chunk,
    write_chunk,
    write_table,
)
from satx.points.windows import TILE_PX, stitched
from satx.storage import locked
from satx.tiles.decode import decode_tile
from satx.tiles.formats import HEAD_BYTES, image_format

RECENT_TILES = 400  # decoded, 0.2 MB each: those that the next windows in Z-order share
RECENT_WHOLE_TILES = 16  # points in one tile follow each other
AHEAD = 16  # tiles that are decoded, and pictures that are written, at a time for each processor
COMPRESSION = 3  # of PNG; 6, the default of Pillow, takes nearly three times as long for files 2% smaller
BEYOND_THE_MAP = "the window reaches beyond the north or south edge of the map"

Picture = tuple[str, bytes]  # ending and bytes of a file
Found = np.ndarray | bytes | Unscored  # what a tile gives: pixels for a window, the file if it is taken whole


class Seen(NamedTuple):
    """A point whose tiles were fetched.

    Attributes:
        point: Its index.
        views: Its pictures to make, each with what its tiles gave.
    """

    point: int
    views: list[tuple[View, list[Found]]]


def fetch_points(
    plan: FetchPlan,
    imagery: Imagery,
    root: Path,
    *,
    source: str,
    attribution: str | None = None,
    placeholders: Placeholders = frozenset(),
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> dict[str, Any]:
    """Fetch what is left, and write `tiles.csv` with one status for each point.

    Points that failed before are fetched again; all others that have a status are not.

    Args:
        plan: What to fetch.
        imagery: Where the tiles are.
        root: Folder of the output.
        source: Name of the source for the table, without secrets.
        attribution: Text to print beside the imagery; None for that of the source.
        placeholders: Digests of pictures that count as blank.
        on_progress: Called with (points fetched in this call, points to fetch in this call).

    Returns:
        Counts as `count_outcomes` gives them, `num_fetched`, and `lost_splits`: whether an earlier table had splits, which are
        gone because it was written anew.

    Raises:
        ConfigError: Another process writes this folder.
        StateMismatch: The folder has something else.
        DataError: The source cannot be used any more. What was fetched stays.
    """
    shown_attribution = " ".join((imagery.attribution if attribution is None else attribution).split())
    with locked(root / LEDGER, wait=False) as is_mine:
        if not is_mine:
            raise ConfigError(
                f"--out: expected a folder that no other fetch writes, got {root}. Wait for it, or pass another."
            )
        record = _record(plan, imagery, source, shown_attribution, placeholders)
        was_complete = is_complete(root, record)
        left = {number: points for number in range(plan.num_chunks) if len(points := points_left(root, plan, number))}
        num_left = sum(map(len, left.values()))
        is_current = was_complete and not num_left
        lost_splits = not is_current and has_splits(root)
        if not is_current:
            with changing(root, record):
                _fetch_chunks(plan, left, imagery, root, placeholders, lambda done: on_progress(done, num_left))
                write_table(root, plan, source=source, attribution=shown_attribution)
        counts = count_outcomes(all_outcomes(root, plan))
    return {**counts, "num_fetched": num_left, "lost_splits": lost_splits}


def _record(
    plan: FetchPlan, imagery: Imagery, source: str, attribution: str, placeholders: Placeholders
) -> dict[str, Any]:
    """Return what is fetched, as JSON; `identity` is what a call must have in common with one that it continues."""
    return {
        "identity": {
            "points": plan.digest,
            "num_points": plan.num_points,
            "zoom": plan.zoom,
            "window_px": plan.window_px,
            "context": plan.has_context,
            "imagery": dict(imagery.identity),
            "placeholders": sorted(placeholders),
        },
        "source": source,
        "attribution": attribution,
    }


def _fetch_chunks(
    plan: FetchPlan,
    left: dict[int, np.ndarray],
    imagery: Imagery,
    root: Path,
    placeholders: Placeholders,
    on_points: Callable[[int], None],
) -> None:
    """Fetch the points that are left of chunks, and write the file of each chunk after its pictures."""
    num_recent = RECENT_TILES if plan.window_px else RECENT_WHOLE_TILES
    window = AHEAD * num_processors()
    points = partial(chain.from_iterable, left.values())
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(num_processors(), "satx-fetch"))
        find = partial(_found, plan=plan, placeholders=placeholders)
        asked = imagery.fetch(_wanted(plan, points(), num_recent))
        found = stack.enter_context(closing(mapped_in_order(find, asked, pool=pool, window=window)))
        seen = stack.enter_context(closing(_seen(plan, points(), num_recent, found)))
        finish = partial(_finished, plan=plan, root=root)
        outcomes = stack.enter_context(closing(mapped_in_order(finish, seen, pool=pool, window=window)))
        num_done = 0
        for number, chunk in left.items():
            outcomes_of_chunk = {one.point: one for one in read_chunk(root, plan, number)}
            now = datetime.now(UTC).isoformat(timespec="seconds")
            try:
                for outcome in islice(outcomes, len(chunk)):
                    outcomes_of_chunk[outcome.point] = outcome._replace(fetched_at=now)
                    num_done += 1
                    on_points(num_done)
            finally:  # an error of the source and Ctrl-C lose nothing that is finished
                write_chunk(root, plan, number, outcomes_of_chunk)


def _wanted(plan: FetchPlan, points: Iterator[int], num_recent: int) -> Iterator[Tile]:
    """Yield the tiles to ask for, in order: those that are not among the recent ones when a point needs them."""
    misses: list[Tile] = []
    ask = lru_cache(num_recent)(misses.append)
    for point in points:
        for view in plan.views(point):
            for tile in view.tiles:
                ask(tile)
            yield from misses
            misses.clear()


def _seen(plan: FetchPlan, points: Iterator[int], num_recent: int, found: Iterator[Found]) -> Generator[Seen]:
    """Yield the points with what their tiles gave.

    The recent tiles here are those of `_wanted`, because both look at the same tiles in the same order.
    """

    def take(tile: Tile) -> Found:
        taken = next(found, None)
        if taken is None:
            raise DataError(
                f"Expected imagery for every tile, but the source ended before tile {tile.tile_id}. Repeat the command."
            )
        return taken

    recall = lru_cache(num_recent)(take)
    for point in points:
        yield Seen(int(point), [(view, [recall(tile) for tile in view.tiles]) for view in plan.views(point)])


def _found(fetched: Fetched, *, plan: FetchPlan, placeholders: Placeholders) -> Found:
    """Judge what the source gave for a tile; return its pixels, (256, 256, 3) uint8, or the file if tiles are taken whole."""
    if isinstance(fetched, Unscored):
        return fetched
    found = judged(fetched, "tile", TILE_PX, placeholders)
    if isinstance(found, Unscored):
        return found
    return fetched if plan.window_px is None else _of_tile_size(fetched, found)


def _of_tile_size(data: bytes, pixels: np.ndarray) -> np.ndarray | Unscored:
    """Return the pixels unless they were resized: a tile of another size would make a window of another detail or extent."""
    height_px, width_px = decode_tile(data, "tile").pixels.shape[:2]
    if (width_px, height_px) == (TILE_PX, TILE_PX):
        return pixels
    return Unscored(
        REFUSED, f"{width_px}x{height_px} px; windows need tiles of {TILE_PX}x{TILE_PX} px, --whole-tile takes any"
    )


def _finished(seen: Seen, *, plan: FetchPlan, root: Path) -> Outcome:
    """Make and write the pictures of a point; a context is written only beside the point's own picture."""
    point, stem = seen.point, plan.file_stem(seen.point)
    picture, *others = [_picture(view, found, plan.window_px) for view, found in seen.views]
    if isinstance(picture, Unscored):
        for folder in (TILES, CONTEXT):
            put_picture(root, f"{folder}/{stem}", None)
        return Outcome(point, picture.status, picture.reason, path="", context="", fetched_at="")
    path = put_picture(root, f"{TILES}/{stem}", picture)
    if not others:
        return Outcome(point, DONE, "", path, context="", fetched_at="")
    context = others[0]
    if isinstance(context, Unscored):
        put_picture(root, f"{CONTEXT}/{stem}", None)
        return Outcome(point, DONE, f"context {context.status}: {context.reason}", path, context.status, fetched_at="")
    put_picture(root, f"{CONTEXT}/{stem}", context)
    return Outcome(point, DONE, "", path, context=DONE, fetched_at="")


def _picture(view: View, found: Sequence[Found], window_px: int | None) -> Picture | Unscored:
    """Return the picture of a view, or the worst of what its tiles are, with the name of the first such tile."""
    if not view.tiles:
        return Unscored(MISSING, BEYOND_THE_MAP)
    lacking = [(tile, one) for tile, one in zip(view.tiles, found, strict=True) if isinstance(one, Unscored)]
    if lacking:
        tile, worst = max(lacking, key=lambda item: STATUSES.index(item[1].status))
        return Unscored(worst.status, f"{' '.join(worst.reason.split())} (tile {tile.tile_id})")
    if window_px is None:
        (data,) = (one for one in found if isinstance(one, bytes))
        return ENDINGS[str(image_format(data[:HEAD_BYTES]))], data
    pixels = stitched(view.parts, (one for one in found if isinstance(one, np.ndarray)), window_px)
    if (pixels == pixels[0, 0]).all():
        return Unscored(BLANK, "one color")
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=COMPRESSION)
    return ".png", file.getvalue()
