"""Tests of the page of `satx compare`: well-formed HTML, nothing fetched, nothing injected."""

import base64
import hashlib
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from compared_runs import session_runs

from satx.evaluation.slices import compare_false_positives
from satx.reports.figure import best_run_of_each_backbone
from satx.reports.page import compare_page, duration, trained_parameters
from satx.reports.parameters import explained_share, shown_value, varying_and_constant
from satx.reports.pictures import Pictures

HOSTILE = "<script>alert('x')</script>"
VOID = {"meta", "img", "br", "input", "source", "wbr"}
VOID_IN_SVG = {"rect", "line", "circle"}


PICTURES = Pictures(f"A figure {HOSTILE}", b"light", b"dark", b"narrow and light", b"narrow and dark")


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
            "augmentation.num_flips": range(num_runs),
            "model.dropout": 0.25,
            "model.unfreeze": (["none", "block16"] * num_runs)[:num_runs],
            "total_parameters": range(10_000, 10_000 + num_runs),
            "train.batch_size": range(num_runs),
            "train.finetune_learning_rate": scores / 1000,
            "train.note": f'"{HOSTILE}',
            "train.seed": 20,
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
        "figures": [PICTURES],
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
    return page(slices=slice_comparison(), slices_figure=PICTURES)


def test_the_page_is_well_formed_html_with_all_tables(full_page: str) -> None:
    reader = Reader(full_page)
    assert len(reader.all("table")) == 3
    assert len([row for row in reader.all("tr") if "data-run" in row]) == 6
    assert len(reader.all("polyline")) == 2 * 6, "one chart for wide screens, one for narrow ones"


def test_the_page_loads_nothing_from_the_network(full_page: str) -> None:
    assert not re.search(r"https?:|@import|url\((?!#)", full_page)
    reader = Reader(full_page)
    links = ("src", "srcset", "href")
    sources = [value for _, attributes in reader.tags for name, value in attributes.items() if name in links]
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


def rows_of(text: str) -> list[dict[str, tuple[str, str]]]:
    """Return key and text of every cell of the table of runs, by heading."""
    table = text.replace("<wbr>", "").split('<table id="runs">')[1].split("</table>")[0]
    headings = re.findall(r'<th scope="col"[^>]*>([^<]*)</th>', table)
    rows = re.findall(r"<tr data-run.*?</tr>", table, flags=re.DOTALL)
    cells = [re.findall(r'data-key="([^"]*)">([^<]*)</td>', row) for row in rows]
    assert {len(of_row) for of_row in cells} == {len(headings) - 2}, "run and backbone have no sort key"
    return [dict(zip(headings[2:], of_row, strict=True)) for of_row in cells]


