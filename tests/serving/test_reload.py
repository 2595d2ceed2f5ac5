"""Tests of the replacement of versions: what answers meanwhile, and what remains in memory."""

import asyncio
import gc
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from satx.inference.manifest import write_manifest
from satx.serving import models as models_module
from satx.serving.contract import ServingError
from satx.serving.loaded import LoadedExport
from serving.loaded_models import answer, models_of, states
from serving.small_exports import served, write_numbers


@pytest.fixture(scope="session")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base_path = tmp_path_factory.mktemp("exports") / "numbers"
    for version in (1, 2):
        write_numbers(base_path, version)
    return base_path


def test_a_version_that_cannot_be_loaded_leaves_the_old_one_serving_and_says_why(numbers: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        base_path = tmp_path / "numbers"
        write_numbers(base_path, 1)
        broken = write_numbers(base_path, 2)
        (broken / "saved_model.pb").write_bytes(b"broken")
        await models.update(served(base_path, 1, champion=1))
        await models.update(served(base_path, 2, champion=2))
        assert await answer(models, 1.0) == await answer(models, 1.0, label="champion") == 1.0
        assert states(models) == {1: "AVAILABLE", 2: "END"}
        failed = models.statuses("numbers", version=2)[0]
        assert failed.error_code == "INVALID_ARGUMENT" and "changed: saved_model.pb" in failed.error_message
        assert any("version 2 is not served" in line and "Still served: 1" in line for line in lines)
        tries = len(lines)
        await models.update(served(base_path, 2, champion=2))
        assert len(lines) == tries  # not tried again
        write_numbers(base_path, 2)
        await models.update(served(base_path, 2, champion=2))
        assert await answer(models, 1.0) == 2.0
        assert states(models) == {2: "AVAILABLE"}

    lines: list[str] = []
    with models_of(lines) as models:
        asyncio.run(scenario())


def test_an_export_that_is_served_while_it_is_copied_is_loaded_once_it_is_complete(
    numbers: Path, tmp_path: Path
) -> None:
    async def scenario() -> None:
        await models.update(served(base_path, 1))
        assert states(models) == {1: "END"}
        shutil.copytree(numbers / "1" / "variables", folder / "variables", dirs_exist_ok=True)
        await models.update(served(base_path, 1))
        assert states(models) == {1: "AVAILABLE"}

    base_path = tmp_path / "numbers"
    folder = base_path / "1"
    shutil.copytree(numbers / "1", folder)
    for path in (folder / "variables").iterdir():
        path.write_bytes(b"")
    with models_of() as models:
        asyncio.run(scenario())


def test_an_export_that_could_not_be_loaded_is_tried_again_after_a_while_and_reported_once(
    numbers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails_three_times(folder: Path) -> LoadedExport:
        if len(tries) < 3:
            tries.append(folder)
            raise MemoryError("no memory" if len(tries) < 3 else "no disk")
        return LoadedExport(folder)

    async def scenario() -> None:
        for _ in range(3):
            await models.update(served(numbers, 1))
        assert len(tries) == 1
        monkeypatch.setattr(models_module, "RETRY_SECONDS", 0.0)
        for _ in range(3):
            await models.update(served(numbers, 1))
        assert states(models) == {1: "AVAILABLE"}

    tries: list[Path] = []
    monkeypatch.setattr(models_module, "LoadedExport", fails_three_times)
    lines: list[str] = []
    with models_of(lines) as models:
        asyncio.run(scenario())
    assert lines == [
        "Loading numbers version 1 …",
        "numbers version 1 is not served: no memory",
        "numbers version 1 is not served: no disk",
        "Serving numbers version 1.",
    ]


def test_a_missing_export_is_reported_and_forgotten_when_it_is_no_longer_wanted(numbers: Path) -> None:
    async def scenario() -> None:
        await models.update(served(numbers, 1, 99))
        assert models.statuses("numbers", version=99)[0].error_code == "NOT_FOUND"
        assert models.problems() and not models.is_empty()
        await models.update(served(numbers, 1))
        assert states(models) == {1: "AVAILABLE"} and not models.problems()

    with models_of() as models:
        asyncio.run(scenario())


def test_a_graph_that_tensorflow_cannot_load_is_a_problem_of_that_version_only(tmp_path: Path) -> None:
    base_path = tmp_path / "numbers"
    broken = write_numbers(base_path, 1)
    (broken / "saved_model.pb").write_bytes(b"broken")
    write_manifest(broken, {"model_name": "numbers", "version": 1})
    with models_of() as models:
        asyncio.run(models.update(served(base_path, 1)))
        (problem,) = models.problems()
        assert "expected a SavedModel that TensorFlow" in problem and models.is_empty()


def test_a_version_that_was_replaced_still_answers_the_requests_that_found_it_and_is_then_unloaded(
    numbers: Path,
) -> None:
    async def scenario() -> None:
        await models.update(served(numbers, 1, champion=1))
        old = models.find("numbers")
        await models.update(served(numbers, 2, champion=2))
        assert states(models) == {1: "UNLOADING", 2: "AVAILABLE"}
        assert await answer(models, 1.0) == 2.0
        outputs = await models.predict(old, "serving_default", {"x": np.ones(1, np.float32)})
        assert outputs["y"].tolist() == [1.0]
        del old
        gc.collect()
        assert states(models) == {2: "AVAILABLE"}

    with models_of() as models:
        asyncio.run(scenario())


def test_a_version_whose_last_request_failed_is_unloaded_without_waiting_for_the_garbage_collector(
    numbers: Path,
) -> None:
    async def refused(x: float) -> None:
        try:
            await answer(models, x)
        except ServingError as error:
            assert error.status == 400
        else:
            pytest.fail("expected an error")

    async def scenario() -> None:
        await models.update(served(numbers, 1, champion=1))
        (thread,) = (found for found in set(threading.enumerate()) - before if found.name == "satx-batches")
        await refused(-1.0)
        await models.update(served(numbers, 2, champion=2))
        await asyncio.to_thread(thread.join, 60)
        assert not thread.is_alive()
        assert states(models) == {2: "AVAILABLE"}

    before = set(threading.enumerate())
    gc.collect()
    gc.disable()
    try:
        with models_of() as models:
            asyncio.run(scenario())
    finally:
        gc.enable()


def test_twenty_replacements_under_load_fail_no_request_and_leave_one_thread(numbers: Path) -> None:
    async def scenario() -> None:
        async def ask() -> None:
            while not over.is_set():
                found = await answer(models, 1.0)
                assert found in (1.0, 2.0)
                answers.append(found)

        await models.update(served(numbers, 1, champion=1))
        over = asyncio.Event()
        clients = [asyncio.create_task(ask()) for _ in range(8)]
        for number in range(20):
            version = 2 - number % 2
            await models.update(served(numbers, 1, 2, champion=3 - version))
            await models.update(served(numbers, version, champion=version))
        over.set()
        await asyncio.gather(*clients)

    answers: list[float] = []
    before = set(threading.enumerate())
    with models_of() as models:
        asyncio.run(scenario())
        assert set(answers) == {1.0, 2.0}
        gc.collect()
        assert states(models) == {1: "AVAILABLE"}
        started = [thread for thread in threading.enumerate() if thread not in before and thread.name == "satx-batches"]
        for thread in started[:-1]:
            thread.join(60)
        assert [thread.is_alive() for thread in started[-1:]] == [True]
        assert not any(thread.is_alive() for thread in started[:-1])


def test_a_model_that_is_no_longer_wanted_is_unloaded(numbers: Path) -> None:
    async def scenario() -> None:
        await models.update(served(numbers, 1, champion=1))
        await models.update({})
        assert models.is_empty() and models.available() == {}
        with pytest.raises(ServingError, match="Unrecognized servable version label: champion"):
            models.find("numbers", label="champion")
        with pytest.raises(ServingError, match="Servable not found for request: Latest"):
            models.find("numbers")

    with models_of() as models:
        asyncio.run(scenario())
