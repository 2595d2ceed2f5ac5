import json
import signal
import sqlite3
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from satx.commands.country import country_command
from satx.errors import ConfigError, DataError
from satx.sample.country import Country, render_country_tile
from satx.sample.country_files import country_of_size, encoded_tile, render_country
from satx.storage import file_digest
from satx.tiles.layout import SAMPLE_MARKER

SMALL = Country(seed=20, width_tiles=5, height_tiles=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render_country(tmp_path_factory.mktemp("country") / "folder", SMALL, workers=1)


def digests(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): file_digest(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_folder_has_each_tile_as_z_x_y(folder: Path) -> None:
    places = [(x, y) for x in range(131_100, 131_105) for y in range(130_900, 130_904)]
    assert {str(path.relative_to(folder)) for path in folder.rglob("*.jpg")} == {f"18/{x}/{y}.jpg" for x, y in places}
    for x, y in (places[0], places[-1]):
        with Image.open(folder / f"18/{x}/{y}.jpg") as image:
            assert (image.size, image.mode) == ((256, 256), "RGB")
            difference = np.asarray(image, float) - render_country_tile(SMALL, x, y)
        assert np.abs(difference).mean() < 6


def test_a_folder_has_truth_area_and_the_sample_marker(folder: Path) -> None:
    assert json.loads((folder / "truth.geojson").read_text())["type"] == "FeatureCollection"
    assert json.loads((folder / "area.geojson").read_text())["features"][0]["geometry"]["type"] == "Polygon"
    assert json.loads((folder / SAMPLE_MARKER).read_text()) == {
        "country_version": 1,
        "seed": 20,
        "z_x_y_width_height": [18, 131_100, 130_900, 5, 4],
        "format": "folder",
    }


def test_the_bytes_do_not_depend_on_the_number_of_processes_and_progress_is_told(folder: Path, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    again = render_country(tmp_path / "c", SMALL, workers=2, on_progress=lambda *call: calls.append(call))
    assert digests(again) == digests(folder)
    assert [done for done, _ in calls] == sorted({done for done, _ in calls})
    assert calls[-1] == (20, 20)
    assert {total for _, total in calls} == {20}


def test_mbtiles_has_the_same_tiles_counted_from_the_south(folder: Path, tmp_path: Path) -> None:
    out = render_country(tmp_path / "c", SMALL, format="mbtiles", workers=2)
    assert {path.name for path in out.iterdir()} == {"country.mbtiles", "truth.geojson", "area.geojson", SAMPLE_MARKER}
    with closing(sqlite3.connect(out / "country.mbtiles")) as database:
        rows = database.execute("SELECT zoom_level, tile_column, tile_row, tile_data FROM tiles").fetchall()
        metadata = dict(database.execute("SELECT name, value FROM metadata"))
    assert len(rows) == 20
    for z, x, row, data in rows:
        assert (folder / f"{z}/{x}/{2**18 - 1 - row}.jpg").read_bytes() == data
    assert (metadata["format"], metadata["attribution"]) == ("jpg", "Rendered by satx")
    assert tuple(float(part) for part in metadata["bounds"].split(",")) == SMALL.bounds
    assert (metadata["minzoom"], metadata["maxzoom"]) == ("18", "18")
    assert json.loads(metadata["satx_sample"]) == json.loads((out / SAMPLE_MARKER).read_text())


def test_the_same_country_is_left_unchanged_and_another_one_replaces_it(tmp_path: Path) -> None:
    tiny = Country(seed=20, width_tiles=2, height_tiles=1)
    out = render_country(tmp_path / "c", tiny, workers=1)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    render_country(out, tiny, workers=1, on_progress=lambda *_: pytest.fail("rendered again"))
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    render_country(out, tiny, format="mbtiles", workers=1)
    assert not list(out.rglob("*.jpg"))


def test_a_folder_with_other_files_and_an_unknown_format_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="other files"):
        render_country(tmp_path, SMALL, workers=1)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    with pytest.raises(ConfigError, match="'mbtile'"):
        render_country(tmp_path / "c", SMALL, format="mbtile", workers=1)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("format", ["folder", "mbtiles"])
def test_an_interrupted_render_leaves_no_files(tmp_path: Path, workers: int, format: str) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        render_country(tmp_path / "c", SMALL, format=format, workers=workers, on_progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_a_country_of_about_a_number_of_tiles_is_nearly_square() -> None:
    assert country_of_size(20_164, 20) == Country()
    for num_tiles in (16, 17, 100, 5000):
        country = country_of_size(num_tiles, 1)
        assert country.width_tiles * country.height_tiles == pytest.approx(num_tiles, rel=0.1)
        assert 0.7 < country.width_tiles / country.height_tiles < 1.4
    for num_tiles in (15, 0, -4):
        with pytest.raises(ConfigError, match="at least 16"):
            country_of_size(num_tiles, 1)


SERVE = """
import sys
from satx.commands.country import country_command
country_command(None, num_tiles=20, port=int(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Serve 4 x 5 tiles on a free port."""
    process = subprocess.Popen([sys.executable, "-c", SERVE, "0"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "http://" in "".join(lines) and "jpg" in "".join(lines):
            break
    said = "".join("".join(lines).split())
    yield said[said.index("http://") : said.index(".jpg") + 4], process
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=30)
    process.stdout.close()


def test_the_server_answers_with_the_tiles_and_404_outside(server: tuple[str, subprocess.Popen[str]]) -> None:
    template, _ = server
    assert template.startswith("http://127.0.0.1:")
    address = template.format(z=18, x=131_101, y=130_902)
    for _ in range(2):
        with urllib.request.urlopen(address) as response:
            assert response.headers["content-type"] == "image/jpeg"
            assert response.read() == encoded_tile(SMALL, 131_101, 130_902)
    for z, x, y in ((17, 131_101, 130_902), (18, 131_099, 130_902), (18, 131_101, 130_999), (18, 131_104, 130_900)):
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(template.format(z=z, x=x, y=y))
        error.value.close()
        assert error.value.code == 404


def test_a_busy_port_is_refused(server: tuple[str, subprocess.Popen[str]]) -> None:
    port = int(server[0].split(":")[2].split("/")[0])
    with pytest.raises(ConfigError, match=f"got {port}"):
        country_command(None, num_tiles=20, port=port)


def test_the_command_writes_a_country_and_says_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    country_command(tmp_path / "c", num_tiles=16, seed=5, format="mbtiles")
    assert (tmp_path / "c" / "country.mbtiles").is_file()
    said = "".join(capsys.readouterr().out.split())
    assert "truth.geojson" in said
    assert "satxpredict" in said


def test_the_command_wants_a_folder_or_a_port(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="neither"):
        country_command(None, num_tiles=None)
    with pytest.raises(ConfigError, match="both"):
        country_command(tmp_path, num_tiles=None, port=0)
