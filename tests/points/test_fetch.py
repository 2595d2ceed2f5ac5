"""Pictures fetched for points: their pixels, one status for each point, what is asked of the source, and continued runs."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from satx.errors import ConfigError, DataError, StateMismatch
from satx.grid.points import Points
from satx.grid.tiles import bounds_of, center_of, tile_of
from satx.imagery.contract import DONE, FAILED, STATUSES, Fetched, Tile, Unscored
from satx.imagery.folder import open_folder_template
from satx.points import fetch as fetching
from satx.points import fetch_plan
from satx.points.fetch import fetch_points
from satx.points.fetch_plan import FetchPlan
from satx.points.fetched_table import COLUMNS, WRITING, put_picture
from satx.sample.country import Country, degrees_of, render_at, render_country_tile
from satx.storage import locked
from satx.tiles.decode import decode_tile

ZOOM, WEST, NORTH, SIDE = 18, 131_100, 130_900, 8  # a square of tiles


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, compress_level=1)
    return file.getvalue()


def pixels_of(zoom: int, x: int, y: int) -> np.ndarray:
    """Return the noise that stands for a tile."""
    return np.random.default_rng([zoom, x, y]).integers(0, 256, (256, 256, 3), np.uint8)


def put(folder: Path, zoom: int, x: int, y: int, data: bytes) -> None:
    path = folder / str(zoom) / str(x) / f"{y}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of tiles of noise: a square of tiles, and their parents two zooms up with those around."""
    folder = tmp_path_factory.mktemp("ground")
    for zoom, far in ((ZOOM, 0), (ZOOM - 2, 1)):
        shift = ZOOM - zoom
        for x in range((WEST >> shift) - far, (WEST + SIDE - 1 >> shift) + far + 1):
            for y in range((NORTH >> shift) - far, (NORTH + SIDE - 1 >> shift) + far + 1):
                put(folder, zoom, x, y, encoded(pixels_of(zoom, x, y)))
    return folder


def points_at(places: Iterable[tuple[float, float]], labels: Iterable[str] = (), slices: Iterable[str] = ()) -> Points:
    longitude, latitude = np.array(list(places), np.float64).T
    names = tuple(labels) or ("school",) * len(longitude)
    return Points(longitude, latitude, names, tuple(slices) or ("",) * len(longitude), 0)


def scattered(number: int, seed: int = 0) -> Points:
    """Return points whose windows lie in the square."""
    drawn = np.random.default_rng(seed).uniform(0.6, SIDE - 0.6, (2, number))
    west, _, _, north = (float(value) for value in bounds_of(ZOOM, WEST, NORTH))
    _, south, east, _ = (float(value) for value in bounds_of(ZOOM, WEST + SIDE - 1, NORTH + SIDE - 1))
    longitude, latitude = west + (east - west) * drawn[0] / SIDE, north + (south - north) * drawn[1] / SIDE
    labels = tuple(("school", "not-school", "")[place % 3] for place in range(number))
    return Points(longitude, latitude, labels, tuple("built-up" if label else "" for label in labels), 0)


class Asked:
    """A folder of tiles that notes what it is asked for, and says of some tiles what a test wants."""

    def __init__(self, folder: Path, instead: Mapping[tuple[int, int, int], Fetched] | None = None) -> None:
        self.folder = folder
        self._folder = open_folder_template(f"{folder}/{{z}}/{{x}}/{{y}}.png")
        self.identity: Mapping[str, Any] = self._folder.identity
        self.attribution = "Noise\nof a test"
        self.instead = dict(instead or {})
        self.tiles: Counter[tuple[int, int, int]] = Counter()

    def fetch(self, tiles: Iterable[Tile]) -> Iterator[Fetched]:
        asked: list[Tile] = []

        def noted() -> Iterator[Tile]:
            for tile in tiles:
                self.tiles[tile[1:]] += 1
                asked.append(tile)
                yield tile

        for number, fetched in enumerate(self._folder.fetch(noted())):
            yield self.instead.get(asked[number][1:], fetched)

    def close(self) -> None:
        self._folder.close()


