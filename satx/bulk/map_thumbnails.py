"""Small pictures of tiles, for the page of `satx map`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import simplejpeg

from satx.imagery.contract import Imagery, Tile
from satx.tiles.decode import decode_tile, resize_tile
from satx.tiles.formats import BrokenTile

EDGE_PX = 96
QUALITY = 80  # of JPEG
MAX_BYTES = 1_000_000  # of all pictures of a page


def thumbnails_of(tiles: Sequence[Tile], imagery: Imagery) -> dict[str, bytes]:
    """Return JPEG files of `EDGE_PX` by name of tile, in the order of the tiles, until they have `MAX_BYTES` together.

    A tile that the source does not give any more, or that cannot be decoded, has none.

    Raises:
        DataError: The source cannot be used at all.
    """
    pictures: dict[str, bytes] = {}
    num_bytes = 0
    for tile, fetched in zip(tiles, imagery.fetch(tiles), strict=False):
        if not isinstance(fetched, bytes):
            continue
        try:
            pixels = resize_tile(decode_tile(fetched, tile.tile_id).pixels, EDGE_PX)
        except BrokenTile:
            continue
        picture = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=QUALITY, colorsubsampling="420")
        num_bytes += len(picture)
        if num_bytes > MAX_BYTES:
            break
        pictures[tile.tile_id] = picture
    return pictures
