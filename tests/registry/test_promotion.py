"""Tests of promotion: forced promotions, what is recorded and written, and crashes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from guide import code_below
from inference.tiny import open_tiles, without_marker
from PIL import Image

from registry.conftest import PromotedHome
from registry.small_runs import GATE, NAME, RULES, candidate_of, make_run, worse_by_chance
from satx.commands.promote import promote_command
from satx.commands.show import show_command
from satx.errors import ConfigError, PromotionRefused, WeightsError
from satx.inference.manifest import verify_export, write_manifest
from satx.inference.predictor import ServedModel
from satx.inference.serving_files import ServedVersions, read_models_config, write_models_config
from satx.models.classifier import Classifier
from satx.registry import promotion, served
from satx.registry.candidate import fetch_version, golden_files, load_candidate
from satx.registry.evaluate import model_name
from satx.registry.gate import load_gate
from satx.registry.judged import GateFile, Verdict
from satx.registry.promotion import Judgement, promote
from satx.registry.records import registered_tasks
from satx.registry.rollback import rollback
from satx.registry.rules import Facts
from satx.registry.served import models_config
from satx.registry.transitions import Transition, complete_pending, is_in_progress, new_transition, user_at_host
from satx.registry.versions import (
    HISTORY_TAG,
    PENDING_TAG,
    aliases_of,
    export_folder,
    export_state,
    now_utc,
    promotion_lock,
    verified_export,
    versions_of,
)
from satx.storage import file_digest, is_held, locked, satx_home
from satx.testing.changed_environment import changed_environment
from satx.tiles.store import TileStore
from satx.tracking.client import MlflowClient, experiment_id
from satx.tracking.runs import start_run


def test_the_first_champion_is_registered_with_its_scores_and_its_run_is_tagged(
    client: MlflowClient, promoted: PromotedHome
) -> None:
    first = promoted.first
    assert (first.name, first.version, first.replaced, first.forced) == (NAME, 1, None, None)
    assert aliases_of(client, NAME) == {"champion": 1}
    assert first.judgement is not None
    auc = first.judgement.evaluation.after.interval("auc")
    run = client.get_run(first.candidate.run.info.run_id)
    assert run.data.tags["promoted"] == "1"
    assert run.data.metrics["test_auc"] == pytest.approx(auc.value)
    assert client.get_model_version(NAME, "1").tags["test_auc"] == str(auc)
    assert [verdict.rule for verdict in first.verdicts] == list(RULES)
    assert all(verdict.passed for verdict in first.verdicts)


def test_the_registered_model_and_its_version_are_described(client: MlflowClient, promoted: PromotedHome) -> None:
    first = promoted.first
    model = client.get_registered_model(NAME).description
    assert "school" in model and "not-school" in model and f"models:/{NAME}@champion" in model
    version, classifier = client.get_model_version(NAME, "1").description, first.candidate.classifier
    assert classifier.model.backbone in version and f"{classifier.image_size_px} px" in version
    assert client.get_model_version(NAME, "1").tags["test_auc"] in version
    assert "# school-sample, version 1" in version and "Verdict of the gate" in version
    assert f"/runs/{first.candidate.run.info.run_id}" in version


def test_a_description_that_a_user_wrote_stays_and_a_missing_one_is_added(
    client: MlflowClient,
    store: TileStore,
    classifiers: dict[str, Classifier],
    quick: None,
) -> None:
    for text in ("Ours.", ""):
        client.update_registered_model(NAME, text)
        promote(client, make_run(client, classifiers["right"], store), gate=GATE, force=None)
        assert (client.get_registered_model(NAME).description == text) == bool(text)


def test_the_model_card_is_an_artifact_of_the_run(client: MlflowClient, promoted: PromotedHome) -> None:
    run_id = promoted.first.candidate.run.info.run_id
    assert {item.path for item in client.list_artifacts(run_id, "card/1")} == {
        "card/1/model_card.md",
        "card/1/model_card.html",
    }
    (task,) = registered_tasks(client)
    assert task.champion is not None and Path(task.champion.card).name == "model_card.html"
    assert Path(task.champion.card).is_file()


def test_a_run_that_is_promoted_again_leaves_the_model_and_card_of_its_earlier_version(
    client: MlflowClient,
    store: TileStore,
    classifiers: dict[str, Classifier],
    promoted: PromotedHome,
    quick: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_id = promoted.first.candidate.run.info.run_id
    (task,) = registered_tasks(client)
    assert task.champion is not None
    card = Path(task.champion.card).read_bytes()
    earlier = fetch_version(client, client.get_model_version(NAME, "1"))
    promote(client, make_run(client, classifiers["right"], store), gate=GATE, force=None)

    assert promoted.first.judgement is not None
    other = replace(promoted.first.judgement.evaluation, temperature=3.0, threshold=0.875)
    monkeypatch.setattr(promotion, "evaluate", lambda *_: other)
    assert promote(client, run_id, gate=GATE, force=None).version == 3
    (task,) = registered_tasks(client)
    assert task.champion is not None and task.champion.export_state == "intact"
    assert "/card/3/" in task.champion.card
    models = [fetch_version(client, client.get_model_version(NAME, version)) for version in ("1", "3")]
    assert (models[0].temperature, models[0].threshold) == (earlier.temperature, earlier.threshold)
    assert (models[1].temperature, models[1].threshold) == (3.0, 0.875)
    assert (Path(task.champion.card).parents[1] / "1" / "model_card.html").read_bytes() == card
    own = load_candidate(client, run_id).classifier
    assert (own.temperature, own.threshold) == (1.0, 0.5)


def test_a_worse_challenger_is_refused_by_the_rules_own_words_and_leaves_nothing(
    client: MlflowClient, store: TileStore, classifiers: dict[str, Classifier]
) -> None:
    wrong = make_run(client, classifiers["wrong"], store)
    judged: list[Judgement] = []
    with pytest.raises(PromotionRefused) as error:
        promote(client, wrong, gate=GATE, force=None, on_judged=judged.append)
    (judgement,) = judged
    assert [verdict.rule for verdict in judgement.verdicts] == list(RULES)  # also those after the first that refuses
    refused = [verdict for verdict in judgement.verdicts if not verdict.passed]
    assert {"auc_not_worse", "accuracy_not_worse"} <= {verdict.rule for verdict in refused}
    for verdict in refused:
        assert verdict.rule in str(error.value) and verdict.seen in str(error.value)
    assert wrong in str(error.value) and "--force" in str(error.value)
    assert aliases_of(client, NAME) == {"champion": 1}
    assert len(versions_of(client, NAME)) == 1
    assert [path.name for path in export_folder(NAME, 1).parent.iterdir()] == ["1"]


@pytest.fixture
def refusing(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let two of three rules refuse every run."""
    verdicts = (
        Verdict("auc_floor", "", "not asked", passed=True),
        Verdict("export_size", "small", "large", passed=False),
        Verdict("latency_per_tile", "fast", "slow", passed=False),
    )
    monkeypatch.setattr(promotion, "judge", lambda *_: verdicts)


