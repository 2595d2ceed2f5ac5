"""Tiles cut from one georeferenced image, such as a cloud-optimized GeoTIFF, by GDAL; the extra `satx[geo]`."""

from __future__ import annotations

import hashlib
import io
import math
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from satx.errors import ConfigError, DataError
from satx.imagery.contract import BLANK, FAILED, MISSING, Fetched, Tile, Unscored
from satx.imagery.threaded import ThreadedImagery

TILE_PX = 256
_NUM_THREADS, _CHUNK_TILES = 4, 8
_MERCATOR = "EPSG:3857"
_HALF_WORLD_METERS = 20037508.342789244  # pi times the radius of the WGS 84 ellipsoid, 6378137 m
_IDENTITY_BYTES = 65_536
_ROUNDING = 1e-6  # of a tile
_TO_RGB = "gdal_translate -b 1 -b 2 -b 3 -ot Byte -scale -of COG in.tif out.tif"


def open_cog(path: Path, tile_px: int = TILE_PX) -> ThreadedImagery:
    """Open an image whose tiles are cut, warped to Web Mercator and resampled bilinearly when they are asked for.

    Any image that GDAL reads will do, a mosaic in a `.vrt` too. Internal tiles and overviews, as a COG has them, make it fast.
    Tiles are given as uncompressed BMP, 197 kB at 256 px, which is written and decoded many times faster than PNG.

    Args:
        path: The image: three bands of 8 bits.
        tile_px: Edge of the tiles.

    Raises:
        ConfigError: rasterio is not installed.
        DataError: The file cannot be read, has other bands, or no place on the earth.
    """
    try:
        import rasterio
        from rasterio.errors import RasterioError
    except ImportError as error:
        raise ConfigError(
            f"{path}: GeoTIFF needs rasterio, which is not installed. Run: pip install 'satx[geo]'"
        ) from error
    try:
        with rasterio.open(path) as dataset:
            _check(dataset, path)
    except RasterioError as error:
        raise DataError(f"{path}: expected an image that GDAL reads ({error}). Check the path and the file.") from error
    local = threading.local()
    opened: list[Any] = []

    def fetch_one(tile: Tile) -> Fetched:
        try:
            if not hasattr(local, "layers"):
                local.dataset, local.layers = rasterio.open(path), {}
                opened.append(local.dataset)
            if tile.z not in local.layers:
                local.layers[tile.z] = _layer(local.dataset, tile.z, tile_px)
                opened.append(local.layers[tile.z].warped)
            return _cut(local.layers[tile.z], tile, tile_px)
        except RasterioError as error:
            return Unscored(FAILED, f"GDAL cannot read the image ({str(error.__cause__ or error).strip()[:120]})")

    def close() -> None:
        for dataset in reversed(opened):
            dataset.close()

    return ThreadedImagery(
        fetch_one,
        identity={"kind": "geotiff", "digest": _digest(path), "tile_px": tile_px},
        num_threads=_NUM_THREADS,
        chunk_tiles=_CHUNK_TILES,
        on_close=close,
    )


def _check(dataset: Any, path: Path) -> None:
    if dataset.crs is None:
        raise DataError(
            f"{path}: expected a place on the earth, but the image has no coordinate system. Add it: gdal_edit.py -a_srs EPSG:… "
            f"{path}"
        )
    interpretations = [band.name for band in dataset.colorinterp]
    if dataset.count < 3 or set(dataset.dtypes) != {"uint8"} or "palette" in interpretations:
        found = f"{dataset.count} of {', '.join(sorted(set(dataset.dtypes)))} ({', '.join(interpretations)})"
        raise DataError(
            f"{path}: expected bands of red, green and blue with 8 bits, got {found}. Convert it: {_TO_RGB}"
        )


@dataclass(frozen=True)
class _Layer:
    """All tiles of a zoom that the image touches, as one warped image that is computed where it is read.

    Attributes:
        warped: The image in Web Mercator; its edges are edges of tiles.
        columns: Columns of the tiles.
        rows: Rows of the tiles.
        bands: Numbers of red, green, blue and alpha.
        factor: Its pixels along the edge of a pixel of a tile; above 1, overviews are read.
    """

    warped: Any
    columns: range
    rows: range
    bands: tuple[int, int, int, int]
    factor: int


def _layer(dataset: Any, zoom: int, tile_px: int) -> _Layer:
    from affine import Affine
    from rasterio.enums import Resampling
    from rasterio.vrt import WarpedVRT
    from rasterio.warp import transform_bounds

    left, bottom, right, top = transform_bounds(dataset.crs, _MERCATOR, *dataset.bounds)
    side = 2 * _HALF_WORLD_METERS / (1 << zoom)  # meters
    columns = _touched((left + _HALF_WORLD_METERS) / side, (right + _HALF_WORLD_METERS) / side)
    rows = _touched((_HALF_WORLD_METERS - top) / side, (_HALF_WORLD_METERS - bottom) / side)
    # as fine as the image, or finer: reduced to the tile's size then, which reads the image's overviews
    native = (right - left) / dataset.width
    factor = 1 << max(0, math.ceil(math.log2(side / tile_px / native) - _ROUNDING))
    pixel = side / tile_px / factor
    bands = _bands(dataset)
    west, north = columns.start * side - _HALF_WORLD_METERS, _HALF_WORLD_METERS - rows.start * side
    warped = WarpedVRT(
        dataset,
        crs=_MERCATOR,
        transform=Affine(pixel, 0, west, 0, -pixel, north),
        width=len(columns) * tile_px * factor,
        height=len(rows) * tile_px * factor,
        resampling=Resampling.bilinear,
        add_alpha=bands[3] > dataset.count,
    )
    return _Layer(warped, columns, rows, bands, factor)


def _bands(dataset: Any) -> tuple[int, int, int, int]:
    """Return the numbers of red, green and blue, else of the first three; and of alpha, which is added as the last if missing."""
    names = [band.name for band in dataset.colorinterp]
    alpha = names.index("alpha") + 1 if "alpha" in names else dataset.count + 1
    if not {"red", "green", "blue"} <= set(names):
        return 1, 2, 3, alpha
    return names.index("red") + 1, names.index("green") + 1, names.index("blue") + 1, alpha


def _touched(start: float, stop: float) -> range:
    """Return the tiles that a part of an axis touches, counted in tiles; a touch within rounding is none."""
    return range(math.floor(start + _ROUNDING), math.ceil(stop - _ROUNDING))


def _cut(layer: _Layer, tile: Tile, tile_px: int) -> Fetched:
    """Return a tile as BMP; pixels without data are black."""
    from rasterio.enums import Resampling
    from rasterio.windows import Window

    if tile.x not in layer.columns or tile.y not in layer.rows:
        return Unscored(MISSING, "outside of the image")
    edge = tile_px * layer.factor
    column, row = (tile.x - layer.columns.start) * edge, (tile.y - layer.rows.start) * edge
    bands = layer.warped.read(
        indexes=layer.bands,
        window=Window(column, row, edge, edge),
        out_shape=(4, tile_px, tile_px),
        resampling=Resampling.bilinear,
    )
    if not bands[3].any():
        return Unscored(BLANK, "no data in the image")
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(bands[:3].transpose(1, 2, 0))).save(file, "BMP")
    return file.getvalue()


def _digest(path: Path) -> str:
    """Return a digest of the beginning of a file, where a COG lists offsets and lengths of all parts, and of its length.

    Of a mosaic it covers the list of images, not the images.
    """
    with path.open("rb") as stream:
        return hashlib.sha256(stream.read(_IDENTITY_BYTES) + str(path.stat().st_size).encode()).hexdigest()
