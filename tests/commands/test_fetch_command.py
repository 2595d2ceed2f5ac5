"""`satx data fetch` as a user calls it: options, output, errors, Ctrl-C, and keys that stay out of everything."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from imagery.hostile_tiles import Behavior, running_tile_server
from PIL import Image
from typer.testing import CliRunner

from satx.cli import app
from satx.errors import ConfigError, DataError, SatxError
from satx.grid.tiles import center_of
from satx.tiles.decode import decode_tile

ZOOM, WEST, NORTH = 18, 150_000, 130_000
KEY = "s3cretK3y9"


def run(*arguments: object) -> str:
    """Run `satx data fetch`; return its standard output, or raise its error."""
    result = CliRunner().invoke(app, ["data", "fetch", *map(str, arguments)], catch_exceptions=False)
    if isinstance(result.exception, SatxError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def rows_of(out: Path) -> list[dict[str, str]]:
    with (out / "tiles.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def place_of(x: int, y: int) -> tuple[float, float]:
    longitude, latitude = center_of(ZOOM, x, y)
    return float(longitude) + 1e-4, float(latitude) - 1e-5  # some pixels off: a window needs the next tiles too


@pytest.fixture
def points(tmp_path: Path) -> Path:
    """Return a CSV of six points in as many tiles, of which the last has no imagery, with one twice."""
    lines = ["lon,lat,label,slice"]
    for number in range(6):
        longitude, latitude = place_of(WEST + number, NORTH)
        lines.append(f"{longitude!r},{latitude!r},{('school', 'not-school')[number % 2]},built-up")
    path = tmp_path / "points.csv"
    path.write_text("\n".join([*lines, lines[1]]) + "\n")
    return path


@pytest.fixture
def tiles(tmp_path: Path) -> Path:
    """Return a folder of z/x/y.jpg around the points, at two zooms."""
    drawn = np.random.default_rng(0)
    for zoom, columns in ((ZOOM, range(WEST, WEST + 6)), (ZOOM - 2, range((WEST >> 2) - 1, (WEST >> 2) + 3))):
        top = NORTH >> ZOOM - zoom
        for x in columns:
            for y in range(top - 1, top + 2):
                file = io.BytesIO()
                Image.fromarray(drawn.integers(0, 256, (256, 256, 3), np.uint8)).save(file, "JPEG")
                path = tmp_path / "tiles" / str(zoom) / str(x) / f"{y}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(file.getvalue())
    return tmp_path / "tiles"


def test_windows_are_fetched_from_a_folder_and_the_next_command_is_printed(
    points: Path, tiles: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    printed = run(
        points, "--url", f"{tiles}/{{z}}/{{x}}/{{y}}.jpg", "--out", out, "--context", "--attribution", "Rendered"
    )
    rows = rows_of(out)
    assert [row["status"] for row in rows] == ["done"] * 5 + ["missing"]
    assert rows[5]["reason"] == f"no such file (tile {ZOOM}-{WEST + 6}-{NORTH})"
    for row in rows[:5]:
        for folder in ("tiles", "context"):
            shown = decode_tile((out / row["path"].replace("tiles", folder, 1)).read_bytes(), "tile")
            assert shown.pixels.shape == (256, 256, 3) and shown.format == "PNG"
    assert {(row["attribution"], row["source"], row["window_px"]) for row in rows} == {
        ("Rendered", "{z}/{x}/{y}.jpg", "256")
    }
    assert "6 points (1 more have the place of another): windows of 256 px at zoom 18, each with its context" in printed
    assert "no such file (1)" in printed and f"data split {out}" in printed and "Context: 5 done." in printed
    again = run(
        points, "--url", f"{tiles}/{{z}}/{{x}}/{{y}}.jpg", "--out", out, "--context", "--attribution", "Rendered"
    )
    assert "a second" not in again and "no such file (1)" in again


def test_whole_tiles_are_taken_as_they_are_served_and_counted_as_json(
    points: Path, tiles: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    url = f"{tiles}/{{z}}/{{x}}/{{y}}.jpg"
    found = json.loads(run(points, "--url", url, "--out", out, "--whole-tile", "--zoom", ZOOM, "--json"))
    assert found["status"]["done"] == found["num_points"] == found["num_fetched"] == 6
    for row in rows_of(out):
        assert row["path"] == f"tiles/{row['label']}/{ZOOM}-{row['x']}-{row['y']}.jpg" and row["window_px"] == ""
        assert (out / row["path"]).read_bytes() == (tiles / row["z"] / row["x"] / f"{row['y']}.jpg").read_bytes()


def test_a_placeholder_and_a_tile_file_with_an_attribution(points: Path, tiles: Path, tmp_path: Path) -> None:
    path = tmp_path / "some.mbtiles"
    placeholder = tiles / str(ZOOM) / str(WEST + 1) / f"{NORTH}.jpg"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE metadata (name text, value text)")
        database.execute(
            "CREATE TABLE tiles (zoom_level integer, tile_column integer, tile_row integer, tile_data blob)"
        )
        database.execute("CREATE UNIQUE INDEX tile_index ON tiles (zoom_level, tile_column, tile_row)")
        database.execute("INSERT INTO metadata VALUES ('attribution', 'Aerial Example')")
        for file in sorted((tiles / str(ZOOM)).rglob("*.jpg")):
            place = (ZOOM, int(file.parent.name), 2**ZOOM - 1 - int(file.stem), file.read_bytes())
            database.execute("INSERT INTO tiles VALUES (?, ?, ?, ?)", place)
    database.close()
    out = tmp_path / "out"
    run(points, "--url", path, "--out", out, "--placeholder", placeholder, "--window-px", 100)
    rows = rows_of(out)
    assert [row["status"] for row in rows] == ["done", "blank", "done", "done", "done", "done"]
    assert rows[1]["reason"] == f"a known placeholder (tile {ZOOM}-{WEST + 1}-{NORTH})"
    assert {(row["attribution"], row["source"]) for row in rows} == {("Aerial Example", "some.mbtiles")}
    with pytest.raises(DataError, match="expected tiles at zoom 17"):
        run(points, "--url", path, "--out", tmp_path / "other", "--zoom", 17)


def test_ctrl_c_ends_with_130_and_the_same_command_continues_without_the_key_anywhere(
    points: Path, tmp_path: Path
) -> None:
    out, environ = tmp_path / "out", os.environ | {"TILES_KEY": KEY}
    said = ""
    with running_tile_server(Behavior(shares={"silent": 1.0}, key=KEY)) as server:  # so that the source waits
        url = f"{server.url}/{{z}}/{{x}}/{{y}}.jpg?key=${{TILES_KEY}}"
        command = [sys.executable, "-m", "satx", "data", "fetch", str(points), "--url", url, "--out", str(out)]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environ, start_new_session=True
        )
        assert process.stdout is not None
        while "6 points" not in said:
            said += process.stdout.readline()
        process.send_signal(signal.SIGINT)
        said += process.communicate()[0]
        assert process.returncode == 130 and "Stopping" in said and "To continue:" in said, said
    with running_tile_server(Behavior(key=KEY), port=server.port):
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environ)
        assert done.returncode == 0, done.stdout
        stated = [*command[:-3], url.replace("${TILES_KEY}", KEY), "--out", str(tmp_path / "stated")]
        other = subprocess.run(stated, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert other.returncode == 0, other.stdout
    rows = rows_of(out)
    assert [row["status"] for row in rows] == ["done"] * 6
    texts = [text.encode() for text in (said, done.stdout, other.stdout)]
    texts += [
        path.read_bytes() for name in ("out", "stated") for path in (tmp_path / name).rglob("*") if path.is_file()
    ]
    assert len(texts) > 3 + 2 * 6 and not any(KEY.encode() in text for text in texts)
    assert {row["source"] for row in rows} == {url}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            ("--out", "OUT", "--url", "TILES"),
            ConfigError,
            "--url: expected a template, which tells the place of each tile",
        ),
        (("--out", "OUT", "--url", "/nothing/{z}/{x}.jpg"), ConfigError, "{y}"),
        (("--out", "s3://bucket/out", "--url", "URL"), ConfigError, "--out: expected a folder on this machine"),
        (
            ("--out", "OUT", "--url", "URL", "--whole-tile", "--window-px", "64"),
            ConfigError,
            "--window-px: expected none",
        ),
        (("--out", "OUT", "--url", "URL", "--zoom", "1", "--context"), ConfigError, "--context: expected a zoom of"),
        (
            ("--out", "OUT", "--url", "URL", "--placeholder", "POINTS"),
            DataError,
            "expected the picture of a placeholder",
        ),
        (("--out", "OUT", "--url", "https://127.0.0.1/{z}/{x}?key=k1234567"), ConfigError, "{y}"),
    ],
)
def test_bad_options_are_one_clear_error_and_write_nothing(
    points: Path, tiles: Path, tmp_path: Path, arguments: tuple[str, ...], error: type[SatxError], message: str
) -> None:
    names = {"OUT": str(tmp_path / "out"), "TILES": str(tiles), "POINTS": str(points)}
    names |= {"URL": f"{tiles}/{{z}}/{{x}}/{{y}}.jpg"}
    with pytest.raises(error) as raised:
        run(points, *(names.get(argument, argument) for argument in arguments))
    assert message in str(raised.value) and "k1234567" not in str(raised.value)
    assert not (tmp_path / "out").exists() and not Path("s3:").exists()
