"""`satx predict` as a user calls it: every form of tiles, continued runs, refusals, and what it writes and prints."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from inference.tiny import fitted_classifier, open_tiles, render_tiles
from projects import command, environment, run_satx, with_databases
from registry.small_runs import gate_with, make_run
from typer.testing import CliRunner

from satx.bulk.plan import MAX_BLOCK_FILES
from satx.cli import app
from satx.errors import ConfigError, DataError, SatxError, StateMismatch
from satx.models.classifier import Classifier, load_classifier
from satx.registry.model_files import download_version
from satx.registry.promotion import promote
from satx.testing.changed_environment import changed_environment
from satx.tiles.decode import decode_tile, resize_tile
from satx.tracking.client import open_tracker

MAX_DIFFERENCE = 1e-4  # between an export and its network, on tiles of the model's size
PAGE_BYTES = 4096  # of which the files of a disk in memory have a whole number
COLUMNS = [
    "tile_id",
    "z",
    "x",
    "y",
    "status",
    "reason",
    "prob_not-school",
    "prob_school",
    "above_threshold",
    "model_version",
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Classifier]:
    """Return a home with a champion, a folder of tiles, and the champion."""
    folder = tmp_path_factory.mktemp("predict")
    tiles = render_tiles(folder / "sample")
    store = open_tiles(tiles, folder / "cache")
    home = with_databases(tmp_path_factory.mktemp("home"), tmp_path_factory.getbasetemp())
    with changed_environment(SATX_HOME=str(home), MLFLOW_TRACKING_URI=None):
        client = open_tracker()
        run_id = make_run(client, fitted_classifier(store), store)
        promote(client, run_id, gate=gate_with(auc_floor={"at_least": 0.1}), force=None)
        champion = load_classifier(download_version(client, None, None, folder).folder)
    return home, tiles / "test", champion


@pytest.fixture
def tiles(made: tuple[Path, Path, Classifier], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of tiles, in a process whose home has the champion."""
    monkeypatch.setenv("SATX_HOME", str(made[0]))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return made[1]


