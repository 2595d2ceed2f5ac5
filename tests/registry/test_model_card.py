"""Model cards: what they say about a version, as Markdown and as a page, and that no name can change either."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from inference.tiny import fitted_classifier
from markdown_it import MarkdownIt
from mlflow.entities import Param, Run, RunData, RunTag

from registry.cards import FORCED, GATE_FILE, RUN_ID, Page, card_facts, evaluation_of, noise_store
from satx.evaluation.assessment import Assessment
from satx.evaluation.operating_point import ThresholdRule
from satx.registry.card_rendering import escaped
from satx.registry.evaluate import evaluate
from satx.registry.model_card import Card, CardFacts, model_card, shortened
from satx.tiles.store import TileStore

HOSTILE = ("<script>alert(1)</script>".replace("/", "\\"), "a|b-`c`-*d*-[e](http:)-![f]", "ok")
MARKDOWN = MarkdownIt("commonmark").enable(["table", "strikethrough"])


def table_below(markdown: str, heading: str) -> dict[str, list[str]]:
    """Return the rows of the table whose first heading is `heading`, by their first cell."""
    lines = markdown.split(f"| {heading} |", 1)[1].splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[: lines.index("")]]
    return {row[0]: row[1:] for row in cells}


def plain(markdown: str) -> str:
    return markdown.replace("\\", "")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> TileStore:
    return noise_store(tmp_path_factory.mktemp("two"), ("other", "school"), ("rural", "urban", "coast"))


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> TileStore:
    return noise_store(tmp_path_factory.mktemp("three"), ("clinic", "other", "school"), ("rural", "urban"))


@pytest.fixture(scope="module")
def facts(two: TileStore) -> CardFacts:
    return card_facts(two, "school")


@pytest.fixture(scope="module")
def card(facts: CardFacts) -> Card:
    return model_card(facts)


def test_a_card_of_an_evaluated_model_states_its_scores_and_its_threshold(store: TileStore) -> None:
    facts = card_facts(store, "school")
    candidate = replace(facts.candidate, classifier=fitted_classifier(store))
    evaluation = evaluate(candidate, ThresholdRule(rule="youden"))
    card = model_card(replace(facts, candidate=candidate, evaluation=evaluation))
    scores = table_below(card.markdown, "Score")
    assert plain(scores["AUC"][-1]) == str(evaluation.after.interval("auc"))
    assert f"from a probability of {evaluation.threshold:.4f}. The rule youden" in card.markdown
    assert "Do not use it on real tiles" in card.markdown and "Do not use it on real tiles" in Page(card.html).text


def test_scores_are_those_before_and_after_calibration(facts: CardFacts, card: Card) -> None:
    before, after = facts.evaluation.before, facts.evaluation.after
    scores = table_below(card.markdown, "Score")
    assert before.interval("brier") != after.interval("brier")
    assert plain(scores["Brier score"][0]) == str(before.interval("brier"))
    assert plain(scores["Brier score"][1]) == str(after.interval("brier"))
    assert "because it lowers the log loss of the validation tiles from 0.4124 to 0.3124 nats" in card.markdown


def test_the_sign_of_the_calibration_gap_is_shown(two: TileStore) -> None:
    evaluation = evaluation_of(two, "school", temperature=0.4)
    gap = evaluation.after.interval("calibration_gap").value
    assert gap > 0, "the drawn probabilities are too sure"
    scores = table_below(model_card(card_facts(two, "school", evaluation=evaluation)).markdown, "Score")
    assert plain(scores["Calibration gap"][1]).startswith(f"+{gap:.3f} (")


def test_tiles_at_or_above_the_threshold_are_counted(facts: CardFacts) -> None:
    evaluation = replace(facts.evaluation, threshold=0.6)
    scores = evaluation.probabilities[:, 1]
    assert ((scores >= 0.5) & (scores < 0.6)).any(), "another threshold gives other counts"
    counts = table_below(model_card(replace(facts, evaluation=evaluation)).markdown, "True class")
    for index, name in enumerate(("other", "school")):
        above = int((scores[evaluation.labels == index] >= 0.6).sum())
        assert counts[name] == ["12", str(above), str(12 - above), f"{above / 12:.1%}"]


def test_without_a_temperature_there_is_one_column_of_scores_and_the_reason(two: TileStore) -> None:
    card = model_card(card_facts(two, "school", evaluation=evaluation_of(two, "school", temperature=1.0)))
    assert len(table_below(card.markdown, "Score")["AUC"]) == 1
    assert "No temperature is in use: none lowers the log loss of the validation tiles, 0.4124 nats." in card.markdown
    assert "Probabilities fit the session's share of school." in card.markdown
    assert "calibrated for" not in card.markdown and "before calibration" not in Page(card.html).text


@pytest.mark.parametrize(("temperature", "word"), [(1.7, "softened"), (0.4, "sharpened")])
def test_what_a_temperature_does_is_said_in_words(two: TileStore, temperature: float, word: str) -> None:
    card = model_card(card_facts(two, "school", evaluation=evaluation_of(two, "school", temperature=temperature)))
    assert f"Probabilities are {word} by a temperature of {temperature:.3f}, which divides the logits." in card.markdown


def test_a_rule_that_the_gate_leaves_out_has_a_row_that_says_so(card: Card) -> None:
    rows = table_below(card.markdown, "Rule")
    assert {plain(name): row[0] for name, row in rows.items()} == {
        "auc_floor": "not asked", "auc_not_worse": "passed", "calibration_gap": "refused",
    }  # fmt: skip
    assert rows["auc\\_floor"][1:] == ["–", "–"]


@pytest.mark.parametrize(("commit", "shown"), [("c0ffee", "c0ffee"), ("c0ffee+", "c0ffee with uncommitted changes")])
def test_uncommitted_changes_are_named(facts: CardFacts, commit: str, shown: str) -> None:
    run = facts.candidate.run
    tags = run.data.tags | {"git_commit": commit}
    data = RunData([], [Param(*item) for item in run.data.params.items()], [RunTag(*tag) for tag in tags.items()])
    changed = replace(facts, candidate=replace(facts.candidate, run=Run(run.info, data)))
    assert table_below(model_card(changed).markdown, "What")["Commit of the project"] == [shown]


def test_both_forms_say_the_same(facts: CardFacts, card: Card) -> None:
    rendered, page = Page(MARKDOWN.render(card.markdown)).text, Page(card.html).text
    for text in (
        "2 of 3 rules asked; 1 refused (gate: ours.yaml, sha256 fedcba987654…).",
        GATE_FILE.sha256,
        f"Promoted against the gate by {FORCED.by} at {FORCED.at}. Reason: {FORCED.reason}",
        "The champion, version 2, was trained on other tiles.",
        "an AUC that is not lower than the champion's beyond chance",
        f"satx train --from-run {RUN_ID} satx promote --run-id RUN",
        "RUN is the id that the first command prints",
        f"file, SHA-256 {'a' * 12}…",
        "Accuracy is that of the most probable class",
        facts.candidate.store.digest,
        *("a" * 64, "b" * 64, "d" * 64, "c0ffee" * 6),
        "2,562 of 2,260,546",
        "Session tiny: 72 tiles, stored at 64 px. Formats of the files: 72 PNG.",
        "for a person to check each of them before anything is mapped or decided",
    ):
        assert text in rendered and text in page
    headings = re.findall(r"^## (.*)$", card.markdown, re.MULTILINE)
    assert headings == re.findall(r"<h2[^>]*>(.*)</h2>", card.html)
    assert f"[Open the run](\\#/experiments/7/runs/{RUN_ID}?" in card.markdown


def test_tiles_are_counted_by_split_class_and_slice(card: Card) -> None:
    markdown = card.markdown
    assert table_below(markdown, "Class | train")["school"] == ["12", "12", "12", "36"]
    assert table_below(markdown, "Slice | train")["coast"] == ["8", "8", "8", "24"]


def test_the_worst_slice_comes_first(facts: CardFacts) -> None:
    evaluation = facts.evaluation
    table = evaluation.after.table.copy()
    of_slice = (table["scope"] == "slice") & (table["metric"] == "accuracy")
    table.loc[of_slice, "value"] = table.loc[of_slice, "name"].map({"rural": 0.9, "urban": 0.2, "coast": 0.5})
    changed = replace(evaluation, after=Assessment(table))
    worst = table_below(model_card(replace(facts, evaluation=changed)).markdown, "Slice | Test tiles | Accuracy")
    assert list(worst) == ["urban", "coast", "rural"]
    assert worst["urban"][0] == "8"


def test_the_highest_scoring_negatives_are_shown_as_they_are_stored(facts: CardFacts, card: Card) -> None:
    evaluation, store = facts.evaluation, facts.candidate.store
    rows = store.rows("test")
    negatives = np.flatnonzero(evaluation.labels == store.classes.index("other"))
    highest = negatives[np.argsort(-evaluation.probabilities[negatives, 1])][:8]
    shown = table_below(card.markdown, "Tile")
    assert list(shown) == list(store.index["tile_id"].iloc[rows[highest]])
    assert [row[2] for row in shown.values()] == [f"{score:.4f}" for score in evaluation.probabilities[highest, 1]]
    pictures = Page(card.html).pictures()
    assert len(pictures) == 8
    for picture, row in zip(pictures, rows[highest], strict=True):
        assert np.abs(np.asarray(picture, np.float32) - store.pixels()[row]).mean() < 6


def test_a_session_that_allows_no_embedding_gets_ids_and_scores_only(two: TileStore) -> None:
    card = model_card(card_facts(two, "school", allow_embedding=False))
    page = Page(card.html)
    assert page.pictures() == [] and "image/jpeg" not in card.html
    for tile, (_, _, score) in table_below(card.markdown, "Tile").items():
        assert tile in page.text and score in page.text


def test_large_tiles_are_embedded_as_thumbnails(facts: CardFacts, monkeypatch: pytest.MonkeyPatch) -> None:
    large = np.random.default_rng(0).integers(0, 256, (72, 1024, 1024, 3), dtype=np.uint8)
    monkeypatch.setattr(TileStore, "pixels", lambda _store: large)
    html = model_card(facts).html
    assert {picture.size for picture in Page(html).pictures()} == {(224, 224)}
    assert len(html) < 1_000_000


def test_three_classes_have_scores_and_counts_of_their_own(three: TileStore) -> None:
    facts = card_facts(three, "school")
    card, after = model_card(facts), facts.evaluation.after
    classes = table_below(card.markdown, "Class | Test tiles")
    assert list(classes) == ["clinic", "other", "school"]
    assert plain(classes["clinic"][1]) == str(after.interval("auc", scope="class", name="clinic"))
    assert "averages over all classes" in card.markdown
    assert list(table_below(card.markdown, "True class")) == ["clinic", "other", "school"]
    assert {row[0] for row in table_below(card.markdown, "Tile").values()} == {"clinic", "other"}
    assert "Tells the classes clinic, other and school apart" in card.markdown


def test_a_model_without_test_tiles_is_called_untested(facts: CardFacts) -> None:
    evaluation = facts.evaluation
    empty = replace(
        evaluation,
        labels=evaluation.labels[:0],
        raw_probabilities=evaluation.raw_probabilities[:0],
        probabilities=evaluation.probabilities[:0],
        before=Assessment(pd.DataFrame()),
        after=Assessment(pd.DataFrame()),
    )
    card = model_card(replace(facts, evaluation=empty))
    assert "this model was not tested" in card.markdown and "softened by a temperature of 1.700" in card.markdown
    assert "0 of 0" not in card.markdown


def test_a_class_without_test_tiles_has_dashes_and_no_roc_curve(facts: CardFacts) -> None:
    evaluation = facts.evaluation
    negatives = evaluation.labels == 0
    table = evaluation.after.table.copy()
    table.loc[table["metric"].isin(["auc", "recall"]), ["value", "low", "high"]] = np.nan
    only = replace(
        evaluation,
        labels=evaluation.labels[negatives],
        raw_probabilities=evaluation.raw_probabilities[negatives],
        probabilities=evaluation.probabilities[negatives],
        after=Assessment(table),
    )
    card = model_card(replace(facts, evaluation=only))
    assert table_below(card.markdown, "Score")["AUC"][-1] == "–"
    assert "Reliability" in card.html and "ROC curve" not in card.html
    assert "nan" not in Page(card.html).text


def test_the_page_allows_its_own_style_and_embedded_images_only(card: Card) -> None:
    page = Page(card.html)
    (policy,) = [attributes["content"] for tag, attributes in page.tags if "http-equiv" in attributes]
    style = re.search(r"<style>(.*)</style>", card.html, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert policy == f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'"
    assert "script" not in {tag for tag, _ in page.tags}
    addresses = [v for _, attributes in page.tags for k, v in attributes.items() if k in ("src", "srcset", "href")]
    assert addresses and all(str(address).startswith("data:image/") for address in addresses)


def test_hostile_names_are_shown_and_change_neither_form(tmp_path: Path) -> None:
    store = noise_store(tmp_path, HOSTILE, ("<b>x</b>", "y | z `", "[a](http://b)"))
    facts = card_facts(
        store, "ok", run_name="<i>[r](http://x)", champion_text=("# <h1>not a heading</h1>", "- www.example.org @rosa"),
        forced=replace(FORCED, reason="```\n# x\n<img src=y>"),
    )  # fmt: skip
    card = model_card(facts)
    rendered, page = Page(MARKDOWN.render(card.markdown)), Page(card.html)
    known = {"h1", "h2", "p", "ul", "li", "table", "thead", "tbody", "tr", "th", "td", "pre", "code", "a"}
    assert {tag for tag, _ in rendered.tags} == known
    assert [attributes["href"] for tag, attributes in rendered.tags if tag == "a"] == [
        f"#/experiments/7/runs/{RUN_ID}?workflowType=machine_learning"
    ]
    num_headings = sum(tag in ("h1", "h2") for tag, _ in rendered.tags)
    assert num_headings == sum(tag in ("h1", "h2") for tag, _ in page.tags) == 10
    assert sum(tag == "ul" for tag, _ in rendered.tags) == 1
    assert not {"script", "b", "i", "a"} & {tag for tag, _ in page.tags}
    for name in (*HOSTILE, "<b>x</b>", "y | z `", "[a](http://b)", "# <h1>not a heading</h1>", "<i>[r](http://x)"):
        assert name in rendered.text and name in page.text


@given(st.text(st.sampled_from("ab1. \n\t\\`*_{}[]()<>#+-=!|~&@$:/\"'"), min_size=1) | st.text(min_size=1))
@example("1. x")
@example("- x")
@example("[a]: b")
@example("===")
@example("http://a.org _www.a.org a@b.org")
@example("&lt;b&gt;")
@example("a\\|b")
def test_escaped_text_is_shown_as_it_is_everywhere(text: str) -> None:
    shown = " ".join(text.replace("\0", "").split())
    if not shown or "\0" in text:
        return
    sources = f"{escaped(text)}\n\n- {escaped(text)}\n\n| a | b |\n| --- | --- |\n| x | {escaped(text)} |\n"
    page = Page(MARKDOWN.render(sources))
    tags = ["p", "ul", "li", "table", "thead", "tr", "th", "th", "tbody", "tr", "td", "td"]
    assert [tag for tag, _ in page.tags] == tags
    assert page.text == f"{shown} {shown} a b x {shown}"
    assert not re.search(r"(?<!\\)://|www\.|@", escaped(text), re.IGNORECASE), (
        "GitHub and MLflow make links of bare addresses"
    )


def test_a_card_too_long_for_a_field_ends_before_the_section_that_does_not_fit(card: Card) -> None:
    markdown = card.markdown
    assert shortened(markdown, max_chars=len(markdown)) == markdown
    short = shortened(markdown, max_chars=len(markdown) - 1)
    kept = markdown.split("\n\n## How to reproduce it")[0]
    assert short == f"{kept}\n\nThis card goes on in `model_card.html`, in the folder `card` of the run's artifacts.\n"
    for max_chars in range(200, len(markdown), 20):
        assert len(shortened(markdown, max_chars=max_chars)) <= max_chars


def test_of_many_classes_the_roc_curve_is_that_of_the_class_of_interest(tmp_path: Path) -> None:
    store = noise_store(tmp_path, tuple(f"class-{number}" for number in range(9)), (), per_class=3)
    facts = card_facts(store, "class-4")
    area = facts.evaluation.after.interval("auc", scope="class", name="class-4")
    assert f"ROC curve of class-4 against the rest on the test tiles: AUC {area}." in Page(model_card(facts).html).text
