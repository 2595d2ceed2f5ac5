"""Views: deterministic augmentations of a tile, the same for every trial, so that trunk outputs can be cached.

View `v` is flip `v % num_flips` of variant `v // num_flips`. The eight flips and quarter turns are the symmetries of
the square, which are exact for imagery seen from above. Variant 0 is the tile itself. The other variants are drawn from
(variant, tile) and do not depend on the training's seed, so that trainings that differ only in their seed share the
cached trunk outputs.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from satx.config import AugmentationConfig


def flipped(tile: np.ndarray, flip: int) -> np.ndarray:
    """Apply one of the eight symmetries of the square to a tile.

    `flip % 4` is the number of quarter turns; flips 4 to 7 are also mirrored. Input and output are `(S, S, 3)` uint8.
    """
    turned = np.rot90(tile, flip % 4)
    return turned[:, ::-1] if flip >= 4 else turned


def variant(tile: np.ndarray, config: AugmentationConfig, draw: np.random.Generator) -> np.ndarray:
    """Rotate, zoom, brighten and shift the channels of a tile by amounts drawn within the configured bounds.

    Args:
        tile: `(S, S, 3)` uint8.
        config: The bounds.
        draw: Random generator of the amounts. Always draws six numbers, so that one bound does not change the amounts
            of the others.

    Returns:
        `(S, S, 3)` uint8. A positive angle turns clockwise. Areas that rotating and shrinking uncover are filled
        with the mirrored tile.
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
    reach_px = size / 2 * (abs(cosine) + abs(sine))  # distance from the centre at which the corners are sampled
    margin = max(0, math.ceil(reach_px - size / 2)) + 1  # bilinear sampling reads one pixel further
    mirrored = np.pad(tile, ((margin, margin), (margin, margin), (0, 0)), mode="reflect")  # (S + 2m, S + 2m, 3) uint8
    centre_out, centre_in = size / 2, margin + size / 2  # Pillow's origin is the corner of the first pixel
    shift_x = centre_in - (cosine + sine) * centre_out
    shift_y = centre_in - (cosine - sine) * centre_out
    matrix = (cosine, sine, shift_x, -sine, cosine, shift_y)
    picture = Image.fromarray(mirrored)
    return np.asarray(picture.transform((size, size), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR))


def views(tiles: np.ndarray, rows: np.ndarray, chosen: np.ndarray, *, config: AugmentationConfig) -> np.ndarray:
    """Return the chosen view of each tile.

    Args:
        tiles: The store's pixels, `(N, S, S, 3)` uint8.
        rows: Rows of the tiles in the store, `(B,)` int64.
        chosen: View of each tile, `(B,)` int64 below `config.num_views`.
        config: The augmentation settings.

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
    """Draw a flip and a variant from (seed, epoch, tile) for `mode: random`. Returns `(B, S, S, 3)` uint8."""
    out = np.empty((len(rows), *tiles.shape[1:]), np.uint8)
    for place, row in enumerate(rows.tolist()):
        draw = np.random.default_rng([seed, step, row])
        flip = int(draw.integers(config.num_flips))
        out[place] = flipped(variant(tiles[row], config, draw), flip)
    return out


def view_name(view: int, *, config: AugmentationConfig) -> str:
    """Return a name for a view that changes with every setting that changes its pixels."""
    number, flip = divmod(view, config.num_flips)
    if number == 0:
        return f"flip{flip}"
    bounds = f"{config.rotation_degrees}-{config.zoom}-{config.brightness}-{config.channel_shift}"
    return f"flip{flip}-variant{number}-{bounds}"
