"""Tests of TensorFlow Serving's gRPC interface, with the client that TensorFlow Serving ships."""

import asyncio
import threading
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from satx.inference.serving_files import read_models_config
from satx.serving import grpc_server
from satx.serving.contract import ServingError, TensorSpec
from satx.serving.settings import RestSettings
from serving.running_server import Gate, Running, drive
from serving.small_exports import coloured


def request_of(model: str, **inputs: Any) -> Any:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    for name, values in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(values))
    return request


def test_grpc_answers_predictions_metadata_and_states(config: Path) -> None:
    async def test(server: Running) -> None:
        async with grpc.aio.insecure_channel(server.grpc_address) as channel:
            predictions = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            response = await predictions.Predict(request_of("numbers", x=np.array([1, 2], np.float32)))
            assert tf.make_ndarray(response.outputs["y"]).tolist() == [1.0, 2.0]
            assert (response.model_spec.name, response.model_spec.version.value) == ("numbers", 1)
            assert response.model_spec.signature_name == "serving_default"

            request = request_of("colours", image_bytes=[coloured(255), coloured(0, "TIFF")])
            request.model_spec.signature_name = "explain"
            request.output_filter.append("class_names")
            response = await predictions.Predict(request)
            assert list(response.outputs) == ["class_names"]
            assert tf.make_ndarray(response.outputs["class_names"]).tolist() == [[b"not-school", b"school"]] * 2
            tiles = request_of("colours", images=np.full((1, 8, 8, 3), 255, np.uint8))
            tiles.model_spec.signature_name = "images"
            response = await predictions.Predict(tiles)
            assert tf.make_ndarray(response.outputs["probabilities"]).tolist() == [[0.0, 1.0]]

            asked = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
            asked.model_spec.name = "colours"
            metadata = await predictions.GetModelMetadata(asked)
            signatures = get_model_metadata_pb2.SignatureDefMap()
            assert metadata.metadata["signature_def"].Unpack(signatures)
            assert set(signatures.signature_def) == {"serving_default", "images", "explain"}
            pixels = signatures.signature_def["images"].inputs["images"]
            assert [axis.size for axis in pixels.tensor_shape.dim] == [-1, 8, 8, 3]
            assert tf.as_dtype(pixels.dtype) == tf.uint8 and pixels.name == "images_images:0"

            states = get_model_status_pb2.GetModelStatusRequest()
            states.model_spec.name = "numbers"
            (found,) = (
                await model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(states)
            ).model_version_status
            assert found.version == 1 and found.state == get_model_status_pb2.ModelVersionStatus.AVAILABLE
        page = (await server.client.get("/monitoring/prometheus/metrics")).text
        assert 'satx_requests_total{model="colours",status="200"} 3.0' in page

    drive(partial(read_models_config, config), test)


def test_grpc_refuses_wrong_requests_with_a_code_and_a_message(config: Path) -> None:
    huge = request_of("numbers", x=np.array([1], np.float32))
    huge.inputs["x"].ClearField("tensor_content")
    huge.inputs["x"].float_val.append(1.0)
    huge.inputs["x"].tensor_shape.dim[0].size = 2**40  # one value that stands for four terabytes
    labelled = request_of("numbers", x=np.ones(1, np.float32))
    labelled.model_spec.version_label = "none"
    unsigned = request_of("numbers", x=np.ones(1, np.float32))
    unsigned.model_spec.signature_name = "none"
    short = request_of("numbers", x=np.ones(3, np.float32))
    short.inputs["x"].tensor_content = b"abc"
    empty = request_of("colours", image_bytes=[b"x"])
    empty.inputs["image_bytes"].ClearField("string_val")
    overflow = request_of("colours", images=np.zeros((1, 8, 8, 3), np.uint8))
    overflow.model_spec.signature_name = "images"
    overflow.inputs["images"].ClearField("tensor_content")
    overflow.inputs["images"].int_val.append(300)
    strange = request_of("numbers", x=np.ones(1, np.float32))
    strange.inputs["x"].dtype = 9999
    invalid, missing = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
    cases = [
        (request_of("half", x=np.ones(1, np.float32)), missing, "Servable not found for request: Latest(half)"),
        (predict_pb2.PredictRequest(), invalid, "Missing ModelSpec"),
        (labelled, invalid, "Unrecognized servable version label: none"),
        (unsigned, invalid, 'Serving signature name: "none" not found'),
        (request_of("numbers"), invalid, "Missing but required: {x}"),
        (request_of("numbers", x=np.ones(1, np.float32), z=1), invalid, "Sent extra: {z}"),
        (request_of("numbers", x=["text"]), invalid, "expected dtype DT_FLOAT, got DT_STRING"),
        (strange, invalid, "expected dtype DT_FLOAT, got 9999"),
        (huge, invalid, "expected a tensor of at most"),
        (short, invalid, "Input x: the values do not fit the shape [3]"),
        (empty, invalid, "Input image_bytes: expected strings in string_val for the shape [1], got none"),
        (overflow, invalid, "Input images: the values do not fit"),
        (request_of("numbers", x=np.ones((2, 2), np.float32)), invalid, "Input x: expected shape [-1], got [2, 2]"),
        (request_of("numbers", x=np.array([-1], np.float32)), invalid, "negative number"),
        (request_of("colours", image_bytes=[b"broken"]), invalid, "Image 0 of the request: not an image"),
        (request_of("numbers", x=np.ones(129, np.float32)), invalid, "Task size 129 is larger than"),
    ]

    async def test(server: Running) -> None:
        async with grpc.aio.insecure_channel(server.grpc_address) as channel:
            predictions = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            for request, code, message in cases:
                with pytest.raises(grpc.aio.AioRpcError) as raised:
                    await predictions.Predict(request)
                assert raised.value.code() == code and message in (raised.value.details() or ""), raised.value.details()
            asked = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["other"])
            asked.model_spec.name = "numbers"
            with pytest.raises(grpc.aio.AioRpcError, match="expected signature_def"):
                await predictions.GetModelMetadata(asked)
            response = await predictions.Predict(request_of("numbers", x=np.ones(1, np.float32)))
            assert tf.make_ndarray(response.outputs["y"]).tolist() == [1.0]

    drive(partial(read_models_config, config), test)


