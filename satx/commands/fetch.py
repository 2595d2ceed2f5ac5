"""`satx data fetch`: a picture for each point, with a status for each in `tiles.csv`."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from satx.commands.console import lasting, next_commands, out, print_json, table, talk_on_stderr
from satx.commands.progress import progress_bars
from satx.commands.stopping import stoppable
from satx.errors import ConfigError
from satx.grid.points import Points, read_points
from satx.imagery.contract import DONE, FAILED, Imagery
from satx.imagery.judge import read_placeholders
from satx.imagery.open_imagery import open_imagery
from satx.points.fetch import fetch_points
from satx.points.fetch_plan import FetchPlan
from satx.points.fetched_table import TABLE_NAME
from satx.tiles.walk import is_folder

MAX_REASONS = 2  # of a status, in the table


@dataclass(frozen=True)
class Request:
    """What the options ask for.

    Attributes:
        points: File of the points.
        url: Where the imagery is.
        out: Folder of the output.
        zoom: Zoom of the tiles.
        window_px: Edge of the window around each point; None for whole map tiles.
        has_context: Whether to fetch the picture two zooms up too.
        placeholders: Image files that stand for missing imagery.
        attribution: Text to print beside the imagery; None for that of the source.
    """

    points: Path
    url: str
    out: Path
    zoom: int
    window_px: int | None
    has_context: bool = False
    placeholders: tuple[Path, ...] = ()
    attribution: str | None = None


def fetch_command(request: Request, *, as_json: bool) -> None:
    """Fetch the points that are left, and print what became of all.

    Raises:
        ConfigError, DataError, StateMismatch: Points, imagery or output cannot be used, or belong to another fetch.
        Interrupted: Stopped by Ctrl-C; the same command continues.
    """
    if as_json:
        talk_on_stderr()
    with ExitStack() as stack:
        stack.enter_context(stoppable())
        points = read_points(request.points)
        plan = FetchPlan(points, request.zoom, request.window_px, request.has_context)
        imagery = _open(request.url, plan)
        stack.callback(imagery.close)
        placeholders = read_placeholders(request.placeholders)
        _print_plan(request, points)
        began = time.perf_counter()
        with progress_bars() as on_progress:
            found = fetch_points(
                plan,
                imagery,
                request.out,
                source=_source(request.url, imagery),
                attribution=request.attribution,
                placeholders=placeholders,
                on_progress=lambda done, total: on_progress("fetching points", done, total),
            )
        seconds = time.perf_counter() - began
    if as_json:
        print_json({"out": str(request.out), **found, "seconds": round(seconds, 3)})
    else:
        _print_results(request.out, found, seconds)


def _open(url: str, plan: FetchPlan) -> Imagery:
    if is_folder(Path(url)):
        raise ConfigError(
            f"--url: expected a template, which tells the place of each tile, got the folder {url}. Write it as its files are "
            f"named, such as {Path(url) / '{z}' / '{x}' / '{y}.jpg'}."
        )
    return open_imagery(url, plan.zooms)


def _source(url: str, imagery: Imagery) -> str:
    """Return the name of a source for the table: its template without secrets, or the name of its file."""
    return str(imagery.identity.get("template") or Path(url).name)


def _print_plan(request: Request, points: Points) -> None:
    what = "whole map tiles" if request.window_px is None else f"windows of {request.window_px} px"
    context = ", each with its context" if request.has_context else ""
    duplicates = f" ({points.num_duplicates:,} more have the place of another)" if points.num_duplicates else ""
    out.print(
        f"{len(points.labels):,} points{duplicates}: {what} at zoom {request.zoom}{context}, into {request.out}.",
        highlight=False,
    )


def _print_results(folder: Path, found: dict[str, Any], seconds: float) -> None:
    rows = [[status, f"{number:,}", _reasons(found, status)] for status, number in found["status"].items() if number]
    table(f"{found['num_points']:,} points", ["status", "points", "most frequent reasons"], rows, right=(1,))
    if found["context"]:
        contexts = ", ".join(f"{number:,} {status}" for status, number in found["context"].items() if number)
        out.print(f"Context: {contexts}.", highlight=False)
    if found["num_fetched"]:
        pace = found["num_fetched"] / seconds
        out.print(f"{found['num_fetched']:,} points in {lasting(seconds)}, {pace:,.0f} a second.", highlight=False)
    if found["status"][FAILED] or found["context"].get(FAILED):
        out.print("Some failed: the source did not answer. Repeat the command to ask for those again.")
    if found["lost_splits"]:
        out.print(
            f"{folder / TABLE_NAME} is new, and so without the splits that it had. Split it again.", highlight=False
        )
    if found["status"][DONE]:
        next_commands({f"satx data split {quote(str(folder))}": "assign train, valid and test by blocks of land"})


def _reasons(found: dict[str, Any], status: str) -> str:
    reasons = found["reasons"].get(status, [])[:MAX_REASONS]
    return "; ".join(f"{item['reason']} ({item['num_points']:,})" for item in reasons)
