"""The page of `satx compare` in Chromium: on a wide screen and on a phone, light and dark."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SCREENS = [(1400, "light"), (1400, "dark"), (390, "light"), (390, "dark")]
# of every visible picture: its natural width, and the colors of its corner and of the section around it
PICTURES = """() => [...document.querySelectorAll("img")].filter((image) => image.checkVisibility()).map((image) => {
  const canvas = document.createElement("canvas").getContext("2d");
  canvas.drawImage(image, 0, 0);
  return {
    width: image.naturalWidth,
    corner: [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3),
    section: getComputedStyle(image.closest("section")).backgroundColor,
  };
})"""
# what sticks out of the window, apart from boxes that scroll by themselves
OUTSIDE = """() => [...document.querySelectorAll("body *")].filter((element) =>
  element.checkVisibility() && !element.closest(".scroll") && element.getBoundingClientRect().right > innerWidth + 0.5
).map((element) => element.outerHTML.slice(0, 80))"""
# contrast of every text with its background by WCAG 2.2, and the element that contains it
CONTRASTS = """() => {
  const parts = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = (color) => parts(color).slice(0, 3).map((part) => part / 255)
    .map((part) => part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
    .reduce((sum, part, index) => sum + part * [0.2126, 0.7152, 0.0722][index], 0);
  const behind = (element) => {
    const color = getComputedStyle(element).backgroundColor;
    return parts(color)[3] === 0 ? behind(element.parentElement) : color;
  };
  return [...document.querySelectorAll("body *")].filter((element) => element.checkVisibility()
    && [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim())).map((element) => {
    const style = getComputedStyle(element);
    const [low, high] = [light(element.closest("svg") ? style.fill : style.color), light(behind(element))].sort((a, b) => a - b);
    return [(high + 0.05) / (low + 0.05), element.outerHTML.slice(0, 80)];
  });
}"""


@pytest.fixture
def page(opened: Callable[..., Any], compare_html: Path) -> Callable[..., Any]:
    """Return a function that opens the page on a screen of this width and color scheme."""

    def show(width: int, scheme: str) -> Any:
        shown = opened(viewport={"width": width, "height": 844}, color_scheme=scheme, offline=True)
        shown.goto(compare_html.as_uri())
        return shown

    return show


@pytest.mark.parametrize(("width", "scheme"), SCREENS)
def test_the_page_fits_its_screen_and_its_pictures_fit_its_colors(
    page: Callable[..., Any], compare_html: Path, width: int, scheme: str
) -> None:
    shown = page(width, scheme)
    assert shown.evaluate("[document.documentElement.scrollWidth, innerWidth]") == [width, width]
    assert shown.evaluate(OUTSIDE) == []
    (picture,) = shown.evaluate(PICTURES)
    assert picture["width"] == (1800 if width == 1400 else 690)
    assert f"rgb({', '.join(map(str, picture['corner']))})" == picture["section"]
    assert (np.mean(picture["corner"]) < 50) == (scheme == "dark")
    faint = [(contrast, text) for contrast, text in shown.evaluate(CONTRASTS) if contrast < 4.5]
    assert faint == []
    assert shown.errors == []
    assert [url for url in shown.requests if not url.startswith("data:")] == [compare_html.as_uri()]


@pytest.mark.parametrize("width", [1400, 390])
def test_texts_of_pictures_and_charts_are_large_enough_to_read(page: Callable[..., Any], width: int) -> None:
    shown = page(width, "light")
    (chart,) = shown.locator("svg.chart:visible").all()
    assert chart.locator("polyline").count() == 40
    scale = chart.evaluate("(chart) => chart.getBoundingClientRect().width / chart.viewBox.baseVal.width")
    assert 12 * scale > 10, "in pixels, of labels of 12"
    picture_px_per_inch = shown.locator("img").evaluate("(image) => image.getBoundingClientRect().width") / (
        12 if width == 1400 else 4.6
    )
    assert 9 / 72 * picture_px_per_inch > 8, "in pixels, of labels of 9 points"


def test_what_varies_is_beside_the_scores_and_constants_are_folded(page: Callable[..., Any]) -> None:
    shown = page(1400, "light")
    headings = [text.replace("▼", "").strip() for text in shown.locator("#runs thead th").all_text_contents()]
    assert headings[:3] == ["Run", "Backbone", "Validation AUC"]
    varying = {"model.unfreeze", "train.finetune_learning_rate", "train.head_learning_rate"}
    assert varying <= set(headings), "in the order of how much of the scores they explain"
    constants = shown.locator("details dl")
    assert not constants.is_visible() and "train.head_epochs" not in headings
    shown.locator("summary").click()
    assert constants.is_visible() and "train.head_epochs" in constants.text_content()
    assert "head only" in shown.locator("#runs tbody").inner_text()


def test_the_table_is_sorted_and_filtered_with_the_keyboard(page: Callable[..., Any]) -> None:
    shown = page(390, "dark")
    first = shown.locator("#runs tbody tr").first
    assert first.locator("td").nth(1).text_content() == max(
        row.locator("td").nth(1).text_content() for row in shown.locator("#runs tbody tr").all()
    )
    shown.get_by_role("button", name="Validation AUC").press("Enter")
    assert shown.locator("[aria-sort]").get_attribute("aria-sort") == "ascending"
    assert first.locator("td").nth(1).text_content() == min(
        row.locator("td").nth(1).text_content() for row in shown.locator("#runs tbody tr").all()
    )
    shown.get_by_label("Filter").fill("head only xception")
    rows = shown.locator("#runs tbody tr:visible")
    assert 0 < rows.count() < 20
    assert shown.locator("svg.chart:visible polyline:not([hidden])").count() == rows.count()
    assert shown.errors == []


def test_headings_and_tables_are_named_for_a_screen_reader(page: Callable[..., Any]) -> None:
    shown = page(390, "light")
    levels = shown.evaluate("[...document.querySelectorAll('h1, h2, h3')].map((heading) => heading.tagName)")
    assert levels[0] == "H1" and set(levels[1:]) == {"H2"}
    assert shown.evaluate("document.documentElement.lang") == "en"
    regions = shown.get_by_role("region")
    assert [regions.nth(index).get_attribute("tabindex") for index in range(regions.count())] == ["0", "0"]
    assert shown.get_by_role("region", name="All 40 runs").count() == 1
    description = shown.locator("img").get_attribute("alt")
    assert "40 configurations" in description and "xception 0." in description and "mobilenetv2 0." in description