def test_both_interfaces_share_the_memory_of_requests_under_way(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)

    async def test(server: Running) -> None:
        async with grpc.aio.insecure_channel(server.grpc_address) as channel:
            predictions = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            with gate.closed():
                request = request_of("numbers", x=np.ones(128, np.float32))
                running = asyncio.ensure_future(predictions.Predict(request))
                await gate.reached()
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await predictions.Predict(request)
                assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
                assert "in the requests under way" in (refused.value.details() or "")
                body = {"instances": [1.0] * 100}
                assert (await server.client.post("/v1/models/numbers:predict", json=body)).status_code == 503
                gate.may_go_on.set()
                await running
            for _ in range(2):  # each is released, also after an error
                await predictions.Predict(request)
                with pytest.raises(grpc.aio.AioRpcError, match="negative number"):
                    await predictions.Predict(request_of("numbers", x=-np.ones(128, np.float32)))

    drive(partial(read_models_config, config), test, settings=RestSettings(max_held_bytes=900))


def test_more_calls_at_a_time_than_allowed_are_refused(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)

    async def test(server: Running) -> None:
        async with grpc.aio.insecure_channel(server.grpc_address) as channel:
            predictions = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            with gate.closed():
                request = request_of("numbers", x=np.ones(1, np.float32))
                calls = [asyncio.ensure_future(predictions.Predict(request)) for _ in range(3)]
                await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
                gate.may_go_on.set()
                answers = await asyncio.gather(*calls, return_exceptions=True)
            (refused,) = [answer for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
            assert refused.code() == grpc.StatusCode.RESOURCE_EXHAUSTED

    monkeypatch.setattr(grpc_server, "MAX_CONCURRENT_RPCS", 2)
    drive(partial(read_models_config, config), test)


def test_a_large_message_is_read_in_a_thread(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(server: Running) -> None:
        async with grpc.aio.insecure_channel(server.grpc_address) as channel:
            predictions = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            for rows in (1, 64):
                response = await predictions.Predict(request_of("numbers", x=np.ones(rows, np.float32)))
                assert tf.make_ndarray(response.outputs["y"]).tolist() == [1.0] * rows

    def read(*arguments: Any) -> Any:
        threads.append(threading.current_thread() is threading.main_thread())
        return read_inputs(*arguments)

    threads: list[bool] = []
    read_inputs = grpc_server._read_inputs
    monkeypatch.setattr(grpc_server, "_read_inputs", read)
    monkeypatch.setattr(grpc_server, "LOOP_BYTES", 200)
    drive(partial(read_models_config, config), test)
    assert threads == [True, False]


def tensors() -> st.SearchStrategy[Any]:
    """Return tensors of any dtype, shape and values, which do not fit each other."""
    dtypes = st.sampled_from([tf.float32, tf.float16, tf.uint8, tf.int8, tf.int64, tf.bool, tf.string])
    integers = st.lists(st.integers(-(2**31), 2**31 - 1), max_size=3)
    values = st.fixed_dictionaries(
        {},
        optional={
            "tensor_content": st.binary(max_size=16),
            "half_val": integers,
            "float_val": st.lists(st.floats(width=32), max_size=3),
            "int_val": integers,
            "int64_val": integers,
            "bool_val": st.lists(st.booleans(), max_size=3),
            "string_val": st.lists(st.binary(max_size=4), max_size=3),
        },
    )
    sizes = st.lists(st.integers(-2, 4) | st.sampled_from([2**31, 2**62]), max_size=4)

    def tensor(dtype: Any, sizes: list[int], values: dict[str, Any], unknown_rank: bool) -> Any:
        found = tensor_pb2.TensorProto(dtype=dtype.as_datatype_enum, **values)
        found.tensor_shape.unknown_rank = unknown_rank
        for size in sizes:
            found.tensor_shape.dim.add(size=size)
        return found

    return st.builds(tensor, dtypes, sizes, values, st.booleans())


@given(tensors())
def test_any_tensor_is_read_as_its_message_says_or_refused(tensor: Any) -> None:
    dtype = np.dtype(tf.as_dtype(tensor.dtype).as_numpy_dtype)
    try:
        values = grpc_server._read_tensor("x", tensor, TensorSpec("x:0", dtype, None))
    except ServingError as error:
        assert error.status == 400
        return
    assert values.dtype == dtype and list(values.shape) == [axis.size for axis in tensor.tensor_shape.dim]
    assert dtype.kind != "O" or all(isinstance(value, bytes) for value in values.flat)


def test_grpc_refuses_a_message_that_is_too_large(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(server: Running) -> None:
        async with grpc.aio.insecure_channel(server.grpc_address) as channel:
            predictions = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await predictions.Predict(request_of("colours", image_bytes=[b"x" * 20_000]))
            assert raised.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED

    monkeypatch.setattr(grpc_server, "MAX_MESSAGE_BYTES", 10_000)
    drive(partial(read_models_config, config), test)
