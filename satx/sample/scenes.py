"""Kinds of place that a rendered tile can show, each with its surroundings."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from satx.sample.buildings import roof_color
from satx.sample.canvas import TILE_PX, Canvas, Frame, TileCanvas
from satx.sample.places import SCHOOL_KINDS, draw_decoy, draw_factory, draw_market, draw_school, plan_school
from satx.sample.settlement import farmstead, houses_along, surroundings, town
from satx.sample.terrain import (
    Land,
    bend,
    draw_land,
    lay_pond,
    lay_road,
    lay_water,
    make_ground,
    plant_wood,
    sow_parcels,
)

BUILT_UP_KINDS = ("houses", "market", "factory")
OPEN_LAND_KINDS = ("farmland", "forest", "river")

__all__ = ["BUILT_UP_KINDS", "OPEN_LAND_KINDS", "SCHOOL_KINDS", "render_scene"]


def render_scene(kind: str, slice_name: str, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Render one tile that shows a kind of place.

    Args:
        kind: One of `BUILT_UP_KINDS`, `OPEN_LAND_KINDS` or `SCHOOL_KINDS`.
        slice_name: "rural" or "urban".
        rng: Random generator, the only source of randomness.

    Returns:
        (256, 256, 3) uint8.
    """
    land = draw_land(rng)
    canvas = TileCanvas(rng, make_ground(rng, land))
    frame = Frame((TILE_PX / 2, TILE_PX / 2), rng.uniform(0, 2 * math.pi))
    if kind in SCHOOL_KINDS:
        _school(canvas, land, frame, kind, slice_name)
    else:
        _SCENES[kind](canvas, land, frame, slice_name)
    return canvas.photograph()


def _school(canvas: Canvas, land: Land, frame: Frame, kind: str, slice_name: str) -> None:
    rng = canvas.rng
    place = frame.moved(*rng.normal(0, 10, 2))
    plan = plan_school(rng, kind)
    v, length, width = plan.lot
    surroundings(canvas, land, frame, slice_name, clear=place.rectangle(0, v, length + 10, width + 10))
    draw_school(canvas, land, place, plan, roof_color(rng))


def _houses(canvas: Canvas, land: Land, frame: Frame, slice_name: str) -> None:
    rng = canvas.rng
    if slice_name == "urban":
        town(canvas, land, frame, dense=True)
        plant_wood(canvas, land, num_trees=int(rng.integers(20, 120)), clumping=0.3)
        return
    draw_decoy(canvas, land, frame.moved(*rng.normal(0, 25, 2)), marked=0.1)
    if rng.random() < 0.5:
        sow_parcels(canvas, land, frame, share=rng.uniform(0.2, 0.6))
    houses_along(canvas, land, frame, num_houses=int(rng.integers(25, 60)))
    plant_wood(canvas, land, num_trees=int(rng.integers(40, 200)), clumping=0.5)


def _market(canvas: Canvas, land: Land, frame: Frame, slice_name: str) -> None:
    rng = canvas.rng
    length, width = rng.uniform(110, 190), rng.uniform(90, 160)
    surroundings(canvas, land, frame, slice_name, clear=frame.rectangle(0, 0, length + 8, width + 8))
    draw_market(canvas, land, frame, length, width)


def _factory(canvas: Canvas, land: Land, frame: Frame, slice_name: str) -> None:
    rng = canvas.rng
    length, width = rng.uniform(165, 200), rng.uniform(130, 160)
    surroundings(canvas, land, frame, slice_name, clear=frame.rectangle(0, 0, length + 8, width + 8))
    draw_factory(canvas, land, frame, length, width)


def _farmland(canvas: Canvas, land: Land, frame: Frame, slice_name: str) -> None:
    rng = canvas.rng
    sow_parcels(canvas, land, frame, share=rng.uniform(0.75, 1))
    draw_decoy(canvas, land, frame.moved(*rng.normal(0, 40, 2)), marked=0.0)
    track = bend(rng, frame, rng.uniform(-80, 80), sway_px=rng.uniform(0, 6))
    lay_road(canvas, land, track, width_px=rng.uniform(3, 7), paved=rng.random() < 0.4)
    _edge(canvas, land, frame, slice_name)
    plant_wood(canvas, land, num_trees=int(rng.integers(5, 120)), clumping=1.2)


def _forest(canvas: Canvas, land: Land, frame: Frame, slice_name: str) -> None:
    rng = canvas.rng
    if rng.random() < 0.8:
        draw_decoy(canvas, land, frame.moved(*rng.normal(0, 40, 2)), marked=0.15 if slice_name == "urban" else 0.0)
    track = bend(rng, frame, rng.uniform(-90, 90), sway_px=rng.uniform(4, 18))
    lay_road(canvas, land, track, width_px=rng.uniform(3, 6), paved=False)
    if rng.random() < 0.35:
        lay_pond(canvas, land, frame.at(*rng.normal(0, 60, 2)), rng.uniform(14, 34))
    _edge(canvas, land, frame, slice_name)
    plant_wood(canvas, land, num_trees=int(rng.integers(350, 900)), clumping=rng.choice((0.0, 0.6)))


def _river(canvas: Canvas, land: Land, frame: Frame, slice_name: str) -> None:
    rng = canvas.rng
    if rng.random() < 0.6:
        sow_parcels(canvas, land, frame, share=rng.uniform(0.3, 0.9))
    course = bend(rng, frame, rng.uniform(-40, 40), sway_px=rng.uniform(5, 30))
    lay_water(canvas, land, course, width_px=rng.uniform(18, 70))
    if rng.random() < 0.4:
        bridge = bend(rng, Frame(frame.center, frame.angle + math.pi / 2), rng.uniform(-70, 70), sway_px=0)
        lay_road(canvas, land, bridge, width_px=rng.uniform(6, 11), paved=True)
    _edge(canvas, land, frame, slice_name)
    plant_wood(canvas, land, num_trees=int(rng.integers(60, 300)), clumping=0.8)


def _edge(canvas: Canvas, land: Land, frame: Frame, slice_name: str) -> None:
    """Add buildings to open land: the edge of a town, or a few farmsteads."""
    if slice_name == "urban":
        town(canvas, land, frame, dense=False)
        return
    for _ in range(int(canvas.rng.integers(1, 4))):
        farmstead(canvas, land, frame.moved(*canvas.rng.uniform(-100, 100, 2)))


_SCENES: dict[str, Callable[[Canvas, Land, Frame, str], None]] = {
    "houses": _houses,
    "market": _market,
    "factory": _factory,
    "farmland": _farmland,
    "forest": _forest,
    "river": _river,
}
