"""Distances in metres between points of the globe, which hold on the WGS 84 ellipsoid.

Points are compared by the straight line between them, through the ground, in geocentric coordinates. That line is never longer
than the way along the ellipsoid, so points that are 300 m apart by it are at least 300 m apart on the ground, in every
direction, at every latitude and across the antimeridian. It is shorter by d³ / 24R²: less than a micrometre at 300 m and 1 m at
100 km. A sphere instead of the ellipsoid would be wrong by up to 0.56%, in both directions.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree

from satx.grid.points import Points

# WGS 84, NGA.STND.0036: semi-major axis in metres, and flattening.
EQUATOR_RADIUS_M, FLATTENING = 6_378_137.0, 1 / 298.257223563
ECCENTRICITY_SQUARED = FLATTENING * (2 - FLATTENING)

_PIECE = 1 << 16  # points converted at a time, so that temporary arrays stay small


class TooNear(NamedTuple):
    """A point that is nearer to another than it may be.

    Attributes:
        point: Index of the point.
        other: Index of the nearest of the other points.
        distance_m: Distance of both.
    """

    point: int
    other: int
    distance_m: float


def geocentric(longitude: np.ndarray, latitude: np.ndarray) -> np.ndarray:
    """Return the geocentric coordinates of points on the ellipsoid, (num_points, 3) float64, metres.

    Args:
        longitude: (num_points,) degrees.
        latitude: (num_points,) degrees.
    """
    places = np.empty((len(longitude), 3))
    for start in range(0, len(places), _PIECE):
        part = slice(start, start + _PIECE)
        east, north = np.radians(longitude[part]), np.radians(latitude[part])
        sine = np.sin(north)
        radius_m = EQUATOR_RADIUS_M / np.sqrt(1 - ECCENTRICITY_SQUARED * sine**2)  # of curvature in the prime vertical
        places[part, 0] = radius_m * np.cos(north) * np.cos(east)
        places[part, 1] = radius_m * np.cos(north) * np.sin(east)
        places[part, 2] = radius_m * (1 - ECCENTRICITY_SQUARED) * sine
    return places


def nearest_m(points: Points, others: Points) -> tuple[np.ndarray, np.ndarray]:
    """Return the distance in metres from each point to the nearest of the others, float64, and its index, int64."""
    tree = cKDTree(geocentric(others.longitude, others.latitude))
    distances_m, nearest = tree.query(geocentric(points.longitude, points.latitude))
    return np.asarray(distances_m, np.float64), np.asarray(nearest, np.int64)


def too_near(points: Points, others: Points, distance_m: float) -> list[TooNear]:
    """Return the points that are nearer than a distance to one of the others, in order.

    Args:
        points: Points, such as negatives that somebody placed by hand.
        others: Points to keep away from, such as positives; at least one.
        distance_m: The least distance that is allowed, metres.
    """
    distances_m, nearest = nearest_m(points, others)
    return [
        TooNear(index, int(nearest[index]), float(distances_m[index]))
        for index in np.flatnonzero(distances_m < distance_m).tolist()
    ]