@pytest.fixture
def source(ground: Path) -> Iterator[Callable[..., Asked]]:
    """Return a function that opens the folder of noise."""
    opened: list[Asked] = []

    def open_it(**instead: Any) -> Asked:
        opened.append(Asked(ground, **instead))
        return opened[-1]

    yield open_it
    for one in opened:
        one.close()


def rows_of(root: Path) -> list[dict[str, str]]:
    with (root / "tiles.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def picture(path: Path) -> np.ndarray:
    return decode_tile(path.read_bytes(), path.name).pixels


def files_below(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_windows_show_the_country_around_their_points(tmp_path: Path) -> None:
    country = Country(width_tiles=2, height_tiles=2)
    for x in (country.west_x, country.west_x + 1):
        for y in (country.north_y, country.north_y + 1):
            put(tmp_path / "country", 18, x, y, encoded(render_country_tile(country, x, y)))
    corner = tuple(float(value) for value in bounds_of(18, country.west_x + 1, country.north_y + 1))
    places = [degrees_of(country, 300, 211), (corner[0], corner[3])]
    imagery = open_folder_template(f"{tmp_path}/country/{{z}}/{{x}}/{{y}}.png")
    counts = fetch_points(FetchPlan(points_at(places), 18, 256), imagery, tmp_path / "out", source="country")
    imagery.close()
    assert counts["status"] == dict.fromkeys(STATUSES, 0) | {DONE: 2}
    for row, place in zip(rows_of(tmp_path / "out"), places, strict=True):
        assert (float(row["lon"]), float(row["lat"])) == place
        shown = picture(tmp_path / "out" / row["path"])
        np.testing.assert_array_equal(shown, render_at(country, *place, 256))


def test_the_table_has_a_row_for_each_point_in_the_order_of_the_points(
    source: Callable[..., Asked], tmp_path: Path
) -> None:
    points = scattered(300)
    fetch_points(FetchPlan(points, ZOOM, 64), source(), tmp_path, source="noise", attribution=None)
    rows = rows_of(tmp_path)
    assert tuple(rows[0]) == COLUMNS
    assert [float(row["lon"]) for row in rows] == points.longitude.tolist()
    assert [float(row["lat"]) for row in rows] == points.latitude.tolist()
    assert [row["label"] for row in rows] == list(points.labels)
    assert [row["slice"] for row in rows] == list(points.slices)
    x, y = tile_of(points.longitude, points.latitude, ZOOM)
    assert [(int(row["z"]), int(row["x"]), int(row["y"])) for row in rows] == [
        (ZOOM, *place) for place in zip(x.tolist(), y.tolist(), strict=True)
    ]
    assert {row["split"] for row in rows} == {""} and {row["window_px"] for row in rows} == {"64"}
    assert {(row["status"], row["reason"], row["source"]) for row in rows} == {(DONE, "", "noise")}
    assert {row["attribution"] for row in rows} == {"Noise of a test"}
    assert all(row["fetched_at"].endswith("+00:00") for row in rows)
    assert [row["path"].split("/")[:2] for row in rows] == [["tiles", label or "unlabelled"] for label in points.labels]
    assert len({row["path"] for row in rows}) == 300 and all(
        picture(tmp_path / row["path"]).shape[0] == 64 for row in rows
    )


@pytest.mark.parametrize("num_recent", [1, 3, fetching.RECENT_TILES])
def test_windows_are_right_whatever_number_of_tiles_is_kept(
    source: Callable[..., Asked], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_recent: int
) -> None:
    monkeypatch.setattr(fetching, "RECENT_TILES", num_recent)
    points, imagery = scattered(14, seed=1), source()
    fetch_points(FetchPlan(points, ZOOM, 256), imagery, tmp_path, source="noise")
    whole = np.vstack([np.hstack([pixels_of(ZOOM, WEST + x, NORTH + y) for x in range(SIDE)]) for y in range(SIDE)])
    columns, rows = tile_of(points.longitude, points.latitude, ZOOM + 8)
    for row, x, y in zip(rows_of(tmp_path), columns - WEST * 256, rows - NORTH * 256, strict=True):
        np.testing.assert_array_equal(picture(tmp_path / row["path"]), whole[y - 128 : y + 128, x - 128 : x + 128])
    assert max(imagery.tiles.values()) > 1 or num_recent == fetching.RECENT_TILES


def test_each_tile_is_asked_for_once(source: Callable[..., Asked], tmp_path: Path) -> None:
    imagery = source()
    fetch_points(FetchPlan(scattered(400), ZOOM, 64, has_context=True), imagery, tmp_path, source="noise")
    assert set(imagery.tiles.values()) == {1}
    assert len([tile for tile in imagery.tiles if tile[0] == ZOOM]) == SIDE**2


def test_equal_points_give_equal_bytes(source: Callable[..., Asked], tmp_path: Path) -> None:
    points = scattered(8)
    for name in ("first", "second"):
        fetch_points(FetchPlan(points, ZOOM, 256), source(), tmp_path / name, source="noise")
    first, second = (files_below(tmp_path / name / "tiles") for name in ("first", "second"))
    assert first == second and len(first) == 8


def test_whole_tiles_keep_their_bytes_and_points_in_one_tile_have_a_file_each(tmp_path: Path) -> None:
    file = encoded(pixels_of(ZOOM, 0, 0)[:150, :200], "JPEG")  # of any size
    put(tmp_path / "served", ZOOM, WEST, NORTH, file)
    longitude, latitude = (float(value) for value in center_of(ZOOM, WEST, NORTH))
    places = [(longitude, latitude), (longitude + 1e-5, latitude), (longitude, latitude + 1e-5)]
    imagery = open_folder_template(f"{tmp_path}/served/{{z}}/{{x}}/{{y}}.png")
    plan = FetchPlan(points_at(places, ["school", "school", ""]), ZOOM, None)
    fetch_points(plan, imagery, tmp_path / "out", source="served")
    imagery.close()
    name = f"{ZOOM}-{WEST}-{NORTH}"
    paths = [f"tiles/school/{name}.jpg", f"tiles/school/{name}-2.jpg", f"tiles/unlabelled/{name}.jpg"]
    rows = rows_of(tmp_path / "out")
    assert [row["path"] for row in rows] == paths and {row["window_px"] for row in rows} == {""}
    assert all((tmp_path / "out" / path).read_bytes() == file for path in paths)


BLANK_TILE = encoded(np.full((256, 256, 3), 7, np.uint8))
AT_CORNER = tuple(float(value) for value in bounds_of(ZOOM, WEST + 1, NORTH + 1))[
    0::3
]  # the window has parts of four tiles
WRONG: list[tuple[Fetched, str, str]] = [
    (Unscored("missing", "HTTP 404"), "missing", "HTTP 404"),
    (Unscored(FAILED, "HTTP 500"), FAILED, "HTTP 500"),
    (BLANK_TILE, "blank", "one color"),
    (b"<html>busy</html>", "broken", "a page of text, not an image: <html>busy</html>"),
    (encoded(pixels_of(0, 0, 0))[:9000], "broken", "truncated PNG"),
    (encoded(np.kron(pixels_of(0, 0, 0), np.ones((2, 2, 1), np.uint8))), "refused", "512x512 px; windows need tiles of 256x256"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "status", "reason"), WRONG)
def test_a_window_is_done_only_if_all_its_tiles_are(
    source: Callable[..., Asked], tmp_path: Path, given: Fetched, status: str, reason: str
) -> None:
    imagery = source(instead={(ZOOM, WEST, NORTH + 1): given})
    counts = fetch_points(FetchPlan(points_at([AT_CORNER]), ZOOM, 256), imagery, tmp_path, source="noise")
    (row,) = rows_of(tmp_path)
    assert (row["status"], row["path"]) == (status, "")
    assert reason in row["reason"] and row["reason"].endswith(f"(tile {ZOOM}-{WEST}-{NORTH + 1})")
    assert not list(tmp_path.rglob("*.png")) and counts["status"][status] == 1


def test_of_several_bad_tiles_the_worst_is_named(source: Callable[..., Asked], tmp_path: Path) -> None:
    instead = {
        (ZOOM, WEST, NORTH): BLANK_TILE,
        (ZOOM, WEST + 1, NORTH): Unscored("missing", "HTTP 404"),
        (ZOOM, WEST + 1, NORTH + 1): Unscored("missing", "HTTP 410"),
    }
    fetch_points(FetchPlan(points_at([AT_CORNER]), ZOOM, 256), source(instead=instead), tmp_path, source="noise")
    (row,) = rows_of(tmp_path)
    assert (row["status"], row["reason"]) == ("missing", f"HTTP 404 (tile {ZOOM}-{WEST + 1}-{NORTH})")


def test_a_window_of_one_color_is_blank(source: Callable[..., Asked], tmp_path: Path) -> None:
    half = pixels_of(ZOOM, 0, 0)
    half[:, :128] = 90  # not blank itself, but what the window shows of it is
    middle, latitude = (float(value) for value in center_of(ZOOM, WEST, NORTH))
    place = (middle - 360 / 2**ZOOM / 4, latitude)
    imagery = source(instead={(ZOOM, WEST, NORTH): encoded(half)})
    fetch_points(FetchPlan(points_at([place]), ZOOM, 64), imagery, tmp_path, source="noise")
    assert [(row["status"], row["reason"]) for row in rows_of(tmp_path)] == [("blank", "one color")]


def test_the_antimeridian_is_crossed_and_the_edges_of_the_map_are_not(tmp_path: Path) -> None:
    for x in range(8):
        for y in range(8):
            put(tmp_path / "world", 3, x, y, encoded(pixels_of(3, x, y)))
    imagery = open_folder_template(f"{tmp_path}/world/{{z}}/{{x}}/{{y}}.png")
    plan = FetchPlan(points_at([(-180.0, 0.0), (10.0, 85.0), (10.0, -85.0)]), 3, 256)
    fetch_points(plan, imagery, tmp_path / "out", source="world")
    imagery.close()
    across, north, south = rows_of(tmp_path / "out")
    shown = picture(tmp_path / "out" / across["path"])
    np.testing.assert_array_equal(shown[:128, :128], pixels_of(3, 7, 3)[128:, 128:])
    np.testing.assert_array_equal(shown[128:, 128:], pixels_of(3, 0, 4)[:128, :128])
    for row in (north, south):
        assert (row["status"], row["reason"]) == ("missing", fetching.BEYOND_THE_MAP)


def test_context_is_the_same_window_two_zooms_up(source: Callable[..., Asked], tmp_path: Path) -> None:
    points = scattered(5)
    counts = fetch_points(FetchPlan(points, ZOOM, 256, has_context=True), source(), tmp_path, source="noise")
    assert counts["context"] == dict.fromkeys(STATUSES, 0) | {DONE: 5}
    x, y = tile_of(points.longitude, points.latitude, ZOOM - 2 + 8)
    west, north = (WEST >> 2) - 1, (NORTH >> 2) - 1
    across = range(SIDE // 4 + 3)
    whole = np.vstack([np.hstack([pixels_of(ZOOM - 2, west + i, north + j) for i in across]) for j in across])
    for row, left, top in zip(rows_of(tmp_path), x - west * 256 - 128, y - north * 256 - 128, strict=True):
        shown = picture(tmp_path / row["path"].replace("tiles/", "context/", 1))
        np.testing.assert_array_equal(shown, whole[top : top + 256, left : left + 256])


def test_a_point_without_its_context_is_done_and_says_so(source: Callable[..., Asked], tmp_path: Path) -> None:
    parent = (ZOOM - 2, WEST >> 2, NORTH >> 2)
    plan = FetchPlan(points_at([AT_CORNER]), ZOOM, 256, has_context=True)
    counts = fetch_points(plan, source(instead={parent: Unscored(FAILED, "HTTP 500")}), tmp_path, source="noise")
    (row,) = rows_of(tmp_path)
    assert row["status"] == DONE and row["reason"] == f"context failed: HTTP 500 (tile {'-'.join(map(str, parent))})"
    assert counts["context"][FAILED] == 1 and not (tmp_path / "context").exists()
    imagery = source()  # what failed is asked for again
    counts = fetch_points(plan, imagery, tmp_path, source="noise")
    assert imagery.tiles[parent] == 1 and counts["context"][DONE] == 1 and rows_of(tmp_path)[0]["reason"] == ""


def test_a_repeated_call_asks_again_for_what_failed_and_for_nothing_else(
    source: Callable[..., Asked], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch_plan, "CHUNK_POINTS", 32)
    bad = {
        (ZOOM, WEST + 3, NORTH + 3): Unscored(FAILED, "HTTP 500"),
        (ZOOM, WEST + 5, NORTH + 2): Unscored("missing", "gone"),
    }
    plan = FetchPlan(scattered(150), ZOOM, 64)
    first = fetch_points(plan, source(instead=bad), tmp_path, source="noise")
    num_failed = first["status"][FAILED]
    assert num_failed > 1 and first["num_fetched"] == 150 and first["status"]["missing"] > 0
    before = rows_of(tmp_path)
    imagery = source()
    second = fetch_points(plan, imagery, tmp_path, source="noise")
    assert second["num_fetched"] == num_failed and second["status"][FAILED] == 0
    after = rows_of(tmp_path)
    assert [row["status"] for row in after if row["status"] != DONE] == ["missing"] * first["status"]["missing"]
    assert all(new == old for new, old in zip(after, before, strict=True) if old["status"] != FAILED)
    needed = {
        tile[1:]
        for point, row in enumerate(before)
        if row["status"] == FAILED
        for tile in next(plan.views(point)).tiles
    }
    assert set(imagery.tiles) == needed
    imagery, files = source(), files_below(tmp_path)
    assert fetch_points(plan, imagery, tmp_path, source="noise")["num_fetched"] == 0
    assert not imagery.tiles and files_below(tmp_path) == files


def test_what_was_removed_is_fetched_again(source: Callable[..., Asked], tmp_path: Path) -> None:
    plan = FetchPlan(scattered(9), ZOOM, 256)
    fetch_points(plan, source(), tmp_path, source="noise")
    rows = rows_of(tmp_path)
    data = (tmp_path / rows[4]["path"]).read_bytes()
    (tmp_path / rows[4]["path"]).unlink()
    assert fetch_points(plan, source(), tmp_path, source="noise")["num_fetched"] == 1
    assert (tmp_path / rows[4]["path"]).read_bytes() == data
    chunk = next((tmp_path / ".fetch").iterdir())
    chunk.write_bytes(chunk.read_bytes()[:-40])
    with pytest.raises(DataError, match=r"expected what became of points, as satx wrote it.*Remove it, and repeat"):
        fetch_points(plan, source(), tmp_path, source="noise")
    chunk.unlink()
    assert fetch_points(plan, source(), tmp_path, source="noise")["num_fetched"] == 9


def test_a_picture_of_a_killed_run_whose_tile_is_gone_now_is_removed(
    source: Callable[..., Asked], tmp_path: Path
) -> None:
    plan = FetchPlan(points_at([AT_CORNER]), ZOOM, 256, has_context=True)
    fetch_points(plan, source(), tmp_path, source="noise")
    assert len(list(tmp_path.rglob("*.png"))) == 2
    next((tmp_path / ".fetch").iterdir()).unlink()  # as if killed between the picture and the record of its chunk
    gone = {(ZOOM, WEST, NORTH): Unscored("missing", "HTTP 404")}
    fetch_points(plan, source(instead=gone), tmp_path, source="noise")
    assert [row["status"] for row in rows_of(tmp_path)] == ["missing"] and not list(tmp_path.rglob("*.png"))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("points", {"points": scattered(9, seed=5)}),
        ("zoom", {"zoom": ZOOM - 1}),
        ("window_px", {"window_px": 128}),
        ("context", {"has_context": True}),
        ("placeholders", {"placeholders": frozenset({"0" * 64})}),
        ("imagery", {"identity": {"kind": "folder", "template": "other"}}),
    ],
)
def test_a_folder_is_not_continued_with_something_else(
    source: Callable[..., Asked], tmp_path: Path, name: str, change: dict[str, Any]
) -> None:
    options: dict[str, Any] = {"points": scattered(9), "zoom": ZOOM, "window_px": 64, "has_context": False}
    fetch_points(FetchPlan(**options), source(), tmp_path, source="noise")
    before = files_below(tmp_path)
    imagery = source()
    imagery.identity = change.pop("identity", imagery.identity)
    placeholders = change.pop("placeholders", frozenset())
    with pytest.raises(StateMismatch, match=rf"another fetch gave\. {name}: .* there, .* now\. Pass another --out"):
        fetch_points(FetchPlan(**options | change), imagery, tmp_path, source="noise", placeholders=placeholders)
    assert files_below(tmp_path) == before and not imagery.tiles


def test_a_folder_with_other_files_or_of_another_process_is_refused(
    source: Callable[..., Asked], tmp_path: Path
) -> None:
    plan = FetchPlan(scattered(3), ZOOM, 64)
    with locked(tmp_path / ".fetch"), pytest.raises(ConfigError, match="no other fetch writes"):
        fetch_points(plan, source(), tmp_path, source="noise")
    (tmp_path / "tiles.csv").write_text("path,label,split\n")
    with pytest.raises(StateMismatch, match=r"expected a new folder, or one with a fetch\.json, got tiles\.csv"):
        fetch_points(plan, source(), tmp_path, source="noise")
    (tmp_path / "fetch.json").write_text("{}")
    with pytest.raises(DataError, match="expected the record of `satx data fetch`"):
        fetch_points(plan, source(), tmp_path, source="noise")


def test_splits_stay_unless_the_folder_gets_more_tiles(source: Callable[..., Asked], tmp_path: Path) -> None:
    plan = FetchPlan(scattered(6), ZOOM, 64)
    fetch_points(plan, source(), tmp_path, source="noise")
    table = tmp_path / "tiles.csv"
    table.write_text(table.read_text().replace(",school,,", ",school,train,"))
    split = table.read_bytes()
    assert not fetch_points(plan, source(), tmp_path, source="noise")["lost_splits"] and table.read_bytes() == split
    (tmp_path / rows_of(tmp_path)[0]["path"]).unlink()
    assert fetch_points(plan, source(), tmp_path, source="noise")["lost_splits"]
    assert {row["split"] for row in rows_of(tmp_path)} == {""}


def test_a_source_that_ends_early_is_an_error_and_what_came_stays(
    source: Callable[..., Asked], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch_plan, "CHUNK_POINTS", 1000)  # one chunk, which is not whole when the source ends

    class Ending(Asked):
        def fetch(self, tiles: Iterable[Tile]) -> Iterator[Fetched]:
            for number, fetched in enumerate(super().fetch(tiles)):
                if number == 40:
                    return
                yield fetched

    plan, whole = FetchPlan(scattered(120), ZOOM, 64), source()
    ending = Ending(whole.folder)
    with pytest.raises(DataError, match="the source ended before tile 18-"):
        fetch_points(plan, ending, tmp_path, source="noise")
    ending.close()
    num_kept = sum(path.read_text().count(",done,") for path in (tmp_path / ".fetch").iterdir())
    assert num_kept > 0
    assert fetch_points(plan, whole, tmp_path, source="noise")["num_fetched"] == 120 - num_kept


def test_a_picture_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(_self: Path, _target: Path) -> None:
        raise OSError("killed here")

    (tmp_path / WRITING).mkdir()
    with monkeypatch.context() as patch, pytest.raises(OSError, match="killed here"):
        patch.setattr(Path, "replace", killed)
        put_picture(tmp_path, "tiles/school/one", (".png", BLANK_TILE))
    assert not list((tmp_path / "tiles").rglob("*.png"))
    assert put_picture(tmp_path, "tiles/school/one", (".png", BLANK_TILE)) == "tiles/school/one.png"
    assert (tmp_path / "tiles" / "school" / "one.png").read_bytes() == BLANK_TILE
    assert put_picture(tmp_path, "tiles/school/one", (".jpg", b"another")) == "tiles/school/one.jpg"
    assert put_picture(tmp_path, "tiles/school/one", None) == "" and not list((tmp_path / "tiles").rglob("*.*"))


def test_a_run_killed_before_its_table_leaves_no_old_table_as_the_new_one(
    source: Callable[..., Asked], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = FetchPlan(points_at([AT_CORNER]), ZOOM, 64)
    fetch_points(plan, source(instead={(ZOOM, WEST, NORTH): Unscored(FAILED, "HTTP 500")}), tmp_path, source="noise")
    assert [row["status"] for row in rows_of(tmp_path)] == [FAILED]
    with monkeypatch.context() as killed:
        killed.setattr(fetching, "write_table", lambda *_, **__: pytest.fail("killed here"))
        with pytest.raises(pytest.fail.Exception):
            fetch_points(plan, source(), tmp_path, source="noise")
    assert fetch_points(plan, source(), tmp_path, source="noise")["num_fetched"] == 0
    assert [row["status"] for row in rows_of(tmp_path)] == [DONE]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"zoom": 1, "has_context": True}, ConfigError, "--context: expected a zoom of at least 2, got 1"),
        (
            {"zoom": 0, "window_px": 257},
            ConfigError,
            "--window-px: expected at most 256, the whole map at zoom 0, got 257",
        ),
        ({"labels": ("a/b",)}, DataError, "Expected labels that can be names of folders, got 'a/b'"),
        ({"labels": ("../..",)}, DataError, "Expected labels that can be names of folders, got '../..'"),
        ({"labels": (".school",)}, DataError, "names of folders"),
        ({"labels": ("a\nb",)}, DataError, "names of folders"),
        ({"labels": ("s" * 101,)}, DataError, "names of folders"),
        ({"slices": ("a\nb",)}, DataError, "in one line"),
    ],
)
def test_what_cannot_be_fetched_is_refused(options: dict[str, Any], error: type[Exception], message: str) -> None:
    points = points_at([(36.8, -1.3)], options.pop("labels", ()), options.pop("slices", ()))
    with pytest.raises(error, match=message.replace(".", r"\.")):
        FetchPlan(points, **{"zoom": ZOOM, "window_px": 256} | options)


def test_reasons_are_counted_without_the_names_of_tiles(source: Callable[..., Asked], tmp_path: Path) -> None:
    instead = {(ZOOM, WEST + x, NORTH + y): Unscored("missing", "HTTP 404") for x in range(4) for y in range(SIDE)}
    counts = fetch_points(FetchPlan(scattered(80), ZOOM, 64), source(instead=instead), tmp_path, source="noise")
    number = counts["status"]["missing"]
    assert number > 1 and counts["reasons"] == {"missing": [{"reason": "HTTP 404", "num_points": number}]}
    assert counts["num_points"] == 80 == sum(counts["status"].values())
    assert json.loads(json.dumps(counts)) == counts
