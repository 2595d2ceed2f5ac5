"""Tests of `satx compare`: what it prints, what it writes, and what it refuses."""

import json
import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from logged_runs import log_configuration, log_session, predictions
from markupsafe import escape
from PIL import Image
from projects import with_databases

from satx.cli import main
from satx.commands import compare
from satx.testing.changed_environment import changed_environment
from satx.tracking.client import experiment_id, open_tracker

Satx = Callable[..., int]


@pytest.fixture
def satx(monkeypatch: pytest.MonkeyPatch) -> Satx:
    """Return a function that runs a command line in this process and returns its exit code."""

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["satx", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        return int(stopped.value.code or 0)

    return run


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield a home with sweeps of two sessions with the same test tiles, and of a sample with others."""
    folder = with_databases(tmp_path_factory.mktemp("logged"), tmp_path_factory.getbasetemp())
    with changed_environment(SATX_HOME=str(folder)):
        log_session("session1", built_up=14)
        log_session("session2", built_up=3)
        log_session("session2-sample", built_up=3, digest_prefix="rendered")
        yield folder


@pytest.fixture(autouse=True)
def _at_home(home: Path, logged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SATX_HOME", str(logged))


def test_a_study_database_that_never_answers_is_named(
    satx: Satx, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    client = open_tracker()
    log_configuration(client, experiment_id(client, "coast"), "first", study="coast-quick-1", backbone="xception")
    released = threading.Event()
    monkeypatch.setattr(compare, "open_study", lambda storage, study: released.wait(60))
    monkeypatch.setattr(compare, "STUDY_SECONDS", 0.1)
    try:
        assert satx("compare", "--session", "coast") != 0
    finally:
        released.set()
    said = capsys.readouterr().err
    assert "study's database does not answer within 0.1 seconds" in said and "repeat the command" in said


def test_comparing_one_session_prints_its_best_runs_and_writes_a_figure_and_a_page(
    satx: Satx, logged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert satx("compare", "--session", "2") == 0
    printed = capsys.readouterr().out
    picture, page = (logged / "reports" / f"compare-session2.{kind}" for kind in ("png", "html"))
    assert str(picture) in printed and str(page) in printed
    assert "0.900 (0.850 to 0.940)" in printed and "× 3.0" in printed
    assert "An epoch: median of finished runs of equal depth (head only)." in printed
    assert "xception-best" in printed
    assert all(words in printed for words in ("cost $0.35", "+7.0 points", "$0.05 per point"))
    assert "logistic regression on frozen mobilenetv2 features: validation AUC 0.930, test AUC 0.950" in printed
    with Image.open(picture) as image:
        assert image.width > 1000
    text = page.read_text(encoding="utf-8")
    assert "logistic regression" in text and "session2-quick-1" in text
    assert "http://" not in text.replace("http://www.w3.org", "") and "https://" not in text


def test_a_confirmed_run_is_shown_with_its_mean_over_seeds(
    satx: Satx, home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SATX_HOME", str(with_databases(home, home.parents[1])))
    made = log_session("session2", built_up=3)
    open_tracker().log_metric(made["xception-best"], "confirmed_val_auc", 0.955)
    assert satx("compare", "--session", "2") == 0
    assert "confirmed, mean validation AUC over seeds 0.9550" in capsys.readouterr().out
    assert "mean over seeds 0.955" in (home / "reports" / "compare-session2.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_runs_that_an_older_trainer_may_have_trained_only_partly_are_named(
    satx: Satx, home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SATX_HOME", str(with_databases(home, home.parents[1])))
    made, client = log_session("session2", built_up=3, best_trains="all"), open_tracker()
    sizes = {"trainable_parameters": 2_226_434, "total_parameters": 2_260_546}
    for name, value in sizes.items():
        client.log_param(made["xception-best"], name, value)
    assert satx("compare", "--session", "2") == 0
    printed = capsys.readouterr().out
    assert "1 of these 4 runs (xception from all) may have trained fewer layers" in printed
    assert "2.23 of" in printed
    assert "all 2.23 of 2.26 M" in (home / "reports" / "compare-session2.html").read_text(encoding="utf-8")
    client.set_tag(made["xception-best"], "trainer", "7")
    assert satx("compare", "--session", "2") == 0
    assert "fewer layers" not in capsys.readouterr().out


def test_json_is_one_document_without_nan(satx: Satx, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert satx("compare", "--session", "2", "--json", "--output", str(tmp_path / "out")) == 0

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    document = json.loads(capsys.readouterr().out, parse_constant=refuse)
    (session,) = document["sessions"]
    assert [row["backbone"] for row in session["best"]] == ["xception", "mobilenetv2"]
    assert session["worth"][0] == {"backbone": "xception", "usd": 0.6, "points": None, "usd_per_point": None}
    assert {row["status"] for row in session["runs"]} == {"FINISHED", "KILLED", "RUNNING"}
    assert next(row for row in session["runs"] if row["status"] == "KILLED")["test_auc"] is None
    assert [Path(path).parent for path in document["files"].values()] == [tmp_path / "out"] * 2
    assert all(Path(path).is_file() for path in document["files"].values())


def test_two_sessions_are_compared_slice_by_slice_on_the_same_tiles(
    satx: Satx, logged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert satx("compare", "--session", "1", "--session", "2") == 0
    printed = capsys.readouterr().out
    assert "on the 60 test tiles that both scored" in printed
    said = " ".join(printed.split())
    assert "Built-up: at threshold 0.5, false positives of 20 from 14 to 3 (-55 points, 95% interval" in said
    assert "frozen mobilenetv2 features, built-up: at threshold 0.5, false positives of 20 from 15 to 4" in said
    assert (
        "At threshold 0.5" in printed
        and "recall of school" in printed
        and "own validation tiles: thresholds" in printed
    )
    text = (logged / "reports" / "compare-session1-session2.html").read_text(encoding="utf-8")
    assert "session1 against session2" in text and "session1 xception-best" in text
    assert (logged / "reports" / "compare-session1-session2.png").is_file()


def scored(seed: int, skill: float, digest_prefix: str) -> pd.DataFrame:
    """Return predictions whose logits are `skill` standard deviations higher for schools."""
    frame = predictions({}, digest_prefix=digest_prefix)
    draw = np.random.default_rng(seed).standard_normal(len(frame))
    return with_logits(frame, draw + skill * (frame["label"] == "school").to_numpy())


def with_logits(frame: pd.DataFrame, logits: np.ndarray) -> pd.DataFrame:
    positive = 1 / (1 + np.exp(-logits))
    return frame.assign(**{"probability_school": positive, "probability_not-school": 1 - positive})


def shifted(frame: pd.DataFrame, by: float) -> pd.DataFrame:
    positive = frame["probability_school"].to_numpy()
    return with_logits(frame, np.log(positive / (1 - positive)) + by)


@pytest.mark.parametrize(
    ("skills", "shift", "kind"),
    [((2.0, 2.0), -1.5, "moved threshold"), ((0.5, 4.0), 0.0, "better")],
    ids=["moved", "better"],
)
def test_a_moved_threshold_and_a_better_ranking_are_told_apart_in_json_and_on_the_page(
    satx: Satx,
    home: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    skills: tuple[float, float],
    shift: float,
    kind: str,
) -> None:
    monkeypatch.setenv("SATX_HOME", str(with_databases(home, home.parents[1])))
    log_session("session1", built_up=3, tested=scored(1, skills[0], "tile"), valid=scored(2, skills[0], "valid"))
    tested, valid = (shifted(scored(seed, skills[1], split), shift) for seed, split in ((1, "tile"), (2, "valid")))
    log_session("session2", built_up=3, tested=tested, valid=valid)
    assert satx("compare", "--session", "1", "--session", "2", "--json") == 0
    best, baselines = json.loads(capsys.readouterr().out)["comparisons"]
    assert (best["of"], baselines["of"]) == ("best runs", "baselines on frozen mobilenetv2 features")
    assert [verdict["kind"] for verdict in best["verdicts"]] == [kind] * 3, "all slices, built-up and open land"
    page = (home / "reports" / "compare-session1-session2.html").read_text(encoding="utf-8")
    conclusion = "A raised threshold explains the difference at 0.5; no improvement is shown."
    assert page.count(conclusion) == (3 if kind == "moved threshold" else 0)
    assert all(str(escape(verdict["conclusion"])) in page for verdict in best["verdicts"])
    rows = {(row["point"], row["measure"], row["slice"]): row for row in best["rows"]}
    if kind == "moved threshold":
        assert (
            rows["fixed", "recall", ""]["difference"] < 0 and rows["fixed", "false_positive_rate", ""]["difference"] < 0
        )
        assert rows["", "auc", "built-up"]["difference"] == 0


def test_backbones_without_a_common_depth_have_no_time_ratio(
    satx: Satx, home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SATX_HOME", str(with_databases(home, home.parents[1])))
    log_session("session2", built_up=3, best_trains="all")
    assert satx("compare", "--session", "2") == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "×" not in printed and "An epoch: median" not in printed
    assert "session2: no time ratio for xception and mobilenetv2" in printed
    assert "xception: whole backbone; mobilenetv2: head only" in printed


@pytest.mark.slow
def test_a_leader_without_test_scores_is_named_and_runs_of_tune_are_left_out(
    satx: Satx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SATX_HOME", str(with_databases(tmp_path / "later", tmp_path.parent)))
    for session in ("session1", "session2"):
        log_session(session, built_up=3)
    client = open_tracker()
    experiment = experiment_id(client, "session2")
    log_configuration(client, experiment, "own-0", study="session2-own-1", backbone="own", val_auc=0.99, of_sweep=False)
    log_configuration(client, experiment, "newer", study="session2-quick-1", backbone="xception", val_auc=0.98)
    capsys.readouterr()
    for sessions in (("2",), ("1", "2")):
        assert satx("compare", *(part for session in sessions for part in ("--session", session))) == 0
        printed = " ".join(capsys.readouterr().out.split())
        assert re.search(r"session2: newer .{,200}xception-best", printed) and "own-0" not in printed
    assert satx("compare", "--session", "2", "--study", "session2-own-1") == 0
    assert "own-0" in capsys.readouterr().out


def test_sessions_without_a_common_tile_are_refused(
    satx: Satx, logged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SATX_HOME", str(with_databases(tmp_path / "apart", tmp_path.parent)))
    log_session("session1", built_up=14)
    log_session("session2-sample", built_up=3, digest_prefix="rendered")
    capsys.readouterr()
    assert satx("compare", "--session", "1", "--session", "2") == 2
    stopped = capsys.readouterr()
    assert "SAMPLE" in stopped.out
    assert "share test tiles, got none in common" in stopped.err and "Traceback" not in stopped.err
    assert satx("compare", "--session", "2", "--sample") == 0


def test_wrong_options_are_one_clear_error_each(satx: Satx, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    for arguments, message in (
        (("--session", "2", "--session", "2"), "two different ones"),
        (("--session", "1", "--session", "2", "--study", "x"), "one session only"),
        (
            (
                "--session",
                "nine",
            ),
            "experiments/sessionnine.yaml",
        ),
        (("--session", "2", "--study", "nonsense"), "got 'nonsense'"),
        (("--session", "1", "--sample"), "make sweep SESSION=1"),
        (("--session", "2", "--output", str(in_the_way)), "cannot be written"),
    ):
        assert satx("compare", *arguments) == 2
        stopped = capsys.readouterr()
        assert message in stopped.err.replace("\n", " ") and stopped.err.startswith("Error: ")
        assert "Traceback" not in stopped.err


def test_figure_and_page_are_replaced_completely(satx: Satx, logged: Path) -> None:
    assert satx("compare") == 0
    assert satx("compare") == 0
    names = {path.name for path in (logged / "reports").iterdir() if path.name.startswith(("compare-session2.", "."))}
    assert names == {"compare-session2.png", "compare-session2.html"}
    shutil.rmtree(logged / "reports")
