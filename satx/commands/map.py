"""`satx map`: one HTML page of a bulk prediction, which opens without a network."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from shlex import quote
from typing import Any

from satx.bulk.block_file import recorded_model
from satx.bulk.ledger import RUN_NAME, open_ledger
from satx.bulk.map_data import MapData, gather_map
from satx.bulk.map_page import MAX_ROWS, MapSummary, write_map
from satx.bulk.map_thumbnails import thumbnails_of
from satx.commands.block_progress import read_blocks
from satx.commands.console import banners, next_commands, out, print_json, talk_on_stderr
from satx.errors import DataError, SatxError
from satx.imagery.contract import Tile
from satx.imagery.open_imagery import open_imagery

PAGE_NAME = "map.html"


def map_command(folder: Path, *, output: Path | None, floor: float | None, as_json: bool) -> None:
    """Write the page of a prediction, finished or not.

    Args:
        folder: Output of `satx predict`.
        output: File to write; None for `map.html` in the folder.
        floor: Lowest probability on the map; None for half of the model's threshold.
        as_json: Whether to print what the page shows as JSON.

    Raises:
        DataError: The folder is none of a prediction of this version, has no finished block, or names the place of no tile.
    """
    if as_json:
        talk_on_stderr()
    ledger = open_ledger(str(folder))
    plan = ledger.read_plan()
    model = recorded_model(plan)
    finished = sorted(ledger.finished())
    data = gather_map(read_blocks(ledger, finished, "reading blocks"), model, floor=floor)
    _check_places(folder, data)
    warnings = _unfinished(len(finished), plan)
    thumbnails, doubt = _thumbnails(data, plan)
    run = ledger.read_json(RUN_NAME) or {}
    path = folder / PAGE_NAME if output is None else output
    about = {"title": f"{folder.resolve().name}: tiles of {model.positive_class}", "warnings": warnings}
    facts = {"Finished (UTC)": _time(run["finished_at"])} if "finished_at" in run else {}
    attribution = plan["imagery"]["attribution"]
    summary = write_map(
        data, model=model, about=about | facts, attribution=attribution, thumbnails=thumbnails, path=path
    )
    if as_json:
        print_json({"map": str(path), **asdict(summary)})
        return
    banners([*warnings, *doubt])
    _print_summary(path, summary)
    next_commands(
        {f"xdg-open {quote(str(path))}": "open the page", f"satx predict --verify {quote(str(folder))}": "recount"}
    )


def _check_places(folder: Path, data: MapData) -> None:
    num_tiles = sum(data.counts.values())
    if not num_tiles:
        raise DataError(f"{folder}: expected finished blocks, got none yet. Repeat the satx predict that writes them.")
    if data.num_unplaced == num_tiles:
        raise DataError(
            f"{folder}: expected tiles whose names tell zoom, column and row, such as 18/123/456.jpg, got none among "
            f"{num_tiles:,}. Rename the files and predict again; the scores are in {folder}/blocks/."
        )


def _unfinished(num_finished: int, plan: dict[str, Any]) -> list[str]:
    if num_finished >= plan["num_blocks"]:
        return []
    return [
        f"The prediction is not finished: {num_finished:,} of {plan['num_blocks']:,} blocks are on the map. Repeat the "
        f"satx predict that began it, then satx map."
    ]


def _thumbnails(data: MapData, plan: dict[str, Any]) -> tuple[dict[str, bytes], list[str]]:
    """Return pictures of the first tiles, and why there are none though they are allowed.

    Only files of this machine are read: a page must not ask a tile server again for what the run has fetched.
    """
    imagery, first = plan["imagery"], data.points
    if not imagery["allow_embedding"] or imagery["path"] is None:
        return {}, []
    places = zip(first.tile_ids, first.z.tolist(), first.x.tolist(), first.y.tolist(), strict=True)
    tiles = [Tile(*place) for place, _ in zip(places, range(MAX_ROWS), strict=False)]
    try:
        with closing(open_imagery(imagery["path"])) as source:
            if dict(source.identity) != plan["identity"]["imagery"]:
                raise DataError(f"{imagery['path']} has changed since the prediction")
            return thumbnails_of(tiles, source), []
    except SatxError as error:
        return {}, [f"The page has no pictures of tiles: {error}"]


def _time(utc: str) -> str:
    return utc.removesuffix("+00:00").replace("T", " ")


def _print_summary(path: Path, summary: MapSummary) -> None:
    pictures = f", {summary.num_thumbnails} of them with a picture" if summary.num_thumbnails else ""
    out.print(
        f"{path}: {summary.size_bytes / 1e6:.1f} MB, {summary.num_points:,} tiles of a probability of at least "
        f"{summary.floor:.3g}{pictures}; {summary.num_found:,} at or above the model's threshold.",
        highlight=False,
    )
    if summary.num_points < summary.num_at_floor:
        out.print(
            f"{summary.num_at_floor - summary.num_points:,} tiles of lower probabilities did not fit on the page. Pass a higher "
            f"--floor for a page that has all.",
            highlight=False,
        )
    if summary.num_unplaced:
        out.print(f"{summary.num_unplaced:,} tiles are not on the map: their names tell no place.", highlight=False)
