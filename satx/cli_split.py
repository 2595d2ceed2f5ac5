"""The command `satx data split`: tiles into train, valid and test, by blocks of the map."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from satx.cli_options import Json, Weights
from satx.cli_process import load_keras_quietly


def split(
    folder: Annotated[Path, typer.Argument(help="Folder with a tiles.csv, or a folder for each class.")],
    block_zoom: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=24,
            help="Zoom of the map tiles whose tiles stay together. Default: 12, some 10 km.",
            show_default=False,
        ),
    ] = None,
    pairs: Annotated[
        Path | None, typer.Option(help="Answers to the pairs of `satx data pairs`.", show_default=False)
    ] = None,
    weights: Weights = None,
    shares: Annotated[str, typer.Option(help="Shares of train, valid and test.")] = "70:20:10",
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Other seeds give other splits.")] = 20,
    repeats: Annotated[
        int, typer.Option(min=5, max=1000, help="Draws of each kind of split, to measure what a random one flatters.")
    ] = 20,
    out: Annotated[
        Path | None, typer.Option(help="Table to write. Default: tiles.csv in the folder.", show_default=False)
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace a split; scores on the old test tiles become incomparable.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Split tiles by blocks of the map, and say what a random split would have flattered.

    Tiles that show the same ground stay together, and those within one window of another split are left out.
    """
    if weights != "none":
        load_keras_quietly(announced=not as_json)
    from satx.commands.console import quiet_libraries
    from satx.commands.split import Request, split_command

    quiet_libraries()
    request = Request(
        folder=folder,
        block_zoom=block_zoom,
        pairs=pairs,
        weights=weights,
        shares=shares,
        seed=seed,
        repeats=repeats,
        out=out,
        replace=replace,
    )
    split_command(request, as_json=as_json)
