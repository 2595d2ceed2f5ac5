"""The page of `satx map` in Chromium, opened as a file without a network."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mapped_tiles import MODEL, ZOOM, block_of, country
from test_compare_in_browser import CONTRASTS, OUTSIDE, SCREENS

from satx.bulk.block_file import ModelIdentity
from satx.bulk.map_data import gather_map
from satx.bulk.map_page import write_map

NUM_TILES = 100_000
SCRIPT = "<script>document.title='run'</script>"
# what the map has drawn: tiles in clusters and by themselves, and the uncertain ones
DRAWN = """() => {
  const map = document.getElementById("map").map;
  const seen = (layer, key, value) => new Map(
    map.queryRenderedFeatures({ layers: [layer] }).map((one) => [one.properties[key], one.properties[value]]));
  const clusters = seen("clusters", "best", "count");
  return {
    clusters: clusters.size,
    found: [...clusters.values()].reduce((sum, count) => sum + count, seen("found", "index", "index").size),
    uncertain: seen("uncertain", "index", "index").size,
  };
}"""
COUNT = "() => Number(document.querySelector('#count strong').textContent.replaceAll(',', ''))"
FOCUSED = "() => document.activeElement.id || document.activeElement.className || document.activeElement.tagName"
WITHOUT_WEBGL = "HTMLCanvasElement.prototype.getContext = () => null"


def write_page(
    path: Path, table: Any, *, model: ModelIdentity = MODEL, attribution: str = "© Example", **options: Any
) -> Path:
    data = gather_map([table], model)
    thumbnails = options.pop("thumbnails", {})
    write_map(data, model=model, about=options, attribution=attribution, thumbnails=thumbnails, path=path)
    return path


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Write a page of 100,000 tiles around 200 towns, one of few tiles, and one with hostile names."""
    folder = tmp_path_factory.mktemp("map")
    near = np.arange(12)
    few = block_of(71_000 + 3 * near, 120_000 + 5 * near % 17, np.linspace(0.99, 0.5, 12))
    odd = ModelIdentity(SCRIPT, 1, "d" * 64, ("other", SCRIPT), SCRIPT, 0.5, 64, True)
    names = [SCRIPT, f"</script>{SCRIPT}", *(f"{'long' * 30}{number}.jpg" for number in range(10))]
    return {
        "many": write_page(folder / "many.html", block_of(*country(NUM_TILES))),
        "few": write_page(folder / "few.html", few, title="Few tiles", Finished="today"),
        "odd": write_page(
            folder / "odd.html",
            block_of(71_000 + near, 120_000 + near, np.linspace(0.99, 0.4, 12), names=names, model=odd),
            model=odd,
            attribution=SCRIPT,
            title=SCRIPT,
            warnings=[SCRIPT],
        ),
    }


@pytest.fixture
def show(opened: Callable[..., Any], pages: dict[str, Path]) -> Callable[..., Any]:
    """Return a function that opens one of the pages, and waits until its map is drawn."""

    def open_page(name: str, *, width: int = 1000, height: int = 700, **options: Any) -> Any:
        page = opened(viewport={"width": width, "height": height}, offline=True, **options)
        page.goto(pages[name].as_uri())
        until(page, lambda: page.evaluate("() => document.getElementById('map').map?.loaded() ?? false"))
        return page

    return open_page


def until(page: Any, is_so: Callable[[], bool], *, seconds: float = 60) -> None:
    """Wait; Playwright's own `wait_for_function` needs `eval`, which the page's policy forbids."""
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "waited too long"
        page.wait_for_timeout(50)


def drawn(page: Any) -> Any:
    return page.evaluate(DRAWN)


def loaded_nothing(page: Any) -> bool:
    (own, *others) = page.requests
    return bool(own.startswith("file://")) and all(url.startswith(("blob:", "data:")) for url in others)


