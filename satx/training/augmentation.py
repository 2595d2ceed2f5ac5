"""Views: deterministic augmentations of a tile, the same for every trial, so that what a trunk makes of one can be kept.

View `v` is flip `v % num_flips` of variant `v // num_flips`. The eight flips and quarter turns are the symmetries of the
square: exact for imagery seen from above. Variant 0 is the tile itself; the others are drawn from (seed, variant, tile).
"""

from __future__ import annotations

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
        draw: Where the amounts come from; always five draws, so that one bound does not move the others.

    Returns:
        `(S, S, 3)` uint8; corners that a rotation uncovers are mirrored from the tile.
    """
    amounts = draw.uniform(-1.0, 1.0, 6)
    size = tile.shape[0]
    angle, scale = amounts[0] * config.rotation_degrees, 1.0 + amounts[1] * config.zoom
    if angle or scale != 1.0:
        mirrored = np.pad(tile, ((size // 2,) * 2, (size // 2,) * 2, (0, 0)), mode="reflect")  # (2S, 2S, 3) uint8
        picture = Image.fromarray(mirrored)
        radians = np.deg2rad(angle)
        cosine, sine = np.cos(radians) / scale, np.sin(radians) / scale
        centre_out, centre_in = (size - 1) / 2, size // 2 + (size - 1) / 2
        shift_x = centre_in - cosine * centre_out - sine * centre_out
        shift_y = centre_in + sine * centre_out - cosine * centre_out
        matrix = (cosine, sine, shift_x, -sine, cosine, shift_y)
        tile = np.asarray(picture.transform((size, size), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR))
    if config.brightness or config.channel_shift:
        values = tile.astype(np.float32) * (1.0 + amounts[2] * config.brightness) + amounts[3:] * config.channel_shift
        tile = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return tile


def views(
    tiles: np.ndarray, rows: np.ndarray, chosen: np.ndarray, *, config: AugmentationConfig, seed: int
) -> np.ndarray:
    """The chosen view of each tile.

    Args:
        tiles: The store's pixels, `(N, S, S, 3)` uint8.
        rows: Which tiles, `(B,)` int64.
        chosen: Which view of each, `(B,)` int64 below `config.num_views`.
        config: The recipe.
        seed: Of the variants.

    Returns:
        `(B, S, S, 3)` uint8.
    """
    out = np.empty((len(rows), *tiles.shape[1:]), np.uint8)
    for place, (row, view) in enumerate(zip(rows.tolist(), chosen.tolist(), strict=True)):
        number, flip = divmod(view, config.num_flips)
        tile = tiles[row]
        if number:
            tile = variant(tile, config, np.random.default_rng([seed, number, row]))
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


def view_name(view: int, *, config: AugmentationConfig, seed: int) -> str:
    """A name for a view that changes with everything that changes its pixels."""
    number, flip = divmod(view, config.num_flips)
    if number == 0:
        return f"flip{flip}"
    bounds = f"{config.rotation_degrees:g}-{config.zoom:g}-{config.brightness:g}-{config.channel_shift:g}"
    return f"flip{flip}-variant{number}-seed{seed}-{bounds}"
