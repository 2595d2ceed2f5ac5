"""`satx data negatives`, from files to a file, and its check of points that were placed by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from satx.cli import app
from satx.commands.console import out
from satx.commands.negatives import Request, check_command, negatives_command
from satx.errors import ConfigError, DataError
from satx.grid.points import read_points
from satx.points.distance import nearest_m

RING = [[36.78, -1.32], [36.82, -1.32], [36.82, -1.28], [36.78, -1.28], [36.78, -1.32]]
SCHOOLS = [(36.80, -1.30), (36.79, -1.31), (36.9, -1.3), (36.81, -1.285)]  # the third is elsewhere


@pytest.fixture(autouse=True)
def printed_on_stdout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo after each test that `--json` moves messages to standard error."""
    monkeypatch.setattr(out, "stderr", False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write an area of 4 km, four schools and 3,000 buildings in its southern half."""
    (tmp_path / "area.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [RING]}))
    write_schools(tmp_path, SCHOOLS)
    spots = np.array([36.78, -1.32]) + np.random.default_rng(1).random((3_000, 2)) * np.array([0.04, 0.02])
    lines = ["lon,lat", *(f"{east:.7f},{north:.7f}" for east, north in spots.tolist())]
    (tmp_path / "buildings.csv").write_text("\n".join(lines))
    return tmp_path


def write_schools(folder: Path, places: list[tuple[float, float]], labels: list[str] | None = None) -> None:
    features = [
        {
            "type": "Feature",
            "properties": {"label": label} if label else {},
            "geometry": {"type": "Point", "coordinates": place},
        }
        for place, label in zip(places, labels or [""] * len(places), strict=True)
    ]
    (folder / "schools.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))


def request(folder: Path, **changes: Any) -> Request:
    values = {
        "area": folder / "area.geojson",
        "away_from": folder / "schools.geojson",
        "out": folder / "points.geojson",
        "distance_m": 300.0,
        "apart_m": None,
        "buildings": folder / "buildings.csv",
        "open_share": None,
        "number": 20,
        "label": None,
        "positive_label": "school",
        "seed": 1,
    }
    return Request(**{**values, **changes})


def features_of(path: Path) -> list[dict[str, Any]]:
    return list(json.loads(path.read_text())["features"])


def test_one_file_has_the_positives_of_the_area_and_the_negatives(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    negatives_command(request(folder), as_json=False)
    printed = capsys.readouterr().out
    path = folder / "points.geojson"
    found = read_points(path)
    assert found.labels == ("school",) * 3 + ("not-school",) * 20
    assert found.slices == ("",) * 3 + ("built-up",) * 15 + ("open",) * 5
    positives = [feature["properties"] for feature in features_of(path)[:3]]
    negatives = [feature["properties"] for feature in features_of(path)[3:]]
    assert positives == [{"label": "school"}] * 3
    assert all(300 <= properties["distance_m"] < 4_000 for properties in negatives)
    assert [properties["num_buildings"] > 0 for properties in negatives] == [True] * 15 + [False] * 5
    assert "Area: longitude 36.78000 to 36.82000" in printed
    assert "300 m or more from each other, with the label not-school. The 3 positives" in printed
    assert f"satx data fetch {path}" in printed
    assert "--buildings" not in printed


def test_without_buildings_as_many_are_drawn_as_positives_and_the_bias_is_named(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    negatives_command(request(folder, buildings=None, number=None), as_json=False)
    found = read_points(folder / "points.geojson")
    assert found.labels == ("school",) * 3 + ("not-school",) * 3
    assert found.slices == ("",) * 6
    assert all("num_buildings" not in feature["properties"] for feature in features_of(folder / "points.geojson"))
    assert "mostly on open land" in " ".join(capsys.readouterr().out.split())


def test_the_same_seed_writes_the_same_bytes_whatever_the_order_of_the_positives(folder: Path) -> None:
    path = folder / "points.geojson"
    negatives_command(request(folder), as_json=True)
    first = path.read_bytes()
    write_schools(folder, [*SCHOOLS[::-1], SCHOOLS[0]])
    negatives_command(request(folder), as_json=True)
    assert path.read_bytes() == first
    negatives_command(request(folder, seed=2), as_json=True)
    assert path.read_bytes() != first


def test_programs_get_counts_and_settings(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_schools(folder, [*SCHOOLS, SCHOOLS[0]])
    negatives_command(request(folder, apart_m=150.0), as_json=True)
    document = json.loads(capsys.readouterr().out)
    assert document.pop("nearest_m") >= 300
    assert document == {
        "out": str(folder / "points.geojson"),
        "num_positives": 3,
        "num_positives_elsewhere": 1,
        "num_duplicate_positives": 1,
        "num_negatives": 20,
        "label": "not-school",
        "slices": {"built-up": 15, "open": 5},
        "distance_m": 300.0,
        "apart_m": 150.0,
        "seed": 1,
    }


@pytest.mark.parametrize(
    ("labels", "changes", "expected"),
    [
        (["mosque"] * 4, {}, "not-mosque"),
        (["mosque", "", "mosque", ""], {"positive_label": "mosque"}, "not-mosque"),
        (["school", "clinic", "school", "school"], {}, "negative"),
        (["school"] * 4, {"label": "none"}, "none"),
    ],
)
def test_the_label_follows_from_that_of_the_positives(
    folder: Path, labels: list[str], changes: dict[str, Any], expected: str
) -> None:
    write_schools(folder, SCHOOLS, labels)
    negatives_command(request(folder, **changes), as_json=True)
    found = read_points(folder / "points.geojson").labels
    assert set(found[3:]) == {expected}
    assert expected not in found[:3]
    assert "" not in found


def test_an_area_without_room_leaves_the_earlier_file(folder: Path) -> None:
    negatives_command(request(folder), as_json=True)
    before = (folder / "points.geojson").read_bytes()
    with pytest.raises(DataError, match="Nothing was written"):
        negatives_command(request(folder, number=5_000), as_json=True)
    assert (folder / "points.geojson").read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"buildings": None, "open_share": 0.5}, "--open-share: expected it with --buildings"),
        ({"out": Path("points.csv")}, "--out: expected a file that ends in .geojson"),
        ({"label": "school"}, "--label: expected another label"),
    ],
)
def test_options_that_do_not_go_together_are_refused(folder: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        negatives_command(request(folder, **changes), as_json=True)
    assert not (folder / "points.geojson").exists()


@pytest.mark.parametrize("name", ["area", "away_from"])
def test_an_input_is_never_overwritten(folder: Path, name: str) -> None:
    values = {"area": folder / "area.geojson", "away_from": folder / "schools.geojson"}
    before = values[name].read_bytes()
    with pytest.raises(ConfigError, match="--out: expected another file than the inputs"):
        negatives_command(request(folder, out=values[name]), as_json=True)
    assert values[name].read_bytes() == before


def write_csv(folder: Path, *rows: str) -> Path:
    path = folder / "hand.csv"
    path.write_text("\n".join(["lon,lat,label", *rows]))
    return path


def test_points_that_were_placed_too_near_are_listed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_schools(folder, SCHOOLS, ["school"] * 4)
    hand = write_csv(
        folder, "36.8,-1.3,school", "36.801,-1.3,not-school", "36.85,-1.3,not-school", "36.7901,-1.31,field"
    )
    with pytest.raises(DataError, match=r"hand\.csv: expected points at least 300 m .*got 2 of 3 nearer than that"):
        check_command(hand, folder / "schools.geojson", 300.0, as_json=False)
    printed = capsys.readouterr().out
    assert "36.8010000" in printed
    assert "36.7901000" in printed
    assert "36.8500000" not in printed
    with pytest.raises(DataError):
        check_command(hand, folder / "schools.geojson", 300.0, as_json=True)
    document = json.loads(capsys.readouterr().out)
    assert [(row["longitude"], row["label"]) for row in document["too_near"]] == [
        (36.801, "not-school"),
        (36.7901, "field"),
    ]
    assert [row["distance_m"] for row in document["too_near"]] == [
        pytest.approx(111.3, abs=0.1),
        pytest.approx(11.1, abs=0.1),
    ]
    check_command(hand, folder / "schools.geojson", 10.0, as_json=True)
    assert json.loads(capsys.readouterr().out) == {"num_points": 3, "num_positives": 4, "too_near": []}


def test_what_was_drawn_passes_the_check_as_it_was_written(folder: Path) -> None:
    """The schools have no label in their own file, and more digits than are written."""
    write_schools(folder, [(east + 0.12345678e-4, north) for east, north in SCHOOLS])
    negatives_command(request(folder, apart_m=0.0, number=300), as_json=True)
    written, schools = read_points(folder / "points.geojson"), read_points(folder / "schools.geojson")
    least_m = float(nearest_m(written, schools)[0][3:].min())  # 300.0 to a few decimals, of so many
    assert 300 <= least_m < 310
    check_command(folder / "points.geojson", folder / "schools.geojson", least_m, as_json=False)
    with pytest.raises(DataError, match="got 1 of 300 nearer"):
        check_command(folder / "points.geojson", folder / "schools.geojson", least_m + 1e-6, as_json=False)


def test_a_file_of_positives_alone_has_nothing_to_check(folder: Path) -> None:
    write_schools(folder, SCHOOLS, ["school"] * 4)
    with pytest.raises(DataError, match="expected negatives, got only points with the label school"):
        check_command(folder / "schools.geojson", folder / "schools.geojson", 300.0, as_json=False)


def test_the_command_line_takes_all_of_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    line = "data negatives --area area.geojson --away-from schools.geojson --distance-m 250 --apart-m 200 --seed 7"
    line += " --buildings buildings.csv --open-share 0.5 --number 8 --label other --out points.geojson --json"
    result = CliRunner().invoke(app, line.split())
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["slices"] == {"built-up": 4, "open": 4}
    assert json.loads(result.stdout)["seed"] == 7
    check = "data negatives --check points.geojson --away-from schools.geojson --distance-m"
    assert CliRunner().invoke(app, [*check.split(), "250"]).exit_code == 0
    assert isinstance(CliRunner().invoke(app, [*check.split(), "3000"]).exception, DataError)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--away-from schools.geojson", "Expected --area and --out"),
        ("--away-from schools.geojson --check points.csv --number 3", "--check: expected only --away-from"),
    ],
)
def test_a_command_line_that_lacks_something_is_refused(line: str, said: str) -> None:
    result = CliRunner().invoke(app, ["data", "negatives", *line.split()])
    assert isinstance(result.exception, ConfigError)
    assert said in str(result.exception)
