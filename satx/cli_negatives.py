"""The command `satx data negatives`: points of the negative class."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from satx.cli_options import Json
from satx.errors import ConfigError


def negatives(
    away_from: Annotated[
        Path, typer.Option(help="The positives: GeoJSON, CSV (lon,lat,label,slice) or Parquet.", show_default=False)
    ],
    area: Annotated[
        Path | None, typer.Option(help="GeoJSON with the polygons to draw points in.", show_default=False)
    ] = None,
    out: Annotated[Path | None, typer.Option(help="GeoJSON to write.", show_default=False)] = None,
    distance_m: Annotated[float, typer.Option(min=0, help="Least distance from any positive, in metres.")] = 300.0,
    apart_m: Annotated[
        float | None,
        typer.Option(
            min=0, help="Least distance from each other, in metres. Default: --distance-m.", show_default=False
        ),
    ] = None,
    buildings: Annotated[
        Path | None,
        typer.Option(
            help="Draw points where buildings stand: footprints or points as GeoJSON, one document or one feature a line, CSV "
            "or Parquet (lon,lat).",
            show_default=False,
        ),
    ] = None,
    open_share: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="With --buildings: share of points on open land. Default: 0.25.", show_default=False
        ),
    ] = None,
    number: Annotated[
        int | None,
        typer.Option(min=1, help="How many. Default: as many as there are positives in the area.", show_default=False),
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(help="Their class. Default: not- and the class of the positives.", show_default=False),
    ] = None,
    positive_label: Annotated[str, typer.Option(help="Class of the positives that have no label.")] = "school",
    seed: Annotated[int, typer.Option(min=0, help="Another seed gives other points.")] = 1,
    check: Annotated[
        Path | None,
        typer.Option(
            help="Only check that the points of this file keep the distance; those with the label of a positive are left out.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Draw points without what is looked for, far from every positive; they are written with the positives of the area."""
    if check is not None:
        if any(value is not None for value in (area, out, apart_m, buildings, open_share, number, label)):
            raise ConfigError(
                "--check: expected only --away-from, --distance-m and --positive-label beside it. Leave the others out."
            )
        from satx.commands.negatives import check_command

        check_command(check, away_from, distance_m, positive_label=positive_label, as_json=as_json)
        return
    if area is None or out is None:
        raise ConfigError(
            "Expected --area and --out, as in `satx data negatives --area area.geojson --away-from schools.geojson --out "
            "points.geojson`."
        )
    from satx.commands.negatives import Request, negatives_command

    request = Request(
        area=area,
        away_from=away_from,
        out=out,
        distance_m=distance_m,
        apart_m=apart_m,
        buildings=buildings,
        open_share=open_share,
        number=number,
        label=label,
        positive_label=positive_label,
        seed=seed,
    )
    negatives_command(request, as_json=as_json)
