"""`satx data negatives`: points without what is looked for, and a check of points that somebody placed by hand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np

from satx.commands.console import banner, next_commands, out, print_json, table, talk_on_stderr
from satx.commands.progress import progress_bars
from satx.errors import ConfigError, DataError
from satx.grid.area import read_area
from satx.grid.points import Points, place_keys, read_points, write_points
from satx.points.buildings import read_buildings
from satx.points.distance import too_near
from satx.points.negatives import (
    DEFAULT_OPEN_SHARE,
    HALF_WIDTH_M,
    Negatives,
    Wanted,
    draw_negatives,
    positives_in,
)

MAX_LISTED = 200  # rows of a table


@dataclass(frozen=True)
class Request:
    """What `satx data negatives` is asked for.

    Attributes:
        area: GeoJSON of the area.
        away_from: File of the positives.
        out: GeoJSON to write.
        distance_m: Least distance of a negative from any positive, metres.
        apart_m: Least distance of negatives from each other, metres; None for `distance_m`.
        buildings: File of the buildings, if they are known.
        open_share: Share of negatives without a building in the picture; None for `DEFAULT_OPEN_SHARE`.
        number: How many negatives; None for as many as there are positives in the area.
        label: Class of the negatives; None for `not-` and the class of the positives.
        positive_label: Class of the positives that have none.
        seed: Equal seeds give equal points.
    """

    area: Path
    away_from: Path
    out: Path
    distance_m: float
    apart_m: float | None
    buildings: Path | None
    open_share: float | None
    number: int | None
    label: str | None
    positive_label: str
    seed: int


def negatives_command(request: Request, *, as_json: bool) -> None:
    """Draw negatives, and write them with the positives of the area, so that one file has both classes.

    Raises:
        ConfigError: Options do not go together.
        DataError: A file is wrong, or the area has no room for as many negatives; then nothing is written.
    """
    if as_json:
        talk_on_stderr()
    _check(request)
    area, positives = read_area(request.area), read_points(request.away_from)
    out.print(str(area))
    is_inside = positives_in(area, positives)
    wanted = _wanted(request, positives, int(is_inside.sum()))
    with progress_bars() as on_progress:
        buildings = None
        if request.buildings is not None:
            buildings = read_buildings(
                request.buildings,
                area,
                HALF_WIDTH_M,
                on_progress=lambda done, total: on_progress("reading buildings", done, total),
            )
        found = draw_negatives(
            area, positives, buildings, wanted, lambda done, total: on_progress("drawing negatives", done, total)
        )
    _write(request, positives, is_inside, found)
    if as_json:
        print_json(_document(request, positives, is_inside, wanted, found))
    else:
        _print(request, positives, int(is_inside.sum()), wanted, found)


def check_command(
    points_file: Path, away_from: Path, distance_m: float, *, positive_label: str = "school", as_json: bool
) -> None:
    """Print which points of a file are too near to a positive; points with the label of a positive are left out.

    Args:
        points_file: Negatives, and perhaps positives.
        away_from: The positives.
        distance_m: The least distance that is allowed, metres.
        positive_label: Label of the positives that have none.
        as_json: Whether to print JSON.

    Raises:
        DataError: There are such points, no point is left, or a file is wrong.
    """
    if as_json:
        talk_on_stderr()
    positives, points = read_points(away_from), read_points(points_file)
    names = {label or positive_label for label in positives.labels}
    kept = [index for index, label in enumerate(points.labels) if label not in names]
    if not kept:
        raise DataError(
            f"{points_file}: expected negatives, got only points with the label {', '.join(sorted(names))}, as those of "
            f"{away_from}. Look at the labels."
        )
    offenders = too_near(_selected(points, kept), positives, distance_m)
    rows = [
        {
            "longitude": points.longitude[kept[offender.point]],
            "latitude": points.latitude[kept[offender.point]],
            "label": points.labels[kept[offender.point]],
            "distance_m": round(offender.distance_m, 1),
        }
        for offender in offenders
    ]
    if as_json:
        print_json({"num_points": len(kept), "num_positives": len(positives.labels), "too_near": rows})
    elif rows:
        cells = [[f"{row['longitude']:.7f}", f"{row['latitude']:.7f}", row["label"], row["distance_m"]] for row in rows]
        columns = ["longitude", "latitude", "label", "m to the nearest positive"]
        table(f"Points nearer than {distance_m:g} m to a positive", columns, cells[:MAX_LISTED], right=(0, 1, 3))
    if rows:
        raise DataError(
            f"{points_file}: expected points at least {distance_m:g} m from every positive of {away_from}, got {len(rows):,} of "
            f"{len(kept):,} nearer than that. Move or remove them."
        )
    out.print(
        f"All {len(kept):,} points are at least {distance_m:g} m from each of {len(positives.labels):,} positives."
    )


def _check(request: Request) -> None:
    """Refuse options that do not go together, before anything is read."""
    if request.open_share is not None and request.buildings is None:
        raise ConfigError(
            "--open-share: expected it with --buildings, which tell open land. Add them, or leave it out."
        )
    if request.out.suffix.lower() not in (".geojson", ".json"):
        raise ConfigError(f"--out: expected a file that ends in .geojson, got {request.out}. Rename it.")
    inputs = [path for path in (request.area, request.away_from, request.buildings) if path is not None]
    if any(request.out.resolve() == path.resolve() for path in inputs):
        raise ConfigError(f"--out: expected another file than the inputs, got {request.out}. Name a new one.")


def _wanted(request: Request, positives: Points, num_inside: int) -> Wanted:
    labels = {label or request.positive_label for label in positives.labels}
    label = request.label or (f"not-{next(iter(labels))}" if len(labels) == 1 else "negative")
    if label in labels:
        raise ConfigError(f"--label: expected another label than that of the positives, got {label!r}. Choose another.")
    return Wanted(
        number=num_inside if request.number is None else request.number,
        distance_m=request.distance_m,
        apart_m=request.distance_m if request.apart_m is None else request.apart_m,
        open_share=DEFAULT_OPEN_SHARE if request.open_share is None else request.open_share,
        label=label,
        seed=request.seed,
    )


def _selected(points: Points, indices: list[int]) -> Points:
    return Points(
        points.longitude[indices],
        points.latitude[indices],
        tuple(points.labels[index] for index in indices),
        tuple(points.slices[index] for index in indices),
    )


def _write(request: Request, positives: Points, is_inside: np.ndarray, found: Negatives) -> None:
    """Write the positives of the area from west to east, then the negatives in the order of drawing."""
    keys = place_keys(positives.longitude, positives.latitude)
    inside = [index for index in np.argsort(keys).tolist() if is_inside[index]]
    known = _selected(positives, inside)
    both = Points(
        np.concatenate([known.longitude, found.points.longitude]),
        np.concatenate([known.latitude, found.points.latitude]),
        tuple(label or request.positive_label for label in known.labels) + found.points.labels,
        known.slices + found.points.slices,
    )
    nothing = [None] * len(inside)
    properties: dict[str, list[Any]] = {"distance_m": [*nothing, *np.round(found.nearest_positive_m, 1).tolist()]}
    if found.num_buildings is not None:
        properties["num_buildings"] = [*nothing, *found.num_buildings.tolist()]
    write_points(request.out, both, properties)


def _document(
    request: Request, positives: Points, is_inside: np.ndarray, wanted: Wanted, found: Negatives
) -> dict[str, Any]:
    slices = found.points.slices
    return {
        "out": str(request.out),
        "num_positives": int(is_inside.sum()),
        "num_positives_elsewhere": int((~is_inside).sum()),
        "num_duplicate_positives": positives.num_duplicates,
        "num_negatives": len(slices),
        "label": wanted.label,
        "slices": {name: slices.count(name) for name in sorted(set(slices))},
        "distance_m": wanted.distance_m,
        "apart_m": wanted.apart_m,
        "nearest_m": round(float(found.nearest_positive_m.min()), 1),
        "seed": wanted.seed,
    }


def _print(request: Request, positives: Points, num_inside: int, wanted: Wanted, found: Negatives) -> None:
    slices = np.array(found.points.slices)
    rows = []
    for name in dict.fromkeys(found.points.slices):
        distances_m = found.nearest_positive_m[slices == name]
        rows.append(
            [name or "not known", len(distances_m), f"{distances_m.min():,.0f}", f"{np.median(distances_m):,.0f}"]
        )
    table(
        f"Negatives in {request.out}", ["slice", "points", "m to a positive, at least", "median"], rows, right=(1, 2, 3)
    )
    if positives.num_duplicates:
        out.print(f"{positives.num_duplicates:,} positives of {request.away_from} have the place of another one.")
    out.print(
        f"They are {wanted.apart_m:g} m or more from each other, with the label {wanted.label}. The {num_inside:,} positives of "
        f"the area are in the file too."
    )
    if request.buildings is None:
        banner(
            "Without --buildings, points lie anywhere in the area: mostly on open land, where nothing looks like a building. A "
            "model trained with such points takes other buildings for positives. Pass footprints or points of buildings."
        )
    next_commands(
        {
            f"satx data fetch {quote(str(request.out))} --url TEMPLATE --zoom 18 --out DIR": "fetch a picture for each point"
        }
    )
