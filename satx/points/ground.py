"""Random points of an area, uniform by area on the ground of the WGS 84 ellipsoid."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import shapely

from satx.grid.area import Area
from satx.grid.cover import cover
from satx.grid.points import place_keys, places_of_keys
from satx.grid.tiles import MAX_ZOOM, bounds_of, places_of
from satx.points.distance import ECCENTRICITY_SQUARED

_MIN_TILES = 1 << 12  # that cover the area; the more, the fewer points outside of it are drawn in vain
_POINTS_AT_ONCE = 1 << 13


def ground_points(area: Area, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield keys (`place_keys`) of random points in an area, without end, uint64.

    A square kilometre of the area gets as many at any latitude; by degrees, one at latitude 70 would get twice as many as one at
    latitude 45. First a tile of the area is drawn, with a chance that is an upper bound of its size on the ground, then a point
    in the tile. The point is kept with a chance that is the ratio of size and bound where it lies, and if it is in the area. So
    the distribution is exact.
    """
    west, south, east, north = bounds_of(*places_of(_tiles(area)))
    # A degree of both is largest on the ground at the latitude that is nearest to the equator.
    most = _ground_a_degree(np.where((south < 0) & (north > 0), 0.0, np.minimum(np.abs(south), np.abs(north))))
    bound = (east - west) * (north - south) * most
    chances = bound / bound.sum()
    shapely.prepare(area.geometry)
    while True:
        tiles = rng.choice(len(chances), _POINTS_AT_ONCE, p=chances)
        across, up, kept_below = rng.random((3, _POINTS_AT_ONCE))
        longitude = west[tiles] + across * (east - west)[tiles]
        latitude = south[tiles] + up * (north - south)[tiles]
        is_kept = kept_below * most[tiles] < _ground_a_degree(latitude)
        keys = place_keys(longitude[is_kept], latitude[is_kept])
        # As they are written: a point near the border could be rounded to beyond it.
        yield keys[shapely.intersects_xy(area.geometry, *places_of_keys(keys))]


def _tiles(area: Area) -> np.ndarray:
    """Return the keys of many small tiles that cover an area."""
    for zoom in range(MAX_ZOOM):
        keys = cover(area, zoom)
        if len(keys) >= _MIN_TILES:
            return keys
    return cover(area, MAX_ZOOM)


def _ground_a_degree(latitude: np.ndarray) -> np.ndarray:
    """Return the area on the ellipsoid of a square degree at latitudes, up to a constant factor.

    It is the product of both radii of curvature and the cosine of the latitude.
    """
    sine = np.sin(np.radians(latitude))
    return np.asarray(np.sqrt(1 - sine**2) / (1 - ECCENTRICITY_SQUARED * sine**2) ** 2)
