"""Views: deterministic augmentations of a tile, the same for every trial, so that what a trunk makes of one can be kept.

View `v` is flip `v % num_flips` of variant `v // num_flips`. The eight flips and quarter turns are the symmetries of the
square: exact for imagery seen from above. Variant 0 is the tile itself; the others are drawn from (variant, tile),
whatever the training's seed, so that trainings that differ in it alone share what a trunk makes of them.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from satx.config import AugmentationConfig


def flipped(tile: np.ndarray, flip: int) -> np.ndarray:
    """One of the eight symmetries of the square: `flip % 4` quarter turns, mirrored from 4 on. `(S, S, 3)` uint8."""
    turned = np.rot90(tile, flip % 4)
    return turned[:, ::-1] if flip >= 4 else turned


def variant(tile: np.ndarray, config: AugmentationConfig, draw: np.random.Generator) -> np.ndarray:
    """Rotate, zoom, brighten and shift the channels of a tile by amounts drawn within the configured bounds.

    Args:
        tile: `(S, S, 3)` uint8.
        config: The bounds.
        draw: Where the amounts come from; always six draws, so that one bound does not move the others.

    Returns:
        `(S, S, 3)` uint8; a positive angle turns clockwise; what turning and shrinking uncover is mirrored
        from the tile.
    """
    amounts = draw.uniform(-1.0, 1.0, 6)
    angle, scale = amounts[0] * config.rotation_degrees, 1.0 + amounts[1] * config.zoom
    if angle or scale != 1.0:
        tile = _turned(tile, angle, scale)
    if config.brightness or config.channel_shift:
        values = tile.astype(np.float32) * (1.0 + amounts[2] * config.brightness) + amounts[3:] * config.channel_shift
        tile = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return tile


def _turned(tile: np.ndarray, angle_degrees: float, scale: float) -> np.ndarray:
    size, radians = tile.shape[0], math.radians(angle_degrees)
    cosine, sine = math.cos(radians) / scale, math.sin(radians) / scale
    reach_px = size / 2 * (abs(cosine) + abs(sine))  # from the centre, where the corners are taken
    margin = max(0, math.ceil(reach_px - size / 2)) + 1  # bilinear sampling looks one pixel further
    mirrored = np.pad(tile, ((margin, margin), (margin, margin), (0, 0)), mode="reflect")  # (S + 2m, S + 2m, 3) uint8
    centre_out, centre_in = size / 2, margin + size / 2  # Pillow counts from the first pixel's corner
    shift_x = centre_in - (cosine + sine) * centre_out
    shift_y = centre_in - (cosine - sine) * centre_out
    matrix = (cosine, sine, shift_x, -sine, cosine, shift_y)
    picture = Image.fromarray(mirrored)
    return np.asarray(picture.transform((size, size), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR))


def views(tiles: np.ndarray, rows: np.ndarray, chosen: np.ndarray, *, config: AugmentationConfig) -> np.ndarray:
    """The chosen view of each tile.

    Args:
        tiles: The store's pixels, `(N, S, S, 3)` uint8.
        rows: Which tiles, `(B,)` int64.
        chosen: Which view of each, `(B,)` int64 below `config.num_views`.
        config: The recipe.

    Returns:
        `(B, S, S, 3)` uint8.
    """
    out = np.empty((len(rows), *tiles.shape[1:]), np.uint8)
    for place, (row, view) in enumerate(zip(rows.tolist(), chosen.tolist(), strict=True)):
        number, flip = divmod(view, config.num_flips)
        tile = tiles[row]
        if number:
            tile = variant(tile, config, np.random.default_rng([number, row]))
        out[place] = flipped(tile, flip)
    return out


def random_views(
    tiles: np.ndarray, rows: np.ndarray, *, config: AugmentationConfig, seed: int, step: int
) -> np.ndarray:
    """Fresh draws for `mode: random`: flip and variant from (seed, epoch, tile). `(B, S, S, 3)` uint8."""
    out = np.empty((len(rows), *tiles.shape[1:]), np.uint8)
    for place, row in enumerate(rows.tolist()):
        draw = np.random.default_rng([seed, step, row])
        flip = int(draw.integers(config.num_flips))
        out[place] = flipped(variant(tiles[row], config, draw), flip)
    return out


def view_name(view: int, *, config: AugmentationConfig) -> str:
    """A name for a view that changes with everything that changes its pixels."""
    number, flip = divmod(view, config.num_flips)
    if number == 0:
        return f"flip{flip}"
    bounds = f"{config.rotation_degrees}-{config.zoom}-{config.brightness}-{config.channel_shift}"
    return f"flip{flip}-variant{number}-{bounds}"
