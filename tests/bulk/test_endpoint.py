"""Tests of the endpoint's scorer: with the server of `satx serve`, and with one that fails in every way that a server can."""

from __future__ import annotations

import asyncio
import io
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inference.tiny import encoded, untrained_classifier
from PIL import Image
from serving.running_server import Running, drive
from serving.small_exports import SIZE_PX, coloured, write_colours, write_config, write_numbers
from slow_servers import slow_server
from unreliable_endpoint import BAD, Answer, Unreliable, unreliable_endpoint

from satx.bulk import endpoint, endpoint_http
from satx.bulk.endpoint import EndpointScorer, open_endpoint
from satx.errors import ConfigError, DataError, Interrupted, SatxError
from satx.imagery.contract import REFUSED, Unscored
from satx.inference import graph
from satx.inference.export import Provenance, export_saved_model
from satx.inference.serving_files import ServedVersions, read_models_config, write_models_config

DRAW = np.random.default_rng(7)


def tiles_of(*reds: int) -> tuple[np.ndarray, list[bytes]]:
    """Return tiles of one color, decoded and as PNG files."""
    pixels = np.zeros((len(reds), SIZE_PX, SIZE_PX, 3), np.uint8)
    pixels[..., 0] = np.array(reds)[:, None, None]
    return pixels, [coloured(red) for red in reds]


def assert_shares_of_red(scores: list[np.ndarray | Unscored], *reds: int) -> None:
    assert len(scores) == len(reds)
    for score, red in zip(scores, reds, strict=True):
        assert isinstance(score, np.ndarray) and score.dtype == np.float32
        np.testing.assert_allclose(score, [1 - red / 255, red / 255], atol=1e-6)


# --- with the server of `satx serve` ---


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("endpoint")
    for version in (3, 4):
        write_colours(folder / "school-sample", version)
    write_colours(folder / "wrong", 1, about={"version": 2})
    write_colours(folder / "unnamed", 1, about={"classes": ["red", "green"]})
    write_numbers(folder / "numbers", 1)
    export_saved_model(
        untrained_classifier(),
        folder / "school" / "5",
        provenance=Provenance("school", 5, "r" * 32, "w" * 64, {}),
        golden_bytes=[encoded(DRAW.integers(0, 255, (16, 16, 3), np.uint8), "PNG")],
    )
    return folder


def serve_all(exports: Path, path: Path, *versions: int) -> Path:
    models = {name: ServedVersions(exports / name, (1,), {}) for name in ("wrong", "unnamed", "numbers")}
    models["school"] = ServedVersions(exports / "school", (5,), {"champion": 5})
    models["school-sample"] = ServedVersions(exports / "school-sample", versions, {"champion": versions[0]})
    write_models_config(path, models)
    return path


def beside_server(
    exports: Path, tmp_path: Path, test: Callable[[str, Path], None], *, versions: tuple[int, ...] = (3, 4)
) -> None:
    """Run a test in a thread beside the server of `satx serve`; it gets the URL of the models and the configuration."""
    config = serve_all(exports, tmp_path / "models.config", *versions)

    async def scenario(server: Running) -> None:
        await asyncio.to_thread(test, f"{server.url}/v1/models", config)

    drive(partial(read_models_config, config), scenario)


def test_finds_out_everything_about_a_model_and_scores_as_the_model_itself(exports: Path, tmp_path: Path) -> None:
    classifier = untrained_classifier()
    tiles = DRAW.integers(0, 255, (32, 16, 16, 3), np.uint8)

    def test(url: str, config: Path) -> None:
        scorer = open_endpoint(f"{url}/school")
        model = scorer.model
        assert (model.name, model.version, model.sample, model.image_size_px) == ("school", 5, False, 16)
        assert (model.classes, model.positive_class) == (("clinic", "other", "school"), "school")
        assert model.threshold == pytest.approx(0.3)
        formats = ("PNG", "BMP", "WEBP", "TIFF")
        lossless = [dict(lossless=True) if kind == "WEBP" else {} for kind in formats]
        files = [saved(tile, formats[row % 4], **lossless[row % 4]) for row, tile in enumerate(tiles)]
        np.testing.assert_allclose(np.stack(scorer.score(tiles, files)), classifier.predict(tiles), atol=1e-5)
        assert scorer.about() == {"endpoint": f"{url}/school/versions/5", "num_repeated_requests": 0}
        scorer.close()

    beside_server(exports, tmp_path, test)


