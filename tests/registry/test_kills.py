"""Promotions and rollbacks killed before each of their writes: the champion serves on, and the same command completes them."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from registry.small_runs import GATE, NAME, make_run
from satx.commands.show import show_command
from satx.inference.manifest import verify_export
from satx.inference.serving_files import read_models_config
from satx.models.classifier import Classifier
from satx.registry import mlflow_model, registration
from satx.registry.promotion import promote
from satx.registry.records import TaskRecord, registered_tasks
from satx.registry.rollback import rollback
from satx.registry.served import models_config
from satx.registry.versions import aliases_of, export_folder, versions_of
from satx.tiles.store import TileStore
from satx.tracking.client import MlflowClient, open_tracker

pytestmark = [
    pytest.mark.faults,
    pytest.mark.slow,
    # The killed process is a fork, since it must not load Keras again for each write. It uses only files and MLflow.
    pytest.mark.filterwarnings("ignore:os.fork"),
]

WRITES: list[tuple[Any, str]] = [
    *(
        (MlflowClient, name)
        for name in (
            "create_registered_model",
            "create_model_version",
            "update_model_version",
            "set_model_version_tag",
            "set_registered_model_tag",
            "delete_registered_model_tag",
            "set_registered_model_alias",
            "set_tag",
        )
    ),
    (Path, "replace"),
    (mlflow_model, "log_files"),
    (registration, "log_files"),
]


def killed_before(number: int, command: Callable[[], object]) -> bool:
    """Run a command in a fork that is killed before its write of this number; return False if there was none.

    Writes of the same kind that follow each other count as one, except those of aliases.
    """
    process = os.fork()
    if not process:
        seen: list[str] = []

        def counted(name: str, write: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **options: Any) -> Any:
                if name == "set_registered_model_alias" or not seen or seen[-1] != name:
                    seen.append(name)
                    if len(seen) > number:
                        os.kill(os.getpid(), signal.SIGKILL)
                return write(*arguments, **options)

            return call

        for owner, name in WRITES:
            setattr(owner, name, counted(name, getattr(owner, name)))
        try:
            command()
        finally:
            os._exit(0)
    _, status = os.waitpid(process, 0)
    return os.WIFSIGNALED(status)


def copied_home(source: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a copy of a home the present one; the copy's `mlflow.db` is adapted when it is first opened."""
    shutil.copytree(source, target)
    monkeypatch.setenv("SATX_HOME", str(target))


def check_that_the_champion_serves(capsys: pytest.CaptureFixture[str]) -> TaskRecord:
    """Check what `satx show` and the servers' file say after a kill."""
    (task,) = registered_tasks(open_tracker())
    assert task.champion is not None and task.champion.export_state == "intact"
    served = read_models_config(models_config())[NAME]
    for version in served.versions:
        verify_export(export_folder(NAME, version))
    if task.pending is None:
        assert task.served in (None, task.champion.version)
        assert max(served.versions) <= task.champion.version  # what a request without a label gets
    show_command(as_json=False)
    assert ("was stopped" in " ".join(capsys.readouterr().out.split())) == (task.pending is not None)
    return task


def test_a_promotion_killed_before_any_write_is_completed_by_the_same_command(
    client: MlflowClient,
    classifiers: dict[str, Classifier],
    store: TileStore,
    quick: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_id = make_run(client, classifiers["right"], store)
    champions = []
    for number in range(100):
        copied_home(tmp_path / "home", tmp_path / f"promotion-{number}", monkeypatch)
        killed = killed_before(number, lambda: promote(open_tracker(), run_id, gate=GATE, force=None))
        task = check_that_the_champion_serves(capsys)
        champions.append(task.champion.version if task.champion else None)
        again = open_tracker()
        done = promote(again, run_id, gate=GATE, force=None)
        assert (done.version, aliases_of(again, NAME)) == (2, {"champion": 2, "previous": 1}), number
        assert len(versions_of(again, NAME)) == 2, number
        (task,) = registered_tasks(again)
        assert [(event.champion, event.before) for event in task.events] == [(2, 1), (1, None)], number
        assert (task.pending, task.served) == (None, 2), number
        assert task.champion is not None and task.champion.promoted_at, number
        assert task.champion.export_state == "intact", number
        if not killed:
            break
    assert not killed and number > 10
    assert champions == sorted(champions) and set(champions) == {1, 2}


def test_a_rollback_killed_before_any_write_is_completed_and_not_done_twice(
    client: MlflowClient,
    classifiers: dict[str, Classifier],
    store: TileStore,
    quick: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    promote(client, make_run(client, classifiers["right"], store), gate=GATE, force=None)
    for number in range(100):
        copied_home(tmp_path / "home", tmp_path / f"rollback-{number}", monkeypatch)
        killed = killed_before(number, lambda: rollback(open_tracker(), task=None, reason="by test"))
        check_that_the_champion_serves(capsys)
        again = open_tracker()
        if killed:
            rollback(again, task=None, reason="by test")
        assert aliases_of(again, NAME) == {"champion": 1, "previous": 2}, number
        (task,) = registered_tasks(again)
        assert [event.kind for event in task.events] == ["rollback", "promotion", "promotion"], number
        assert (task.pending, task.served) == (None, 1), number
        if not killed:
            break
    assert not killed and number > 5
