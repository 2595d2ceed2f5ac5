"""Tests of the models of a server, with real exports: which version answers, and what it answers."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

from satx.serving.batcher import Limits
from satx.serving.contract import ServingError, VersionStatus
from satx.serving.loaded import LoadedExport
from satx.serving.metrics import Metrics
from satx.serving.models import ServedModels
from serving.loaded_models import answer, models_of
from serving.small_exports import coloured, files_of, served, write_colours, write_numbers


@pytest.fixture(scope="session")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base_path = tmp_path_factory.mktemp("exports") / "numbers"
    for version in (1, 2, 3):
        write_numbers(base_path, version)
    return base_path


@pytest.fixture(scope="session")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base_path = tmp_path_factory.mktemp("exports") / "colours"
    write_colours(base_path, 7)
    return base_path


def error_of(models: ServedModels, model: str, *, version: int | None = None, label: str | None = None) -> ServingError:
    with pytest.raises(ServingError) as raised:
        models.find(model, version=version, label=label)
    return raised.value


def test_requests_reach_the_version_label_or_default_that_they_ask_for(numbers: Path) -> None:
    async def scenario() -> None:
        await models.update(served(numbers, 1, 2, 3, champion=2, previous=1))
        assert await answer(models, 1.0) == 2.0  # the champion, not the highest number
        assert await answer(models, 1.0, version=3) == 3.0
        assert await answer(models, 1.0, label="previous") == 1.0
        await models.update(served(numbers, 1, 2, 3))
        assert await answer(models, 1.0) == 3.0  # no champion: the highest
        assert models.available() == {"numbers": [3, 2, 1]}
        assert error_of(models, "numbers", label="previous").message == "Unrecognized servable version label: previous"

    with models_of() as models:
        asyncio.run(scenario())


def test_unknown_models_versions_and_labels_are_refused_in_the_words_of_tensorflow_serving(numbers: Path) -> None:
    with models_of() as models:
        asyncio.run(models.update(served(numbers, 1)))
        for error, status, message in (
            (error_of(models, "half"), 404, "Servable not found for request: Latest(half)"),
            (error_of(models, "numbers", version=99), 404, "Servable not found for request: Specific(numbers, 99)"),
            (error_of(models, "numbers", label="x"), 400, "Unrecognized servable version label: x"),
        ):
            assert (error.status, error.message) == (status, message)
        with pytest.raises(ServingError, match="Could not find any versions of model half"):
            models.statuses("half")
        with pytest.raises(ServingError, match="Could not find version 9 of model numbers"):
            models.statuses("numbers", version=9)
        assert models.statuses("numbers", version=1) == [VersionStatus(1, "AVAILABLE")]


def test_image_files_of_any_format_are_decoded_outside_the_graph(colours: Path) -> None:
    async def scenario() -> None:
        await models.update(served(colours, 7))
        servable = models.find("colours")
        files = files_of(coloured(0), coloured(51, "WEBP"), coloured(255, "TIFF", size_px=20))
        outputs = await models.predict(servable, "serving_default", files)
        assert list(outputs) == ["probabilities"] and outputs["probabilities"].dtype == np.float32
        assert np.allclose(outputs["probabilities"][:, 1], [0.0, 0.2, 1.0], atol=0.01)
        tiles = np.full((1, 8, 8, 3), 102, np.uint8)
        direct = await models.predict(servable, "images", {"images": tiles})
        assert np.allclose(direct["probabilities"], [[0.6, 0.4]])

    with models_of() as models:
        asyncio.run(scenario())


def test_explain_says_the_classes_the_threshold_and_the_version(colours: Path) -> None:
    async def scenario() -> None:
        await models.update(served(colours, 7))
        outputs = await models.predict(models.find("colours"), "explain", files_of(coloured(255), coloured(0)))
        assert outputs["class_names"].tolist() == [[b"not-school", b"school"]] * 2
        assert outputs["probabilities"].tolist() == [[0.0, 1.0], [1.0, 0.0]]
        assert outputs["threshold"].tolist() == [0.25] * 2 and outputs["threshold"].dtype == np.float32
        assert outputs["version"].tolist() == [7] * 2 and outputs["version"].dtype == np.int64

    with models_of() as models:
        asyncio.run(scenario())


def test_of_ten_concurrent_requests_one_has_a_bad_image_and_the_nine_others_are_answered(colours: Path) -> None:
    async def scenario() -> None:
        await models.update(served(colours, 7))
        servable = models.find("colours")
        files = [coloured(255)] * 4 + [coloured(255)[:50]] + [coloured(255)] * 5
        answers = await asyncio.gather(
            *(models.predict(servable, "serving_default", files_of(data)) for data in files), return_exceptions=True
        )
        errors = [found for found in answers if isinstance(found, BaseException)]
        assert len(errors) == 1 and isinstance(errors[0], ServingError) and errors[0].status == 400
        assert servable.batcher.waiting_rows == 0

    with models_of() as models:
        asyncio.run(scenario())


def test_inputs_of_another_shape_are_refused(colours: Path) -> None:
    async def scenario() -> None:
        await models.update(served(colours, 7))
        servable = models.find("colours")
        with pytest.raises(
            ServingError, match=r"Input images: expected shape \[-1, 8, 8, 3\], got \[1, 4, 4, 3\]"
        ) as raised:
            await models.predict(servable, "images", {"images": np.zeros((1, 4, 4, 3), np.uint8)})
        assert raised.value.status == 400
        with pytest.raises(ServingError, match="Input image_bytes: expected shape"):
            await models.predict(servable, "serving_default", {"image_bytes": np.full((1, 1), b"", dtype=object)})

    with models_of() as models:
        asyncio.run(scenario())


def test_a_value_that_the_graph_refuses_fails_its_own_request_only(numbers: Path) -> None:
    async def scenario() -> None:
        await models.update(served(numbers, 1))
        answers = await asyncio.gather(*(answer(models, x) for x in (1.0, -1.0, 2.0)), return_exceptions=True)
        assert [answers[0], answers[2]] == [1.0, 2.0]
        assert isinstance(answers[1], ServingError) and answers[1].status == 400
        assert "negative number" in answers[1].message

    with models_of() as models:
        asyncio.run(scenario())


def test_a_signature_without_rows_is_computed_for_each_request_alone(numbers: Path) -> None:
    async def scenario() -> None:
        await models.update(served(numbers, 1))
        servable = models.find("numbers")
        totals = await asyncio.gather(
            *(models.predict(servable, "total", {"x": np.full(2, x, np.float32)}) for x in (1.0, 2.0))
        )
        assert [float(found["total"]) for found in totals] == [2.0, 4.0]
        assert all(found["total"].shape == () for found in totals)

    with models_of() as models:
        asyncio.run(scenario())


def test_an_answer_that_takes_too_long_is_refused(colours: Path) -> None:
    async def scenario() -> None:
        await models.update(served(colours, 7))
        with pytest.raises(ServingError) as raised:
            await models.predict(models.find("colours"), "serving_default", files_of(coloured(0)))
        assert raised.value.status == 504 and "within 0 seconds" in raised.value.message

    with models_of(limits=Limits(deadline_seconds=0.0)) as models:
        asyncio.run(scenario())


def test_every_size_of_batch_is_computed_once_before_a_version_answers(
    colours: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[tuple[int, ...]] = []
    run = LoadedExport.run

    def recorded(self: LoadedExport, signature_name: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        shapes.extend(values.shape for values in inputs.values())
        return run(self, signature_name, inputs)

    monkeypatch.setattr(LoadedExport, "run", recorded)
    export = LoadedExport(colours / "7")
    assert shapes == [(rows, 8, 8, 3) for rows in (1, 2, 4, 8, 12, 16, 20, 24, 28, 32)]
    assert export.signatures["serving_default"].inputs["image_bytes"].name == "serving_default_image_bytes:0"
    assert export.signatures["images"].inputs["images"].shape == (None, 8, 8, 3)
    assert export.signatures["serving_default"].method_name == "tensorflow/serving/predict"


def test_the_metrics_count_batches_decoding_and_versions(colours: Path) -> None:
    async def scenario() -> None:
        await models.update(served(colours, 7))
        await models.predict(models.find("colours"), "serving_default", files_of(*[coloured(0)] * 5))

    with models_of() as models:
        asyncio.run(scenario())
        page = models.metrics_page().decode()
    assert 'satx_loaded_versions{model="colours"} 1.0' in page
    assert 'satx_batch_size_sum{model="colours"} 5.0' in page
    assert 'satx_batch_size_count{model="colours"} 2.0' in page
    assert "satx_decode_seconds_count 5.0" in page
    assert 'satx_waiting_rows{model="colours"} 0.0' in page


def test_the_metrics_forget_the_waiting_rows_of_a_model_that_is_no_longer_served(colours: Path) -> None:
    with models_of() as models:
        asyncio.run(models.update(served(colours, 7)))
        assert 'satx_waiting_rows{model="colours"}' in models.metrics_page().decode()
        asyncio.run(models.update({}))
        asyncio.run(models.update({}))
        page = models.metrics_page().decode()
    assert 'satx_waiting_rows{model="colours"}' not in page
    assert 'satx_loaded_versions{model="colours"} 0.0' in page


def test_names_of_unknown_models_do_not_grow_the_metrics() -> None:
    metrics = Metrics()
    metrics.set_model("school", loaded_versions=1)
    for name in ("school", "x1", "x2", ""):
        metrics.observe(name, 200, 0.01)
    page = metrics.page().decode()
    assert 'satx_requests_total{model="school",status="200"} 1.0' in page
    assert 'satx_requests_total{model="(unknown)",status="200"} 3.0' in page and "x1" not in page
