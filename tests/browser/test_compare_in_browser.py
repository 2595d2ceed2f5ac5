"""The page of `satx compare` in Chromium: on a wide screen and on a phone, light and dark."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from compared_runs import session_runs
from PIL import Image

from satx.evaluation import two_models
from satx.evaluation.two_models import ModelScores, compare_models
from satx.reports.page import compare_page
from satx.reports.pictures import Pictures
from satx.reports.verdicts import Comparison, verdicts

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
    shown.locator("summary", has_text="The same in all").click()
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


@pytest.fixture(scope="module")
def two_sessions_html(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the page of two sessions, with plain pictures instead of figures, and return its path."""
    is_positive, slices = np.arange(60) < 20, ["school"] * 20 + ["built-up", "a slice with a long name"] * 20
    models = {}
    for name, scores in zip(("session1", "session2"), np.random.default_rng(0).random((2, 2, 60)), strict=True):
        models[name] = ModelScores(*scores, is_positive, [str(row) for row in range(60)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(two_models, "NUM_THRESHOLDS", 20)
        table = compare_models(is_positive, slices, models, threshold=0.5)
    stream = io.BytesIO()
    Image.new("RGB", (4, 4)).save(stream, "PNG")
    pictures = Pictures("plain", *[stream.getvalue()] * 4)
    of_best = Comparison("", table, 60, "school", verdicts(table, positive_class="school"))
    of_baselines = Comparison("xception", table, 60, "school", verdicts(table, positive_class="school"))
    session = session_runs(num_runs=12)
    page = compare_page(
        title="session1 against session2",
        figures=[pictures, pictures],
        best=session.best,
        runs=session.runs,
        notes=[],
        paces=pd.concat([session.paces.assign(session=name) for name in models]),
        comparison=of_best,
        comparison_figure=pictures,
        baselines=[of_baselines],
    )
    path = tmp_path_factory.mktemp("two") / "page.html"
    path.write_text(page, encoding="utf-8")
    return path


@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (390, "dark")])
def test_the_comparison_of_two_sessions_fits_and_can_be_read(
    opened: Callable[..., Any], two_sessions_html: Path, width: int, scheme: str
) -> None:
    shown = opened(viewport={"width": width, "height": 844}, color_scheme=scheme, offline=True)
    shown.goto(two_sessions_html.as_uri())
    for summary in shown.locator("summary").all():
        summary.click()
    assert shown.get_by_text("Logistic regression on frozen xception features").count() == 3
    assert shown.get_by_role("region", name="Seconds of an epoch").is_visible()
    assert shown.evaluate("[document.documentElement.scrollWidth, innerWidth]") == [width, width]
    assert shown.evaluate(OUTSIDE) == []
    assert [(contrast, text) for contrast, text in shown.evaluate(CONTRASTS) if contrast < 4.5] == []
    rates = shown.get_by_role("region", name="False positives beside recall: session1 and session2")
    assert rates.locator("tbody").count() == 3 and rates.get_by_role("rowheader", name="recall of school").count() == 2
    assert shown.errors == []
