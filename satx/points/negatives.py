"""Points of the negative class: far from every positive, far from each other, and where buildings stand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import shapely
from scipy.spatial import cKDTree

from satx.errors import DataError
from satx.grid.area import Area
from satx.grid.points import Points, places_of_keys
from satx.points.distance import geocentric, nearest_m
from satx.points.ground import ground_points

BUILT_UP, OPEN = "built-up", "open"
# Half of the width of a picture of 256 px at zoom 18, which is 153 m wide at the equator: a building that is as near is in the
# picture, whatever its direction.
HALF_WIDTH_M = 75.0
DEFAULT_OPEN_SHARE = 0.25

_CANDIDATES_AT_ONCE = 1 << 13
_PATIENCE = 40  # times that many random candidates without one that fits: the area is full


@dataclass(frozen=True)
class Wanted:
    """Which negatives to draw.

    Attributes:
        number: How many.
        distance_m: Least distance of each from any positive, metres.
        apart_m: Least distance of each from any other, metres.
        open_share: Share of them without a building in the picture, 0 to 1; not used without buildings.
        label: Their class.
        seed: Decides about the rest.
    """

    number: int
    distance_m: float
    apart_m: float
    open_share: float
    label: str
    seed: int


@dataclass(frozen=True)
class Negatives:
    """Negatives in the order in which they were drawn, those where buildings stand first.

    Attributes:
        points: Their places, with `slices` of `BUILT_UP` and `OPEN`, or "" without buildings.
        nearest_positive_m: (num_points,) float64, metres.
        num_buildings: (num_points,) int64, within `HALF_WIDTH_M` of each; None without buildings.
    """

    points: Points
    nearest_positive_m: np.ndarray
    num_buildings: np.ndarray | None


def positives_in(area: Area, positives: Points) -> np.ndarray:
    """Return which positives lie in an area, (num_points,) bool.

    Raises:
        DataError: None does, so that both are of different regions, or longitude and latitude of one are swapped.
    """
    shapely.prepare(area.geometry)
    is_inside = shapely.intersects_xy(area.geometry, positives.longitude, positives.latitude)
    if not is_inside.any():
        is_swapped = shapely.intersects_xy(area.geometry, positives.latitude, positives.longitude).any()
        longitude, latitude = positives.longitude, positives.latitude
        advice = (
            "Longitude and latitude of one of them look swapped: GeoJSON has the longitude first."
            if is_swapped
            else "Pass an area and positives of the same region."
        )
        raise DataError(
            f"Expected positives in the area, got {len(longitude):,} elsewhere: longitude {longitude.min():.5f} to "
            f"{longitude.max():.5f}, latitude {latitude.min():.5f} to {latitude.max():.5f}. {area} {advice}"
        )
    return np.asarray(is_inside)


def draw_negatives(
    area: Area,
    positives: Points,
    buildings: np.ndarray | None,
    wanted: Wanted,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Negatives:
    """Draw negatives in an area. Equal places and an equal seed give equal points, whatever the order of the inputs.

    With buildings, most points are the place of a random building. That is the rule of Giga, whose negatives lie at least 300 m
    from a school and where buildings stand (arXiv 2412.14870): otherwise most show open land, and the model does not learn to
    tell a school from other buildings. The rest, `open_share`, have no building within `HALF_WIDTH_M`. Without buildings, points
    are uniform by area on the ground.

    Memory is some 90 bytes for each building.

    Args:
        area: Where the points lie, its border included.
        positives: What to keep away from, also outside of the area.
        buildings: Keys of the buildings in or near the area, as `read_buildings` returns them; None if they are not known.
        wanted: How many, how far from what, and the seed.
        on_progress: Called with the points drawn, and how many are wanted.

    Raises:
        DataError: There is no room for as many points.
    """
    rng = np.random.default_rng(wanted.seed)
    drawing = _Drawing(cKDTree(geocentric(positives.longitude, positives.latitude)), wanted, on_progress)
    none = np.empty(0, np.uint64)
    if buildings is None:
        keys = drawing.add(none, ground_points(area, rng), wanted.number, "in the area", patience=_PATIENCE)
        return _negatives(keys, positives, wanted, None)
    standing = cKDTree(geocentric(*places_of_keys(buildings)), balanced_tree=False, compact_nodes=False)
    num_open = round(wanted.number * wanted.open_share)
    keys = none
    if num_open < wanted.number:
        candidates = _at_buildings(area, buildings, rng)
        keys = drawing.add(keys, candidates, wanted.number - num_open, "where buildings stand", patience=None)
    if num_open:
        candidates = (some[_counts(standing, some) == 0] for some in ground_points(area, rng))
        keys = drawing.add(
            keys, candidates, num_open, f"without a building within {HALF_WIDTH_M:g} m", patience=_PATIENCE
        )
    return _negatives(keys, positives, wanted, _counts(standing, keys))


@dataclass(frozen=True)
class _Drawing:
    """What candidates are tested with."""

    positives: cKDTree
    wanted: Wanted
    on_progress: Callable[[int, int], None]

    def add(
        self, drawn: np.ndarray, candidates: Iterator[np.ndarray], number: int, where: str, *, patience: int | None
    ) -> np.ndarray:
        """Return the keys drawn so far and those of more candidates that are far from positives and from one another.

        Args:
            drawn: Keys.
            candidates: Keys, in the order in which they are tried.
            number: How many to add.
            where: What the candidates have in common, for the message.
            patience: Batches without one that fits after which the area is full; None to try all.

        Raises:
            DataError: There were too few candidates that fit.
        """
        goal, num_idle = len(drawn) + number, 0
        for some in candidates:
            fitting = self._fitting(drawn, some, goal - len(drawn))
            num_idle = 0 if len(fitting) else num_idle + 1
            drawn = np.concatenate([drawn, fitting])
            self.on_progress(len(drawn), self.wanted.number)
            if len(drawn) == goal:
                return drawn
            if num_idle == patience:
                break
        found = number - (goal - len(drawn))
        raise DataError(
            f"Expected {number:,} negatives {where}, at least {self.wanted.distance_m:g} m from every positive and "
            f"{self.wanted.apart_m:g} m from each other, found room for {found:,}. Pass a smaller --number, --distance-m or "
            f"--apart-m, or a larger area. Nothing was written."
        )

    def _fitting(self, drawn: np.ndarray, candidates: np.ndarray, number: int) -> np.ndarray:
        """Return the first candidates that are far enough from positives, from the points drawn and from one another."""
        places = geocentric(*places_of_keys(candidates))
        is_free = _distances_m(self.positives, places, self.wanted.distance_m) >= self.wanted.distance_m
        if len(drawn):
            others = cKDTree(geocentric(*places_of_keys(drawn)))
            is_free &= _distances_m(others, places, self.wanted.apart_m) >= self.wanted.apart_m
        candidates, places = candidates[is_free], places[is_free]
        return candidates[_apart(places, self.wanted.apart_m, number)]


def _distances_m(tree: cKDTree, places: np.ndarray, most_m: float) -> np.ndarray:
    """Return the distance from each place to the nearest one of a tree; infinity beyond `most_m`."""
    return np.asarray(tree.query(places, distance_upper_bound=most_m)[0])


def _apart(places: np.ndarray, apart_m: float, number: int) -> list[int]:
    """Return the indices of at most `number` places, (num_places, 3) metres, each far from those before it."""
    chosen: list[int] = []
    if not len(places):
        return chosen
    tree = cKDTree(places)
    is_free = np.ones(len(places), bool)
    for index in range(len(places)):
        if len(chosen) == number:
            break
        if is_free[index]:
            chosen.append(index)
            is_free[tree.query_ball_point(places[index], apart_m)] = False
    return chosen


def _at_buildings(area: Area, buildings: np.ndarray, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield the keys of all buildings in the area itself, in random order."""
    shapely.prepare(area.geometry)
    keys = rng.permutation(buildings)
    for start in range(0, len(keys), _CANDIDATES_AT_ONCE):
        some = keys[start : start + _CANDIDATES_AT_ONCE]
        yield some[shapely.intersects_xy(area.geometry, *places_of_keys(some))]


def _counts(standing: cKDTree, keys: np.ndarray) -> np.ndarray:
    """Return the number of buildings in the picture around each place."""
    places = geocentric(*places_of_keys(keys))
    return np.asarray(standing.query_ball_point(places, HALF_WIDTH_M, return_length=True), np.int64)


def _negatives(keys: np.ndarray, positives: Points, wanted: Wanted, counts: np.ndarray | None) -> Negatives:
    longitude, latitude = places_of_keys(keys)
    slices = [""] * len(keys) if counts is None else [BUILT_UP if count else OPEN for count in counts.tolist()]
    points = Points(longitude, latitude, (wanted.label,) * len(keys), tuple(slices))
    return Negatives(points, nearest_m(points, positives)[0], counts)
