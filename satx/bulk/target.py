"""What to predict: the tiles that a folder, table, area or tile file names, and the imagery that has them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from satx.bulk.plan import Plan, plan_files, plan_grid
from satx.errors import ConfigError, DataError
from satx.grid.area import Area, check_not_swapped, read_area
from satx.grid.cover import cover
from satx.grid.table import read_table
from satx.grid.tiles import places_of
from satx.imagery.folder import list_files
from satx.imagery.open_imagery import known_bounds, known_tiles

DEFAULT_ZOOM = 18
TABLES, AREAS, TILE_FILES = (".csv", ".tsv", ".parquet"), (".geojson", ".json"), (".mbtiles", ".pmtiles")


@dataclass(frozen=True)
class Target:
    """Tiles and where they are.

    Attributes:
        plan: The tiles, in blocks.
        imagery: Where they are, as `open_imagery` takes it.
        zooms: Their zooms; empty for files.
        notes: Lines for people about what was read.
    """

    plan: Plan
    imagery: str
    zooms: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()


def read_target(tiles: Path, *, imagery: str | None, zoom: int | None) -> Target:
    """Read which tiles to predict.

    Args:
        tiles: A folder of images, a table of z, x and y, an area as GeoJSON, or a file of tiles (MBTiles, PMTiles).
        imagery: Where the tiles of a table or an area are; None if `tiles` has the images itself.
        zoom: Zoom of the tiles of an area or a file of tiles; None for 18, or for the deepest zoom of the file.

    Raises:
        ConfigError, DataError: The tiles or the imagery cannot be used together, or there is no tile.
    """
    if not tiles.exists():
        raise DataError(
            f"There is no {tiles}. Pass a folder, a CSV or Parquet of z,x,y, a GeoJSON area, an MBTiles or a PMTiles."
        )
    ending = tiles.suffix.lower()
    if tiles.is_dir():
        _expect_none(imagery, zoom, f"the folder {tiles}, which has the images")
        return Target(plan_files(list_files(tiles)), str(tiles))
    keys = known_tiles(str(tiles), zoom)
    if keys is not None:
        _expect_none(imagery, None, f"{tiles}, which has the images")
        return _in_grid(keys, str(tiles))
    if ending not in TABLES + AREAS:
        known = ", ".join(TABLES + AREAS + TILE_FILES)
        raise ConfigError(f"{tiles}: expected a folder or a file that ends in {known}. Rename or convert it.")
    if imagery is None:
        raise ConfigError(
            f"--url: expected where the imagery of {tiles} is, got nothing. Pass a template such as "
            f"'https://HOST/{{z}}/{{x}}/{{y}}.jpg?key=${{KEY}}' in single quotes, an s3:// template, or a file of "
            f"tiles."
        )
    if ending in TABLES:
        _expect_none(None, zoom, f"{tiles}, which has the zoom of each tile")
        table = read_table(tiles)
        num_same = table.num_duplicates
        notes = (f"{num_same:,} rows of {tiles} name a tile that another row names too.",) if num_same else ()
        return _in_grid(table.keys, imagery, notes)
    area = read_area(tiles)
    zoom = DEFAULT_ZOOM if zoom is None else zoom
    _check_not_swapped(area, imagery, zoom)
    return _in_grid(cover(area, zoom), imagery, (str(area),))


def _check_not_swapped(area: Area, imagery: str, zoom: int) -> None:
    """Refuse an area with swapped coordinates, where the imagery tells its own bounds."""
    bounds = known_bounds(imagery, zoom)
    if bounds is not None:
        check_not_swapped(area, bounds, imagery)


def _expect_none(imagery: str | None, zoom: int | None, what: str) -> None:
    if imagery is not None:
        raise ConfigError(f"--url: expected none with {what}: it would not be read. Leave it out.")
    if zoom is not None:
        raise ConfigError(f"--zoom: expected none with {what}, got {zoom}. Leave it out.")


def _in_grid(keys: np.ndarray, imagery: str, notes: tuple[str, ...] = ()) -> Target:
    plan = plan_grid(keys)
    zooms, _, _ = places_of(plan.rows[[block.start for block in plan.blocks]])  # a block has tiles of one zoom
    return Target(plan, imagery, tuple(np.unique(zooms).tolist()), notes)
