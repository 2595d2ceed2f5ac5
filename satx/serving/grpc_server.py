"""TensorFlow Serving's gRPC interface: `Predict`, `GetModelMetadata` and `GetModelStatus`. No other method is implemented."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from satx.serving.contract import (
    DEFAULT_SIGNATURE,
    Models,
    Observe,
    Servable,
    ServingError,
    Signature,
    TensorSpec,
    signature_of,
)
from satx.serving.request_body import LOOP_BYTES, Memory
from satx.serving.settings import RestSettings
from satx.serving.shapes import check_row_limit, has_rows

MAX_MESSAGE_BYTES = RestSettings().max_body_bytes
MAX_CONCURRENT_RPCS = 256  # gRPC holds the message of each; more get RESOURCE_EXHAUSTED

_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    404: grpc.StatusCode.NOT_FOUND,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}


@dataclass(frozen=True)
class _Answers:
    """How requests are answered: their memory is counted while they are under way, and errors get a code of gRPC."""

    observe: Observe
    memory: Memory

    async def give(self, answer: Callable[[Any], Awaitable[Any]], request: Any, context: Any) -> Any:
        started, status = perf_counter(), 200
        try:
            with _held(self.memory, request.ByteSize()):
                return await answer(request)
        except ServingError as error:
            status = error.status
            await context.abort(_CODES.get(status, grpc.StatusCode.INTERNAL), error.message)
        except asyncio.CancelledError:
            status = 499  # the client went away, or the server stops
            raise
        except Exception:  # counted here; gRPC logs it and answers UNKNOWN
            status = 500
            raise
        finally:
            self.observe(request.model_spec.name, status, perf_counter() - started)


class _Services(prediction_service_pb2_grpc.PredictionServiceServicer, model_service_pb2_grpc.ModelServiceServicer):
    def __init__(self, models: Models, answers: _Answers) -> None:
        self._models = models
        self._answers = answers

    async def Predict(self, request: Any, context: Any) -> Any:
        return await self._answers.give(self._predict, request, context)

    async def GetModelMetadata(self, request: Any, context: Any) -> Any:
        return await self._answers.give(self._metadata, request, context)

    async def _predict(self, request: Any) -> Any:
        servable = _find(self._models, request.model_spec)
        name = request.model_spec.signature_name or DEFAULT_SIGNATURE
        signature = signature_of(servable, name)
        unknown = set(request.output_filter) - set(signature.outputs)
        if unknown:
            raise ServingError(400, f"output tensor alias not found in signature: {', '.join(sorted(unknown))}")
        if request.ByteSize() > LOOP_BYTES:
            inputs = await asyncio.to_thread(_read_inputs, request.inputs, signature)
        else:
            inputs = _read_inputs(request.inputs, signature)
        outputs = await self._models.predict(servable, name, inputs)
        response = predict_pb2.PredictResponse()
        _write_spec(response.model_spec, servable)
        response.model_spec.signature_name = name
        for key in request.output_filter or outputs:
            response.outputs[key].CopyFrom(tf.make_tensor_proto(outputs[key]))
        return response

    async def _metadata(self, request: Any) -> Any:
        if list(request.metadata_field) != ["signature_def"]:
            raise ServingError(
                400,
                f"Metadata field {', '.join(request.metadata_field) or 'none'} is not supported; expected signature_def",
            )
        servable = _find(self._models, request.model_spec)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        for name, signature in servable.signatures.items():
            signatures.signature_def[name].CopyFrom(_signature_def(signature))
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        _write_spec(response.model_spec, servable)
        response.metadata["signature_def"].Pack(signatures)
        return response

    async def GetModelStatus(self, request: Any, context: Any) -> Any:
        return await self._answers.give(self._statuses, request, context)

    async def _statuses(self, request: Any) -> Any:
        spec = request.model_spec
        version = spec.version.value if spec.HasField("version") else None
        response = get_model_status_pb2.GetModelStatusResponse()
        for status in self._models.statuses(spec.name, version=version):
            found = response.model_version_status.add(
                version=status.version,
                state=get_model_status_pb2.ModelVersionStatus.State.Value(status.state),
            )
            found.status.error_code = grpc.StatusCode[status.error_code].value[0]
            found.status.error_message = status.error_message
        return response


async def start_grpc(models: Models, address: str, *, observe: Observe, memory: Memory) -> tuple[grpc.aio.Server, int]:
    """Start a gRPC server in the running event loop.

    Args:
        models: The models to serve.
        address: Host and port, such as `127.0.0.1:8500`; port 0 for any free one.
        observe: Called with the model, the HTTP status of the same meaning, and the seconds of each request.
        memory: Counts the messages of requests that are under way, with the bodies of the REST interface.

    Returns:
        The server, and its port.

    Raises:
        RuntimeError: The address cannot be bound.
    """
    answers = _Answers(observe, memory)
    server = grpc.aio.server(
        maximum_concurrent_rpcs=MAX_CONCURRENT_RPCS,
        options=[
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.so_reuseport", 0),  # else a second server could bind the same port
        ],
    )
    services = _Services(models, answers)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(services, server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(services, server)
    port = server.add_insecure_port(address)
    await server.start()
    return server, port


@contextmanager
def _held(memory: Memory, num_bytes: int) -> Iterator[None]:
    memory.hold(num_bytes)
    try:
        yield
    finally:
        memory.release(num_bytes)


def _find(models: Models, spec: Any) -> Servable:
    if not spec.name:
        raise ServingError(400, "Missing ModelSpec")
    version = spec.version.value if spec.HasField("version") else None
    return models.find(spec.name, version=version, label=spec.version_label or None)


def _read_inputs(tensors: Mapping[str, Any], signature: Signature) -> dict[str, np.ndarray]:
    missing, extra = signature.inputs.keys() - tensors.keys(), tensors.keys() - signature.inputs.keys()
    if missing or extra:
        raise ServingError(
            400,
            f"input size does not match signature: {len(tensors)}!={len(signature.inputs)} len({{{','.join(sorted(tensors))}}}) "
            f"!= len({{{','.join(signature.inputs)}}}). Sent extra: {{{','.join(sorted(extra))}}}. "
            f"Missing but required: {{{','.join(sorted(missing))}}}.",
        )
    return {name: _read_tensor(name, tensors[name], spec) for name, spec in signature.inputs.items()}


def _read_tensor(name: str, tensor: Any, spec: TensorSpec) -> np.ndarray:
    expected = tf.as_dtype(spec.dtype)
    if tensor.dtype != expected.as_datatype_enum:
        names = types_pb2.DataType.DESCRIPTOR.values_by_number
        found = names[tensor.dtype].name if tensor.dtype in names else tensor.dtype
        wanted = names[expected.as_datatype_enum].name
        raise ServingError(400, f"Input {name}: expected dtype {wanted}, got {found}")
    sizes = [axis.size for axis in tensor.tensor_shape.dim]
    # A single value may stand for a whole tensor, so a short message could ask for any amount of memory.
    if (
        tensor.tensor_shape.unknown_rank
        or min(sizes, default=0) < 0
        or math.prod(sizes) * spec.dtype.itemsize > MAX_MESSAGE_BYTES
    ):
        raise ServingError(
            400, f"Input {name}: expected a tensor of at most {MAX_MESSAGE_BYTES} bytes, got shape {sizes}"
        )
    if has_rows(spec) and sizes:
        check_row_limit(sizes[0])
    if spec.dtype == object and math.prod(sizes) and not tensor.string_val:
        raise ServingError(400, f"Input {name}: expected strings in string_val for the shape {sizes}, got none")
    try:
        values: np.ndarray = tf.make_ndarray(tensor)
    except (ValueError, TypeError, OverflowError) as error:
        raise ServingError(400, f"Input {name}: the values do not fit the shape {sizes}: {error}") from error
    return values


def _write_spec(spec: Any, servable: Servable) -> None:
    spec.name = servable.model
    spec.version.value = servable.version


def _signature_def(signature: Signature) -> Any:
    definition = meta_graph_pb2.SignatureDef(method_name=signature.method_name)
    for infos, specs in ((definition.inputs, signature.inputs), (definition.outputs, signature.outputs)):
        for name, spec in specs.items():
            infos[name].name = spec.name
            infos[name].dtype = tf.as_dtype(spec.dtype).as_datatype_enum
            infos[name].tensor_shape.CopyFrom(tf.TensorShape(spec.shape).as_proto())
    return definition