def test_100_000_tiles_open_without_a_network_and_the_slider_changes_what_is_drawn(
    show: Callable[..., Any], pages: dict[str, Path]
) -> None:
    page = show("many")
    data = gather_map([block_of(*country(NUM_TILES))], MODEL)

    def check(threshold: float) -> None:
        count = int((data.points.probability >= np.float32(threshold)).sum())
        assert page.evaluate(COUNT) == count
        until(page, lambda: drawn(page)["found"] == count)

    check(MODEL.threshold)
    assert drawn(page)["clusters"] > 10
    slider = page.locator("#slider")
    slider.focus()
    page.keyboard.press("ArrowRight")
    after_one = float(slider.input_value())
    assert MODEL.threshold < after_one <= MODEL.threshold + 0.01
    check(after_one)
    for _ in range(3):
        page.keyboard.press("PageUp")
    assert float(slider.input_value()) > 0.75
    check(float(slider.input_value()))
    assert slider.get_attribute("aria-valuetext") == f"{slider.input_value():0<5}: {page.evaluate(COUNT):,} tiles"
    page.get_by_label("Threshold as a number").fill("0.4")
    check(0.4)
    page.get_by_role("button", name="Back to 0.620").click()
    check(MODEL.threshold)
    assert page.errors == [] and loaded_nothing(page)


def test_closer_each_tile_is_drawn_and_uncertain_ones_can_be_hidden(show: Callable[..., Any]) -> None:
    page = show("many")
    page.evaluate("() => document.getElementById('map').map.jumpTo({ center: [-88.5, 13.8], zoom: 11 })")
    until(page, lambda: drawn(page)["clusters"] == 0 and drawn(page)["uncertain"] > 0)
    before = drawn(page)
    in_view = int(page.locator("#in-view").text_content().split()[0].replace(",", ""))
    assert "each drawn by itself" in page.locator("#in-view").text_content()
    assert in_view <= before["found"] <= 1.1 * in_view + 20, "circles at the border are drawn too"
    page.get_by_label("Show uncertain tiles").uncheck()
    until(page, lambda: drawn(page)["uncertain"] == 0)
    assert drawn(page)["found"] == before["found"]
    assert page.errors == []


def test_list_panel_and_map_are_used_with_the_keyboard(show: Callable[..., Any]) -> None:
    page = show("many", reduced_motion="reduce")
    page.locator("#slider").focus()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Tab")
    assert page.evaluate(FOCUSED) == "slider"
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("() => document.activeElement.closest('#list') !== null"):
            break
    first = page.locator("#list button").nth(0)
    assert first.evaluate("(button) => button === document.activeElement")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    second = page.locator("#list button").nth(1)
    name, value = (second.locator(f".{part}").text_content() for part in ("name", "value"))
    page.keyboard.press("Enter")
    panel = page.get_by_role("dialog", name=name)
    assert panel.is_visible() and page.evaluate(FOCUSED) == "panel"
    assert page.locator("#panel-probability").text_content() == value
    zoom = "() => document.getElementById('map').map.getZoom()"
    until(page, lambda: page.evaluate(zoom) >= ZOOM - 3)
    latitude, longitude = map(float, page.locator("#panel-place").text_content().split(", "))
    center = page.evaluate("() => document.getElementById('map').map.getCenter()")
    assert abs(center["lat"] - latitude) < 0.02 and abs(center["lng"] - longitude) < 0.02
    page.keyboard.press("Escape")
    assert not panel.is_visible()
    assert second.evaluate("(button) => button === document.activeElement"), "focus goes back"
    page.keyboard.press("End")
    assert page.locator("#list button").nth(199).evaluate("(button) => button === document.activeElement")
    page.locator("canvas").focus()
    page.keyboard.press("Enter")
    assert page.get_by_role("dialog", name=name).is_visible(), "the tile nearest to the middle"
    page.keyboard.press("Escape")
    assert page.locator("canvas").evaluate("(canvas) => canvas === document.activeElement")
    assert page.errors == []