def test_the_tags_of_a_run_tell_who_tried_to_promote_it_when_and_which_rules_refused(
    client: MlflowClient, two_runs: list[str], refusing: None
) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    with pytest.raises(PromotionRefused) as error:
        promote(client, two_runs[0], gate=GATE, force=None)
    tags, others = (client.get_run(run_id).data.tags for run_id in two_runs)
    assert tags["refused_rules"] == "export_size, latency_per_tile"
    assert tags["refused_by"] == user_at_host()
    assert before <= datetime.fromisoformat(tags["refused_at"]) <= datetime.now(UTC)
    assert "not recorded" not in str(error.value)
    assert not [name for name in others if name.startswith("refused")] and len(versions_of(client, NAME)) == 1


@pytest.mark.parametrize(
    "problem", [mlflow.MlflowException("no answer"), OSError("no answer"), RuntimeError("no answer")]
)
def test_a_refusal_that_cannot_be_recorded_is_still_one_and_says_so(
    client: MlflowClient, two_runs: list[str], refusing: None, monkeypatch: pytest.MonkeyPatch, problem: Exception
) -> None:
    def log_batch(*_: Any, **__: Any) -> None:
        raise problem

    monkeypatch.setattr(MlflowClient, "log_batch", log_batch)
    with pytest.raises(
        PromotionRefused, match=r"(?s)export_size: expected small.*not recorded on the run: no answer\."
    ):
        promote(client, two_runs[0], gate=GATE, force=None)
    assert aliases_of(client, NAME) == {"champion": 1}


@pytest.mark.slow
def test_a_version_that_was_made_champion_in_mlflow_itself_gets_an_export_when_its_run_is_promoted(
    client: MlflowClient, two_runs: list[str]
) -> None:
    run_id = two_runs[0]
    client.create_model_version(NAME, f"runs:/{run_id}/model", run_id, await_creation_for=0)
    client.set_registered_model_alias(NAME, "champion", "2")
    done = promote(client, run_id, gate=GATE, force=None)
    assert (done.version, done.judgement, done.verdicts) == (2, None, ())
    registered = client.get_model_version(NAME, "2")
    assert export_state(registered) == "intact" and registered.tags["promoted_at"]
    assert done.export.manifest["temperature"] == 1  # nobody has calibrated it
    assert read_models_config(models_config())[NAME].labels == {"champion": 2}


