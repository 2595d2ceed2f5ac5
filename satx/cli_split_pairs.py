"""The command `satx data pairs`: tiles that show the same ground."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from satx.cli_options import Json
from satx.cli_process import load_keras_quietly


def pairs(
    folder: Annotated[Path, typer.Argument(help="Folder of tiles, with or without splits.")],
    weights: Annotated[
        str | None,
        typer.Option(
            help="Folder of mobilenetv2_notop.weights.h5, for tiles without a place on the map; `none` lists certain pairs only.",
            show_default=False,
        ),
    ] = None,
    max_pairs: Annotated[int, typer.Option(min=1, help="Candidates to list, and pairs to draw.")] = 50,
    out: Annotated[Path, typer.Option(help="Table to write; the picture is beside it.")] = Path("pairs.csv"),
    as_json: Json = False,
) -> None:
    """List pairs of tiles that show the same ground: overlapping, the same picture, or alike for a person to decide."""
    from satx.commands.console import quiet_libraries
    from satx.commands.pairs import NO_WEIGHTS, pairs_command, placed_tiles

    tiles = placed_tiles(folder)
    if tiles.num_unplaced and weights != NO_WEIGHTS:
        load_keras_quietly(announced=not as_json)
    quiet_libraries()
    pairs_command(tiles, weights=weights, max_pairs=max_pairs, table_file=out, as_json=as_json)
