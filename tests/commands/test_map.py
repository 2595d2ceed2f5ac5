"""`satx map`, on folders as `satx predict` leaves them."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from mapped_tiles import MODEL, block_of
from PIL import Image

from satx.bulk.ledger import open_ledger
from satx.commands.console import out
from satx.commands.map import map_command
from satx.errors import DataError

NAMES = [f"18/{x}/120000.jpg" for x in range(6)]


@pytest.fixture(autouse=True)
def printed_on_stdout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo after each test that `--json` moves messages to standard error."""
    monkeypatch.setattr(out, "stderr", False)


@pytest.fixture
def tiles(tmp_path: Path) -> Path:
    """Write a folder of six tiles, each of its own grey; the second is damaged."""
    folder = tmp_path / "tiles"
    for number, name in enumerate(NAMES):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((64, 64, 3), 40 * number, np.uint8)).save(path, quality=95)
    (folder / NAMES[1]).write_bytes(b"damaged")
    return folder


@pytest.fixture
def predicted(tmp_path: Path, tiles: Path) -> Callable[..., Path]:
    """Return a function that writes the output of a prediction of the six tiles, in two blocks."""

    def write(
        *, allow_embedding: bool = True, num_finished: int = 2, names: list[str] = NAMES, identity: str = "folder"
    ) -> Path:
        ledger = open_ledger(str(tmp_path / "out"))
        x = np.arange(6)
        table = block_of(x, np.full(6, 120_000), 0.99 - 0.1 * x, names=names)
        if "/" not in names[0]:
            for axis in "zxy":
                nulls = pa.nulls(6, table.schema.field(axis).type)
                table = table.set_column(table.column_names.index(axis), table.schema.field(axis), nulls)
        record = {
            "identity": {"plan": "p", "imagery": {"kind": identity}, "model": asdict(MODEL)},
            "imagery": {"attribution": "© Example", "allow_embedding": allow_embedding, "path": str(tiles)},
            "num_blocks": 2,
        }
        ledger.prepare(record, pa.table({"name": ["a", "b"]}))
        for number in range(num_finished):
            ledger.write("ab"[number], table.slice(3 * number, 3))
        return tmp_path / "out"

    return write


def data_of(page: Path) -> Any:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.S)
    assert found is not None
    return json.loads(found[1])


def run(folder: Path, capsys: pytest.CaptureFixture[str], **options: Any) -> Any:
    map_command(folder, **{"output": None, "floor": None, "as_json": True, **options})
    return json.loads(capsys.readouterr().out)


def test_the_map_is_in_the_folder_with_pictures_of_the_intact_tiles(
    predicted: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = predicted()
    found = run(folder, capsys)
    assert found["map"] == str(folder / "map.html")
    assert {name: found[name] for name in ("num_points", "num_found", "num_thumbnails", "floor")} == {
        "num_points": 6,
        "num_found": 4,
        "num_thumbnails": 5,
        "floor": 0.31,
    }
    assert found["size_bytes"] == (folder / "map.html").stat().st_size
    data, html = data_of(folder / "map.html"), (folder / "map.html").read_text()
    assert sorted(data["thumbnails"]) == ["0", "2", "3", "4", "5"]
    for number, text in data["thumbnails"].items():
        picture = Image.open(io.BytesIO(base64.b64decode(text)))
        assert picture.format == "JPEG" and picture.size == (96, 96)
        assert abs(np.asarray(picture).mean() - 40 * int(number)) < 2
    assert "Imagery: © Example" in html and "not finished" not in html


def test_floor_and_output_are_as_asked(
    predicted: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "new" / "page.html"
    found = run(predicted(), capsys, output=output, floor=0.75)
    assert (found["num_points"], found["floor"]) == (3, 0.75)
    assert data_of(output)["lowest"] == 0.75
    assert not (tmp_path / "out" / "map.html").exists()


def test_no_picture_is_embedded_unless_it_is_allowed(
    predicted: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(predicted(allow_embedding=False), capsys)["num_thumbnails"] == 0


def test_other_imagery_than_the_predicted_gives_no_picture_and_is_told(
    predicted: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = predicted(identity="mbtiles")
    map_command(folder, output=None, floor=None, as_json=False)
    assert data_of(folder / "map.html")["thumbnails"] == {}
    printed = " ".join(capsys.readouterr().out.replace("│", "").split())
    assert "The page has no pictures of tiles:" in printed and "has changed since the prediction" in printed


def test_an_unfinished_prediction_has_a_map_that_says_so(
    predicted: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = predicted(num_finished=1)
    assert run(folder, capsys)["num_points"] == 3
    assert "not finished: 1 of 2 blocks are on the map" in (folder / "map.html").read_text()


def test_what_has_no_map_is_refused_with_the_next_step(predicted: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected the output of satx predict, got no plan\.json"):
        map_command(tmp_path, output=None, floor=None, as_json=False)
    (tmp_path / "plan.json").write_text('{"format": 0}')
    with pytest.raises(DataError, match=r"plan\.json: expected format 1, got 0"):
        map_command(tmp_path, output=None, floor=None, as_json=False)
    folder = predicted(num_finished=0)
    with pytest.raises(DataError, match="expected finished blocks, got none yet"):
        map_command(folder, output=None, floor=None, as_json=False)


def test_tiles_of_unknown_places_have_no_map(predicted: Callable[..., Path]) -> None:
    folder = predicted(names=[f"{number}.jpg" for number in range(6)])
    with pytest.raises(DataError, match="expected tiles whose names tell zoom, column and row"):
        map_command(folder, output=None, floor=None, as_json=False)
    assert not (folder / "map.html").exists()


def test_a_person_reads_size_counts_and_the_next_command(
    predicted: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = predicted()
    map_command(folder, output=None, floor=None, as_json=False)
    printed = " ".join(capsys.readouterr().out.split())
    assert "MB, 6 tiles of a probability of at least 0.31, 5 of them with a picture; 4 at or above" in printed
    assert f"xdg-open {folder}/map.html" in printed