def test_a_click_on_a_tile_opens_it_and_its_place_can_be_copied(show: Callable[..., Any]) -> None:
    page = show("few", permissions=["clipboard-read", "clipboard-write"])
    until(page, lambda: drawn(page)["found"] == 9)
    assert drawn(page) == {"clusters": 0, "found": 9, "uncertain": 2}, "so few are never put in clusters"
    place = page.evaluate(
        """() => {
          const map = document.getElementById("map").map;
          const fifth = map.queryRenderedFeatures({ layers: ["found"] }).find((one) => one.properties.index === 4);
          const { x, y } = map.project(fifth.geometry.coordinates), { left, top } = map.getContainer().getBoundingClientRect();
          return [left + x, top + y];
        }"""
    )
    page.mouse.click(*place)
    panel = page.get_by_role("dialog", name=f"{ZOOM}-71012-120003")
    panel.wait_for()
    assert page.locator("#panel-rank").text_content() == "5 of 12"
    link = panel.get_by_role("link")
    coordinates = page.locator("#panel-place").text_content()
    latitude, longitude = coordinates.split(", ")
    assert link.get_attribute("href") == f"https://www.openstreetmap.org/#map={ZOOM}/{latitude}/{longitude}"
    assert "noopener" in link.get_attribute("rel")
    panel.get_by_role("button", name="Copy coordinates").click()
    panel.get_by_role("button", name="Copied").wait_for()
    assert page.evaluate("() => navigator.clipboard.readText()") == coordinates
    page.get_by_role("button", name="Next tile").click()
    assert page.locator("#panel-rank").text_content() == "6 of 12"
    page.get_by_role("button", name="Close").click()
    assert not page.locator("#panel").is_visible()
    assert page.errors == [] and loaded_nothing(page)


@pytest.mark.parametrize(("width", "scheme"), SCREENS)
def test_the_page_fits_its_screen_and_is_legible(show: Callable[..., Any], width: int, scheme: str) -> None:
    page = show("odd", width=width, height=844, color_scheme=scheme)
    page.locator("#list button").first.click()
    page.locator("#panel").wait_for()
    assert page.evaluate("() => [document.documentElement.scrollWidth, innerWidth]") == [width, width]
    assert page.evaluate(OUTSIDE) == []
    assert [(contrast, text) for contrast, text in page.evaluate(CONTRASTS) if contrast < 4.5] == []
    assert page.locator(".attribution").is_visible()
    assert page.errors == []


def test_names_are_text(show: Callable[..., Any]) -> None:
    page = show("odd")
    assert page.title() == SCRIPT
    assert page.locator("h1").inner_text() == SCRIPT
    assert SCRIPT in page.locator(".attribution").inner_text()
    first = page.locator("#list button").first
    assert first.locator(".name").inner_text() == SCRIPT
    first.click()
    assert page.locator("#panel-name").inner_text() == SCRIPT
    assert page.locator("script").count() == 3
    assert "Its scores of real imagery mean nothing" in page.get_by_role("note").first.inner_text()
    assert page.errors == []


@pytest.mark.parametrize("missing", ["scripts", "WebGL"])
def test_without_scripts_or_webgl_there_is_a_table(
    opened: Callable[..., Any], pages: dict[str, Path], missing: str
) -> None:
    page = opened(java_script_enabled=missing != "scripts", offline=True)
    if missing == "WebGL":
        page.add_init_script(WITHOUT_WEBGL)
    page.goto(pages["many"].as_uri())
    assert page.locator("#fallback tbody tr").count() == 200
    assert page.locator("#fallback tbody tr").last.is_visible()
    sentence = page.locator("noscript p" if missing == "scripts" else "#no-map")
    assert sentence.is_visible() and f"needs {missing}" in sentence.text_content()
    assert not page.locator(".app").is_visible()
    assert page.errors == []


def test_the_map_takes_the_colors_of_the_screen_when_they_change(show: Callable[..., Any]) -> None:
    page = show("few", color_scheme="light")
    outside = "() => document.getElementById('map').map.getPaintProperty('outside', 'background-color')"
    before = page.evaluate(outside)
    page.emulate_media(color_scheme="dark")
    until(page, lambda: page.evaluate(outside) != before)
    assert page.errors == []


def test_an_area_across_the_antimeridian_is_shown_whole(
    opened: Callable[..., Any], pages: dict[str, Path], tmp_path: Path
) -> None:
    last = 2**ZOOM - 1
    x = np.array([last - 40, last - 20, last, 0, 20, 40])
    pages["edge"] = write_page(tmp_path / "edge.html", block_of(x, 120_000 + np.arange(6), np.full(6, 0.9)))
    page = opened(viewport={"width": 1000, "height": 700}, offline=True)
    page.goto(pages["edge"].as_uri())
    until(page, lambda: page.evaluate("() => document.getElementById('map').map?.loaded() ?? false"))
    until(page, lambda: drawn(page)["found"] == 6)
    assert page.evaluate("() => document.getElementById('map').map.getZoom()") > 9
    assert page.errors == []
