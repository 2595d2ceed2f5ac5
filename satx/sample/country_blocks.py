"""Drawing one block of a rendered country: its roads, its place if it has one, and houses, fields and trees around it."""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import pairwise

import numpy as np

from satx.sample.buildings import lay_pitch, roof_color
from satx.sample.canvas import TILE_PX, Color, Frame, Point
from satx.sample.country_ground import cultivation, land_at, river_distance, shadow_at
from satx.sample.country_noise import generator, smooth_at
from satx.sample.country_places import BLOCK_PX, Block, block_at
from satx.sample.country_sheet import FIELDS, Picture, Recorder
from satx.sample.country_streets import build_town, build_village, lay_drive, lay_road
from satx.sample.places import draw_decoy, draw_factory, draw_market, draw_school
from satx.sample.settlement import farmstead
from satx.sample.terrain import Land, lay_pond, lot_colors, plant, sow, vary

_RIVER_STEP_PX = 8
_CLUMP_PX = 70.0  # size of a group of trees
_DISTRICT_PX = 12 * TILE_PX  # side of a square whose schools have roofs of one color, mostly


@lru_cache(maxsize=96)
def picture_of(seed: int, i: int, j: int) -> Picture:
    """Return what is drawn in one block; the latest ones are kept."""
    block = block_at(seed, i, j)
    center = block.frame.center
    land = land_at(seed, *center)
    recorder = Recorder(generator(seed, "drawing", i, j), shadow_at(seed, *center), block.outline)
    for road in block.roads:
        recorder.take_line(road.points, road.width_px + 6)
    lay_road(recorder, land, block.roads[0])  # the other two are drawn by the neighbours
    lay_road(recorder, land, block.roads[2])
    _take_river(seed, recorder)
    if block.kind:
        length_px, width_px = block.lot_px
        lay_drive(recorder, land, block)
        recorder.take(block.frame.rectangle(0, 0, length_px + 8, width_px + 8))
    _settle(seed, recorder, land, block)
    _draw_place(seed, recorder, land, block)
    _plant_trees(seed, recorder, land, block)
    return recorder.picture()


def _draw_place(seed: int, recorder: Recorder, land: Land, block: Block) -> None:
    length_px, width_px = block.lot_px
    if block.school is not None:
        draw_school(recorder, land, block.frame, block.school, _school_color(seed, recorder, block))
    elif block.kind == "market":
        draw_market(recorder, land, block.frame, length_px, width_px)
    elif block.kind == "factory":
        draw_factory(recorder, land, block.frame, length_px, width_px)
    elif block.kind == "pitch":
        lay_pitch(recorder, block.frame, length_px, width_px, lot_colors(recorder.rng, land))


