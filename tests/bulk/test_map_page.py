"""The data and the HTML of `satx map`, without a browser."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mapped_tiles import MODEL, ZOOM, block_of, country

from satx.bulk import map_data
from satx.bulk.block_file import ModelIdentity
from satx.bulk.map_data import Points, gather_map
from satx.bulk.map_page import LIBRARY_VERSION, VENDOR, map_page, name_patterns, page_data, write_map

SCRIPT = "<script>alert(1)</script>"


class Parsed(HTMLParser):
    """Texts of scripts and styles, and every address, of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.texts: dict[str, list[str]] = {"script": [], "style": [], "data": []}
        self.addresses: list[tuple[str, str]] = []
        self.policy, self._inside = "", ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self._inside = "data" if values.get("type") == "application/json" else tag if tag in self.texts else ""
        self.addresses += [(tag, value or "") for name, value in attrs if name in ("src", "href", "srcset", "action")]
        if values.get("http-equiv") == "Content-Security-Policy":
            self.policy = values["content"] or ""

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.texts[self._inside].append(data)


def page(table: pa.Table, *, model: ModelIdentity = MODEL, attribution: str = "", **about: Any) -> str:
    return map_page(gather_map([table], model), model=model, about=about, attribution=attribution, thumbnails={})


def array(text: str, kind: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), kind)


# --- the library


def test_the_vendored_library_is_what_its_readme_says() -> None:
    readme = (VENDOR / "README.md").read_text()
    digests = dict(reversed(line.split()) for line in re.findall(r"^[0-9a-f]{64}  \S+$", readme, re.M))
    assert set(digests) == {"maplibre-gl.js", "maplibre-gl.css", "LICENSE.txt"}
    for name, digest in digests.items():
        assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == digest, name
    assert f"maplibre-gl-js/blob/v{LIBRARY_VERSION}/" in (VENDOR / "maplibre-gl.js").read_text()[:400]
    assert f"| {LIBRARY_VERSION} |" in readme


# --- which tiles


def test_tiles_from_the_floor_on_are_kept_from_the_highest_whatever_the_order_of_blocks() -> None:
    x, y, probability = country(3000)
    blocks = [block_of(x[rows], y[rows], probability[rows]) for rows in np.array_split(np.arange(3000), 7)]
    data, reverse = gather_map(blocks, MODEL, floor=0.5), gather_map(blocks[::-1], MODEL, floor=0.5)
    assert len(data.points) == data.num_at_floor == (probability >= 0.5).sum()
    assert data.num_found == (probability.astype(np.float32) >= np.float32(MODEL.threshold)).sum()
    assert (np.diff(data.points.probability) <= 0).all()
    for name in ("z", "x", "y", "probability", "tile_ids"):
        assert list(getattr(data.points, name)) == list(getattr(reverse.points, name)), name
    names = dict(zip([f"{ZOOM}-{a}-{b}" for a, b in zip(x, y, strict=True)], probability, strict=True))
    shown = dict(zip(data.points.tile_ids, data.points.probability, strict=True))
    assert shown == {name: np.float32(value) for name, value in names.items() if value >= 0.5}


def test_the_floor_is_half_of_the_threshold_and_is_compared_as_the_run_compares() -> None:
    floor = np.float32(0.7)
    assert float(floor) < 0.7, "as float64, the tile of just this probability would be below"
    probability = np.array([floor, np.nextafter(floor, np.float32(0)), 0.9], np.float32)
    table = block_of(np.arange(3), np.arange(3), probability)
    assert gather_map([table], MODEL, floor=0.7).points.probability.tolist() == [np.float32(0.9), floor]
    assert gather_map([table], MODEL).floor == MODEL.threshold / 2


def test_equal_probabilities_are_in_the_order_of_their_places() -> None:
    x, y = np.array([5, 3, 5, 4]), np.array([2, 9, 1, 4])
    points = gather_map([block_of(x, y, np.full(4, 0.8))], MODEL).points
    assert list(zip(points.x.tolist(), points.y.tolist(), strict=True)) == [(3, 9), (4, 4), (5, 1), (5, 2)]


def test_of_too_many_tiles_the_highest_are_kept_and_page_and_summary_say_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(map_data, "MAX_POINTS", 50)
    x, y, probability = country(1000)
    blocks = [block_of(x[rows], y[rows], probability[rows]) for rows in np.array_split(np.arange(1000), 40)]
    data = gather_map(blocks, MODEL)
    assert data.points.probability.tolist() == np.sort(probability.astype(np.float32))[::-1][:50].tolist()
    assert data.num_at_floor == 1000
    summary = write_map(data, model=MODEL, about={}, attribution="", thumbnails=None, path=tmp_path / "map.html")
    assert (summary.num_points, summary.num_at_floor) == (50, 1000)
    html = (tmp_path / "map.html").read_text()
    assert summary.size_bytes == len(html.encode())
    lowest = data.points.probability[-1]
    assert f"of 1,000 of at least 0.310. Its lowest probability is {lowest:.3f}." in html
    assert json.loads(Parsed(html).texts["data"][0])["lowest"] == lowest