def test_a_forced_promotion_records_reason_user_time_and_the_rules_that_refused(
    client: MlflowClient, store: TileStore, classifiers: dict[str, Classifier]
) -> None:
    forced = promote(client, make_run(client, classifiers["wrong"], store), gate=GATE, force=" The old one is gone. ")
    assert aliases_of(client, NAME) == {"champion": 2, "previous": 1}
    tags = client.get_model_version(NAME, "2").tags
    assert tags["forced"] == "true" and "auc_not_worse" in tags["refused_rules"]

    (task,) = registered_tasks(client)
    assert task.champion is not None and task.previous is not None
    assert (task.champion.version, task.champion.export_state, task.previous.version) == (2, "intact", 1)
    assert task.champion.forced == forced.forced and task.previous.forced is None
    assert forced.forced is not None and forced.forced.reason == "The old one is gone."
    assert "@" in forced.forced.by and forced.forced.at == tags["forced_at"]
    assert task.events[0].reason == "The old one is gone." and task.events[0].before == 1
    assert task.champion.verdicts == forced.verdicts and "auc_not_worse" in task.champion.refusal


@pytest.mark.parametrize("reason", ["", "  "])
def test_a_promotion_is_not_forced_without_a_reason(client: MlflowClient, reason: str) -> None:
    with pytest.raises(ConfigError, match="reason"):
        promote(client, "0" * 32, gate=GATE, force=reason)


def test_the_models_config_lists_champion_and_previous_with_the_label_on_the_champion(
    client: MlflowClient,
    store: TileStore,
    classifiers: dict[str, Classifier],
    promoted: PromotedHome,
    quick: None,
) -> None:
    served = read_models_config(promoted.folder / "exports" / "models.config")[NAME]
    assert (served.versions, dict(served.labels)) == ((1,), {"champion": 1})
    promote(client, make_run(client, classifiers["right"], store), gate=GATE, force=None)
    served = read_models_config(models_config())[NAME]
    assert served.base_path == export_folder(NAME, 1).parent
    assert (served.versions, dict(served.labels)) == ((1, 2), {"champion": 2})
    assert models_config().with_name("batching.conf").is_file()


def test_export_pyfunc_and_registry_have_the_same_temperature_and_threshold(
    client: MlflowClient, promoted: PromotedHome
) -> None:
    judgement = promoted.first.judgement
    assert judgement is not None
    evaluation, manifest = judgement.evaluation, promoted.first.export.manifest
    classifier = fetch_version(client, client.get_model_version(NAME, "1"))
    recorded = client.get_model_version(NAME, "1").tags
    assert evaluation.temperature != 1
    assert classifier.temperature == manifest["temperature"] == evaluation.temperature
    assert classifier.threshold == manifest["threshold"] == evaluation.threshold
    assert classifier.threshold_rule == manifest["threshold_rule"] == recorded["threshold_rule"] == "youden"
    assert float(recorded["temperature"]) == evaluation.temperature


@pytest.fixture
def two_runs(client: MlflowClient, store: TileStore, classifiers: dict[str, Classifier]) -> list[str]:
    """Return the ids of two runs of one classifier."""
    return [make_run(client, classifiers["right"], store) for _ in range(2)]


def test_another_promotion_that_moved_the_champion_meanwhile_is_not_overwritten(
    client: MlflowClient, two_runs: list[str], quick: None
) -> None:
    challenger, other = two_runs

    def elsewhere(judgement: Judgement) -> None:
        client.create_model_version(NAME, f"runs:/{other}/model", other, await_creation_for=0)
        client.set_registered_model_alias(NAME, "champion", "2")

    with pytest.raises(PromotionRefused, match="another promotion moved it"):
        promote(client, challenger, gate=GATE, force=None, on_judged=elsewhere)
    assert aliases_of(client, NAME)["champion"] == 2
    assert read_models_config(models_config())[NAME].versions == (1,)  # nothing above what serves
    assert PENDING_TAG not in client.get_registered_model(NAME).tags
    assert verify_export(export_folder(NAME, 3)).manifest["version"] == 3  # staged as 2, which was taken
    done = promote(client, challenger, gate=GATE, force=None)
    assert (done.version, aliases_of(client, NAME)) == (3, {"champion": 3, "previous": 2})


def test_a_version_that_a_stopped_promotion_of_another_run_left_is_not_continued(
    client: MlflowClient, two_runs: list[str], quick: None
) -> None:
    challenger, other = two_runs
    client.create_model_version(NAME, f"runs:/{other}/promoted/2/model", other, await_creation_for=0)
    assert promote(client, challenger, gate=GATE, force=None).version == 3
    assert client.get_model_version(NAME, "3").run_id == challenger
    assert aliases_of(client, NAME) == {"champion": 3, "previous": 1}
    assert promote(client, other, gate=GATE, force=None).version == 4  # 2 is no longer the newest


