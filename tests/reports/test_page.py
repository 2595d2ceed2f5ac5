"""Tests of the page of `satx compare`: well-formed HTML, nothing fetched, nothing injected."""

import base64
import hashlib
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from compared_runs import session_runs
from markupsafe import escape

from satx.evaluation.two_models import ModelScores, compare_models
from satx.reports.best_run import best_run_of_each_backbone
from satx.reports.pace import paces, with_paces
from satx.reports.page import compare_page, duration, seconds, times, trained_parameters
from satx.reports.parameters import explained_share, shown_value, varying_and_constant
from satx.reports.pictures import Pictures
from satx.reports.verdicts import Comparison, verdicts

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


def page(num_runs: int = 6, trains: tuple[str, ...] = ("none", "block16"), **changes: object) -> str:
    """Return a page whose odd runs are Xception's, with epochs of 240 s, and whose even runs are MobileNetV2's, with 60 s."""
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
            "model.unfreeze": ([*trains] * num_runs)[:num_runs],
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
            "epoch_seconds": np.repeat([240.0 if name == "xception" else 60.0 for name in runs["backbone"]], 3),
        }
    )
    found = paces(runs, histories)
    settings = {
        "title": f"Session 2 {HOSTILE}",
        "figures": [PICTURES],
        "best": with_paces(best_run_of_each_backbone(runs), found),
        "paces": found.assign(session="session2"),
        "runs": runs,
        "notes": [f"A note {HOSTILE}"],
        "interactive": histories,
    }
    return compare_page(**settings | changes)


def session_comparison(backbone: str = "") -> Comparison:
    is_positive = np.arange(45) < 15
    models = {}
    for name, scores in zip(
        ("session 1", f"session 2 {HOSTILE}"), np.random.default_rng(0).random((2, 2, 45)), strict=True
    ):
        models[name] = ModelScores(*scores, is_positive, [str(row) for row in range(45)])
    slices = ["school"] * 15 + ["built-up", HOSTILE, "rural"] * 10
    table = compare_models(is_positive, slices, models, threshold=0.5)
    positive = f"school {HOSTILE}"
    return Comparison(backbone, table, 45, positive, verdicts(table, positive_class=positive))


@pytest.fixture(scope="module")
def full_page() -> str:
    baselines = [session_comparison(f"xception {HOSTILE}")]
    return page(comparison=session_comparison(), comparison_figure=PICTURES, baselines=baselines)


def test_the_page_is_well_formed_html_with_all_tables(full_page: str) -> None:
    reader = Reader(full_page)
    assert len(reader.all("table")) == 4
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
    (opening, block) = re.findall(r"(<details[^>]*>)(.*?)</details>", text, flags=re.DOTALL)[-1]
    assert opening == "<details>"
    assert re.findall(r"<dt>([^<]*)</dt>", block) == ["model.dropout", "train.note", "train.seed"]
    assert text.count("<dt>") == 3 and "<dd>0.25</dd>" in block


def test_the_settings_of_an_only_run_are_open() -> None:
    text = page(num_runs=1)
    assert "<details open>" in text and "The only run" in text
    assert "<dd>head only</dd>" in text


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


def rows_under(text: str, heading: str) -> list[list[str]]:
    """Return the cells of the rows under a heading of the comparison of two sessions."""
    (part,) = [part for part in re.findall(r"<tbody>(.*?)</tbody>", text, flags=re.DOTALL) if heading in part]
    rows = re.findall(r"<tr>(.*?)</tr>", part, flags=re.DOTALL)[1:]
    return [re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", row) for row in rows]


def test_false_positives_are_shown_beside_recall_at_both_operating_points(full_page: str) -> None:
    table = session_comparison().table
    for point, heading in (("fixed", "At threshold 0.5"), ("equal_recall", "own validation tiles: thresholds")):
        rows = rows_under(full_page, heading)
        expected = table[table["point"] == point]
        assert rows[0][0].startswith("recall of school") and rows[1][0] == "false positives, all slices"
        assert [int(row[1]) for row in rows] == expected["num_tiles"].tolist()
        shown = [[int(cell.partition(",")[0]) for cell in row[2:4]] for row in rows]
        assert shown == expected[["flagged_a", "flagged_b"]].to_numpy(dtype=int).tolist()
    assert len(rows_under(full_page, "Area under the ROC curve")) == 4


def test_what_the_comparison_shows_is_said_in_words_and_for_baselines_in_a_closed_block(full_page: str) -> None:
    comparison = session_comparison()
    concluded = re.findall(r'<p class="verdict strong">(.*?)</p>', full_page)
    assert concluded == [str(escape(verdict.conclusion)) for verdict in comparison.verdicts]
    assert concluded[0].startswith("All slices: ")
    said = re.findall(r'<p class="verdict">(.*?)</p>', full_page)
    assert len(said) == 4 and all(line.startswith("Logistic regression on frozen xception") for line in said)
    summary = full_page.index("The same for baselines")
    assert full_page.rindex("<details>", 0, summary) > full_page.index('id="rates"')


def best_table(text: str) -> str:
    return text.split("Best run of each backbone</h2>")[1].split("</table>")[0]


def test_times_of_epochs_are_compared_at_equal_depth_only(full_page: str) -> None:
    heads = best_table(page(trains=("none",)))
    assert "240 s<br><small>head only</small>" in heads and "60 s<br><small>head only</small>" in heads
    assert "× 4.0" in heads and "× 1.0" in heads
    assert "×" not in best_table(full_page) and "head only</small>" not in best_table(full_page)
    assert seconds(0.0123) == "0.0123 s" and seconds(float("nan")) == times(float("nan")) == "–"


def test_without_a_second_session_and_histories_those_parts_are_left_out() -> None:
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