def test_tiles_without_score_or_place_are_counted_and_not_drawn() -> None:
    place = np.arange(4)
    statuses = np.array(["done", "blank", "done", "missing"])
    table = block_of(place, place, np.full(4, 0.9), statuses=statuses)
    unplaced = pa.array([False, False, True, True])
    for axis in "zxy":
        column = table.column_names.index(axis)
        nulls = pa.compute.if_else(unplaced, None, table[axis])
        table = table.set_column(column, table.schema.field(axis), nulls.cast(table.schema.field(axis).type))
    data = gather_map([table], MODEL)
    assert data.counts == {"done": 2, "blank": 1, "missing": 1}
    assert data.num_unplaced == 2 and data.num_found == 2
    assert data.points.tile_ids == [f"{ZOOM}-0-0"]
    assert "2 tiles are not on the map" in page(table)


# --- where was looked


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.booleans()), min_size=1, max_size=60),
    st.integers(1, 7),
)
def test_rectangles_cover_each_cell_once_and_no_other(places: list[tuple[int, int, bool]], num_blocks: int) -> None:
    x, y = (np.array([place[axis] for place in places]) for axis in (0, 1))
    statuses = np.where([place[2] for place in places], "done", "missing")
    parts = [rows for rows in np.array_split(np.arange(len(places)), num_blocks) if len(rows)]
    blocks = [block_of(x[part], y[part], np.full(len(part), 0.1), statuses=statuses[part]) for part in parts]
    coverage = gather_map(blocks, MODEL).coverage
    assert coverage.zoom == ZOOM
    found = [
        (column, row, bool(scored))
        for west, east, north, south, scored in coverage.rectangles.tolist()
        for column in range(west, east + 1)
        for row in range(north, south + 1)
    ]
    cells = {(a, b) for a, b, _ in places}
    shares = {cell: np.mean([done for a, b, done in places if (a, b) == cell]) for cell in cells}
    assert sorted(found) == sorted((*cell, bool(share >= 0.5)) for cell, share in shares.items())


def test_cells_become_larger_until_there_are_few_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(map_data, "MAX_CELLS", 100)
    x, y = (axis.ravel() for axis in np.meshgrid(np.arange(640, 704), np.arange(1280, 1344)))
    statuses = np.where(x < 672, "done", "blank")
    blocks = [
        block_of(x[rows], y[rows], np.full(len(rows), 0.1), statuses=statuses[rows])
        for rows in np.array_split(np.arange(64 * 64), 9)
    ]
    coverage = gather_map(blocks, MODEL).coverage
    assert coverage.zoom == ZOOM - 3, "64 cells of 8 by 8 tiles"
    assert sorted(coverage.rectangles.tolist()) == [[80, 83, 160, 167, 1], [84, 87, 160, 167, 0]]


def test_tiles_of_several_zooms_are_covered_by_cells_of_the_lowest() -> None:
    deep, high = block_of(np.array([12]), np.array([8]), np.ones(1)), np.array([7])
    coverage = gather_map([deep, block_of(high, high, np.ones(1), zoom=ZOOM - 2)], MODEL).coverage
    assert coverage.zoom == ZOOM - 2
    assert sorted(coverage.rectangles.tolist()) == [[3, 3, 2, 2, 1], [7, 7, 7, 7, 1]]


# --- names


def name_of(pattern: list[dict[str, str]], place: dict[str, int]) -> str:
    return "".join(part["text"] if "text" in part else str(place[part["axis"]]) for part in pattern)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["{z}-{x}-{y}", "a/{z}/{x}/{y}.jpg", "{z}_{x}_{y}.png", "{x}{z}-{x}-{y}{y}", "{z}/{x}-{y}"])
            | st.text(max_size=8),
            st.integers(0, 24),
            st.integers(0, 300),
            st.integers(0, 300),
        ),
        max_size=20,
    )
)
def test_every_name_comes_out_of_its_pattern(tiles: list[tuple[str, int, int, int]]) -> None:
    names = [
        form.replace("{z}", str(z)).replace("{x}", str(x)).replace("{y}", str(y)) for form, z, x, y in tiles
    ]  # fmt: skip
    z, x, y = (np.array([tile[axis] for tile in tiles], np.uint32) for axis in (1, 2, 3))
    patterns, indices = name_patterns(Points(z, x, y, np.zeros(len(tiles), np.float32), names))
    for row, (_, *place) in enumerate(tiles):
        assert name_of(patterns[indices[row]], dict(zip("zxy", place, strict=True))) == names[row]


def test_regular_names_take_no_room_and_irregular_ones_not_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, probability = country(2000)
    folder = [f"tiles/{ZOOM}/{a}/{b}.jpg" for a, b in zip(x, y, strict=True)]
    patterns, _ = name_patterns(gather_map([block_of(x, y, probability, names=folder)], MODEL).points)
    assert len(patterns) == 2
    monkeypatch.setattr("satx.bulk.map_page.MAX_PATTERN_BYTES", 5000)
    data = gather_map([block_of(x, y, probability, names=[f"{'n' * 40}{a}" for a in range(2000)])], MODEL)
    patterns, indices = name_patterns(data.points)
    assert 50 < len(patterns) < 120
    assert indices[0] == 1 and indices[-1] == 0, "those of the lowest probabilities are named z-x-y"


