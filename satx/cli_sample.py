"""The command `satx data sample`: rendered tiles, as a session or as a country."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from satx.errors import ConfigError


def sample(
    folder: Annotated[Path | None, typer.Argument(help="Where to put the tiles.", show_default=False)] = None,
    session: Annotated[
        int | None,
        typer.Option("--session", "-s", min=1, max=2, help="Session 1 or 2. Default: 2.", show_default=False),
    ] = None,
    num_tiles: Annotated[
        int | None, typer.Option("--num-tiles", "--tiles", min=1, help="Total of all tiles.", show_default=False)
    ] = None,
    country: Annotated[
        bool,
        typer.Option("--country", help="Render continuous ground with schools at known places, for `satx predict`."),
    ] = False,
    seed: Annotated[int | None, typer.Option(help="With --country: another country.", show_default=False)] = None,
    format: Annotated[
        Literal["folder", "mbtiles"] | None,
        typer.Option(help="With --country: a folder of z/x/y.jpg (default), or one file.", show_default=False),
    ] = None,
    serve: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            metavar="PORT",
            help="With --country: serve its tiles on 127.0.0.1 instead.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Render overhead tiles, for trying satx without imagery."""
    if not country:
        given = {"--seed": seed, "--format": format, "--serve": serve}
        if named := [name for name, value in given.items() if value is not None]:
            raise ConfigError(f"{named[0]}: expected it with --country only. Add --country, or leave it out.")
        if folder is None:
            raise ConfigError(
                "Expected a folder to put the tiles into, got none. Name one: `satx data sample data/session2`."
            )
        from satx.commands.data import sample_command

        sample_command(folder, session=session or 2, num_tiles=num_tiles)
        return
    if session is not None:
        raise ConfigError("--session: expected none with --country, which has no sessions. Leave one of them out.")
    from satx.commands.country import DEFAULT_SEED, country_command

    country_command(
        folder,
        num_tiles=num_tiles,
        seed=DEFAULT_SEED if seed is None else seed,
        format=format or "folder",
        port=serve,
    )
