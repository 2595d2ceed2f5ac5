from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from satx.grid.points import Points
from satx.points.distance import geocentric, nearest_m, too_near

Place = tuple[float, float]  # longitude, latitude in degrees


def geodesic_m(first: Place, second: Place) -> float:
    """Return the length of the geodesic on WGS 84 by T. Vincenty's inverse formula (Survey Review 23, 1975)."""
    a, f = 6378137.0, 1 / 298.257223563
    b = (1 - f) * a
    u1, u2 = (math.atan((1 - f) * math.tan(math.radians(place[1]))) for place in (first, second))
    difference = math.radians(second[0] - first[0])
    lam = difference
    for _ in range(100):
        sin_sigma = math.hypot(
            math.cos(u2) * math.sin(lam),
            math.cos(u1) * math.sin(u2) - math.sin(u1) * math.cos(u2) * math.cos(lam),
        )
        if sin_sigma == 0:
            return 0.0
        cos_sigma = math.sin(u1) * math.sin(u2) + math.cos(u1) * math.cos(u2) * math.cos(lam)
        sigma = math.atan2(sin_sigma, cos_sigma)
        sin_alpha = math.cos(u1) * math.cos(u2) * math.sin(lam) / sin_sigma
        cos2_alpha = 1 - sin_alpha**2
        cos_2m = cos_sigma - 2 * math.sin(u1) * math.sin(u2) / cos2_alpha if cos2_alpha > 1e-12 else 0.0
        c = f / 16 * cos2_alpha * (4 + f * (4 - 3 * cos2_alpha))
        inner = cos_2m + c * cos_sigma * (-1 + 2 * cos_2m**2)
        before, lam = lam, difference + (1 - c) * f * sin_alpha * (sigma + c * sin_sigma * inner)
        if abs(lam - before) < 1e-14:
            break
    squared = cos2_alpha * (a**2 - b**2) / b**2
    big_a = 1 + squared / 16384 * (4096 + squared * (-768 + squared * (320 - 175 * squared)))
    big_b = squared / 1024 * (256 + squared * (-128 + squared * (74 - 47 * squared)))
    third = big_b / 6 * cos_2m * (-3 + 4 * sin_sigma**2) * (-3 + 4 * cos_2m**2)
    turn = big_b * sin_sigma * (cos_2m + big_b / 4 * (cos_sigma * (-1 + 2 * cos_2m**2) - third))
    return b * big_a * (sigma - turn)


def points(*places: Place) -> Points:
    longitude, latitude = np.array(places, np.float64).T
    return Points(longitude, latitude, ("",) * len(places), ("",) * len(places))


def straight_m(first: Place, second: Place) -> float:
    return float(nearest_m(points(first), points(second))[0][0])


def test_a_surveyed_line_has_its_published_length() -> None:
    """From Flinders Peak to Buninyong, 54,972.271 m: the example of the technical manual of the Geocentric Datum of Australia."""
    flinders = (144 + 25 / 60 + 29.52440 / 3600, -(37 + 57 / 60 + 3.72030 / 3600))
    buninyong = (143 + 55 / 60 + 35.38390 / 3600, -(37 + 39 / 60 + 10.15610 / 3600))
    assert geodesic_m(flinders, buninyong) == pytest.approx(54_972.271, abs=0.001)
    shorter_m = 54_972.271**3 / 24 / 6_371_000**2
    assert straight_m(flinders, buninyong) == pytest.approx(54_972.271 - shorter_m, abs=0.01)


@given(
    longitude=st.floats(-180, 180),
    latitude=st.floats(-85, 85),
    distance_m=st.floats(1, 100_000),
    direction=st.floats(0, 2 * math.pi),
)
def test_the_straight_line_is_never_longer_than_the_way_on_the_ellipsoid_and_hardly_shorter(
    longitude: float, latitude: float, distance_m: float, direction: float
) -> None:
    north = latitude + math.cos(direction) * distance_m / 111_000
    east = longitude + math.sin(direction) * distance_m / (111_000 * math.cos(math.radians(latitude)))
    way_m = geodesic_m((longitude, latitude), (east, north))
    line_m = straight_m((longitude, latitude), (east, north))
    rounding_m = 1e-4  # of Vincenty's formula
    assert line_m <= way_m + rounding_m
    assert line_m >= way_m - way_m**3 / 24 / 6_300_000**2 - rounding_m


@pytest.mark.parametrize(
    ("place", "degrees", "metres"),
    [((20.0, 0.0), (0, 1), 110_574), ((20.0, 84.0), (0, 1), 111_680), ((20.0, 0.0), (1, 0), 111_319)],
)
def test_a_degree_is_as_long_as_on_the_ellipsoid(place: Place, degrees: Place, metres: float) -> None:
    """A sphere of the mean radius has 111,195 m everywhere; lengths of degrees as tabulated for WGS 84."""
    other = (place[0] + degrees[0], place[1] + degrees[1])
    assert straight_m(place, other) == pytest.approx(metres, abs=8)


def test_the_antimeridian_is_no_border() -> None:
    east, west = (179.9995, -17.0), (-179.9995, -17.0)
    assert straight_m(east, west) == pytest.approx(geodesic_m((0, -17), (0.001, -17)), abs=1e-3)
    assert straight_m((180.0, 5.0), (-180.0, 5.0)) < 1e-6


def test_points_that_are_too_near_are_listed_in_order_with_the_nearest_other() -> None:
    negatives = points((36.8, -1.3), (36.9, -1.3), (36.8010, -1.3), (37.5, -1.2))
    positives = points((36.8020, -1.3), (36.9, -1.3), (36.0, 0.0))
    found = too_near(negatives, positives, 300)
    assert [(near.point, near.other) for near in found] == [(0, 0), (1, 1), (2, 0)]
    assert [near.distance_m for near in found] == [
        pytest.approx(geodesic_m((36.8, -1.3), (36.8020, -1.3)), abs=1e-3),
        0,
        pytest.approx(geodesic_m((36.8010, -1.3), (36.8020, -1.3)), abs=1e-3),
    ]
    at_m = found[0].distance_m
    assert [near.point for near in too_near(negatives, positives, at_m)] == [
        1,
        2,
    ]  # a point at the distance itself is far enough


def test_a_distance_that_only_a_sphere_takes_for_300_m_is_too_near() -> None:
    """Northward at the equator a sphere of the mean radius overstates a distance by 0.56%."""
    north = math.degrees(301 / 6_371_008.8)
    assert geodesic_m((10, -north / 2), (10, north / 2)) < 300
    assert len(too_near(points((10, -north / 2)), points((10, north / 2)), 300)) == 1


def test_many_points_are_converted_piece_by_piece_without_a_seam() -> None:
    longitude, latitude = np.linspace(-180, 180, 150_000), np.linspace(-85, 85, 150_000)
    places = geocentric(longitude, latitude)
    steps_m = np.linalg.norm(np.diff(places, axis=0), axis=1)
    assert steps_m.max() < 1.2 * steps_m.mean() * 1.5
    assert np.array_equal(places[70_000:70_001], geocentric(longitude[70_000:70_001], latitude[70_000:70_001]))