def test_a_version_registered_meanwhile_does_not_get_the_files_of_another(
    client: MlflowClient, two_runs: list[str], monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    challenger, other = two_runs
    create = MlflowClient.create_model_version
    sources: list[str] = []

    def created_later(self: MlflowClient, name: str, source: str, run_id: str, **options: Any) -> Any:
        if not sources:
            create(self, name, f"runs:/{other}/model", other, await_creation_for=0)
        sources.append(source)
        return create(self, name, source, run_id, **options)

    monkeypatch.setattr(MlflowClient, "create_model_version", created_later)
    done = promote(client, challenger, gate=GATE, force=None)
    registered = client.get_model_version(NAME, str(done.version))
    assert str(registered.source).endswith(f"promoted/{done.version}/model") and len(sources) == 2
    assert done.export.manifest["version"] == done.version and verified_export(registered)


@pytest.mark.parametrize("harm", ["tag", "alias"])
def test_two_machines_that_set_the_tag_at_the_same_time_do_not_both_go_on(
    client: MlflowClient,
    store: TileStore,
    classifiers: dict[str, Classifier],
    monkeypatch: pytest.MonkeyPatch,
    quick: None,
    harm: str,
) -> None:
    challenger, set_tag = make_run(client, classifiers["right"], store), MlflowClient.set_registered_model_tag
    other = Transition("promotion", 1, 1, "ann@elsewhere", now_utc(), "")

    def set_and_overwritten(self: MlflowClient, name: str, key: str, value: str) -> None:
        set_tag(self, name, key, value)
        if key == PENDING_TAG and harm == "tag":
            set_tag(self, name, key, json.dumps(asdict(other)))
        elif key == PENDING_TAG:
            self.create_model_version(NAME, f"runs:/{challenger}/model", challenger, await_creation_for=0)
            self.set_registered_model_alias(NAME, "champion", "3")

    monkeypatch.setattr(MlflowClient, "set_registered_model_tag", set_and_overwritten)
    with pytest.raises(PromotionRefused, match="ann@elsewhere" if harm == "tag" else "another promotion moved it"):
        promote(client, challenger, gate=GATE, force=None)
    assert aliases_of(client, NAME) == {"champion": 1 if harm == "tag" else 3}
    assert (PENDING_TAG in client.get_registered_model(NAME).tags) == (harm == "tag")  # that of the other machine stays
    assert read_models_config(models_config())[NAME].versions == (1,)


def test_a_recent_change_on_another_machine_is_waited_for_and_an_old_one_is_completed(
    client: MlflowClient, store: TileStore, classifiers: dict[str, Classifier], quick: None
) -> None:
    run_id = make_run(client, classifiers["right"], store)
    promote(client, run_id, gate=GATE, force=None)
    for minutes, is_refused in ((9, True), (11, False)):
        begun = (datetime.now(UTC) - timedelta(minutes=minutes)).isoformat(timespec="seconds")
        pending = Transition("rollback", 1, 2, "ann@elsewhere", begun, "")
        client.set_registered_model_tag(NAME, PENDING_TAG, json.dumps(asdict(pending)))
        if is_refused:
            with pytest.raises(PromotionRefused, match=f"ann@elsewhere at {re.escape(begun)}.*10 minutes"):
                promote(client, run_id, gate=GATE, force=None)
            assert aliases_of(client, NAME) == {"champion": 2, "previous": 1}
    done = promote(client, run_id, gate=GATE, force=None)
    assert done.completed == pending and done.version == 3
    assert aliases_of(client, NAME) == {"champion": 3, "previous": 1}


def test_a_change_that_another_machine_begins_meanwhile_is_not_overwritten(
    client: MlflowClient, two_runs: list[str], quick: None
) -> None:
    other = Transition("promotion", 1, 1, "ann@elsewhere", now_utc(), "")

    def elsewhere(judgement: Judgement) -> None:
        client.set_registered_model_tag(NAME, PENDING_TAG, json.dumps(asdict(other)))

    with pytest.raises(PromotionRefused, match="ann@elsewhere"):
        promote(client, two_runs[0], gate=GATE, force=None, on_judged=elsewhere)
    assert json.loads(client.get_registered_model(NAME).tags[PENDING_TAG]) == asdict(other)
    assert aliases_of(client, NAME) == {"champion": 1}


def test_servers_follow_another_machine_that_moved_the_champion_meanwhile(
    client: MlflowClient, two_runs: list[str], quick: None
) -> None:
    challenger, other = two_runs

    def elsewhere(judgement: Judgement) -> None:
        client.create_model_version(NAME, f"runs:/{other}/model", other, await_creation_for=0)
        shutil.copytree(export_folder(NAME, 1), export_folder(NAME, 2))
        client.set_registered_model_alias(NAME, "champion", "2")

    with pytest.raises(PromotionRefused, match="another promotion moved it"):
        promote(client, challenger, gate=GATE, force=None, on_judged=elsewhere)
    assert read_models_config(models_config())[NAME].labels == {"champion": 2}


def test_a_change_on_another_machine_is_in_progress_for_ten_minutes() -> None:
    for minutes, expected in ((9, True), (11, False)):
        begun = (datetime.now(UTC) - timedelta(minutes=minutes)).isoformat(timespec="seconds")
        assert is_in_progress(NAME, Transition("rollback", 1, 2, "ann@elsewhere", begun, "")) == expected


def test_a_stopped_change_is_dropped_if_the_champion_has_become_another_one_since(client: MlflowClient) -> None:
    history = client.get_registered_model(NAME).tags[HISTORY_TAG]
    pending = new_transition("promotion", 3, 2, "")
    client.set_registered_model_tag(NAME, PENDING_TAG, json.dumps(asdict(pending)))
    assert complete_pending(client, NAME) is None
    assert aliases_of(client, NAME) == {"champion": 1}
    tags = client.get_registered_model(NAME).tags
    assert PENDING_TAG not in tags and tags[HISTORY_TAG] == history


def test_a_change_that_was_stopped_after_its_last_alias_is_in_the_history_once(client: MlflowClient) -> None:
    history = client.get_registered_model(NAME).tags[HISTORY_TAG]
    (event,) = json.loads(history)
    client.set_registered_model_tag(NAME, PENDING_TAG, json.dumps(event))
    assert complete_pending(client, NAME) == Transition(**event)
    assert client.get_registered_model(NAME).tags[HISTORY_TAG] == history


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return what is written to change a champion from here on, in order; each write checks that it is under the lock."""
    done: list[str] = []

    def recorded(owner: Any, method: str, text: Any) -> None:
        write = getattr(owner, method)

        def call(*arguments: Any, **options: Any) -> Any:
            if line := text(*arguments):
                lock = promotion_lock(NAME)
                assert is_held(lock.with_name(f"{lock.name}.lock"))
                done.append(line)
            return write(*arguments, **options)

        monkeypatch.setattr(owner, method, call)

    def listed(_path: Path, models: dict[str, ServedVersions]) -> str:
        assert is_held(satx_home() / "locks" / "models-config.lock")
        return f"serve {models[NAME].versions}, champion {models[NAME].labels['champion']}"

    def dated(_client: MlflowClient, _name: str, version: str, key: str, _value: str) -> str:
        return f"version {version}: {key}" if key in ("promoted_at", "restored_at", "rolled_back_at") else ""

    recorded(MlflowClient, "update_model_version", lambda _client, _name, version, _text: f"describe version {version}")
    recorded(MlflowClient, "set_registered_model_tag", lambda _client, _name, key, _value: f"set {key}")
    recorded(MlflowClient, "delete_registered_model_tag", lambda _client, _name, key: f"delete {key}")
    recorded(MlflowClient, "set_registered_model_alias", lambda _client, _name, alias, to: f"{alias} {to}")
    recorded(MlflowClient, "set_model_version_tag", dated)
    recorded(served, "write_models_config", listed)
    return done


def test_promotions_and_rollbacks_write_in_an_order_that_can_be_stopped_anywhere(
    client: MlflowClient, two_runs: list[str], quick: None, writes: list[str]
) -> None:
    promote(client, two_runs[0], gate=GATE, force=None)
    assert writes == [
        "serve (1,), champion 1",  # what the registry says
        "describe version 2",
        f"set {PENDING_TAG}",
        "serve (1, 2), champion 1",  # a label may only move to a version that is loaded
        "previous 1",
        "champion 2",
        "serve (1, 2), champion 2",
        "version 2: promoted_at",
        f"set {HISTORY_TAG}",
        f"delete {PENDING_TAG}",
    ]
    writes.clear()
    rollback(client, task=None, reason="")
    assert writes == [
        "serve (1, 2), champion 2",
        f"set {PENDING_TAG}",
        "serve (1, 2), champion 2",
        "previous 2",
        "champion 1",
        "serve (1,), champion 1",
        "version 2: rolled_back_at",
        "version 1: restored_at",
        f"set {HISTORY_TAG}",
        f"delete {PENDING_TAG}",
    ]


def test_servers_do_not_go_back_to_the_old_champion_while_a_change_is_completed(
    client: MlflowClient, two_runs: list[str], quick: None, writes: list[str]
) -> None:
    promote(client, two_runs[0], gate=GATE, force=None)
    (*_, event) = json.loads(client.get_registered_model(NAME).tags[HISTORY_TAG])
    with locked(promotion_lock(NAME)):
        client.set_registered_model_tag(NAME, PENDING_TAG, json.dumps(event))
    writes.clear()
    assert promote(client, two_runs[0], gate=GATE, force=None).completed == Transition(**event)
    assert {line for line in writes if line.startswith("serve")} == {"serve (1, 2), champion 2"}


def stopped_promotion(client: MlflowClient, run_id: str) -> None:
    """Promote a run, and bring the registry back to where it was after the tag of the change was set."""
    promote(client, run_id, gate=GATE, force=None)
    client.delete_registered_model_alias(NAME, "previous")
    client.set_registered_model_alias(NAME, "champion", "1")
    pending = new_transition("promotion", 2, 1, "")
    client.set_registered_model_tag(NAME, PENDING_TAG, json.dumps(asdict(pending)))


def test_a_stopped_promotion_that_is_completed_is_told_and_named_in_a_refusal(
    client: MlflowClient,
    store: TileStore,
    classifiers: dict[str, Classifier],
    monkeypatch: pytest.MonkeyPatch,
    quick: None,
    gate_file: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    first, second = (make_run(client, classifiers["right"], store) for _ in range(2))
    stopped_promotion(client, first)
    promote_command(first, gate=gate_file, force=None, as_json=False)
    assert "Completed the stopped promotion to version 2." in in_one_line(capsys.readouterr().out)

    client.set_registered_model_alias(NAME, "champion", "1")
    pending = new_transition("promotion", 2, 1, "")
    client.set_registered_model_tag(NAME, PENDING_TAG, json.dumps(asdict(pending)))
    monkeypatch.setattr(promotion, "judge", lambda *_: (Verdict("export_size", "small", "large", passed=False),))
    with pytest.raises(PromotionRefused, match="promotion was completed first: version 2 is the champion"):
        promote(client, second, gate=GATE, force=None)
    with pytest.raises(PromotionRefused, match="Version 2 is still the champion"):
        promote(client, second, gate=GATE, force=None)


def test_the_models_config_is_repaired_even_if_a_promotion_is_refused(
    client: MlflowClient,
    store: TileStore,
    classifiers: dict[str, Classifier],
    monkeypatch: pytest.MonkeyPatch,
    quick: None,
) -> None:
    folder = export_folder(NAME, 1).parent
    shutil.copytree(folder / "1", folder / "2")
    write_models_config(models_config(), {NAME: ServedVersions(folder, (1, 2), {"champion": 1})})
    monkeypatch.setattr(promotion, "judge", lambda *_: (Verdict("export_size", "small", "large", passed=False),))
    with pytest.raises(PromotionRefused):
        promote(client, make_run(client, classifiers["right"], store), gate=GATE, force=None)
    assert read_models_config(models_config())[NAME].versions == (1,)


def test_other_models_stay_in_the_models_config(client: MlflowClient, two_runs: list[str], quick: None) -> None:
    clinic = ServedVersions(export_folder("clinic", 4).parent, (4,), {"champion": 4})
    write_models_config(models_config(), read_models_config(models_config()) | {"clinic": clinic})
    promote(client, two_runs[0], gate=GATE, force=None)
    found = read_models_config(models_config())
    assert found["clinic"] == clinic and found[NAME].labels == {"champion": 2}


def test_the_rules_are_asked_about_the_class_of_interest_and_the_staged_export(
    client: MlflowClient, two_runs: list[str], monkeypatch: pytest.MonkeyPatch, promoted: PromotedHome, quick: None
) -> None:
    asked: list[Facts] = []

    def judge(_gate: object, facts: Facts) -> tuple[Verdict, ...]:
        asked.append(facts)
        return promoted.first.verdicts

    monkeypatch.setattr(promotion, "judge", judge)
    monkeypatch.setattr(promotion, "size_gb", lambda folder: float(folder.name))
    promote(client, two_runs[0], gate=GATE, force=None)
    (facts,) = asked
    assert promoted.first.candidate.classifier.classes[facts.positive_index] == "school"
    assert (facts.export.manifest["version"], facts.export_gb, facts.latency_seconds) == (2, 2.0, 0.01)
    assert facts.champion is not None and facts.champion.version == 1


def test_the_file_of_the_gate_is_recorded_with_its_digest(
    client: MlflowClient, store: TileStore, classifiers: dict[str, Classifier], quick: None, gate_file: Path
) -> None:
    promote(client, make_run(client, classifiers["right"], store), gate=load_gate(gate_file), force=None)
    (task,) = registered_tasks(client)
    assert task.champion is not None and task.previous is not None
    assert task.champion.gate == GateFile(gate_file.name, file_digest(gate_file))
    assert task.previous.gate is None  # its gate was made in Python


def test_two_homes_with_one_registry_each_have_an_intact_export(
    client: MlflowClient, promoted: PromotedHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id, first = promoted.first.candidate.run.info.run_id, export_folder(NAME, 1)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", client.tracking_uri)
    with changed_environment(SATX_HOME=str(tmp_path / "other")):
        (task,) = registered_tasks(client)
        assert task.champion is not None and task.champion.export_state == "missing"
        promote(client, run_id, gate=GATE, force=None)
        other = export_folder(NAME, 1)
        (task,) = registered_tasks(client)
        assert task.champion is not None and task.champion.export_state == "intact"
        assert read_models_config(models_config())[NAME].versions == (1,)
    assert other != first and verify_export(other).digest != verify_export(first).digest
    (task,) = registered_tasks(client)
    assert task.champion is not None and task.champion.export_state == "intact"


@pytest.mark.parametrize("key", ["version", "run_id", "model_name", "weights_sha256", "temperature", "threshold"])
def test_an_export_that_the_registry_describes_otherwise_is_damaged(client: MlflowClient, key: str) -> None:
    folder, registered = export_folder(NAME, 1), client.get_model_version(NAME, "1")
    manifest = verify_export(folder).manifest
    about = {name: value for name, value in manifest.items() if name not in ("format", "files")}
    assert export_state(registered) == "intact"
    write_manifest(folder, about | {key: 0.123})
    assert export_state(registered) == "damaged"


def test_a_champion_of_an_older_trainer_is_shown_with_a_warning(
    client: MlflowClient, promoted: PromotedHome, gate_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_id = promoted.first.candidate.run.info.run_id
    (task,) = registered_tasks(client)
    assert task.champion is not None and task.champion.doubt == ""
    client.log_param(run_id, "model.unfreeze", "block14")
    (task,) = registered_tasks(client)
    assert task.champion is not None and "mobilenetv2 from block14" in task.champion.doubt
    show_command(as_json=False)
    assert "may have trained fewer layers" in " ".join(capsys.readouterr().out.replace("│", " ").split())
    promote_command(run_id, gate=gate_file, force=None, as_json=True)
    assert "fewer layers" in json.loads(capsys.readouterr().out)["doubts"][0]


def test_a_run_whose_recorded_digest_is_not_that_of_its_model_is_not_promoted(
    client: MlflowClient, classifiers: dict[str, Classifier], store: TileStore
) -> None:
    run_id = make_run(client, classifiers["right"], store)
    client.set_tag(run_id, "weights_sha256", "0" * 64)
    with pytest.raises(WeightsError, match="0" * 12):
        promote(client, run_id, gate=GATE, force="for a test")
    assert len(versions_of(client, NAME)) == 1


def test_promoting_the_champion_again_adds_the_date_that_it_lacks(client: MlflowClient, promoted: PromotedHome) -> None:
    client.delete_model_version_tag(NAME, "1", "promoted_at")
    promote(client, promoted.first.candidate.run.info.run_id, gate=GATE, force=None)
    assert client.get_model_version(NAME, "1").tags["promoted_at"]


def test_promoting_the_champion_again_only_repairs_its_export(client: MlflowClient, promoted: PromotedHome) -> None:
    run_id = promoted.first.candidate.run.info.run_id
    again = promote(client, run_id, gate=GATE, force=None)
    assert again.judgement is None and again.version == 1 and again.export.digest == promoted.first.export.digest
    assert len(versions_of(client, NAME)) == 1

    (again.export.folder / "saved_model.pb").write_bytes(b"")
    (task,) = registered_tasks(client)
    assert task.champion is not None and task.champion.export_state == "damaged"
    assert promote(client, run_id, gate=GATE, force=None).judgement is None
    (task,) = registered_tasks(client)
    assert task.champion is not None and task.champion.export_state == "intact"


@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred")  # by MLflow, of its own types
def test_the_champion_loads_as_an_mlflow_model_and_answers_as_its_export(
    client: MlflowClient,
    promoted: PromotedHome,
    store: TileStore,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("mlflow.tracking._tracking_service.utils._tracking_uri", client.tracking_uri)
    loaded = mlflow.pyfunc.load_model(f"models:/{NAME}@champion")
    signature = loaded.metadata.signature
    assert (signature.inputs.input_names(), signature.outputs.input_names()) == (
        ["image_bytes"],
        ["not-school", "school"],
    )
    files = golden_files(replace(store, report=replace(store.report, root=Path("gone"))))  # PNGs of the model's size
    answers = loaded.predict(pd.DataFrame({"image_bytes": files}))
    assert list(answers.columns) == ["not-school", "school"]
    assert np.abs(answers.to_numpy() - ServedModel(promoted.first.export.folder).predict(files)).max() < 1e-4
    folder = tmp_path / "tiles"
    folder.mkdir()
    for number, data in enumerate(files):
        (folder / f"{number}.jpg").write_bytes(data)
    monkeypatch.chdir(tmp_path)
    exec(
        code_below("Python", "python")[2]
        .replace("sqlite:///.satx/mlflow.db", client.tracking_uri)
        .replace("school@", f"{NAME}@"),
        {},
    )
    assert "tiles/0.jpg" in capsys.readouterr().out
    example = loaded.input_example
    assert len(example) == 1 and loaded.predict(example).shape == (1, 2)


@pytest.mark.slow
def test_tiles_in_formats_that_the_export_does_not_decode_are_named_and_do_not_stop_a_promotion(
    client: MlflowClient,
    classifiers: dict[str, Classifier],
    tiles: Path,
    tmp_path: Path,
    gate_file: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = shutil.copytree(tiles, tmp_path / "mixed")
    for number, path in enumerate(sorted((folder / "test").rglob("*.jpg"))[:7]):
        with Image.open(path) as image:
            image.load()
        image.save(path, *(("WEBP",) if number < 4 else ("TIFF",)))  # under the name of a JPEG
    run_id = make_run(client, classifiers["right"], open_tiles(folder, tmp_path / "cache"))
    promote_command(run_id, gate=gate_file, force=None, as_json=False)
    assert "3 TIFF, 4 WebP" in in_one_line(capsys.readouterr().out)
    version = client.get_model_version(NAME, "2")
    assert version.tags["not_served"] == "3 TIFF, 4 WebP" and "3 TIFF, 4 WebP" in version.description
    (task,) = registered_tasks(client)
    assert task.champion is not None
    assert (task.champion.version, task.champion.not_served) == (2, "3 TIFF, 4 WebP")
    assert verify_export(Path(task.champion.export_folder)).manifest["not_served"] == {"WebP": 4, "TIFF": 3}
    show_command(as_json=False)
    assert "not 3 TIFF, 4 WebP among the session's tiles" in in_one_line(capsys.readouterr().out)


def in_one_line(printed: str) -> str:
    """Return printed text without the borders of panels and tables."""
    return " ".join(printed.replace("│", " ").split())


def test_a_session_without_test_tiles_is_refused_without_force(
    client: MlflowClient, classifiers: dict[str, Classifier], tiles: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "untested"
    folder.mkdir()
    for name in ("train", "valid", "SATX_SAMPLE.json"):
        (folder / name).symlink_to(tiles / name)
    run_id = make_run(client, classifiers["right"], open_tiles(folder, tmp_path / "cache"))
    with pytest.raises(PromotionRefused, match=f"{run_id}.* test/"):
        promote(client, run_id, gate=GATE, force=None)
    forced = promote(client, run_id, gate=GATE, force="no test tiles")
    assert (forced.version, client.get_model_version(NAME, "2").tags["test_auc"]) == (2, "")


def test_a_sample_never_gets_the_name_of_a_real_task(
    store: TileStore, classifiers: dict[str, Classifier], tmp_path: Path
) -> None:
    sample = classifiers["right"]
    assert model_name(candidate_of(replace(sample, task="school"), store)) == NAME
    real = open_tiles(without_marker(store.report.root, tmp_path / "real"), tmp_path / "cache")
    posing = replace(sample, task="school", sample=False)
    assert model_name(candidate_of(posing, real)) == "school"
    for classifier, tiles in ((sample, real), (posing, store), (replace(posing, task=NAME), real)):
        with pytest.raises(PromotionRefused) as error:
            model_name(candidate_of(classifier, tiles))
        assert f"sample={classifier.sample}" in str(error.value) and repr(classifier.task) in str(error.value)


def test_runs_that_cannot_be_promoted_say_what_to_do(
    client: MlflowClient, store: TileStore, classifiers: dict[str, Classifier]
) -> None:
    right = classifiers["right"]
    killed = make_run(client, right, store, status="KILLED")
    unkept = make_run(client, right, store, keep=False)
    sweep = start_run(client, experiment_id(client, "tiny-sample"), name="sweep", tags={}, params={}, parent=None)
    plain = sweep.info.run_id
    client.set_terminated(plain)
    cases = {"0" * 32: "0" * 32, killed: "KILLED", unkept: f"`satx train --from-run {unkept}`", plain: "`satx sweep`"}
    for run_id, value in cases.items():
        with pytest.raises(ConfigError) as error:
            promote(client, run_id, gate=GATE, force="for a test")
        assert run_id in str(error.value) and value in str(error.value)


@pytest.mark.slow
def test_a_challenger_that_may_be_worse_only_by_chance_is_accepted(
    client: MlflowClient, store: TileStore, promoted: PromotedHome
) -> None:
    done = promote(client, make_run(client, worse_by_chance(store), store), gate=GATE, force=None)
    assert done.judgement is not None and promoted.first.judgement is not None
    scores = [judgement.evaluation.after for judgement in (done.judgement, promoted.first.judgement)]
    assert scores[0].interval("auc").value < scores[1].interval("auc").value
    assert (done.version, client.get_model_version(NAME, "2").tags["forced"]) == (2, "false")


def test_an_export_that_cannot_be_written_moves_no_alias_and_registers_nothing(
    client: MlflowClient, store: TileStore, classifiers: dict[str, Classifier]
) -> None:
    challenger = make_run(client, classifiers["right"], store)
    folder = export_folder(NAME, 1).parent
    shutil.rmtree(folder)
    folder.write_text("")
    with pytest.raises(FileExistsError):
        promote(client, challenger, gate=GATE, force=None)
    assert aliases_of(client, NAME) == {"champion": 1}
    assert len(versions_of(client, NAME)) == 1


@pytest.mark.slow
def test_promotion_export_and_history_need_no_optuna(
    client: MlflowClient, classifiers: dict[str, Classifier], store: TileStore
) -> None:
    run_id = make_run(client, classifiers["right"], store)
    program = (
        "import sys\nsys.modules['optuna'] = None\n"  # importing it raises ModuleNotFoundError
        "from satx.commands.promote import promote_command\nfrom satx.commands.show import show_command\n"
        f"promote_command({run_id!r}, gate=None, force='tiny tiles', as_json=True)\nshow_command(as_json=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    promoted, _, shown = done.stdout.partition("\n[")
    assert json.loads(promoted)["run_id"] == run_id
    assert json.loads(f"[{shown}")[0]["champion"]["run_id"] == run_id
    assert verify_export(Path(json.loads(promoted)["export"])).digest == json.loads(promoted)["export_digest"]
