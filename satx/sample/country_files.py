"""Writing a rendered country: a folder of tiles or one MBTiles file, with its truth and its area."""

from __future__ import annotations

import io
import json
import math
import multiprocessing
import os
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from PIL import Image

from satx.errors import ConfigError, nearest_name
from satx.imagery.ahead import mapped_in_order
from satx.sample.country import COUNTRY_VERSION, Country, render_country_tile
from satx.sample.country_truth import area_geojson, truth_geojson
from satx.sample.sample import JPEG_QUALITY, refuse_other_files
from satx.storage import replacing, write_json
from satx.tiles.layout import SAMPLE_MARKER

ATTRIBUTION = "Rendered by satx"
FORMATS = ("folder", "mbtiles")
MBTILES_NAME, TRUTH_NAME, AREA_NAME = "country.mbtiles", "truth.geojson", "area.geojson"
MIN_COUNTRY_TILES = 16

_JOB_TILES = (
    16  # side of the square of tiles that a process renders at a time; blocks of land at its border are drawn twice
)
_JOBS_A_WORKER = 4  # at least, so that all are busy until the end
_IN_FLIGHT = 2  # jobs a worker, so that few finished tiles wait in memory


T = TypeVar("T")


class _Job(NamedTuple):
    """A rectangle of tiles on the map: first and last column and row, the last not included."""

    start_x: int
    start_y: int
    stop_x: int
    stop_y: int


def country_of_size(num_tiles: int, seed: int) -> Country:
    """Return a country of about a number of tiles, nearly square.

    Raises:
        ConfigError: It would be too small to hold anything, or too large for its place on the map.
    """
    if num_tiles < MIN_COUNTRY_TILES:
        raise ConfigError(
            f"Expected at least {MIN_COUNTRY_TILES} tiles in a country, got {num_tiles}. Pass a larger number."
        )
    width = round(math.sqrt(num_tiles))
    return Country(seed=seed, width_tiles=width, height_tiles=round(num_tiles / width))


