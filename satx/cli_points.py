"""The command `satx data fetch`: from points to pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from satx.cli_options import Json
from satx.errors import ConfigError

WINDOW_PX = 256


def fetch(
    points: Annotated[Path, typer.Argument(help="Points with labels: GeoJSON, CSV (lon,lat,label,slice) or Parquet.")],
    url: Annotated[
        str,
        typer.Option(
            help="Where the imagery is: 'https://HOST/{z}/{x}/{y}.jpg?key=${KEY}' in single quotes, a template of a folder or "
            "of s3://, an MBTiles, PMTiles or GeoTIFF file.",
            show_default=False,
        ),
    ],
    out: Annotated[str, typer.Option(help="Folder of the output; the same command continues it.", show_default=False)],
    zoom: Annotated[int, typer.Option(min=0, max=24, help="Zoom of the tiles.")] = 18,
    window_px: Annotated[
        int | None,
        typer.Option(
            min=16,
            max=2048,
            help=f"Edge of the window centred on each point. Default: {WINDOW_PX}.",
            show_default=False,
        ),
    ] = None,
    whole_tile: Annotated[
        bool,
        typer.Option(
            "--whole-tile", help="Take the map tile that contains the point, as it is served, instead of a window."
        ),
    ] = False,
    context: Annotated[
        bool,
        typer.Option("--context", help="Fetch the picture two zooms up too, into context/, for people to look at."),
    ] = False,
    placeholder: Annotated[
        list[Path] | None,
        typer.Option(help="A picture that stands for missing imagery; can be repeated.", show_default=False),
    ] = None,
    attribution: Annotated[
        str | None,
        typer.Option(help="Text to print beside the imagery. Default: the source's own.", show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """Fetch a picture for each point; each has a status in tiles.csv, and a killed fetch continues when it is repeated."""
    if whole_tile and window_px is not None:
        raise ConfigError("--window-px: expected none with --whole-tile, which cuts no window. Leave one of them out.")
    if "://" in out:
        raise ConfigError(f"--out: expected a folder on this machine, got {out}. Fetch here, and copy the folder.")
    from satx.commands.fetch import Request, fetch_command

    request = Request(
        points=points,
        url=url,
        out=Path(out),
        zoom=zoom,
        window_px=None if whole_tile else window_px or WINDOW_PX,
        has_context=context,
        placeholders=tuple(placeholder or ()),
        attribution=attribution,
    )
    fetch_command(request, as_json=as_json)