def _school_color(seed: int, recorder: Recorder, block: Block) -> Color:
    """Return the color of a school's roofs: that of most schools of its district, or a random one."""
    rng = recorder.rng
    x, y = (int(value // _DISTRICT_PX) for value in block.frame.center)
    return vary(rng, roof_color(generator(seed, "district", x, y) if rng.random() < 0.7 else rng), 0.03)


def _settle(seed: int, recorder: Recorder, land: Land, block: Block) -> None:
    """Fill the free ground of a block: a town, a village, or fields with a farmstead here and there."""
    rng = recorder.rng
    if block.is_town:
        build_town(recorder, land, block)
        return
    wooded, farmed = cultivation(seed, *block.frame.center)
    share = 1 / (1 + math.exp(2 * (wooded - farmed) - 0.6))
    if block.slice == "urban":
        share *= 0.5
    fields = _sow_block(recorder, land, block, share)
    if rng.random() < 0.07:
        _lay_pond(recorder, land, block)
    if not block.kind and rng.random() < 0.12:
        spot = block.frame.moved(*rng.normal(0, 30, 2))
        if recorder.is_free(spot.rectangle(0, 0, 134, 98)):
            draw_decoy(recorder, land, spot, marked=0.1)
    if block.slice == "urban":
        for field in fields:
            if rng.random() < 0.6:
                recorder.take(field)
        build_village(recorder, block)
    else:
        for _ in range(int(rng.choice((0, 1, 2), p=(0.55, 0.3, 0.15)))):
            farmstead(recorder, land, block.frame.moved(*rng.uniform(-0.3, 0.3, 2) * BLOCK_PX))
    for field in fields:
        if rng.random() < 0.8:  # few fields have trees
            recorder.take(field)


def _take_river(seed: int, recorder: Recorder) -> None:
    left, top, right, bottom = recorder.bounds
    near_x, near_y = np.meshgrid(np.linspace(left, right, 6), np.linspace(top, bottom, 6))
    if river_distance(seed, near_x.ravel(), near_y.ravel()).min() > 110:
        return
    half = _RIVER_STEP_PX / 2
    x, y = np.arange(left + half, right + half, _RIVER_STEP_PX), np.arange(top + half, bottom + half, _RIVER_STEP_PX)
    columns, rows = np.meshgrid(x, y)
    distance = river_distance(seed, columns.ravel(), rows.ravel()).reshape(columns.shape)
    recorder.take_where(distance < 12, _RIVER_STEP_PX)


def _sow_block(recorder: Recorder, land: Land, block: Block, share: float) -> list[list[Point]]:
    """Divide a block into strips of unequal fields; cultivate a `share` of them, and return their outlines."""
    rng = recorder.rng
    fields = []
    turned = rng.random() < 0.5
    with recorder.on(FIELDS):
        for t0, t1 in _cuts(rng, 28 / BLOCK_PX, 80 / BLOCK_PX):
            for s0, s1 in _cuts(rng, 40 / BLOCK_PX, 140 / BLOCK_PX):
                if rng.random() < share:
                    sides = (s0, s1, t0, t1) if turned else (t0, t1, s0, s1)
                    fields.append(_patch(block, *sides))
                    sow(recorder, land, block.frame.angle, fields[-1])
    return fields


def _cuts(rng: np.random.Generator, least: float, most: float) -> list[tuple[float, float]]:
    """Return unequal parts of 0..1."""
    ends = [0.0]
    while ends[-1] < 1:
        ends.append(ends[-1] + rng.uniform(least, most))
    if 1 - ends[-2] < least / 2 and len(ends) > 2:
        del ends[-2]
    ends[-1] = 1.0
    return list(pairwise(ends))


def _patch(block: Block, s0: float, s1: float, t0: float, t1: float) -> list[Point]:
    """Return the outline of a part of a block, a little smaller than the part."""
    gap = 1.2 / BLOCK_PX
    s = np.linspace(s0 + gap, s1 - gap, 4)
    t = np.linspace(t0 + gap, t1 - gap, 4)
    sides = (
        [(a, t[0]) for a in s],
        [(s[-1], b) for b in t[1:]],
        [(a, t[-1]) for a in s[-2::-1]],
        [(s[0], b) for b in t[-2:0:-1]],
    )
    return [block.at(float(a), float(b)) for side in sides for a, b in side]


def _lay_pond(recorder: Recorder, land: Land, block: Block) -> None:
    rng = recorder.rng
    center, radius_px = block.frame.at(*rng.uniform(-90, 90, 2)), rng.uniform(14, 34)
    if recorder.is_free(Frame(center, 0.0).rectangle(0, 0, 2.6 * radius_px, 2.6 * radius_px)):
        lay_pond(recorder, land, center, radius_px)


def _plant_trees(seed: int, recorder: Recorder, land: Land, block: Block) -> None:
    """Add trees to free ground: many in woods, in clumps that continue beyond the block."""
    rng = recorder.rng
    left, top, right, bottom = recorder.bounds
    wooded = 1 / (1 + math.exp(-3.5 * (cultivation(seed, *block.frame.center)[0] - 0.75)))
    a_tile = 70 + 40 * rng.random() if block.slice == "urban" else 45 + 700 * wooded
    num_trees = int(a_tile * (right - left) * (bottom - top) / TILE_PX**2)
    spots = rng.uniform((left, top), (right, bottom), (num_trees, 2))
    clumps = smooth_at(seed, ["clumps"], _CLUMP_PX, *spots.T)[0] + 0.4 * rng.standard_normal(num_trees)
    size_px = rng.uniform(3.6, 6.6)
    for spot_x, spot_y in spots[clumps > 0.3 - 1.2 * wooded].tolist():
        radius_px = size_px * rng.uniform(0.6, 1.45)
        around = [
            (spot_x - radius_px, spot_y),
            (spot_x, spot_y - radius_px),
            (spot_x + radius_px, spot_y),
            (spot_x, spot_y + radius_px),
        ]
        if recorder.is_free(around):
            plant(recorder, land, (spot_x, spot_y), radius_px)
