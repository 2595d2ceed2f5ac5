"""Tests of reading logged sweeps into frames for the figures, and of comparing two sessions on common tiles."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from logged_runs import log_configuration, log_session, predictions
from projects import with_databases

from satx.errors import ConfigError, DataError
from satx.reports.comparison import best_tested_run, choose_experiment, read_session
from satx.reports.cost_per_point import worth
from satx.reports.figure import compare_figure
from satx.reports.paired import auc_difference, compare_predictions, read_predictions
from satx.session_config import SessionConfig
from satx.testing.changed_environment import changed_environment
from satx.tracking.client import experiment_id, open_tracker

SESSION = SessionConfig(session="2", task="school", positive_class="school", data_dir="data/session2", sweep="quick")


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    folder = str(with_databases(tmp_path_factory.mktemp("logged"), tmp_path_factory.getbasetemp()))
    with changed_environment(SATX_HOME=folder):
        yield log_session("session2", built_up=3) | {"home": folder}


@pytest.fixture(autouse=True)
def _at_home(home: Path, logged: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SATX_HOME", logged["home"])


def test_a_session_contains_every_configuration_but_no_sweep_or_baseline_run(logged: dict[str, str]) -> None:
    session = read_session(open_tracker(), "session2")
    runs = session.runs.set_index("run_name")
    assert session.study == "session2-quick-1"
    assert sorted(runs.index) == ["mobilenetv2-best", "mobilenetv2-waiting", "xception-best", "xception-pruned"]
    assert runs["status"].to_dict() == {
        "xception-best": "FINISHED",
        "xception-pruned": "KILLED",
        "mobilenetv2-best": "FINISHED",
        "mobilenetv2-waiting": "RUNNING",
    }
    assert runs.loc["xception-best", "run_id"] == logged["xception-best"]
    assert runs.loc["xception-best", "hours"] == pytest.approx(24 / 3600)
    assert runs.loc["xception-best", "train.batch_size"] == 16
    assert runs.loc["xception-best", "test_accuracy_low"] == 0.85
    assert "model.backbone" not in runs
    assert session.shared_seconds == {"xception": 3.0, "mobilenetv2": 3.0}


def test_a_killed_run_without_the_tag_pruned_is_shown_as_stopped(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SATX_HOME", str(with_databases(home, home.parents[1])))
    client = open_tracker()
    experiment = experiment_id(client, "session3")
    made = {
        status: log_configuration(client, experiment, status, study="s", backbone="mobilenetv2", status=status)
        for status in ("KILLED", "FAILED")
    }
    client.delete_tag(made["KILLED"], "pruned")
    session = read_session(client, "session3")
    assert dict(zip(session.runs["run_name"], session.runs["status"], strict=True)) == {
        "KILLED": "STOPPED",
        "FAILED": "FAILED",
    }
    compare_figure(session.runs, session.histories, title="it can be drawn")


def test_cost_is_compared_with_the_accuracy_gained_over_the_baseline() -> None:
    session = read_session(open_tracker(), "session2")
    assert session.usd == pytest.approx({"xception": 0.6, "mobilenetv2": 0.35}), "the cost of pruned runs counts too"
    rows = worth(session).set_index("backbone")
    assert rows.loc["mobilenetv2"].to_dict() == pytest.approx({"usd": 0.35, "points": 7.0, "usd_per_point": 0.05})
    assert rows.loc["xception", ["points", "usd_per_point"]].isna().all(), "it has no baseline here"
    nothing_gained = session.baselines.assign(val_accuracy=0.95)
    lost = worth(replace(session, baselines=nothing_gained)).set_index("backbone").loc["mobilenetv2"]
    assert lost["points"] == pytest.approx(-5.0)
    assert np.isnan(lost["usd_per_point"])
    assert worth(replace(session, usd={})).empty


def test_a_pruned_run_has_the_scores_of_its_best_epoch() -> None:
    runs = read_session(open_tracker(), "session2").runs.set_index("run_name")
    assert runs.loc["xception-pruned", "val_auc"] == pytest.approx(0.8)
    assert runs.loc["xception-pruned", "val_accuracy"] == pytest.approx(0.75)
    assert np.isnan(runs.loc["xception-pruned", "test_auc"])


def test_the_frames_can_be_drawn_and_the_best_runs_come_first() -> None:
    session = read_session(open_tracker(), "session2")
    assert len(session.histories) == 16
    assert list(session.best["run_name"]) == ["xception-best", "mobilenetv2-best"]
    assert list(session.best["time_ratio"]) == pytest.approx([3.0, 1.0])
    assert best_tested_run(session)["run_name"] == "xception-best"
    assert len(compare_figure(session.runs, session.histories, title="t").axes) == 4


def test_baselines_are_rows_of_their_own(logged: dict[str, str]) -> None:
    baselines = read_session(open_tracker(), "session2").baselines
    assert baselines["run_id"].tolist() == [logged["baseline-mobilenetv2"]]
    assert baselines.loc[0, "val_auc"] == 0.93


def test_predictions_are_read_as_they_were_logged(logged: dict[str, str]) -> None:
    found = read_predictions(open_tracker(), logged["xception-best"])
    assert found.equals(predictions({"built-up": 3}).astype(found.dtypes.to_dict()))
    validated = read_predictions(open_tracker(), logged["xception-best"], "valid")
    assert set(validated["content_digest"]) == {f"valid-{row}" for row in range(60)}
    with pytest.raises(DataError, match=f"{logged['xception-pruned']}: expected predictions on valid tiles"):
        read_predictions(open_tracker(), logged["xception-pruned"], "valid")


def test_an_unknown_study_or_session_is_refused_with_a_remedy() -> None:
    client = open_tracker()
    for experiment, study, value in (
        ("session2", "nonsense", "session2-quick-1"),
        ("session2", "it's", "it's"),
        ("session9", None, "make sweep"),
    ):
        with pytest.raises(ConfigError, match=value):
            read_session(client, experiment, study=study)
    with pytest.raises(ConfigError, match="make sweep SESSION=9"):
        choose_experiment(client, SESSION.model_copy(update={"session": "9"}), sample=False)


def test_the_newest_study_is_read_and_the_sample_only_if_there_is_nothing_else(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SATX_HOME", str(with_databases(home, home.parents[1])))
    log_session("session2-sample", built_up=1)
    client = open_tracker()
    assert choose_experiment(client, SESSION, sample=True) == ("session2-sample", None)
    name, notice = choose_experiment(client, SESSION, sample=False)
    assert name == "session2-sample" and notice is not None and "SAMPLE" in notice
    experiment = experiment_id(client, "session2")
    log_configuration(client, experiment, "a", study="session2-old", backbone="xception")
    log_configuration(client, experiment, "b", study="session2-new", backbone="xception")
    assert choose_experiment(client, SESSION, sample=False) == ("session2", None)
    assert read_session(client, "session2").study == "session2-new"
    assert read_session(client, "session2", study="session2-old").runs["run_name"].tolist() == ["a"]
    with pytest.raises(DataError):
        best_tested_run(read_session(client, "session2"))


def compared(first: pd.DataFrame, second: pd.DataFrame, positive_class: str = "school") -> tuple[pd.DataFrame, int]:
    valid = predictions({}, digest_prefix="valid")
    return compare_predictions(
        {"a": first, "b": second}, {"a": valid, "b": valid}, positive_class=positive_class, threshold=0.5
    )


def test_only_shared_tiles_count() -> None:
    table, num_tiles = compared(predictions({"built-up": 5}), predictions({}).iloc[10:])
    assert num_tiles == 50
    of_slices = table[(table["point"] == "fixed") & (table["slice"] != "")].set_index("slice")
    assert of_slices["num_tiles"].to_dict() == {"built-up": 10, "open-land": 20}
    assert table.loc[table["measure"] == "recall", "num_tiles"].tolist() == [20, 20]


def test_each_model_has_the_threshold_that_its_own_validation_tiles_give() -> None:
    tested, easy = predictions({"built-up": 5}), predictions({}, digest_prefix="valid")
    hard = easy.assign(probability_school=np.linspace(0.0, 0.5, len(easy)), label=["not-school", "school"] * 30)
    table, _ = compare_predictions(
        {"a": tested, "b": tested}, {"a": easy, "b": hard}, positive_class="school", threshold=0.5
    )
    row = table[(table["point"] == "equal_recall") & (table["slice"] == "built-up")].iloc[0]
    assert row["threshold_a"] == pytest.approx(0.5), "in the middle between schools and others"
    assert 0.05 < row["threshold_b"] < 0.06, "nine of ten schools are above"
    assert row[["flagged_a", "flagged_b"]].tolist() == [5, 20]


def test_sessions_that_cannot_be_paired_are_refused_with_the_reason() -> None:
    first = predictions({})
    elsewhere = predictions({}, digest_prefix="other")
    relabelled = first.assign(label=["school", *first["label"][1:]])
    renamed = first.rename(columns={"probability_school": "probability_clinic"})
    for second, positive_class, values in (
        (elsewhere, "school", "60 and 60"),
        (relabelled, "school", "1 of 60"),
        (renamed, "school", "clinic.*school|school.*clinic"),
        (first, "clinic", "'clinic'.*school"),
    ):
        with pytest.raises(DataError, match=values):
            compared(first, second, positive_class)


def ranked(skill: float, seed: int) -> pd.DataFrame:
    """Return predictions whose logits separate the classes by `skill` standard deviations."""
    frame = predictions({})
    random = np.random.default_rng(seed)
    score = random.standard_normal(len(frame)) + skill * (frame["label"] == "school")
    positive = 1 / (1 + np.exp(-score))
    return frame.assign(probability_school=positive, **{"probability_not-school": 1 - positive})


def test_paired_bootstrap_distinguishes_a_better_ranking_from_chance() -> None:
    good, alike, bad = ranked(4.0, 1), ranked(4.0, 2), ranked(0.0, 3)
    better = auc_difference({"good": good, "bad": bad}, positive_class="school")
    same = auc_difference({"good": good, "alike": alike}, positive_class="school")
    assert better.low > 0.2
    assert same.low <= 0 <= same.high
    turned = auc_difference({"bad": bad, "good": good}, positive_class="school")
    assert turned.value == pytest.approx(-better.value)
