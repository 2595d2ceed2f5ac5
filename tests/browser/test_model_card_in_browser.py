"""A model card in Chromium: on a wide screen and on a phone, light and dark, with the longest and oddest names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from registry.cards import card_facts, noise_store
from test_compare_in_browser import CONTRASTS, OUTSIDE, PICTURES, SCREENS

from satx.registry.model_card import model_card

CLASSES = ("<script>document.title='run'<\\script>", "school", "a-very-long-class-name-" + "x" * 80)


@pytest.fixture(scope="module")
def cards(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Write the card of two classes with short names, and of three with names that do not fit."""
    folder, paths = tmp_path_factory.mktemp("cards"), {}
    for kind, classes in (("plain", ("other", "school")), ("odd", CLASSES)):
        store = noise_store(folder / kind, classes, ("rural", "urban", "&lt;" + "y" * 90 if kind == "odd" else "coast"))
        paths[kind] = folder / f"{kind}.html"
        paths[kind].write_text(model_card(card_facts(store, "school")).html, encoding="utf-8")
    return paths


@pytest.mark.parametrize("kind", ["plain", "odd"])
@pytest.mark.parametrize(("width", "scheme"), SCREENS)
def test_a_card_fits_its_screen_and_its_figures_fit_its_colors(
    opened: Callable[..., Any], cards: dict[str, Path], kind: str, width: int, scheme: str
) -> None:
    shown = opened(viewport={"width": width, "height": 844}, color_scheme=scheme, offline=True)
    shown.goto(cards[kind].as_uri())
    assert shown.evaluate("[document.documentElement.scrollWidth, innerWidth]") == [width, width]
    assert shown.evaluate(OUTSIDE) == []
    figures = [picture for picture in shown.evaluate(PICTURES) if picture["width"] == 690]
    assert len(figures) == 2
    for figure in figures:
        assert f"rgb({', '.join(map(str, figure['corner']))})" == figure["section"]
        assert (np.mean(figure["corner"]) < 50) == (scheme == "dark")
    assert [(contrast, text) for contrast, text in shown.evaluate(CONTRASTS) if contrast < 4.5] == []
    assert shown.title() == "school, version 3"
    assert shown.errors == []
    assert [url for url in shown.requests if not url.startswith("data:")] == [cards[kind].as_uri()]


def test_figures_and_thumbnails_are_large_enough_on_a_phone(opened: Callable[..., Any], cards: dict[str, Path]) -> None:
    shown = opened(viewport={"width": 390, "height": 844})
    shown.goto(cards["plain"].as_uri())
    figure_px = shown.locator(".drawings img").first.evaluate("(image) => image.getBoundingClientRect().width")
    assert 9 / 72 * figure_px / 4.6 > 8, "in pixels, of labels of 9 points"
    widths = shown.locator(".pictures img").evaluate_all("(all) => all.map((one) => one.getBoundingClientRect().width)")
    assert len(widths) == 8 and min(widths) > 120


# words of a table that are broken, by their cells: words whose letters are on more than one line
BROKEN = """() => [...document.querySelectorAll("td")].flatMap((cell) => {
  const walker = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT), broken = [];
  for (let node; (node = walker.nextNode());)
    for (const word of node.data.matchAll(/[A-Za-z0-9]+/g)) {
      const range = document.createRange();
      range.setStart(node, word.index);
      range.setEnd(node, word.index + word[0].length);
      if (new Set([...range.getClientRects()].map((box) => Math.round(box.top))).size > 1) broken.push(word[0]);
    }
  return broken.filter((word) => word.length < 40);  // a digest is longer than a line
})"""


def test_on_a_phone_a_rule_and_its_result_are_read_without_scrolling(
    opened: Callable[..., Any], cards: dict[str, Path]
) -> None:
    shown = opened(viewport={"width": 390, "height": 844})
    shown.goto(cards["plain"].as_uri())
    gate = shown.get_by_role("region", name="Verdict of the gate")
    assert gate.evaluate("(box) => box.scrollWidth <= box.clientWidth")
    first = gate.locator("tbody tr").nth(1).locator("td").first
    assert first.inner_text() == "passed" and first.evaluate("(cell) => cell.dataset.heading") == "Result"
    assert first.evaluate("(cell) => getComputedStyle(cell, '::before').content") != "none"
    assert shown.evaluate(BROKEN) == []
    wide = opened(viewport={"width": 1400, "height": 844})
    wide.goto(cards["plain"].as_uri())
    assert wide.get_by_role("region", name="Verdict of the gate").locator("thead").is_visible()
    assert wide.evaluate(BROKEN) == []


def test_tables_of_a_card_are_named_for_a_screen_reader(opened: Callable[..., Any], cards: dict[str, Path]) -> None:
    shown = opened(viewport={"width": 390, "height": 844})
    shown.goto(cards["plain"].as_uri())
    levels = shown.evaluate("[...document.querySelectorAll('h1, h2, h3')].map((heading) => heading.tagName)")
    assert levels[0] == "H1" and set(levels[1:]) == {"H2"}
    assert shown.get_by_role("region", name="Scores").count() == 1
    assert shown.get_by_role("region", name="Data").count() == 2
    assert shown.locator(".pictures img").first.get_attribute("alt").startswith("Tile ")