def saved(tile: np.ndarray, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(tile).save(stream, kind, **options)
    return stream.getvalue()


def test_uses_the_version_that_is_named_or_answers_and_refuses_others_by_both_names(
    exports: Path, tmp_path: Path
) -> None:
    def test(url: str, config: Path) -> None:
        expected = {
            (f"{url}/school-sample", None): 3,  # the champion
            (f"{url}/school-sample:predict", 4): 4,
            (f"{url}/school-sample/versions/4", None): 4,
            (f"{url}/school-sample/versions/004:predict", 4): 4,
        }
        digests = {}
        for (address, version), number in expected.items():
            scorer = open_endpoint(address, name="school-sample", version=version)
            assert (scorer.model.version, scorer.model.sample) == (number, True)
            assert scorer.model.positive_class == "school"  # of not-school and school
            digests[number] = digests.setdefault(number, scorer.model.digest)
            assert digests[number] == scorer.model.digest
            assert_shares_of_red(scorer.score(*tiles_of(51, 255)), 51, 255)
            scorer.close()
        assert len(set(digests.values())) == 2
        for address, name, version, words in (
            ("school-sample", "clinic", None, ["clinic", "model school-sample"]),
            ("school-sample", None, 7, ["version 7", "version 4 (AVAILABLE), version 3 (AVAILABLE)"]),
            ("school-sample/versions/4", None, 3, ["versions/4", "version 3"]),
            ("school-sample/versions/9", None, None, ["versions/9", "version 9", "version 4 (AVAILABLE)"]),
            ("hospital", None, None, ["hospital", "404", "satx serve"]),
            ("numbers", None, None, ["export of satx", "explain"]),
            ("wrong", None, None, ["versions/2"]),
            ("wrong/versions/1", None, None, ["expected version 1", "version 2"]),
            ("unnamed", None, None, ["unnamed", "red, green"]),
        ):
            with pytest.raises(ConfigError) as raised:
                open_endpoint(f"{url}/{address}", name=name, version=version)
            assert all(word in str(raised.value) for word in words), str(raised.value)

    beside_server(exports, tmp_path, test)


def test_finds_the_bad_image_of_a_batch_and_scores_the_others(exports: Path, tmp_path: Path) -> None:
    reds = [*range(0, 256, 8)]
    tiles, files = tiles_of(*reds)
    files[19] = files[19][:-20]

    def test(url: str, config: Path) -> None:
        scorer = open_endpoint(f"{url}/school-sample")
        scores = scorer.score(tiles, files)
        bad = scores.pop(19)
        assert isinstance(bad, Unscored) and bad.status == REFUSED and "truncated PNG" in bad.reason
        assert len(scores) == 31
        assert_shares_of_red(scores, *reds[:19], *reds[20:])
        scorer.close()

    beside_server(exports, tmp_path, test)


def test_the_run_stops_when_its_version_is_no_longer_served_though_another_one_is(
    exports: Path, tmp_path: Path
) -> None:
    config = write_config(tmp_path / "models.config", exports / "school-sample", 3, 4)

    async def scenario(server: Running) -> None:
        url = f"{server.url}/v1/models/school-sample"
        scorer = await asyncio.to_thread(open_endpoint, url, version=3)
        assert_shares_of_red(await asyncio.to_thread(scorer.score, *tiles_of(255)), 255)
        write_config(config, exports / "school-sample", 4)
        await server.until("3 is no longer served")
        with pytest.raises(
            DataError, match="expected version 3 of school-sample, with which this run began, got status 404"
        ):
            await asyncio.to_thread(scorer.score, *tiles_of(255))
        scorer.close()

    drive(partial(read_models_config, config), scenario)


# --- with a server that fails ---


@pytest.fixture
def unreliable() -> Iterator[Unreliable]:
    with unreliable_endpoint() as server:
        yield server


@pytest.fixture
def scorer(unreliable: Unreliable) -> Iterator[EndpointScorer]:
    scorer = open_endpoint(unreliable.url)
    yield scorer
    scorer.close()


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Record the waits before repetitions, instead of waiting."""
    waits: list[float] = []
    monkeypatch.setattr(endpoint_http.tenacity, "sleep_using_event", lambda event: waits.append)
    return waits


@pytest.mark.parametrize(
    "fault",
    [
        Answer(503, b'{"error": "The batch scheduling queue to which this task was submitted is full"}', "7"),
        Answer(429, b'{"error": "Run() timeout exceeded while waiting in batching queue"}', "7"),
        Answer(504, b'{"error": "deadline"}'),
        Answer(502, b"<html>Bad gateway</html>"),
        Answer(500, b"", "Wed, 21 Oct 2026 07:28:00 GMT"),
        Answer(0),
    ],
    ids=["full", "waited out", "deadline", "gateway", "error", "reset"],
)
def test_an_outage_is_waited_for_as_the_server_asks_and_costs_no_tile(
    unreliable: Unreliable, scorer: EndpointScorer, waits: list[float], fault: Answer
) -> None:
    unreliable.faults.extend([fault] * 3)
    assert_shares_of_red(scorer.score(*tiles_of(0, 51, 255)), 0, 51, 255)
    assert len(waits) == 3 and len(unreliable.requests) == 4
    asked = 7 if fault.retry_after == "7" else 0
    assert all(asked <= wait <= asked + 30 for wait in waits)
    assert len({*waits}) == 3  # with jitter
    assert scorer.about()["num_repeated_requests"] == 3


def test_after_a_long_outage_the_run_ends_and_says_how_to_continue(
    unreliable: Unreliable, scorer: EndpointScorer, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    unreliable.faults.append(Answer(503, b"", "3600"))
    with pytest.raises(DataError, match=r"(?s)within 600 seconds, got: status 503.*Run the same command again"):
        scorer.score(*tiles_of(255))
    assert not waits  # the answer would come too late
    monkeypatch.setattr(endpoint, "OUTAGE_SECONDS", 0.05)
    unreliable.faults.extend([Answer(0)] * 1000)
    with pytest.raises(DataError, match="No tile was marked as failed"):
        scorer.score(*tiles_of(255))


def test_a_server_that_is_not_there_is_told_at_once(waits: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "OPENING_SECONDS", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with pytest.raises(DataError, match=f"127.0.0.1:{port}: expected an answer.*Connection refused"):
        open_endpoint(f"http://127.0.0.1:{port}/v1/models/school")


@pytest.mark.parametrize("kind", ["silent", "dripping headers", "dripping body"])
def test_a_server_that_never_finishes_an_answer_is_an_outage(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "OPENING_SECONDS", 0.0)
    monkeypatch.setattr(endpoint_http, "REQUEST_SECONDS", 0.3)
    with slow_server(kind) as url, pytest.raises(DataError, match="expected an answer"):
        open_endpoint(f"{url}/v1/models/school")


def test_closing_ends_a_wait(unreliable: Unreliable, scorer: EndpointScorer) -> None:
    unreliable.faults.append(Answer(503, b"", "500"))
    raised = list[BaseException]()

    def score() -> None:
        try:
            scorer.score(*tiles_of(255))
        except SatxError as error:
            raised.append(error)

    thread = threading.Thread(target=score)
    thread.start()
    while not scorer.about()["num_repeated_requests"]:
        pass
    scorer.close()
    thread.join(60)
    assert not thread.is_alive() and isinstance(raised[0], Interrupted)


def test_sends_the_files_themselves_in_batches_of_32_to_one_version(
    unreliable: Unreliable, scorer: EndpointScorer
) -> None:
    assert scorer.batch_size == 32  # TensorFlow Serving refuses larger ones, and the engine sends no larger ones
    reds = [*range(scorer.batch_size)]
    tiles, files = tiles_of(*reds)
    assert_shares_of_red(scorer.score(tiles, files), *reds)
    assert unreliable.requests == [("/v1/models/school/versions/3:predict", files)]


@pytest.mark.parametrize("kind", ["WEBP", "TIFF"])
def test_formats_that_tensorflow_serving_refuses_are_sent_as_png_of_the_decoded_tile(
    unreliable: Unreliable, scorer: EndpointScorer, kind: str
) -> None:
    tile = DRAW.integers(0, 255, (1, SIZE_PX, SIZE_PX, 3), np.uint8)
    scorer.score(tile, [coloured(9, kind)])
    (_, (sent,)), *_ = unreliable.requests
    image = Image.open(io.BytesIO(sent))
    assert image.format == "PNG"
    np.testing.assert_array_equal(np.asarray(image), tile[0])


def test_every_bad_tile_is_refused_and_no_other(unreliable: Unreliable, scorer: EndpointScorer) -> None:
    reds = [*range(32)]
    tiles, files = tiles_of(*reds)
    bad = {0, 7, 8, 31}
    scores = scorer.score(tiles, [BAD if row in bad else data for row, data in enumerate(files)])
    refused = {row: score for row, score in enumerate(scores) if isinstance(score, Unscored)}
    assert refused.keys() == bad and {score.status for score in refused.values()} == {REFUSED}
    reason = refused[0].reason
    assert "the endpoint refused it: Image 0 of the request: a bad one" in reason and len(reason) < 200
    others = [row for row in reds if row not in bad]
    assert_shares_of_red([scores[row] for row in others], *others)


def test_a_good_tile_is_not_refused_because_a_bad_one_was_in_its_batch_on_the_server(
    unreliable: Unreliable, scorer: EndpointScorer
) -> None:
    unreliable.num_meeting = 2
    (tile, (good,)), answers = tiles_of(51), dict[bytes, Any]()
    threads = [
        threading.Thread(target=lambda data=data: answers.__setitem__(data, scorer.score(tile, [data])))
        for data in (good, BAD)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert_shares_of_red(answers[good], 51)
    assert isinstance(answers[BAD][0], Unscored)


def test_threads_that_find_bad_tiles_at_the_same_time_do_not_block_each_other(
    unreliable: Unreliable, scorer: EndpointScorer
) -> None:
    tiles, (good,) = tiles_of(51)
    answers = list[Any]()
    threads = [
        threading.Thread(target=lambda: answers.append(scorer.score(np.repeat(tiles, 3, 0), [BAD, good, BAD])))
        for _ in range(8)  # more than requests at a time
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(answers) == 8
    for first, score, last in answers:
        assert isinstance(first, Unscored) and isinstance(last, Unscored)
        assert_shares_of_red([score], 51)


@pytest.mark.parametrize(
    "body",
    [
        b"<html>Sign in</html>",
        b'{"outputs": [[0.5, 0.5]]}',
        b"[]",
        b'{"predictions": [[0.5, 0.5], [0.5, 0.5]]}',
        b'{"predictions": [[0.2, 0.3, 0.5]]}',
        b'{"predictions": [[0.5, NaN]]}',
        b'{"predictions": [[-0.5, 1.5]]}',
        b'{"predictions": [0.5]}',
        b'{"predictions": [{"probabilities": [0.5, 0.5]}]}',
        b'{"predictions": [["0.5", "x"]]}',
        b'{"predictions": [[0.5, 0.5]]}' + b" " * 2_000_000,
    ],
    ids=["html", "no rows", "list", "too many rows", "classes", "nan", "range", "flat", "objects", "text", "endless"],
)
def test_an_answer_that_is_no_probabilities_stops_the_run(
    unreliable: Unreliable, scorer: EndpointScorer, body: bytes
) -> None:
    unreliable.faults.append(Answer(200, body))
    with pytest.raises(DataError, match=r"127\.0\.0\.1.*expected"):
        scorer.score(*tiles_of(255))
    assert_shares_of_red(scorer.score(*tiles_of(255)), 255)


@pytest.mark.parametrize("status", [301, 401, 403, 405])
def test_an_answer_that_asks_for_something_else_stops_the_run(
    unreliable: Unreliable, scorer: EndpointScorer, status: int
) -> None:
    unreliable.faults.append(Answer(status))
    with pytest.raises(DataError, match=f"status {status}"):
        scorer.score(*tiles_of(255))


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost:8501",
        "localhost:8501/v1/models/school",
        "ftp://localhost/v1/models/school",
        "http://localhost:8501/v1/models/school/versions/three",
        "http://localhost:8501/v1/models/school/labels/champion",
        "http://localhost:8501/v1/models/school:classify",
        "http://user:hunter2@localhost:8501/v1/models/school",
        "http://localhost:8501/v1/models/school?key=hunter2",
        "http://localhost:8501/v1/models/school#hunter2",
    ],
)
def test_a_url_of_another_form_is_refused_without_its_secrets(url: str) -> None:
    with pytest.raises(ConfigError, match="http://HOST:PORT/v1/models/NAME/versions/N") as raised:
        open_endpoint(url)
    assert "hunter2" not in str(raised.value)


def test_signatures_have_the_names_of_the_export() -> None:
    ours = (endpoint.EXPLAIN_SIGNATURE, endpoint.IMAGES_SIGNATURE, endpoint.IMAGES_NAME, endpoint.OUTPUT_NAME)
    assert ours == (graph.EXPLAIN_SIGNATURE, graph.IMAGES_SIGNATURE, graph.IMAGES_NAME, graph.OUTPUT_NAME)


def test_needs_no_keras() -> None:
    program = "import sys, satx.bulk.endpoint; assert not {'keras', 'tensorflow', 'jax'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-P", "-c", program], check=True)
