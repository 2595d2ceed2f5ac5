"""Tests of tiles cut from a georeferenced image: the right pixels, what is outside, and images that cannot be used."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from imagery_sources import COLUMNS, ROWS, TILE_PX, ZOOM, files_of_tiles, geotiff_of, geotransform, png, tile_at
from rasterio.enums import ColorInterp

from satx.errors import ConfigError, DataError
from satx.imagery.cog import open_cog
from satx.imagery.contract import BLANK, FAILED, MISSING, Fetched, Tile, Unscored
from satx.tiles.decode import decode_tile

FILES = files_of_tiles()
EVERY = [tile_at(x, y) for y in ROWS for x in COLUMNS]


def fetched(path: Path, tiles: Iterable[Tile], tile_px: int = TILE_PX) -> list[Fetched]:
    imagery = open_cog(path, tile_px)
    found = list(imagery.fetch(tiles))
    imagery.close()
    return found


def pixels_of(fetched: Fetched) -> np.ndarray:
    assert isinstance(fetched, bytes), fetched
    return decode_tile(fetched, "tile").pixels.astype(int)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return geotiff_of(FILES, tmp_path / "a.tif")


def test_at_its_own_resolution_a_tile_has_the_pixels_of_the_image(image: Path) -> None:
    for one, data in zip(fetched(image, EVERY), FILES.values(), strict=True):
        np.testing.assert_array_equal(pixels_of(one), pixels_of(data))


def test_at_a_deeper_zoom_a_tile_is_the_enlarged_part(image: Path) -> None:
    x, y = COLUMNS[1], ROWS[2]
    parts = fetched(image, [Tile("a", ZOOM + 5, (x << 5) + 3, (y << 5) + 9)], tile_px=16)
    expected = pixels_of(FILES[x, y])[9, 3]
    assert np.abs(pixels_of(parts[0])[8, 8] - expected).max() < 40, "the middle of a pixel of the image"
    assert len(fetched(image, [Tile("a", 22, x << 10, y << 10)], tile_px=256)) == 1


def test_at_a_coarser_zoom_pixels_are_averaged_and_not_skipped(tmp_path: Path) -> None:
    stripes = np.zeros((TILE_PX, TILE_PX, 3), np.uint8)
    stripes[:, ::2] = 200
    image = geotiff_of(dict.fromkeys(FILES, png(stripes)), tmp_path / "a.tif")
    inner = pixels_of(fetched(image, [Tile("a", ZOOM - 2, COLUMNS[0] >> 2, ROWS[0] >> 2)])[0])
    assert np.abs(inner[4:-4, 4:-4] - 100).max() <= 30


def test_overviews_are_read_for_a_coarser_zoom(image: Path) -> None:
    with rasterio.open(image, "r+") as dataset:
        dataset.build_overviews([2, 4], rasterio.enums.Resampling.average)
        dataset.write(np.full((3, 16, 16), 255, np.uint8), window=rasterio.windows.Window(60, 60, 16, 16))
    found = pixels_of(fetched(image, [Tile("a", ZOOM - 2, COLUMNS[0] >> 2, ROWS[0] >> 2)])[0])
    assert found[16, 16].max() < 250, "the change is in the image and not in its overviews"


def test_tiles_outside_are_missing_and_those_without_data_are_blank(tmp_path: Path) -> None:
    files = {place: data for place, data in FILES.items() if place[0] != COLUMNS[3]}
    image = geotiff_of(files, tmp_path / "a.tif", nodata=0)
    outside = [tile_at(COLUMNS[0] - 1, ROWS[0]), tile_at(COLUMNS[3] + 1, ROWS[0]), tile_at(COLUMNS[0], ROWS[3] + 1)]
    outside += [tile_at(COLUMNS[0], ROWS[0] - 1), Tile("a", 3, 0, 0)]
    found = fetched(image, [*outside, tile_at(COLUMNS[3], ROWS[0]), tile_at(COLUMNS[2], ROWS[0])])
    assert found[:5] == [Unscored(MISSING, "outside of the image")] * 5
    assert found[5] == Unscored(BLANK, "no data in the image")
    np.testing.assert_array_equal(pixels_of(found[6]), pixels_of(FILES[COLUMNS[2], ROWS[0]]))


@pytest.mark.parametrize("alpha_at", [3, 0])
def test_alpha_tells_where_there_is_no_data_wherever_its_band_is(tmp_path: Path, alpha_at: int) -> None:
    image = geotiff_of(FILES, tmp_path / "a.tif", count=4, photometric="MINISBLACK")
    names = [ColorInterp.red, ColorInterp.green, ColorInterp.blue]
    names.insert(alpha_at, ColorInterp.alpha)
    with rasterio.open(image, "r+") as dataset:
        colors = dataset.read((1, 2, 3))
        alpha = np.full(colors.shape[1:], 255, np.uint8)
        alpha[:TILE_PX, :TILE_PX] = 0
        dataset.colorinterp = names
        dataset.write(np.insert(colors, alpha_at, alpha, axis=0))
    found = fetched(image, EVERY)
    assert found[0] == Unscored(BLANK, "no data in the image")
    np.testing.assert_array_equal(pixels_of(found[1]), pixels_of(FILES[COLUMNS[1], ROWS[0]]))


def test_a_fourth_band_such_as_infrared_is_left_out(tmp_path: Path) -> None:
    image = geotiff_of(FILES, tmp_path / "a.tif", count=4, photometric="MINISBLACK")
    for one, data in zip(fetched(image, EVERY), FILES.values(), strict=True):
        np.testing.assert_array_equal(pixels_of(one), pixels_of(data))


def test_an_image_in_another_projection_lies_at_the_same_place(image: Path, tmp_path: Path) -> None:
    from rasterio.vrt import WarpedVRT

    flat = geotiff_of(_gradient(), tmp_path / "flat.tif")
    with rasterio.open(flat) as source, WarpedVRT(source, crs="EPSG:32630") as warped:
        profile = warped.profile | {"driver": "GTiff"}
        with rasterio.open(tmp_path / "utm.tif", "w", **profile) as target:
            target.write(warped.read())
    for one, other in zip(fetched(flat, EVERY[5:7]), fetched(tmp_path / "utm.tif", EVERY[5:7]), strict=True):
        assert np.abs(pixels_of(one) - pixels_of(other)).mean() < 3


def _gradient() -> dict[tuple[int, int], bytes]:
    edge = np.arange(4 * TILE_PX)
    red, green = np.meshgrid(edge, edge)
    whole = np.dstack((red, green, red + green)).astype(np.uint8)
    return {
        (x, y): png(whole[row * TILE_PX : (row + 1) * TILE_PX, column * TILE_PX : (column + 1) * TILE_PX])
        for row, y in enumerate(ROWS)
        for column, x in enumerate(COLUMNS)
    }


def test_a_mosaic_in_a_vrt_is_read(image: Path, tmp_path: Path) -> None:
    bands = "".join(
        f'<VRTRasterBand dataType="Byte" band="{band}"><ColorInterp>{color}</ColorInterp><SimpleSource>'
        f'<SourceFilename relativeToVRT="1">a.tif</SourceFilename><SourceBand>{band}</SourceBand></SimpleSource></VRTRasterBand>'
        for band, color in ((1, "Red"), (2, "Green"), (3, "Blue"))
    )
    place = ", ".join(str(value) for value in geotransform().to_gdal())
    size = 4 * TILE_PX
    (tmp_path / "a.vrt").write_text(
        f'<VRTDataset rasterXSize="{size}" rasterYSize="{size}"><SRS>EPSG:3857</SRS><GeoTransform>{place}</GeoTransform>{bands}'
        f"</VRTDataset>"
    )
    np.testing.assert_array_equal(
        pixels_of(fetched(tmp_path / "a.vrt", EVERY)[3]), pixels_of(FILES[COLUMNS[3], ROWS[0]])
    )


@pytest.mark.parametrize(
    ("profile", "problem"),
    [
        ({"dtype": "uint16"}, r"got 3 of uint16 \(red, green, blue\). Convert it: gdal_translate"),
        ({"count": 1, "photometric": "MINISBLACK"}, "got 1 of uint8"),
        ({"crs": None}, "no coordinate system"),
    ],
)
def test_an_image_of_another_kind_is_refused_with_what_to_do(
    tmp_path: Path, profile: dict[str, Any], problem: str
) -> None:
    with pytest.raises(DataError, match=problem):
        open_cog(geotiff_of(FILES, tmp_path / "a.tif", **profile))


def test_a_file_that_gdal_cannot_read_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "page.tif").write_text("<html>")
    for path in (tmp_path / "page.tif", tmp_path / "none.tif"):
        with pytest.raises(DataError, match=f"{path}: expected an image that GDAL reads"):
            open_cog(path)


def test_tiles_of_a_damaged_image_fail_and_the_others_are_read(tmp_path: Path) -> None:
    image = geotiff_of(FILES, tmp_path / "a.tif", tiled=True, blockxsize=32, blockysize=32, compress="deflate")
    image.write_bytes(image.read_bytes()[: image.stat().st_size // 2])
    tiles = [Tile("a", ZOOM + 2, x << 2, y << 2) for y in ROWS for x in COLUMNS]
    found = fetched(image, tiles, tile_px=256)
    assert len(found) == len(tiles)
    assert {one.status for one in found if isinstance(one, Unscored)} == {FAILED}
    assert "tif" in next(one.reason for one in found if isinstance(one, Unscored)), "the reason is GDAL's"
    assert np.abs(pixels_of(found[0])[16, 16] - pixels_of(FILES[COLUMNS[0], ROWS[0]])[0, 0]).max() < 30


def test_without_rasterio_the_message_says_how_to_install_it(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(ConfigError, match=r"pip install 'satx\[geo\]'"):
        open_cog(image)
