"""Tests of `satx data pairs`, and of what `satx data check` says of tiles that show the same ground."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from satx.commands.console import out
from satx.commands.data import check_command
from satx.commands.pairs import pairs_command, placed_tiles
from satx.errors import DataError, WeightsError
from satx.sample.country import Country, degrees_of, render_window
from satx.tiles.layout import read_layout
from satx.tiles.store import build_store

COUNTRY = Country(seed=22)
SIZE_PX = 64
# column and row of the first pixel, and a quarter turn; the last two overlap the first two by half and more
WINDOWS = ((0, 0, 0), (3000, 0, 0), (0, 3000, 0), (64, 0, 0), (3000, 32, 1), (20, 2990, 2))


@pytest.fixture(autouse=True)
def talk_as_at_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(out, "_file", None)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write windows of a country, with their places in `tiles.csv`."""
    root = tmp_path_factory.mktemp("windows")
    with (root / "tiles.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("path", "label", "lon", "lat", "z", "window_px"))
        for number, (x, y, turn) in enumerate(WINDOWS):
            pixels = np.rot90(render_window(COUNTRY, x, y, SIZE_PX), turn)
            Image.fromarray(np.ascontiguousarray(pixels)).save(root / f"{number}.jpg", quality=90)
            places = degrees_of(COUNTRY, x + SIZE_PX // 2, y + SIZE_PX // 2)
            longitude, latitude = (f"{degrees:.7f}" for degrees in places)
            writer.writerow((f"{number}.jpg", "school", longitude, latitude, COUNTRY.zoom, SIZE_PX))
    return root


@pytest.fixture
def windows(rendered: Path, tmp_path: Path) -> Path:
    return shutil.copytree(rendered, tmp_path / "windows")


def run(folder: Path, table: Path, **options: Any) -> None:
    defaults: dict[str, Any] = {"weights": None, "max_pairs": 50, "as_json": False}
    pairs_command(placed_tiles(folder), table_file=table, **(defaults | options))


def listed(table: Path) -> list[tuple[str, str, str, str]]:
    with table.open(newline="") as stream:
        return [(row["first"], row["second"], row["how"], row["same_ground"]) for row in csv.DictReader(stream)]


def test_with_coordinates_all_planted_windows_are_listed_no_other_and_no_network_is_needed(
    windows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "pairs.csv"
    run(windows, table, weights="/nowhere")
    assert listed(table) == [("1.jpg", "4.jpg", "overlap", "yes"), ("2.jpg", "5.jpg", "overlap", "yes")]
    printed = capsys.readouterr().out
    assert f"satx data split {windows} --pairs {table}" in printed.replace("\n", "")
    with Image.open(tmp_path / "pairs.png") as picture:
        assert picture.format == "PNG" and picture.width > 2 * 192 and picture.height > 192


def test_the_document_for_machines_holds_every_pair(
    windows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(windows, tmp_path / "pairs.csv", as_json=True)
    document = json.loads(capsys.readouterr().out)
    assert (document["num_tiles"], document["num_without_place"], document["counts"]) == (6, 0, {"overlap": 2})
    assert document["pairs"][0] == {
        "first": "1.jpg",
        "second": "4.jpg",
        "how": "overlap",
        "score": 0.5,
        "same_ground": True,
    }


def test_repeating_keeps_the_answers_of_a_person(windows: Path, tmp_path: Path) -> None:
    table = tmp_path / "pairs.csv"
    run(windows, table)
    table.write_text(
        table.read_text().replace("2.jpg,5.jpg,overlap", "0.jpg,3.jpg,features,0.7,no\n2.jpg,5.jpg,overlap")
    )
    run(windows, table)
    assert ("0.jpg", "3.jpg", "features", "no") in listed(table)
    assert len(listed(table)) == 3


def test_without_coordinates_candidates_come_from_a_network(
    windows: Path, tmp_path: Path, tiny_weights: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    (windows / "tiles.csv").unlink()
    (windows / "school").mkdir()
    for path in sorted(windows.glob("*.jpg")):
        path.rename(windows / "school" / path.name)
    (windows / "school/copy.png").write_bytes(_png(windows / "school/0.jpg"))
    (tmp_path / "weights").mkdir()
    shutil.copy(tiny_weights.file, tmp_path / "weights/mobilenetv2_notop.weights.h5")
    table = tmp_path / "pairs.csv"
    run(windows, table, weights=str(tmp_path / "weights"))
    candidates = [row for row in listed(table) if row[2] == "features"]
    assert {row[:2] for row in candidates[:2]} == {("school/1.jpg", "school/4.jpg"), ("school/2.jpg", "school/5.jpg")}
    assert all(row[3] == "" for row in candidates)
    assert listed(table)[-1] == ("school/0.jpg", "school/copy.png", "pixels", "yes")
    assert "a person decides" in capsys.readouterr().out
    run(windows, table, weights="none")
    assert [row[2] for row in listed(table)] == ["pixels"]


def test_missing_weights_are_an_error_that_names_the_file(windows: Path, tmp_path: Path) -> None:
    (windows / "tiles.csv").unlink()
    (windows / "school").mkdir()
    (windows / "0.jpg").rename(windows / "school/0.jpg")
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match=r"mobilenetv2_notop\.weights\.h5"):
        run(windows, tmp_path / "pairs.csv", weights=str(tmp_path / "empty"))


def test_a_file_of_another_kind_is_refused_before_any_work(
    windows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.csv").write_text("lon,lat\n")
    with pytest.raises(DataError, match="pass another file"):
        run(windows, tmp_path / "mine.csv")
    assert "reading tiles" not in capsys.readouterr().out
    assert not (tmp_path / "mine.png").exists()


@pytest.mark.slow
def test_the_two_windows_of_one_campus_come_first_of_the_real_tiles(
    real_tiles: Path, pretrained: Path, tmp_path: Path
) -> None:
    run(real_tiles, tmp_path / "pairs.csv")
    assert listed(tmp_path / "pairs.csv")[0][:3] == (
        "train/school/school_61.jpg",
        "valid/school/school_80.jpg",
        "features",
    )


@pytest.fixture
def flipped(tiny_tiles: Path, tmp_path: Path) -> Path:
    """Copy the tiny tiles; put one of train into test, flipped, and another, encoded again, under another label."""
    folder = tmp_path / "tiles"
    shutil.copytree(tiny_tiles, folder)
    (folder / "tiles.csv").unlink()
    first, second = sorted((folder / "train/school").iterdir())[:2]
    pixels = np.asarray(Image.open(first))
    Image.fromarray(np.ascontiguousarray(pixels[:, ::-1])).save(folder / "test/school/flipped.png")
    Image.open(second).resize((200, 200)).save(folder / "train/not-school/again.jpg", quality=60)
    return folder


def test_check_warns_of_flips_across_splits_and_of_labels_that_differ_and_leaves_nothing_out(
    flipped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (path.name for path in sorted((flipped / "train/school").iterdir())[:2])
    check_command(flipped, image_size_px=None, as_json=True)
    document = json.loads(capsys.readouterr().out)
    found = [(one["severity"], one["kind"], one["relative"]) for one in document["problems"]]
    assert ("warning", "same-ground", f"train/school/{first}") in found
    assert ("warning", "same-picture", "train/not-school/again.jpg") in found
    assert len([kind for _, kind, _ in found if kind.startswith("same")]) == 2
    detail = next(one["detail"] for one in document["problems"] if one["kind"] == "same-picture")
    assert f"train/school/{second}" in detail
    assert not {"leak", "conflict"} & set(document["unused"])
    store = build_store(read_layout(flipped), image_size_px=32, cache_dir=tmp_path / "cache")
    assert len(store.index) == sum(document["counts"].values()) == 122


def test_check_says_of_a_copy_that_it_leaves_out_only_that_it_is_a_leak(
    tiny_tiles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(tiny_tiles, tmp_path / "tiles")
    (folder / "tiles.csv").unlink()
    shutil.copy(next((folder / "train/school").iterdir()), folder / "test/school/copy.jpg")
    check_command(folder, image_size_px=None, as_json=True)
    problems = json.loads(capsys.readouterr().out)["problems"]
    kinds = [one["kind"] for one in problems]
    assert "leak" in kinds
    assert not [kind for kind in kinds if kind.startswith("same")]


def test_check_names_the_split_command_only_where_the_same_ground_is_in_two_splits(
    flipped: Path, tiny_tiles: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check_command(flipped, image_size_px=None, as_json=False)
    assert f"satx data split {flipped}" in capsys.readouterr().out.replace("\n", "").partition("Next")[2]
    check_command(tiny_tiles, image_size_px=None, as_json=False)
    assert "satx data split" not in capsys.readouterr().out


def test_check_warns_of_overlapping_windows_in_two_splits(windows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = (windows / "tiles.csv").read_text().splitlines()
    splits = ("train", "train", "train", "valid", "valid", "valid")
    labels = ("school", "school", "not-school", "not-school", "not-school", "school")
    rows = [f"{line},{split}" for line, split in zip(lines[1:], splits, strict=True)]
    rows = [row.replace(",school,", f",{label},", 1) for row, label in zip(rows, labels, strict=True)]
    (windows / "tiles.csv").write_text("\n".join([f"{lines[0]},split", *rows]) + "\n")
    check_command(windows, image_size_px=None, as_json=True)
    problems = json.loads(capsys.readouterr().out)["problems"]
    same = [(one["kind"], one["relative"]) for one in problems if one["kind"].startswith("same")]
    assert same == [("same-ground", "1.jpg"), ("same-ground", "2.jpg")]
    assert all("overlap by" in one["detail"] for one in problems if one["kind"] == "same-ground")


def _png(path: Path) -> bytes:
    stream = io.BytesIO()
    Image.open(path).save(stream, "PNG")
    return stream.getvalue()
