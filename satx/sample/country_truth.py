"""What a rendered country truly holds: its places, the labels of its tiles, and both as GeoJSON."""

from __future__ import annotations

from typing import Any, NamedTuple

from satx.sample.canvas import TILE_PX, Point
from satx.sample.country import Country, degrees_of
from satx.sample.country_places import places_in
from satx.sample.places import SCHOOL_KINDS
from satx.sample.sample import NOT_SCHOOL, SCHOOL

LOT_SHARE = 1 / 3  # of a school's lot; a tile that shows as much of one is labelled as a school

_LONGEST_LOT_PX = 220  # more than half of the diagonal of the largest lot, 174 x 192 px


class Place(NamedTuple):
    """A school, or a market, factory or pitch that could be taken for one.

    Attributes:
        x_px: Column of its center, from the country's west border.
        y_px: Row of its center, from the north border.
        kind: One of `SCHOOL_KINDS`, "market", "factory" or "pitch".
        slice: "urban" or "rural".
        lot: Corners of its lot in px.
    """

    x_px: float
    y_px: float
    kind: str
    slice: str
    lot: tuple[Point, ...]

    @property
    def is_school(self) -> bool:
        """Whether it is a school."""
        return self.kind in SCHOOL_KINDS


def places(country: Country) -> list[Place]:
    """Return all places whose center lies in a country, always in the same order; 20,000 tiles take some seconds."""
    return _places(country, 0)


def schools(country: Country) -> list[Place]:
    """Return the schools of a country; about 1.5% of its tiles contain the center of one."""
    return [place for place in places(country) if place.is_school]


def tile_truth(country: Country) -> dict[tuple[int, int], str]:
    """Return the label of each tile, "school" or "not-school", by its column and row on the map.

    A tile is a school if it contains a school's center, or at least `LOT_SHARE` of a school's lot.
    """
    labels = {
        (country.west_x + column, country.north_y + row): NOT_SCHOOL
        for row in range(country.height_tiles)
        for column in range(country.width_tiles)
    }
    for place in _places(country, _LONGEST_LOT_PX):
        if place.is_school:
            for tile in _tiles_of(country, place):
                if tile in labels:
                    labels[tile] = SCHOOL
    return labels


def truth_geojson(country: Country) -> dict[str, Any]:
    """Return the schools as GeoJSON points; properties: kind, slice, and z, x, y of the tile that contains the center."""
    features = []
    for place in schools(country):
        x, y = _tile_of(country, place.x_px, place.y_px)
        properties = {"label": SCHOOL, "kind": place.kind, "slice": place.slice, "z": country.zoom, "x": x, "y": y}
        point = {"type": "Point", "coordinates": list(degrees_of(country, place.x_px, place.y_px))}
        features.append({"type": "Feature", "properties": properties, "geometry": point})
    return {"type": "FeatureCollection", "features": features}


def area_geojson(country: Country) -> dict[str, Any]:
    """Return a country's rectangle as a GeoJSON polygon.

    It is half a pixel smaller on each side: a polygon on the very border could be taken to meet the tiles beyond, too.
    """
    west, north = degrees_of(country, 0, 0)
    east, south = degrees_of(country, country.width_tiles * TILE_PX - 1, country.height_tiles * TILE_PX - 1)
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    polygon = {"type": "Polygon", "coordinates": [ring]}
    properties = {"name": f"Rendered country of seed {country.seed}", "zoom": country.zoom}
    return {
        "type": "FeatureCollection",
        "features": [{"type": "Feature", "properties": properties, "geometry": polygon}],
    }


def _places(country: Country, margin_px: int) -> list[Place]:
    width_px, height_px = (num * TILE_PX + 2 * margin_px for num in (country.width_tiles, country.height_tiles))
    blocks = places_in(country.seed, -margin_px, -margin_px, width_px, height_px)
    return [Place(*block.frame.center, block.kind, block.slice, tuple(block.lot)) for block in blocks]


def _tile_of(country: Country, x_px: float, y_px: float) -> tuple[int, int]:
    return int(x_px // TILE_PX) + country.west_x, int(y_px // TILE_PX) + country.north_y


def _tiles_of(country: Country, place: Place) -> list[tuple[int, int]]:
    """Return the tiles that are labelled as a school because of this one."""
    from shapely import Polygon, box

    lot = Polygon(place.lot)
    found = [_tile_of(country, place.x_px, place.y_px)]
    left, top, right, bottom = (int(value // TILE_PX) for value in lot.bounds)
    for row in range(top, bottom + 1):
        for column in range(left, right + 1):
            tile = box(column * TILE_PX, row * TILE_PX, (column + 1) * TILE_PX, (row + 1) * TILE_PX)
            if lot.intersection(tile).area >= LOT_SHARE * lot.area:
                found.append((column + country.west_x, row + country.north_y))
    return found
