"""`satx data split`, on folders as `satx data fetch` and people leave them."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from satx.commands.console import out
from satx.commands.split import Request, split_command
from satx.commands.split_words import flattery_sentence
from satx.errors import ConfigError, DataError, SatxError, WeightsError
from satx.evaluation.intervals import Interval
from satx.splits.flattery import Flattery
from satx.tiles.layout import read_layout

Rows = list[dict[str, str]]
NUM_TILES = 80
COLUMNS = (
    "path",
    "label",
    "split",
    "slice",
    "lon",
    "lat",
    "z",
    "x",
    "y",
    "window_px",
    "status",
    "reason",
    "attribution",
)


@pytest.fixture(autouse=True)
def printed_on_stdout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo after each test that `--json` moves messages to standard error."""
    monkeypatch.setattr(out, "stderr", False)


@pytest.fixture
def fetched(tmp_path: Path) -> Path:
    """Write a folder as `satx data fetch` does: places far apart, two overlapping windows of each, and a point without a tile."""
    root = tmp_path / "my tiles"
    rng = np.random.default_rng(7)
    rows: Rows = []
    for number in range(NUM_TILES):
        label = "school" if number // 2 % 2 else "not-school"
        place = np.array([number // 2 % 8, number // 2 // 8]) * 0.2 + (number % 2) * 0.0003
        path = root / f"tiles/{label}/{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (48, 48, 3), np.uint8)).save(path)
        rows.append(
            dict.fromkeys(COLUMNS, "")
            | {
                "path": path.relative_to(root).as_posix(),
                "label": label,
                "lon": f"{place[0]:.7f}",
                "lat": f"{place[1]:.7f}",
            }
            | {"z": "18", "window_px": "256", "status": "done", "attribution": "© somebody; else, etc."}
        )
    rows.insert(
        3, dict.fromkeys(COLUMNS, "") | {"label": "school", "lon": "1", "lat": "1", "z": "18", "status": "missing"}
    )
    write_table(root / "tiles.csv", rows)
    return root


def write_table(table: Path, rows: Rows) -> None:
    with table.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def table_of(root: Path) -> Rows:
    with (root / "tiles.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def splits_of(root: Path) -> dict[str, str]:
    return {row["path"]: row["split"] for row in table_of(root)}


def request_of(root: Path, **changes: Any) -> Request:
    usual = {"block_zoom": None, "pairs": None, "weights": "none", "shares": "70:20:10", "seed": 20, "repeats": 5}
    return Request(root, **(usual | {"out": None, "replace": False} | changes))


@pytest.fixture
def split(capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """Return a function that splits a folder and returns what `--json` prints."""

    def run(root: Path, **changes: Any) -> dict[str, Any]:
        capsys.readouterr()
        split_command(request_of(root, **changes), as_json=True)
        document: dict[str, Any] = json.loads(capsys.readouterr().out)
        return document

    return run


def test_a_fetched_folder_gets_splits_and_keeps_everything_else(
    fetched: Path, split: Callable[..., dict[str, Any]]
) -> None:
    before = table_of(fetched)
    document = split(fetched)
    after = table_of(fetched)
    assert [{name: row[name] for name in COLUMNS if name != "split"} for row in after] == [
        {name: row[name] for name in COLUMNS if name != "split"} for row in before
    ]
    assert (after[3]["split"], after[3]["left_out"]) == ("", "")
    done = [row for row in after if row["status"] == "done"]
    for one, other in zip(done[::2], done[1::2], strict=True):
        assert one["split"] == other["split"], "two windows of one place are in one split"
    folder = read_layout(fetched)
    assert {(file.split, file.label) for file in folder.files} == {
        (name, label) for name in ("train", "valid", "test") for label in ("school", "not-school")
    }
    assert document["num_tiles"] == NUM_TILES
    assert document["num_groups"] == document["num_blocks"] == NUM_TILES // 2
    assert document["pairs"] == {"overlap": NUM_TILES // 2}
    assert document["block_zoom"] == 12 and document["block_km"] == pytest.approx(9.78, abs=0.02)
    assert document["counts"]["train"] == {"not-school": 28, "school": 28}
    assert document["shares_reached"] == document["shares_asked"] == {"train": 0.7, "valid": 0.2, "test": 0.1}
    assert document["flattery"] is None and "--weights none" in document["flattery_note"]


def test_the_split_does_not_depend_on_the_order_of_the_rows_or_on_the_place_of_the_folder(
    fetched: Path, tmp_path: Path, split: Callable[..., dict[str, Any]]
) -> None:
    other = tmp_path / "elsewhere"
    shutil.copytree(fetched, other)
    write_table(other / "tiles.csv", table_of(fetched)[::-1])
    split(fetched)
    split(other)
    assert splits_of(other) == splits_of(fetched)


def test_what_is_printed_names_blocks_and_shares_and_the_next_command(
    fetched: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split_command(request_of(fetched), as_json=False)
    printed = " ".join(capsys.readouterr().out.split())
    assert "40 blocks of zoom 12, 9.8 km wide" in printed
    assert "70.0%" in printed and "share reached" in printed
    assert f"sweep --session 2 --data '{fetched}'" in printed
    assert f"session new 3 --from 2 --add '{fetched}'" in printed
    assert "was not measured" in printed


def test_a_tile_within_one_window_of_another_split_is_left_out_and_stays_in_the_table(
    fetched: Path, split: Callable[..., dict[str, Any]]
) -> None:
    rows = table_of(fetched)
    for number, row in enumerate(
        row for row in rows if row["status"] == "done"
    ):  # a row of tiles, each beside the next
        row |= {"window_px": "", "lon": "", "lat": "", "x": str(64 * 2000 + number), "y": "131000"}
    write_table(fetched / "tiles.csv", rows)
    document = split(fetched, block_zoom=16)
    left_out = [row for row in table_of(fetched) if row["left_out"]]
    assert left_out and {row["left_out"] for row in left_out} <= {
        f"within one window of a {name} tile" for name in ("valid", "test")
    }
    assert {row["split"] for row in left_out} == {""}
    assert sum(document["left_out"].values()) == len(left_out)
    assert len(read_layout(fetched).files) == NUM_TILES - len(left_out)
    assert len(table_of(fetched)) == len(rows)
    split(fetched, replace=True, seed=20, block_zoom=16)
    assert [row for row in table_of(fetched) if row["left_out"]] == left_out, "a second split sees the same tiles"


def test_a_split_is_not_replaced_unasked(fetched: Path, split: Callable[..., dict[str, Any]]) -> None:
    split(fetched)
    before = (fetched / "tiles.csv").read_bytes()
    with pytest.raises(ConfigError, match="--replace"):
        split(fetched, seed=21)
    assert (fetched / "tiles.csv").read_bytes() == before
    split(fetched, replace=True, seed=21)
    assert (fetched / "tiles.csv").read_bytes() != before


def test_split_folders_are_not_replaced_unasked_either(
    fetched: Path, tmp_path: Path, split: Callable[..., dict[str, Any]]
) -> None:
    folder = tmp_path / "tiles"
    for name in ("train", "valid"):
        shutil.copytree(fetched / "tiles", folder / name)
    with pytest.raises(ConfigError, match="--replace"):
        split(folder)
    document = split(folder, replace=True)
    assert document["pairs"] == {"pixels": NUM_TILES}
    splits = splits_of(folder)
    assert all(splits[name] == splits[name.replace("train/", "valid/")] for name in splits if name.startswith("train/"))


def test_class_folders_get_a_table(fetched: Path, split: Callable[..., dict[str, Any]]) -> None:
    folder = fetched / "tiles"
    document = split(folder)
    assert document["block_zoom"] is None and document["num_without_place"] == NUM_TILES
    assert list(table_of(folder)[0]) == ["path", "label", "split", "left_out"]
    assert len(read_layout(folder).files) == NUM_TILES


def test_a_copy_of_a_picture_stays_with_it(fetched: Path, split: Callable[..., dict[str, Any]]) -> None:
    folder = fetched / "tiles"
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
    copies = {}
    for name in names[::3]:
        copies[name] = name.replace(".png", "-copy.png")
        Image.open(folder / name).transpose(Image.Transpose.ROTATE_90).save(folder / copies[name])
    document = split(folder)
    splits = splits_of(folder)
    assert all(splits[name] == splits[copy] for name, copy in copies.items())
    assert document["pairs"] == {"pixels": len(copies)}


def test_answers_of_a_person_join_and_part_tiles(
    fetched: Path, tmp_path: Path, split: Callable[..., dict[str, Any]]
) -> None:
    folder = fetched / "tiles"
    split(folder)
    of_train = [name for name, where in splits_of(folder).items() if where == "train"]
    of_test = [name for name, where in splits_of(folder).items() if where == "test"]
    answers = tmp_path / "pairs.csv"
    answers.write_text(f"first,second,how,score,same_ground\n{of_train[0]},{of_test[0]},features,0.9,yes\n")
    document = split(folder, pairs=answers, replace=True)
    assert splits_of(folder)[of_train[0]] == splits_of(folder)[of_test[0]]
    assert document["pairs"] == {"confirmed": 1}

    first, second = (row["path"] for row in table_of(fetched)[:2])
    answers.write_text(f"first,second,how,score,same_ground\n{first},{second},overlap,0.9,no\n")
    assert split(fetched, pairs=answers)["pairs"] == {"overlap": NUM_TILES // 2 - 1}


@pytest.mark.parametrize(
    ("changes", "error", "named"),
    [
        ({"block_zoom": 19}, ConfigError, "up to 18"),
        ({"block_zoom": 3}, DataError, "deeper --block-zoom"),
        ({"shares": "70:30"}, ConfigError, "--shares"),
        ({"pairs": Path("nowhere.csv")}, DataError, "satx data pairs"),
        ({"weights": "nowhere"}, WeightsError, "mobilenetv2_notop.weights.h5"),
    ],
)
def test_a_wrong_option_is_refused_and_nothing_is_written(
    fetched: Path, changes: dict[str, Any], error: type[SatxError], named: str, split: Callable[..., dict[str, Any]]
) -> None:
    before = (fetched / "tiles.csv").read_bytes()
    with pytest.raises(error, match=named):
        split(fetched, **changes)
    assert (fetched / "tiles.csv").read_bytes() == before
    assert sorted(path.name for path in fetched.iterdir()) == ["tiles", "tiles.csv"]


def test_a_block_zoom_without_coordinates_is_refused(fetched: Path, split: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(ConfigError, match="--block-zoom: expected tiles with coordinates"):
        split(fetched / "tiles", block_zoom=12)


def test_pairs_of_another_folder_are_refused(
    fetched: Path, tmp_path: Path, split: Callable[..., dict[str, Any]]
) -> None:
    (tmp_path / "pairs.csv").write_text("first,second,how,score,same_ground\na.jpg,b.jpg,features,0.9,yes\n")
    with pytest.raises(DataError, match=r"'a\.jpg', which it does not have"):
        split(fetched, pairs=tmp_path / "pairs.csv")


def test_one_class_is_refused(fetched: Path, split: Callable[..., dict[str, Any]]) -> None:
    write_table(fetched / "tiles.csv", [row for row in table_of(fetched) if row["label"] == "school"])
    with pytest.raises(DataError, match="'school' only"):
        split(fetched)


def test_a_class_that_lies_in_one_block_is_refused_and_nothing_is_written(
    fetched: Path, split: Callable[..., dict[str, Any]]
) -> None:
    rows = table_of(fetched)
    for number, row in enumerate(row for row in rows if row["label"] == "school" and row["path"]):
        row |= {"lon": f"{3 + number * 0.002:.7f}", "lat": "3.0000000"}
    write_table(fetched / "tiles.csv", rows)
    before = (fetched / "tiles.csv").read_bytes()
    with pytest.raises(DataError, match="none of school in"):
        split(fetched, block_zoom=11)
    assert (fetched / "tiles.csv").read_bytes() == before


def test_another_table_can_be_written_and_is_not_overwritten(
    fetched: Path, split: Callable[..., dict[str, Any]]
) -> None:
    split(fetched, out=fetched / "other.csv")
    assert set(splits_of(fetched).values()) == {""}
    written = (fetched / "other.csv").read_text()
    assert written.count(",train,") == 56
    with pytest.raises(ConfigError, match="--out"):
        split(fetched, out=fetched / "other.csv")


def test_a_name_that_a_table_cannot_hold_is_refused(fetched: Path, split: Callable[..., dict[str, Any]]) -> None:
    folder = fetched / "tiles"
    path = sorted(folder.rglob("*.png"))[0]
    path.rename(path.with_name("last.png "))
    with pytest.raises(DataError, match=r"last\.png "):
        split(folder)
    assert not (folder / "tiles.csv").exists()


def test_flattery_is_measured_with_the_weights_of_a_folder(
    fetched: Path, tmp_path: Path, tiny_weights: Any, split: Callable[..., dict[str, Any]]
) -> None:
    (tmp_path / "weights").mkdir()
    shutil.copy(tiny_weights.file, tmp_path / "weights" / "mobilenetv2_notop.weights.h5")
    document = split(fetched, weights=str(tmp_path / "weights"))
    flattery = document["flattery"]
    assert flattery["num_draws"] == 5
    assert flattery["difference"]["value"] == pytest.approx(flattery["random_auc"] - flattery["block_auc"])
    assert flattery["difference"]["low"] < flattery["difference"]["value"] < flattery["difference"]["high"]
    assert document["flattery_note"] == ""


def test_a_split_that_is_random_itself_is_not_measured_against_one(
    fetched: Path, tmp_path: Path, split: Callable[..., dict[str, Any]]
) -> None:
    (tmp_path / "mobilenetv2_notop.weights.h5").write_bytes(b"never opened")
    document = split(fetched / "tiles", weights=str(tmp_path))
    assert document["num_blocks"] == NUM_TILES
    assert document["flattery"] is None and "random one" in document["flattery_note"]


@pytest.mark.parametrize(
    ("low", "words"),
    [(0.02, "A random split would flatter by 0.050"), (-0.01, "A random split is not shown to flatter")],
)
def test_flattery_is_said_only_if_the_interval_excludes_zero(low: float, words: str) -> None:
    found = Flattery(0.95, 0.9, Interval(0.05, low, 0.1 - low), 20)
    sentence = flattery_sentence(found, "block")
    assert sentence.startswith(words)
    assert f"95% interval {low:.3f} to {0.1 - low:.3f}, 20 draws of each" in sentence