def test_runs_are_listed_best_first_with_their_sort_keys(full_page: str) -> None:
    rows = rows_of(full_page)
    scores = [float(row["Validation AUC"][0]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert sorted(row["Test AUC"][0] for row in rows) == ["", "", "", "", "", "0.9"]
    assert ("0.9", "0.900 (0.850 to 0.940)") in [row["Test AUC"] for row in rows]


def test_what_varies_and_decides_comes_first_and_what_follows_from_it_last(full_page: str) -> None:
    headings = list(rows_of(full_page)[0])
    assert headings == [
        "Validation AUC",
        "model.unfreeze",
        "train.finetune_learning_rate",
        "train.batch_size",
        "augmentation.num_flips",
        "Validation accuracy",
        "Validation loss",
        "Test AUC",
        "Test accuracy",
        "Time",
        "Status",
        "total_parameters",
    ]


def test_settings_that_all_runs_share_are_listed_once_in_a_closed_block(full_page: str) -> None:
    text = full_page.replace("<wbr>", "")
    assert "The same in all 6 runs: 3 settings" in text
    (opening, block) = re.findall(r"(<details[^>]*>)(.*?)</details>", text, flags=re.DOTALL)[0]
    assert opening == "<details>"
    assert re.findall(r"<dt>([^<]*)</dt>", block) == ["model.dropout", "train.note", "train.seed"]
    assert text.count("<dt>") == 3 and "<dd>0.25</dd>" in block


def test_the_settings_of_an_only_run_are_open() -> None:
    text = page(num_runs=1)
    assert "<details open>" in text and "The only run" in text
    assert Reader(text).texts.count("head only") == 1


def test_a_cut_that_trains_the_head_only_is_called_so(full_page: str) -> None:
    cuts = {row["model.unfreeze"] for row in rows_of(full_page)}
    assert cuts == {("none", "head only"), ("block16", "block16")}
    row = {"model.unfreeze": "none", "trainable_parameters": 260_000, "total_parameters": 2_600_000}
    assert trained_parameters(row) == "head only 0.26 of 2.60 M"


def test_every_picture_has_versions_for_dark_and_narrow_screens_and_a_description(full_page: str) -> None:
    reader = Reader(full_page)
    sources = [(one["media"], base64.b64decode(one["srcset"].partition(",")[2])) for one in reader.all("source")]
    assert sources == 2 * [
        ("(max-width: 640px) and (prefers-color-scheme: dark)", b"narrow and dark"),
        ("(max-width: 640px)", b"narrow and light"),
        ("(prefers-color-scheme: dark)", b"dark"),
    ]
    assert [(one["alt"], one["src"]) for one in reader.all("img")] == 2 * [
        (PICTURES.description, f"data:image/png;base64,{base64.b64encode(b'light').decode()}")
    ]


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


@pytest.mark.parametrize(
    ("hours", "text"), [(0.0001, "0.4 s"), (0.01, "36 s"), (0.5, "30.0 min"), (1.9, "1.90 h"), (float("nan"), "–")]
)
def test_durations_are_printed_in_a_readable_unit(hours: float, text: str) -> None:
    assert duration(hours) == text


def scored(num_runs: int) -> tuple[pd.DataFrame, list[str]]:
    """Return runs whose score depends on the batch size, and more on the label smoothing, which are not first in the list."""
    draw = np.random.default_rng(0)
    runs = pd.DataFrame(
        {
            "model.unfreeze": draw.choice(["none", "block14", "all"], num_runs),
            "train.finetune_learning_rate": 10 ** draw.uniform(-5, -3, num_runs),
            "train.batch_size": draw.choice([16, 32], num_runs),
            "train.label_smoothing": draw.uniform(0, 0.1, num_runs),
            "train.seed": np.arange(num_runs),
        }
    )
    names = list(runs)
    effect = 0.02 * (runs["train.batch_size"] == 16) + 0.8 * runs["train.label_smoothing"]
    return runs.assign(val_auc=0.8 + effect + draw.normal(0, 0.005, num_runs)), names


def test_parameters_are_ordered_by_how_much_of_the_scores_they_explain() -> None:
    runs, names = scored(60)
    varying, _ = varying_and_constant(runs, names)
    assert varying[:2] == ["train.label_smoothing", "train.batch_size"]
    assert set(varying[2:4]) == {"model.unfreeze", "train.finetune_learning_rate"}
    assert varying[4] == "train.seed", "what is not chosen is last, whatever it explains"
    for unscored in (runs.assign(val_auc=np.nan), runs.drop(columns="val_auc"), runs.head(10)):
        assert varying_and_constant(unscored, names)[0] == names, "the usual order"


def test_the_explained_share_is_that_of_the_variance_between_values_and_not_more_for_many_values() -> None:
    draw = np.random.default_rng(1)
    group, noise = pd.Series([0, 1] * 500), pd.Series(draw.normal(0, 1, 1000))
    assert explained_share(group, group + noise) == pytest.approx(0.25 / 1.25, abs=0.05)
    assert explained_share(group, group * 1.0) == pytest.approx(1.0)
    by_chance = [explained_share(pd.Series(draw.integers(0, 30, 100).astype(str)), noise[:100]) for _ in range(200)]
    assert np.mean(by_chance) < 0.06
    assert explained_share(pd.Series(["a"] * 30), noise[:30]) == 0.0
    assert explained_share(pd.Series(list("ab") * 15), pd.Series([0.9] * 30)) == 0.0


def test_a_run_without_parameters_yet_makes_no_column_and_changes_no_number() -> None:
    runs = session_runs(6).runs
    names = [name for name in runs if name.startswith(("model.", "train.")) or name.endswith("parameters")]
    before = varying_and_constant(runs, names)
    begun = pd.concat([runs, pd.DataFrame([dict.fromkeys(names, np.nan)])], ignore_index=True)
    assert varying_and_constant(begun, names) == before
    assert shown_value("model.dense_units", 1024.0) == "1024"