# --- the page


def test_the_script_gets_exactly_the_tiles(tmp_path: Path) -> None:
    x, y, probability = country(500)
    data = gather_map([block_of(x, y, probability)], MODEL)
    found = page_data(data, MODEL, {data.points.tile_ids[3]: b"jpeg", "elsewhere": b"no"})
    assert (array(found["x"], "<u4") == data.points.x).all() and (array(found["y"], "<u4") == data.points.y).all()
    assert (array(found["z"], "u1") == ZOOM).all()
    assert (array(found["probability"], "<f4") == data.points.probability).all()
    assert found["thumbnails"] == {3: base64.b64encode(b"jpeg").decode()}
    assert (found["threshold"], found["zoom"]) == (MODEL.threshold, ZOOM)


def test_the_policy_allows_the_own_scripts_and_styles_and_nothing_else() -> None:
    parsed = Parsed(page(block_of(*country(20))))

    def sources(kind: str) -> list[str]:
        digests = (hashlib.sha256(text.encode()).digest() for text in parsed.texts[kind])
        return [f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests]

    allowed = dict(rule.strip().split(" ", 1) for rule in parsed.policy.split(";"))
    assert allowed == {
        "default-src": "'none'",
        "img-src": "data: blob:",
        "worker-src": "blob:",
        "child-src": "blob:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "script-src": " ".join(sources("script")),
        "style-src": " ".join(sources("style")),
    }
    assert len(parsed.texts["script"]) == len(parsed.texts["style"]) == 2
    assert "sourceMappingURL" not in parsed.texts["script"][0]


def test_the_page_refers_to_nothing_but_links_to_openstreetmap() -> None:
    parsed = Parsed(page(block_of(*country(300))))
    assert len(parsed.addresses) == 200, "the rows of the table"
    assert {tag for tag, _ in parsed.addresses} == {"a"}
    link = re.compile(r"https://www\.openstreetmap\.org/#map=18/1[1-5]\.\d{6}/-\d\d\.\d{6}")
    assert all(link.fullmatch(address) for _, address in parsed.addresses)


def test_names_are_text_wherever_they_are() -> None:
    model = ModelIdentity(SCRIPT, 1, SCRIPT, ("no", SCRIPT), SCRIPT, 0.5, 64, False)
    x = np.arange(2)
    table = block_of(x, x, np.array([0.9, 0.8]), names=[SCRIPT, "</script><b>"], model=model)
    html = page(table, model=model, attribution=SCRIPT, title=SCRIPT, warnings=[SCRIPT], Source=SCRIPT)
    assert SCRIPT not in html and "alert(1)</script>" not in html
    assert html.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 10
    parsed = Parsed(html)
    (data,) = parsed.texts["data"]
    assert "<" not in data and [name_of(pattern, {}) for pattern in json.loads(data)["patterns"][1:]] == [
        SCRIPT,
        "</script><b>",
    ]
    assert len(parsed.texts["script"]) == 2


def test_100_000_tiles_and_200_pictures_take_less_than_6_mb(tmp_path: Path) -> None:
    data = gather_map([block_of(*country(100_000))], MODEL)
    pictures = dict.fromkeys(data.points.tile_ids, bytes(4000))
    summary = write_map(data, model=MODEL, about={}, attribution="", thumbnails=pictures, path=tmp_path / "map.html")
    assert (summary.num_points, summary.num_thumbnails) == (100_000, 200)
    assert summary.size_bytes < 6e6


def test_a_model_of_rendered_tiles_is_called_so_above_the_map() -> None:
    table = block_of(*country(20))
    sentence = "Its scores of real imagery mean nothing."
    assert sentence not in page(table)
    assert sentence in page(table, model=ModelIdentity(**{**vars(MODEL), "sample": True}))


def test_a_floor_above_the_threshold_is_where_the_page_opens_and_is_told() -> None:
    data = gather_map([block_of(*country(50))], MODEL, floor=0.8)
    html = map_page(data, model=MODEL, about={}, attribution="", thumbnails=None)
    assert json.loads(Parsed(html).texts["data"][0])["threshold"] == 0.8
    assert "from the model&#39;s threshold of 0.620 to 0.800 are not on the map" in html


def test_a_page_without_any_tile_says_so() -> None:
    html = page(block_of(np.arange(3), np.arange(3), np.full(3, 0.1)))
    assert "No tile reaches 0.310" in html
    assert "0 of 3 tiles have a probability of “school” of at least 0.620" in html


def test_the_license_of_the_library_is_in_the_page() -> None:
    html = page(block_of(*country(20)))
    assert "Copyright (c) 2023, MapLibre contributors" in html
    assert "Redistributions in binary form must reproduce the above copyright notice" in html
