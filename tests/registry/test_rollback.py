"""Tests of rollback: champion and previous swap, servers follow, and what is recorded."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest

from registry.small_runs import GATE, NAME, make_run
from satx.commands.rollback import rollback_command
from satx.commands.show import show_command
from satx.errors import ConfigError, PromotionRefused
from satx.inference.serving_files import read_models_config
from satx.models.classifier import Classifier
from satx.registry.candidate import fetch_version
from satx.registry.promotion import promote
from satx.registry.records import registered_tasks
from satx.registry.rollback import rollback
from satx.registry.served import models_config
from satx.registry.transitions import MAX_HISTORY_CHARACTERS, MAX_REASON_CHARACTERS, new_transition
from satx.registry.versions import (
    HISTORY_TAG,
    PENDING_TAG,
    aliases_of,
    export_folder,
    export_state,
    promotion_lock,
)
from satx.storage import locked
from satx.tiles.store import TileStore
from satx.tracking.client import MlflowClient


@pytest.fixture
def second(client: MlflowClient, store: TileStore, classifiers: dict[str, Classifier], quick: None) -> str:
    """Promote a second run; return its id."""
    run_id = make_run(client, classifiers["right"], store)
    promote(client, run_id, gate=GATE, force=None)
    return run_id


def labels() -> tuple[tuple[int, ...], dict[str, int]]:
    served = read_models_config(models_config())[NAME]
    return served.versions, dict(served.labels)


def test_a_rollback_swaps_champion_and_previous_and_a_second_one_swaps_them_back(
    client: MlflowClient, second: str, capsys: pytest.CaptureFixture[str]
) -> None:
    done = rollback(client, task=None, reason="misses clinics")
    assert (done.name, done.transition.champion, done.transition.before) == (NAME, 1, 2)
    assert aliases_of(client, NAME) == {"champion": 1, "previous": 2}
    assert labels() == ((1,), {"champion": 1})  # the highest number is what a request without a version gets

    (task,) = registered_tasks(client)
    newest = task.events[0]
    assert (newest.kind, newest.champion, newest.reason) == ("rollback", 1, "misses clinics")
    assert client.get_model_version(NAME, "2").tags["rolled_back_reason"] == "misses clinics"
    assert "@" in client.get_model_version(NAME, "2").tags["rolled_back_by"]
    assert client.get_model_version(NAME, "1").tags["restored_at"] == task.events[0].at
    show_command(as_json=False)
    assert "misses clinics" in capsys.readouterr().out
    assert [record.rolled_back_at != "" for record in task.history] == [True, False]

    rollback(client, task=NAME, reason="")
    assert aliases_of(client, NAME) == {"champion": 2, "previous": 1}
    assert labels() == ((1, 2), {"champion": 2})


def test_the_command_prints_json(client: MlflowClient, second: str, capsys: pytest.CaptureFixture[str]) -> None:
    rollback_command(task=None, reason="", as_json=True)
    printed = json.loads(capsys.readouterr().out)
    assert (printed["task"], printed["champion"], printed["before"]) == (NAME, 1, 2)
    assert printed["export"] == str(export_folder(NAME, 1))


@pytest.mark.parametrize("harm", ["removed", "changed"])
def test_a_damaged_export_is_written_again_before_it_serves(client: MlflowClient, second: str, harm: str) -> None:
    if harm == "removed":
        shutil.rmtree(export_folder(NAME, 1))
    else:
        (export_folder(NAME, 1) / "saved_model.pb").write_bytes(b"")
    done = rollback(client, task=None, reason="")
    assert (aliases_of(client, NAME), labels()) == ({"champion": 1, "previous": 2}, ((1,), {"champion": 1}))
    assert export_state(client.get_model_version(NAME, "1")) == "intact"
    classifier = fetch_version(client, client.get_model_version(NAME, "1"))
    assert done.export.manifest["temperature"] == classifier.temperature != 1


def test_a_damaged_export_whose_model_is_gone_does_not_become_champion_again(client: MlflowClient, second: str) -> None:
    registered = client.get_model_version(NAME, "1")
    shutil.rmtree(export_folder(NAME, 1))
    artifacts = str(client.get_run(str(registered.run_id)).info.artifact_uri).removeprefix("file://")
    shutil.rmtree(f"{artifacts}/promoted/1/model")
    with pytest.raises(PromotionRefused, match="The champion is version 2"):
        rollback(client, task=None, reason="")
    assert aliases_of(client, NAME) == {"champion": 2, "previous": 1}
    assert labels() == ((2,), {"champion": 2})  # version 1 has no export that a server could load


def test_a_stopped_promotion_is_completed_and_not_rolled_back_at_once(client: MlflowClient, second: str) -> None:
    client.delete_registered_model_alias(NAME, "previous")
    client.set_registered_model_alias(NAME, "champion", "1")
    pending = new_transition("promotion", 2, 1, "")
    client.set_registered_model_tag(NAME, PENDING_TAG, json.dumps(asdict(pending)))
    with pytest.raises(
        PromotionRefused, match=r"version 2 is the champion.*go back to version 1, repeat `satx rollback`"
    ):
        rollback(client, task=None, reason="")
    assert aliases_of(client, NAME) == {"champion": 2, "previous": 1}
    assert rollback(client, task=None, reason="").transition.champion == 1


def test_a_stopped_rollback_that_is_completed_is_told(
    client: MlflowClient, second: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pending = new_transition("rollback", 1, 2, "misses clinics")
    client.set_registered_model_tag(NAME, PENDING_TAG, json.dumps(asdict(pending)))
    with locked(promotion_lock(NAME)):
        show_command(as_json=False)
    shown = " ".join(capsys.readouterr().out.split())
    assert "rollback to version 1" in shown and "in progress" in shown and "was stopped" not in shown
    show_command(as_json=False)
    assert "was stopped" in " ".join(capsys.readouterr().out.split())
    rollback_command(task=None, reason="", as_json=False)
    assert "Completed the stopped rollback to version 1." in " ".join(capsys.readouterr().out.split())
    assert aliases_of(client, NAME) == {"champion": 1, "previous": 2}


def test_a_stopped_rollback_to_an_export_that_was_damaged_since_writes_it_again(
    client: MlflowClient, second: str
) -> None:
    pending = new_transition("rollback", 1, 2, "")
    client.set_registered_model_tag(NAME, PENDING_TAG, json.dumps(asdict(pending)))
    (export_folder(NAME, 1) / "saved_model.pb").write_bytes(b"")
    done = rollback(client, task=None, reason="")
    assert done.completed and done.export.manifest["version"] == 1
    assert export_state(client.get_model_version(NAME, "1")) == "intact"


def test_only_a_version_that_was_not_restored_since_is_shown_as_rolled_back(
    client: MlflowClient, second: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rollback(client, task=None, reason="")
    show_command(as_json=False)
    assert "rolled" in capsys.readouterr().out
    rollback(client, task=None, reason="")
    client.set_model_version_tag(NAME, "1", "restored_at", "2026-01-01T00:00:00+00:00")
    client.set_model_version_tag(NAME, "1", "rolled_back_at", "2026-01-02T00:00:00+00:00")
    client.set_model_version_tag(NAME, "1", "promoted_at", "2026-01-03T00:00:00+00:00")
    show_command(as_json=False)
    assert "rolled" not in capsys.readouterr().out


def test_there_is_nothing_to_go_back_to_from_the_first_champion(client: MlflowClient) -> None:
    with pytest.raises(ConfigError, match="only version 1"):
        rollback(client, task=None, reason="")
    assert aliases_of(client, NAME) == {"champion": 1}


def test_a_previous_version_that_is_the_champion_is_none_to_go_back_to(client: MlflowClient) -> None:
    client.set_registered_model_alias(NAME, "previous", "1")
    with pytest.raises(ConfigError, match="only version 1"):
        rollback(client, task=None, reason="")
    assert PENDING_TAG not in client.get_registered_model(NAME).tags


def test_a_task_that_does_not_exist_is_named_with_the_nearest_one(client: MlflowClient) -> None:
    with pytest.raises(ConfigError, match=f"'school-samples'. Did you mean '{NAME}'"):
        rollback(client, task="school-samples", reason="")


def test_the_task_must_be_named_if_there_are_several(client: MlflowClient) -> None:
    client.create_registered_model("clinic", tags={"satx.task": "clinic"})
    with pytest.raises(ConfigError, match=f"clinic, {NAME}"):
        rollback(client, task=None, reason="")


def test_without_any_champion_the_message_says_how_to_get_one(
    client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.delete_registered_model(NAME)
    with pytest.raises(ConfigError, match="satx promote"):
        rollback(client, task=None, reason="")


def test_the_history_keeps_the_newest_events_within_the_limit_of_a_tag(client: MlflowClient, second: str) -> None:
    for number in range(20):
        rollback(client, task=None, reason=f"{number:03} " + "x" * 400)
    text = client.get_registered_model(NAME).tags[HISTORY_TAG]
    assert len(text) <= MAX_HISTORY_CHARACTERS
    assert json.loads(text)[-1]["reason"].startswith("019") and len(json.loads(text)) > 5


def test_a_reason_of_any_length_is_recorded_with_its_beginning(client: MlflowClient, second: str) -> None:
    rollback(client, task=None, reason="misses clinics " * 1000)
    (event, *_) = registered_tasks(client)[0].events
    assert event.kind == "rollback"
    assert event.reason == ("misses clinics " * 1000)[:MAX_REASON_CHARACTERS]


def test_servers_follow_a_stopped_rollback_whose_export_is_missing_here(
    client: MlflowClient, store: TileStore, classifiers: dict[str, Classifier], quick: None
) -> None:
    promote(client, make_run(client, classifiers["right"], store), gate=GATE, force=None)
    pending = new_transition("rollback", 1, 2, "")
    client.set_registered_model_tag(NAME, PENDING_TAG, json.dumps(asdict(pending)))
    shutil.rmtree(export_folder(NAME, 1))
    assert rollback(client, task=None, reason="").completed
    assert aliases_of(client, NAME) == {"champion": 1, "previous": 2}
    assert export_state(client.get_model_version(NAME, "1")) == "intact"
    assert read_models_config(models_config())[NAME].labels == {"champion": 1}


def test_a_stopped_change_to_a_version_that_was_deleted_is_told_and_dropped(
    client: MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    pending = new_transition("promotion", 9, 1, "")
    client.set_registered_model_tag(NAME, PENDING_TAG, json.dumps(asdict(pending)))
    show_command(as_json=False)
    assert "that version was deleted since" in " ".join(capsys.readouterr().out.replace("│", " ").split())
    with pytest.raises(ConfigError):
        rollback(client, task=None, reason="")  # there is no previous version
    assert PENDING_TAG not in client.get_registered_model(NAME).tags
