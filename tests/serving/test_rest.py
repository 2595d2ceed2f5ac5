"""Tests of the paths, statuses and headers of the REST interface, over models in memory."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import httpx
import pytest

from satx.serving.contract import ServingError
from satx.serving.rest import METRICS_PATH, create_app
from satx.serving.settings import RestSettings
from serving.fake_models import TILE, FakeModels

G = {"b64": base64.b64encode(TILE).decode()}
ONE = {"instances": [{"image_bytes": G}]}
ROW = [0.25, 0.75]


def talk(client: Callable[[httpx.AsyncClient], Coroutine[Any, Any, Any]], models: FakeModels, **options: Any) -> Any:
    """Run what a client does with an application over the models."""

    async def run() -> Any:
        transport = httpx.ASGITransport(create_app(models, **options))
        async with httpx.AsyncClient(transport=transport, base_url="http://satx") as session:
            return await client(session)

    return asyncio.run(run())


def ask(
    method: str, target: str, body: object = b"", models: FakeModels | None = None, **options: Any
) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = options.pop("headers", {})

    async def client(session: httpx.AsyncClient) -> httpx.Response:
        return await session.request(method, target, content=content, headers=headers)

    response = talk(client, models or FakeModels(), **options)
    assert response.headers["content-length"] == str(len(response.content))
    return response


def error_of(response: httpx.Response) -> tuple[int, str]:
    assert response.headers["content-type"] == "application/json"
    return response.status_code, response.json()["error"]


@pytest.mark.parametrize(
    "target", ["school", "school/versions/3", "school/versions/003", "school/labels/champion", "%73chool", "sch%6Fol"]
)
def test_a_prediction_is_answered_for_each_way_to_name_a_version(target: str) -> None:
    response = ask("POST", f"/v1/models/{target}:predict", ONE)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.json() == {"predictions": [ROW]}


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded", "image/jpeg"])
def test_the_type_of_the_content_does_not_matter(content_type: str | None) -> None:
    headers = {"content-type": content_type} if content_type else {}
    assert ask("POST", "/V1/Models/school:predict", ONE, headers=headers).json() == {"predictions": [ROW]}


def test_a_request_without_a_version_goes_to_the_one_that_the_models_choose_and_a_named_one_to_itself() -> None:
    def version(target: str) -> str:
        return ask("GET", f"/v1/models/school{target}/metadata").json()["model_spec"]["version"]

    assert [version(""), version("/versions/01"), version("/labels/champion")] == ["3", "1", "3"]


def test_inputs_are_answered_with_outputs_and_two_outputs_with_objects() -> None:
    predict = "/v1/models/school:predict"
    assert ask("POST", predict, {"inputs": [G, G]}).json() == {"outputs": [ROW, ROW]}
    explain = {"signature_name": "explain"}
    school = {"b64": base64.b64encode(b"school").decode()}
    assert ask("POST", predict, explain | ONE).json() == {
        "predictions": [{"label_bytes": school, "probabilities": ROW}]
    }
    assert ask("POST", predict, explain | {"inputs": [G]}).json() == {
        "outputs": {"label_bytes": [school], "probabilities": [ROW]}
    }


@pytest.mark.parametrize(
    "name", ["2nd-iter_more-schools_tf-serving", "v1.2", "models", "versions", "a b", "schule-süd", "a/b", "x\ny"]
)
def test_model_names_may_have_all_characters_that_a_path_can_escape(name: str) -> None:
    target = "/v1/models/" + "".join(f"%{byte:02x}" for byte in name.encode())
    assert ask("GET", target, models=FakeModels(name)).status_code == 200
    assert ask("POST", f"{target}/versions/1:predict", ONE, FakeModels(name)).json() == {"predictions": [ROW]}


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("POST", "/v1/models/school/versions/1/labels/a:predict"),
        ("POST", "/v1/models/school/version/1:predict"),
        ("POST", "/v1/models/school/versions/-1:predict"),
        ("POST", "/v1/models/school/versions/1.0:predict"),
        ("POST", "/v1/models/school"),
        ("POST", "/v1/models/school:PREDICT"),
        ("POST", "/v1/models/:predict"),
        ("GET", "/v1/models/school:predict"),
        ("POST", "/v1/foo"),
        ("GET", "/v1/models/school/"),
        ("GET", "/v1/models/school/metadata/x"),
        ("POST", "/v1/models/school:predict?x=1"),
        ("PUT", "/v1/models/school:predict"),
        ("DELETE", "/v1/models/school"),
        ("PATCH", "/v1/models/school"),
        ("GET", "/v1/%0A"),
    ],
)
def test_other_paths_are_malformed_requests(method: str, target: str) -> None:
    assert error_of(ask(method, target, ONE)) == (400, f"Malformed request: {method} {target}")


def test_a_query_belongs_to_the_name_of_a_model() -> None:
    assert error_of(ask("GET", "/v1/models/school?x=1")) == (404, "Could not find any versions of model school?x=1")


@pytest.mark.parametrize("version", ["9223372036854775808", "1" * 5000])
def test_a_version_of_more_than_64_bits_is_refused(version: str) -> None:
    for method, target in (
        ("POST", f"/v1/models/school/versions/{version}:predict"),
        ("GET", f"/v1/models/a/versions/{version}"),
    ):
        assert error_of(ask(method, target, ONE)) == (400, f"Failed to convert version: {version} to numeric.")
    assert ask("GET", f"/v1/models/school/versions/{2**63 - 1}").status_code == 404


def test_what_does_not_exist_is_answered_as_the_models_say() -> None:
    predict = ":predict"
    assert error_of(ask("POST", f"/v1/models/half{predict}", ONE)) == (
        404,
        "Servable not found for request: Latest(half)",
    )
    assert error_of(ask("POST", f"/v1/models/school/versions/99{predict}", ONE))[0] == 404
    assert error_of(ask("POST", f"/v1/models/school/labels/x{predict}", ONE)) == (
        400,
        "Unrecognized servable version label: x",
    )
    assert error_of(ask("GET", "/v1/models/x")) == (404, "Could not find any versions of model x")
    assert error_of(ask("GET", "/v1/models/school/versions/9")) == (404, "Could not find version 9 of model school")
    assert error_of(ask("GET", "/v1/models")) == (400, "Missing model name in request.")
    assert error_of(ask("GET", "/v1/models/school/versions/9/metadata"))[0] == 404


def test_a_body_that_is_no_json_is_refused_before_a_model_that_does_not_exist() -> None:
    assert error_of(ask("POST", "/v1/models/half:predict")) == (400, "JSON Parse error: The document is empty")
    assert error_of(ask("POST", "/v1/models/half:predict", {"signature_name": 1}))[0] == 400


def test_the_status_lists_versions_with_numbers_as_strings_and_a_label_is_ignored() -> None:
    def state(version: str) -> dict[str, Any]:
        return {"version": version, "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}

    both = {"model_version_status": [state("3"), state("1")]}
    assert ask("GET", "/v1/models/school").json() == ask("GET", "/v1/models/school/labels/x").json() == both
    assert ask("GET", "/v1/models/school/versions/001").json() == {"model_version_status": [state("1")]}


def test_the_metadata_describes_each_signature() -> None:
    content = ask("GET", "/v1/models/school/metadata").json()
    assert content["model_spec"] == {"name": "school", "signature_name": "", "version": "3"}
    signatures = content["metadata"]["signature_def"]["signature_def"]
    assert signatures["serving_default"] == {
        "inputs": {
            "image_bytes": {
                "dtype": "DT_STRING",
                "tensor_shape": {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False},
                "name": "serving_default_image_bytes:0",
            }
        },
        "outputs": {
            "probabilities": {
                "dtype": "DT_FLOAT",
                "tensor_shape": {"dim": [{"size": "-1", "name": ""}, {"size": "2", "name": ""}], "unknown_rank": False},
                "name": "StatefulPartitionedCall:0",
            }
        },
        "method_name": "tensorflow/serving/predict",
        "defaults": {},
    }
    assert signatures["images"]["inputs"]["images"]["dtype"] == "DT_UINT8"
    assert signatures["pair"]["inputs"]["b"]["dtype"] == "DT_BOOL"


def test_the_root_and_options_are_answered_as_by_libevent() -> None:
    for target in ("/", "/v1", "/v2/models/school", METRICS_PATH):
        response = ask("GET", target)
        assert (response.status_code, response.headers["content-type"]) == (404, "text/html")
        assert b"<H1>Not Found</H1>" in response.content
    target = "/v1/models/school:predict"
    with_origin = ask("OPTIONS", target, headers={"origin": "http://elsewhere"})
    assert (with_origin.status_code, with_origin.content) == (200, b"")
    assert "access-control-allow-origin" not in with_origin.headers
    without = ask("OPTIONS", target)
    assert (without.status_code, without.content) == (400, b"")


@pytest.mark.parametrize(("verb", "kind"), [("classify", "classification"), ("regress", "regression")])
def test_classify_and_regress_need_examples_and_a_signature_of_their_kind(verb: str, kind: str) -> None:
    target = f"/v1/models/school:{verb}"
    for body, message in (
        ({}, "When method is classify, key 'examples' is expected and was not found"),
        ({"examples": {}}, "Expecting 'examples' value to be an list/array"),
        ({"examples": []}, "'examples' value is an empty array"),
        (
            {"examples": [{}]},
            f"{kind} signature method_name to be tensorflow/serving/{verb}. Was: tensorflow/serving/predict",
        ),
        ({"examples": [{}], "signature_name": "x"}, 'Serving signature name: "x" not found in signature def'),
    ):
        status, error = error_of(ask("POST", target, body))
        assert (status, error.endswith(message)) == (400, True), error


def test_a_signature_for_classify_is_not_served() -> None:
    body = {"examples": [{}], "signature_name": "classes"}
    message = "Expected a request to :predict, got one to :classify, which satx does not serve."
    assert error_of(ask("POST", "/v1/models/school:classify", body)) == (501, message)


def test_a_gzip_body_is_inflated_and_one_that_is_damaged_or_too_large_counts_as_empty() -> None:
    target, headers = "/v1/models/school:predict", {"content-encoding": "gzip"}
    body = gzip.compress(json.dumps(ONE).encode())
    assert ask("POST", target, body, headers=headers).json() == {"predictions": [ROW]}
    size = len(json.dumps(ONE).encode())
    assert ask("POST", target, body, headers=headers, settings=RestSettings(max_inflated_bytes=size)).status_code == 200
    too_large = ask("POST", target, body, headers=headers, settings=RestSettings(max_inflated_bytes=size - 1))
    for response in (
        too_large,
        ask("POST", target, body[:-9], headers=headers),
        ask("POST", target, ONE, headers=headers),
    ):
        assert error_of(response) == (400, "JSON Parse error: The document is empty")


@pytest.mark.parametrize(("status", "retry"), [(429, None), (503, 1), (504, None)])
def test_errors_of_the_model_keep_their_status_and_message_and_say_when_to_retry(
    status: int, retry: int | None
) -> None:
    models = FakeModels()
    models.error = ServingError(status, "The batch scheduling queue is full", retry_after_seconds=retry)
    response = ask("POST", "/v1/models/school:predict", ONE, models)
    assert error_of(response) == (status, "The batch scheduling queue is full")
    assert response.headers.get("retry-after") == (str(retry) if retry else None)


def test_more_than_128_rows_are_refused_and_fifty_are_not() -> None:
    assert len(ask("POST", "/v1/models/school:predict", {"instances": [G] * 50}).json()["predictions"]) == 50
    for body in ({"instances": [G] * 129}, {"inputs": [G] * 129}):
        assert error_of(ask("POST", "/v1/models/school:predict", body)) == (
            400,
            "Task size 129 is larger than maximum input batch size 128",
        )


def test_an_unexpected_error_is_answered_with_500_and_logged_with_its_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    models = FakeModels()
    models.error = KeyError("secret")
    status, message = error_of(ask("POST", "/v1/models/school:predict", ONE, models))
    assert status == 500
    assert "secret" not in message
    assert "KeyError: 'secret'" in caplog.text


def test_metrics_are_served_at_the_path_of_tensorflow_serving() -> None:
    response = ask("GET", METRICS_PATH, metrics_page=lambda: b"up 1\n")
    assert (response.status_code, response.content) == (200, b"up 1\n")
    assert response.headers["content-type"].startswith("text/plain")


def test_requests_are_observed_by_models_that_exist() -> None:
    seen: list[tuple[str, int]] = []

    def observe(model: str, status: int, seconds: float) -> None:
        assert seconds > 0
        seen.append((model, status))

    for target in ("school:predict", "half:predict"):
        ask("POST", f"/v1/models/{target}", ONE, observe=observe)
    ask("GET", "/v1/models/school", observe=observe)
    ask("GET", "/v1/models/half", observe=observe)
    assert seen == [("school", 200), ("", 404), ("school", 200), ("", 404)]


def test_the_access_log_has_a_line_for_each_request_and_no_images(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "satx.serving.access")
    body = json.dumps({"instances": [G, G]}).encode()
    ask("POST", "/v1/models/school/versions/1:predict", body)
    ask("GET", "/v1/models/%1b[2J%0a" + "x" * 1000)
    first, second = (record.getMessage() for record in caplog.records if record.name == "satx.serving.access")
    line = json.loads(first)
    assert line.pop("seconds") > 0
    assert line == {
        "method": "POST",
        "path": "/v1/models/school/versions/1:predict",
        "status": 200,
        "model": "school",
        "version": 1,
        "rows": 2,
        "bytes_in": len(body),
    }
    assert G["b64"] not in caplog.text
    assert second.isprintable()
    assert len(second) < 400


def test_a_web_socket_is_closed() -> None:
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "websocket", "path": "/v1/models/school:predict", "headers": [], "query_string": b""}
    asyncio.run(create_app(FakeModels())(scope, receive, send))
    assert [message["type"] for message in sent] == ["websocket.close"]
