"""Tests of the page of `satx compare`: well-formed HTML, nothing fetched, nothing injected."""

import base64
import hashlib
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from satx.evaluation.slices import compare_false_positives
from satx.reports.figure import best_run_of_each_backbone
from satx.reports.page import compare_page, duration

HOSTILE = "<script>alert('x')</script>"
VOID = {"meta", "img", "br", "input"}
VOID_IN_SVG = {"rect", "line", "circle"}


class Reader(HTMLParser):
    """Parser that checks that tags nest, and collects them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.tags, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in VOID | VOID_IN_SVG
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def page(num_runs: int = 6, **changes: object) -> str:
    random = np.random.default_rng(0)
    scores = random.uniform(0.8, 0.95, size=num_runs)
    runs = pd.DataFrame(
        {
            "run_id": [f"{number:032x}" for number in range(num_runs)],
            "run_name": [HOSTILE, *(f"run-{number}" for number in range(1, num_runs))],
            "backbone": (["xception", "mobilenetv2"] * num_runs)[:num_runs],
            "status": (["FINISHED", "FINISHED", "KILLED"] * num_runs)[:num_runs],
            "val_auc": scores,
            "val_accuracy": scores - 0.05,
            "val_loss": 1 - scores,
            "hours": 0.5,
            "test_auc": [0.9, *[np.nan] * (num_runs - 1)],
            "test_auc_low": [0.85, *[np.nan] * (num_runs - 1)],
            "test_auc_high": [0.94, *[np.nan] * (num_runs - 1)],
            "test_accuracy": np.nan,
            "test_accuracy_low": np.nan,
            "test_accuracy_high": np.nan,
            "unfreeze": "none",
            "train.batch_size": range(num_runs),
            "train.note": f'"{HOSTILE}',
        }
    )
    histories = pd.DataFrame(
        {
            "run_id": np.repeat(runs["run_id"], 3),
            "step": [0, 1, 2] * num_runs,
            "val_auc": random.uniform(0.7, 0.95, size=3 * num_runs),
            "epoch_seconds": 60.0,
        }
    )
    settings = {
        "title": f"Session 2 {HOSTILE}",
        "figure_png": b"\x89PNG",
        "best": best_run_of_each_backbone(runs),
        "runs": runs,
        "notes": [f"A note {HOSTILE}"],
        "interactive": histories,
    }
    return compare_page(**settings | changes)


def slice_comparison() -> pd.DataFrame:
    random = np.random.default_rng(0)
    first, second = (np.stack([1 - scores, scores], axis=1) for scores in random.random((2, 30)))
    models = {"session 1": first, f"session 2 {HOSTILE}": second}
    names = ["built-up", HOSTILE, "rural"] * 10
    return compare_false_positives(np.zeros(30, dtype=int), names, probabilities_by_model=models, positive_index=1)


@pytest.fixture(scope="module")
def full_page() -> str:
    return page(slices=slice_comparison())


def test_the_page_is_well_formed_html_with_all_tables(full_page: str) -> None:
    reader = Reader(full_page)
    assert len(reader.all("table")) == 3
    assert len([row for row in reader.all("tr") if "data-run" in row]) == 6
    assert len(reader.all("polyline")) == 6


def test_the_page_loads_nothing_from_the_network(full_page: str) -> None:
    assert not re.search(r"https?:|@import|url\((?!#)", full_page)
    reader = Reader(full_page)
    sources = [value for _, attributes in reader.tags for name, value in attributes.items() if name in ("src", "href")]
    assert sources
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert reader.all("link") == []


def test_names_and_notes_cannot_become_markup(full_page: str) -> None:
    assert HOSTILE not in full_page
    assert "&lt;script&gt;" in full_page
    reader = Reader(full_page)
    assert len(reader.all("script")) == 1
    assert "alert('x')" in "".join(reader.texts)


def test_only_the_pages_own_script_and_style_are_allowed(full_page: str) -> None:
    policy = Reader(full_page).all("meta")[1]["content"]
    assert policy.startswith("default-src 'none'")
    for tag in ("style", "script"):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", full_page, flags=re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert not re.search(r"\sstyle=|\son[a-z]+=", full_page)


def test_runs_are_listed_best_first_with_their_sort_keys(full_page: str) -> None:
    rows = re.findall(r"<tr data-run.*?</tr>", full_page, flags=re.DOTALL)
    keys = [re.findall(r'data-key="([^"]*)"', row) for row in rows]  # AUC, accuracy, loss, hours, test AUC, …
    scores = [float(of_row[0]) for of_row in keys]
    assert scores == sorted(scores, reverse=True)
    assert sorted(of_row[4] for of_row in keys) == ["", "", "", "", "", "0.9"]
    assert "0.900 (0.850 to 0.940)" in full_page


def test_parameters_that_all_runs_share_are_listed_once(full_page: str) -> None:
    headings = re.findall(r"<th[^>]*>([^<]*)</th>", full_page)
    assert "train.batch_size" in headings
    assert "unfreeze" not in headings
    assert full_page.count("unfreeze=none") == 1


def test_without_slices_and_histories_those_parts_are_left_out() -> None:
    text = page(interactive=None)
    assert "False positives" not in text
    assert "<polyline" not in text.split("<body>")[1].split("<script>")[0]


def test_the_page_of_a_sweep_without_a_finished_run_says_so() -> None:
    text = page(best=pd.DataFrame())
    assert "No run has finished yet." in text
    Reader(text)


def test_a_page_with_two_hundred_runs_stays_small() -> None:
    text = page(num_runs=200)
    assert len([row for row in Reader(text).all("tr") if "data-run" in row]) == 200
    assert len(text) < 1_000_000


@pytest.mark.parametrize(("hours", "text"), [(0.01, "36 s"), (0.5, "30.0 min"), (1.9, "1.90 h"), (float("nan"), "–")])
def test_durations_are_printed_in_a_readable_unit(hours: float, text: str) -> None:
    assert duration(hours) == text
