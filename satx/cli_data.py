"""The commands `satx data …`: from points to tiles with splits, and what is wrong with a folder of tiles."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from satx import cli_negatives, cli_points, cli_sample, cli_split, cli_split_pairs
from satx.cli_options import Json

data_app = typer.Typer(
    no_args_is_help=True,
    help="Fetch tiles for points, split them, look at them, or render a sample.",
    epilog="Example: `satx data check data/session2`",
)


@data_app.command("check", epilog="Example: `satx data check data/session2 --size 256`")
def data_check(
    folder: Annotated[Path, typer.Argument(help="Folder with train/, valid/ and test/, or a tiles.csv.")],
    size: Annotated[
        int | None,
        typer.Option(help="Edge in pixels to train at; warns of tiles under half of it.", show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """Read every file and report what is not read, broken, leaked, too small, missing or unbalanced."""
    from satx.commands.data import check_command

    check_command(folder, image_size_px=size, as_json=as_json)


data_app.command(
    "negatives",
    epilog="Example: `satx data negatives --area area.geojson --away-from schools.geojson --buildings buildings.geojson "
    "--out points.geojson`",
)(cli_negatives.negatives)
data_app.command(
    "fetch", epilog="Example: `satx data fetch points.geojson --url '/data/{z}/{x}/{y}.jpg' --out data/fetched`"
)(cli_points.fetch)
data_app.command("pairs", epilog="Example: `satx data pairs data/session2`")(cli_split_pairs.pairs)
data_app.command("split", epilog="Example: `satx data split data/fetched --block-zoom 12`")(cli_split.split)
data_app.command("sample", epilog="Example: `satx data sample data/session2 --session 2`")(cli_sample.sample)
