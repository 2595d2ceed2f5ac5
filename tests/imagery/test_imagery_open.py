"""Tests of the choice of a source by what the user wrote, and of the tiles that a file is known to have."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from imagery_sources import (
    COLUMNS,
    ROWS,
    ZOOM,
    bucket_of,
    files_of_tiles,
    folder_of,
    geotiff_of,
    mbtiles_of,
    pmtiles_of,
    tile_at,
)

from satx.errors import ConfigError, DataError
from satx.grid.tiles import keys_of
from satx.imagery.contract import Unscored
from satx.imagery.open_imagery import known_tiles, open_imagery

FILES = files_of_tiles()


def where_of(kind: str, folder: Path, clients: Any) -> str:
    match kind:
        case "folder":
            return str(folder_of(FILES, folder / "tiles"))
        case "template":
            return f"{folder_of(FILES, folder / 'tiles')}/{{z}}/{{x}}/{{y}}.png"
        case "mbtiles":
            return str(mbtiles_of(FILES, folder / "a.MBTiles"))
        case "pmtiles":
            return str(pmtiles_of(FILES, folder / "a.pmtiles"))
        case "geotiff":
            return str(geotiff_of(FILES, folder / "a.TIF"))
        case _:
            return bucket_of(FILES, clients("s3"), "a")


@pytest.mark.parametrize("kind", ["folder", "template", "mbtiles", "pmtiles", "geotiff", "s3"])
def test_every_form_opens_its_source(kind: str, tmp_path: Path, clients: Any) -> None:
    where = where_of(kind, tmp_path, clients)
    imagery = open_imagery(where, [ZOOM])
    assert imagery.identity["kind"] == ("folder" if kind == "template" else kind)
    found = list(imagery.fetch([tile_at(COLUMNS[0], ROWS[1])]))
    imagery.close()
    assert len(found) == 1 and not isinstance(found[0], Unscored)
    keys = known_tiles(where)
    if kind in ("mbtiles", "pmtiles"):
        np.testing.assert_array_equal(keys, np.sort(keys_of(ZOOM, *np.array(list(FILES)).T)))
    else:
        assert keys is None


def test_a_url_opens_the_source_of_tile_servers() -> None:
    imagery = open_imagery("http://127.0.0.1:9/{z}/{x}/{y}.jpg")
    assert "127.0.0.1" in str(imagery.identity)
    imagery.close()


def test_known_tiles_are_those_of_the_deepest_zoom_unless_another_is_asked_for(tmp_path: Path) -> None:
    path = mbtiles_of(FILES, tmp_path / "a.mbtiles")
    mbtiles_of({(1, 2): b"x"}, path, zoom=5)
    np.testing.assert_array_equal(known_tiles(str(path)), known_tiles(str(path), ZOOM))
    assert np.array_equal(known_tiles(str(path), 5), keys_of([5], [1], [2]))
    with pytest.raises(DataError, match=rf"expected tiles at zoom 7, found zooms 5, {ZOOM}"):
        known_tiles(str(path), 7)


@pytest.mark.parametrize("kind", ["mbtiles", "pmtiles"])
def test_a_zoom_that_is_not_in_a_tile_file_is_refused_before_the_run(kind: str, tmp_path: Path) -> None:
    where = where_of(kind, tmp_path, None)
    with pytest.raises(DataError, match=rf"expected tiles at zooms 17 to 18, found zoom {ZOOM}\. .*--zoom"):
        open_imagery(where, [18, 17, ZOOM, 18])


@pytest.mark.parametrize("scheme", ["/data", "s3://bucket", "https://tiles.example"])
@pytest.mark.parametrize("missing", ["{z}", "{x}", "{y}"])
def test_a_template_that_lacks_a_placeholder_is_refused_by_its_name(scheme: str, missing: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_imagery(f"{scheme}/{{z}}/{{x}}/{{y}}.jpg".replace(missing, "1"))
    assert missing in str(caught.value)


def test_what_is_no_imagery_is_an_error_that_names_the_forms(tmp_path: Path) -> None:
    (tmp_path / "area.geojson").write_text("{}")
    with pytest.raises(
        ConfigError, match=r"area\.geojson: expected imagery, got another file\. Give a folder, a \.mbtiles"
    ):
        open_imagery(str(tmp_path / "area.geojson"))
    with pytest.raises(ConfigError, match="got nothing"):
        open_imagery(str(tmp_path / "none"))
    for name in ("none.mbtiles", "none.pmtiles"):
        with pytest.raises(DataError, match="found none"):
            open_imagery(str(tmp_path / name))
        assert known_tiles(str(tmp_path / name)) is None


def test_a_folder_whose_name_has_braces_is_a_folder(tmp_path: Path) -> None:
    folder = folder_of(FILES, tmp_path / "{tiles}")
    imagery = open_imagery(str(folder))
    assert imagery.identity == {"kind": "folder"}
    imagery.close()


def test_no_source_is_imported_before_it_is_opened() -> None:
    slow = ("aiohttp", "boto3", "rasterio", "tenacity", "keras", "tensorflow")
    program = f"import sys, satx.imagery.open_imagery; print([name for name in {slow} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("where", ["ftp://me:S3cret@t.example/{z}/{x}/{y}", "HTTPS://me:S3cret@t.example/{z}/{x}/{q"])
def test_a_url_of_another_scheme_is_refused_without_its_password(where: str) -> None:
    with pytest.raises(ConfigError) as raised:
        open_imagery(where)
    assert "S3cret" not in str(raised.value)


def test_a_name_that_is_too_long_is_no_imagery() -> None:
    with pytest.raises(ConfigError, match="expected imagery, got nothing"):
        open_imagery("x" * 300 + ".jpg")