def render_country(
    folder: Path,
    country: Country,
    *,
    format: str = "folder",
    workers: int | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Render a country; the bytes of its tiles depend on the country alone, not on the number of workers.

    Args:
        folder: Output folder, written completely or not at all. Replaces a sample with other settings in its place.
        country: What to render.
        format: "folder" for `z/x/y.jpg`, or "mbtiles" for `country.mbtiles`.
        workers: Number of processes; None uses one per processor.
        on_progress: Called with (done, total).

    Returns:
        The folder, with the tiles, `truth.geojson` (schools as points), `area.geojson` and the sample marker.

    Raises:
        ConfigError: The format is unknown.
        DataError: The folder contains files but no sample.
    """
    if format not in FORMATS:
        raise ConfigError(f"Expected a format of a country, got {format!r}. {nearest_name(format, FORMATS)}")
    marker = _marker(country, format)
    if _is_there(folder, marker):
        return folder
    refuse_other_files(folder)
    num_workers = os.cpu_count() or 1 if workers is None else workers
    with replacing(folder) as temporary:
        temporary.mkdir()
        if format == "folder":
            _write_folder(temporary, country, num_workers, on_progress)
        else:
            _write_mbtiles(temporary / MBTILES_NAME, country, marker, num_workers, on_progress)
        write_json(temporary / TRUTH_NAME, truth_geojson(country))
        write_json(temporary / AREA_NAME, area_geojson(country))
        write_json(temporary / SAMPLE_MARKER, marker)
    return folder


def encoded_tile(country: Country, x: int, y: int) -> bytes:
    """Render one tile of a country, by its column and row on the map, as JPEG."""
    stream = io.BytesIO()
    Image.fromarray(render_country_tile(country, x, y)).save(stream, "JPEG", quality=JPEG_QUALITY)
    return stream.getvalue()


def _marker(country: Country, format: str) -> dict[str, Any]:
    rectangle = [country.zoom, country.west_x, country.north_y, country.width_tiles, country.height_tiles]
    return {"country_version": COUNTRY_VERSION, "seed": country.seed, "z_x_y_width_height": rectangle, "format": format}


def _is_there(folder: Path, marker: dict[str, Any]) -> bool:
    """Return whether a folder holds this country; it was complete when it was renamed."""
    try:
        return bool(json.loads((folder / SAMPLE_MARKER).read_text()) == marker)
    except (OSError, ValueError):
        return False


def _write_folder(folder: Path, country: Country, workers: int, on_progress: Callable[[int, int], None]) -> None:
    done, total = 0, country.width_tiles * country.height_tiles
    for num_tiles in _finished(partial(_write_job, folder, country), country, workers):
        done += num_tiles
        on_progress(done, total)


def _write_job(folder: Path, country: Country, job: _Job) -> int:
    for y, x in _places_of(job):
        path = folder / str(country.zoom) / str(x) / f"{y}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded_tile(country, x, y))
    return len(_places_of(job))


def _write_mbtiles(
    path: Path, country: Country, marker: dict[str, Any], workers: int, on_progress: Callable[[int, int], None]
) -> None:
    """Write MBTiles 1.3, https://github.com/mapbox/mbtiles-spec: rows count from the south."""
    done, total = 0, country.width_tiles * country.height_tiles
    last_row = 2**country.zoom - 1
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE metadata (name text, value text)")
        database.execute(
            "CREATE TABLE tiles (zoom_level integer, tile_column integer, tile_row integer, tile_data blob)"
        )
        database.executemany("INSERT INTO metadata VALUES (?, ?)", _metadata(country, marker).items())
        for tiles in _finished(partial(_encode_job, country), country, workers):
            rows = [(country.zoom, x, last_row - y, data) for x, y, data in tiles]
            database.executemany("INSERT INTO tiles VALUES (?, ?, ?, ?)", rows)
            done += len(tiles)
            on_progress(done, total)
        database.execute("CREATE UNIQUE INDEX tile_index ON tiles (zoom_level, tile_column, tile_row)")
        database.commit()


def _encode_job(country: Country, job: _Job) -> list[tuple[int, int, bytes]]:
    return [(x, y, encoded_tile(country, x, y)) for y, x in _places_of(job)]


def _metadata(country: Country, marker: dict[str, Any]) -> dict[str, str]:
    west, south, east, north = country.bounds
    return {
        "name": f"Rendered country of seed {country.seed}",
        "format": "jpg",
        "type": "baselayer",
        "bounds": f"{west},{south},{east},{north}",
        "center": f"{(west + east) / 2},{(south + north) / 2},{country.zoom}",
        "minzoom": str(country.zoom),
        "maxzoom": str(country.zoom),
        "attribution": ATTRIBUTION,
        "satx_sample": json.dumps(marker, sort_keys=True),
    }


def _places_of(job: _Job) -> list[tuple[int, int]]:
    """Return (y, x) of a job's tiles, row by row, so that few blocks of land are in use at a time."""
    return [(y, x) for y in range(job.start_y, job.stop_y) for x in range(job.start_x, job.stop_x)]


def _jobs(country: Country, workers: int) -> list[_Job]:
    num_tiles = country.width_tiles * country.height_tiles
    side = max(2, min(_JOB_TILES, int(math.sqrt(num_tiles / (_JOBS_A_WORKER * max(workers, 1))))))
    end_x, end_y = country.west_x + country.width_tiles, country.north_y + country.height_tiles
    return [
        _Job(x, y, min(x + side, end_x), min(y + side, end_y))
        for y in range(country.north_y, end_y, side)
        for x in range(country.west_x, end_x, side)
    ]


def _finished(work: Callable[[_Job], T], country: Country, workers: int) -> Iterator[T]:
    """Yield the results of all jobs in order, with few of them in flight."""
    jobs = _jobs(country, workers)
    if workers <= 1:
        yield from map(work, jobs)
        return
    # Spawn, do not fork: the caller may have threads, such as TensorFlow's, that do not survive a fork.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as executor:
        yield from mapped_in_order(work, jobs, pool=executor, window=_IN_FLIGHT * workers)