def run(*arguments: object) -> str:
    """Run `satx predict`; return its standard output, or raise its error."""
    result = CliRunner().invoke(app, ["predict", *map(str, arguments)], catch_exceptions=False)
    if isinstance(result.exception, SatxError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def rows_of(out: Path) -> list[dict[str, object]]:
    return [row for path in sorted((out / "blocks").glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def test_a_folder_is_predicted_with_the_champion_and_verified(
    made: tuple[Path, Path, Classifier], tiles: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiles, tmp_path / "tiles"))
    (folder / "page.jpg").write_text("<html>busy</html>")
    out = tmp_path / "out"
    printed = run(folder, "--out", out)
    assert "satx predict --verify" in printed and "rendered tiles" in printed
    rows = rows_of(out)
    assert list(rows[0]) == COLUMNS
    assert [row["tile_id"] for row in rows] == sorted(str(path.relative_to(folder)) for path in folder.rglob("*.jpg"))
    champion = made[2]
    for row in rows:
        if row["tile_id"] == "page.jpg":
            assert row["status"] == "broken" and "a page of text" in str(row["reason"])
            continue
        pixels = decode_tile((folder / str(row["tile_id"])).read_bytes(), "tile").pixels
        expected = champion.predict(resize_tile(pixels, champion.image_size_px)[np.newaxis])[0]
        assert row["prob_school"] == pytest.approx(expected[champion.positive_index], abs=2e-3)
    recorded = json.loads((out / "run.json").read_text())
    assert recorded["counts"]["status"]["broken"] == 1 and recorded["counts"]["num_tiles"] == len(rows)
    assert pq.read_table(out / "candidates.parquet").num_rows == recorded["counts"]["num_candidates"]
    assert "exactly once" in run("--verify", out)


def test_only_the_blocks_without_a_file_are_predicted_again(tiles: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(tiles, "--out", out)
    (block,) = (out / "blocks").iterdir()
    first = block.read_bytes()
    again = json.loads(run(tiles, "--out", out, "--json"))
    assert again["last_call"]["num_tiles"] == 0 and block.read_bytes() == first
    block.unlink()
    with pytest.raises(DataError, match="1 of 1 blocks have no file"):
        run("--verify", out)
    again = json.loads(run(tiles, "--out", out, "--json"))
    assert again["last_call"]["num_tiles"] == again["counts"]["num_tiles"] and block.read_bytes() == first


def test_other_tiles_in_the_same_output_are_refused(tiles: Path, tmp_path: Path) -> None:
    folder, out = Path(shutil.copytree(tiles, tmp_path / "tiles")), tmp_path / "out"
    run(folder, "--out", out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    shutil.copy(next(folder.rglob("*.jpg")), folder / "one-more.jpg")
    with pytest.raises(StateMismatch, match=r"plan: .* there, .* now\. Pass another --out"):
        run(folder, "--out", out)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


@contextmanager
def serving(home: Path) -> Iterator[str]:
    """Run `satx serve` at a free port; yield the URL of its model."""
    surroundings = environment(home, PYTHONUNBUFFERED="1")
    arguments = command("serve", "--port", "0")
    with subprocess.Popen(arguments, env=surroundings, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield next(found[0] for line in process.stdout if (found := re.search(r"http://\S+/v1/models/\S+", line)))
        finally:
            process.terminate()


@pytest.mark.slow
@pytest.mark.filterwarnings(r"ignore::DeprecationWarning:ray\.")  # Ray's own code, in this process
def test_this_machine_a_ray_cluster_and_a_server_give_the_same_scores(
    made: tuple[Path, Path, Classifier], tiles: Path, tmp_path: Path
) -> None:
    for engine in ("local", "ray"):
        run(tiles, "--out", tmp_path / engine, "--engine", engine)
    with serving(made[0]) as url:
        run(tiles, "--out", tmp_path / "served", "--endpoint", url)
    local, ray, served = (rows_of(tmp_path / name) for name in ("local", "ray", "served"))
    assert ray == local and len(local) == 10  # bit by bit
    for here, there in zip(local, served, strict=True):
        assert (here["tile_id"], here["status"], there["status"]) == (there["tile_id"], "done", "done")
        assert here["prob_school"] == pytest.approx(there["prob_school"], abs=MAX_DIFFERENCE)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a disk of 2 MB, where this user may."""
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a disk cannot be mounted: {error}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.mark.slow
def test_a_full_disk_is_one_clear_error_and_the_same_command_ends_when_there_is_room(
    made: tuple[Path, Path, Classifier], tiles: Path, small_disk: Path, tmp_path: Path
) -> None:
    folder, sources = tmp_path / "tiles", sorted(tiles.rglob("*.jpg"))
    folder.mkdir()
    for number in range(2 * MAX_BLOCK_FILES + 10):
        os.link(sources[number % len(sources)], folder / f"{number:06d}.jpg")
    run(folder, "--out", tmp_path / "expected")
    expected = {path.name: path.read_bytes() for path in (tmp_path / "expected" / "blocks").iterdir()}
    out, ballast = small_disk / "out", small_disk / "ballast"
    num_pages = 3 + -(-max(map(len, expected.values())) // PAGE_BYTES)  # plan.json, its blocks, one block, and a page
    ballast.write_bytes(bytes(shutil.disk_usage(small_disk).free - num_pages * PAGE_BYTES))
    failed = run_satx("predict", str(folder), "--out", str(out), cwd=tmp_path, home=made[0])
    assert failed.returncode == 2 and "Traceback" not in failed.stderr, failed.stderr
    assert "is full" in failed.stderr and "No space left on device" in failed.stderr
    left = {path.name: path.read_bytes() for path in (out / "blocks").iterdir()}
    assert left == {name: expected[name] for name in left} and len(left) < 3  # whole files, and no temporary ones
    with pytest.raises(DataError, match=f"{3 - len(left)} of 3 blocks have no file"):
        run("--verify", out)
    ballast.unlink()
    run(folder, "--out", out)
    assert {path.name: path.read_bytes() for path in (out / "blocks").iterdir()} == expected
    assert "exactly once" in run("--verify", out)


@pytest.fixture
def grid(tiles: Path, tmp_path: Path) -> Path:
    """Return a folder of tiles with places: four neighbours in a square, and one that is missing."""
    schools = sorted(path for path in tiles.rglob("*.jpg") if path.parent.name == "school")
    for number, source in enumerate(schools[:4]):
        place = tmp_path / "grid" / "18" / str(130_000 + number % 2) / f"{90_000 + number // 2}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, place)
    return tmp_path / "grid"


def test_a_table_of_places_with_a_template_gives_candidates_on_the_globe(grid: Path, tmp_path: Path) -> None:
    table, out = tmp_path / "tiles.parquet", tmp_path / "out"
    columns, rows = [130_000, 130_001, 130_000, 130_001, 130_002], [90_000, 90_000, 90_001, 90_001, 90_000]
    pq.write_table(pa.table({"z": [18] * 5, "x": columns, "y": rows}), table)
    run(table, "--out", out, "--url", f"{grid}/{{z}}/{{x}}/{{y}}.jpg", "--attribution", "Rendered")
    found = rows_of(out)
    assert Counter(row["status"] for row in found) == {"done": 4, "missing": 1}
    assert {(row["z"], row["x"], row["y"]) for row in found} == set(zip([18] * 5, columns, rows, strict=True))
    candidates = json.loads((out / "candidates.geojson").read_text())
    num_above = sum(bool(row["above_threshold"]) for row in found)
    assert num_above >= 2 and sum(item["properties"]["num_tiles"] for item in candidates["features"]) == num_above
    assert len(candidates["features"]) == 1  # neighbours are one candidate
    longitude = candidates["features"][0]["geometry"]["coordinates"][0]
    assert longitude == pytest.approx(130_001 / 2**18 * 360 - 180, abs=360 / 2**18)
    assert json.loads((out / "plan.json").read_text())["imagery"]["attribution"] == "Rendered"
    assert "exactly once" in run("--verify", out)


def test_an_area_is_predicted_at_a_zoom(grid: Path, tmp_path: Path) -> None:
    from satx.grid.tiles import bounds_of

    west, _, _, north = (float(value[0]) for value in bounds_of([18], [130_000], [90_000]))
    _, south, east, _ = (float(value[0]) for value in bounds_of([18], [130_001], [90_001]))
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    area = tmp_path / "area.geojson"
    area.write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    run(area, "--out", tmp_path / "out", "--url", f"{grid}/{{z}}/{{x}}/{{y}}.jpg", "--zoom", 18)
    assert [row["status"] for row in rows_of(tmp_path / "out")] == ["done"] * 4


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((), ConfigError, "Expected what to predict and --out"),
        (("TILES",), ConfigError, "Expected what to predict and --out"),
        (("nothing-here", "--out", "OUT"), DataError, "There is no nothing-here"),
        (
            ("TILES", "--out", "OUT", "--url", "https://127.0.0.1/{z}/{x}/{y}?key=k1"),
            ConfigError,
            "--url: expected none",
        ),
        (("TILES", "--out", "OUT", "--zoom", "18"), ConfigError, "--zoom: expected none"),
        (("TABLE", "--out", "OUT"), ConfigError, "--url: expected where the imagery"),
        (("TABLE", "--out", "OUT", "--url", "/data/{x}/{y}.jpg"), ConfigError, "{z}"),
        (("TILES", "--out", "OUT", "--address", "auto"), ConfigError, "--address: expected it with --engine ray"),
        (("TILES", "--out", "OUT", "--device", "gpu"), ConfigError, "--device: expected a GPU, Keras sees none"),
        (("TILES", "--out", "OUT", "--version", "9"), ConfigError, "--version: expected a version of school-sample"),
        (("TILES", "--out", "OUT", "--model", "clinic"), ConfigError, "expected a task with a champion"),
        (("--verify", "OUT"), DataError, "expected the output of satx predict"),
        (("TILES", "--verify", "OUT"), ConfigError, "--verify: expected the folder of an output alone"),
    ],
)
def test_bad_input_is_one_clear_error_and_writes_nothing(
    tiles: Path, tmp_path: Path, arguments: tuple[str, ...], error: type[SatxError], message: str
) -> None:
    table = tmp_path / "tiles.csv"
    table.write_text("z,x,y\n18,1,2\n")
    names = {"TILES": str(tiles), "OUT": str(tmp_path / "out"), "TABLE": str(table)}
    with pytest.raises(error, match=message.replace("{", r"\{").replace("}", r"\}")) as raised:
        run(*(names.get(argument, argument) for argument in arguments))
    assert "k1" not in str(raised.value)
    assert not (tmp_path / "out" / "plan.json").exists()
