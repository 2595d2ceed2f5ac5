"""`satx data sample --country`."""

from __future__ import annotations

from pathlib import Path
from shlex import quote

from satx.commands.console import next_commands, out
from satx.commands.progress import progress_bars
from satx.errors import ConfigError
from satx.sample.country import Country
from satx.sample.country_files import AREA_NAME, MBTILES_NAME, TRUTH_NAME, country_of_size, render_country

DEFAULT_SEED = Country().seed


def country_command(
    folder: Path | None,
    *,
    num_tiles: int | None,
    seed: int = DEFAULT_SEED,
    format: str = "folder",
    port: int | None = None,
) -> None:
    """Render a country into a folder, or serve its tiles on a port until the command is stopped.

    Args:
        folder: Where to write it; None with a port.
        num_tiles: About how many tiles; None takes the default, 20,164.
        seed: Seed of the country.
        format: "folder" or "mbtiles".
        port: Port on 127.0.0.1 to serve it on, instead of writing it; 0 takes a free one.

    Raises:
        ConfigError: Neither a folder nor a port is given, or both are, or a setting is wrong.
        DataError: The folder contains other files.
    """
    country = Country(seed=seed) if num_tiles is None else country_of_size(num_tiles, seed)
    if (folder is None) == (port is None):
        got = "neither" if folder is None else "both"
        raise ConfigError(
            f"Expected either a folder to write the country to, or a port to serve it on, got {got}. Pass one."
        )
    if port is not None:
        _serve(country, port)
    elif folder is not None:
        _write(country, folder, format)


def _serve(country: Country, port: int) -> None:
    from satx.sample.country_server import serve_country

    west, south, east, north = country.bounds

    def say(template: str) -> None:
        out.print(
            f"Serving {country.width_tiles * country.height_tiles:,} rendered tiles of zoom {country.zoom}: {template}"
        )
        out.print(f"West {west:.5f}, south {south:.5f}, east {east:.5f}, north {north:.5f}. Ctrl-C stops it.")

    serve_country(country, port, on_ready=say)


def _write(country: Country, folder: Path, format: str) -> None:
    with progress_bars() as on_progress:
        path = render_country(
            folder,
            country,
            format=format,
            on_progress=lambda done, total: on_progress("rendering tiles", done, total),
        )
    out.print(
        f"A rendered country of {country.width_tiles} x {country.height_tiles} tiles of zoom {country.zoom} is in {path}. "
        f"Its schools are in {TRUTH_NAME}, its outline is in {AREA_NAME}."
    )
    tiles = path / MBTILES_NAME if format == "mbtiles" else path
    next_commands({f"satx predict {quote(str(tiles))} --out {quote(str(path) + '-predicted')}": "find its schools"})
