"""Messages of TensorFlow Serving's configuration files that tensorflow-serving-api does not contain.

Their fields are those of `session_bundle_config.proto` and `monitoring_config.proto` in TensorFlow Serving.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, wrappers_pb2

_Field = descriptor_pb2.FieldDescriptorProto
_INT64, _BOOL = wrappers_pb2.Int64Value.DESCRIPTOR.full_name, wrappers_pb2.BoolValue.DESCRIPTOR.full_name


def batching_parameters() -> Any:
    return _message(
        "BatchingParameters",
        {
            "max_batch_size": _INT64,
            "batch_timeout_micros": _INT64,
            "max_enqueued_batches": _INT64,
            "num_batch_threads": _INT64,
            "max_execution_batch_size": _INT64,
            "enable_large_batch_splitting": _BOOL,
        },
        {"pad_variable_length_inputs": _Field.TYPE_BOOL},
        {"allowed_batch_sizes": _Field.TYPE_INT64},
    )


def monitoring_config() -> Any:
    prometheus = _message("PrometheusConfig", {}, {"enable": _Field.TYPE_BOOL, "path": _Field.TYPE_STRING}, {})
    return _message("MonitoringConfig", {"prometheus_config": prometheus.DESCRIPTOR.full_name}, {}, {})


def _message(name: str, messages: dict[str, str], scalars: dict[str, int], lists: dict[str, int]) -> Any:
    """Return the class of a message with fields that are messages, of a scalar type, and lists of a scalar type."""
    file = descriptor_pb2.FileDescriptorProto(
        name=f"{name}.proto", package="satx.tests", syntax="proto3", dependency=[wrappers_pb2.DESCRIPTOR.name]
    )
    pool = descriptor_pool.Default()
    for type_name in messages.values():
        other = pool.FindMessageTypeByName(type_name).file.name
        if other not in file.dependency:
            file.dependency.append(other)
    fields = [
        *(_Field(name=field, type=_Field.TYPE_MESSAGE, type_name=f".{of}") for field, of in messages.items()),
        *(_Field(name=field, type=of) for field, of in scalars.items()),
        *(_Field(name=field, type=of, label=_Field.LABEL_REPEATED) for field, of in lists.items()),
    ]
    for number, field in enumerate(fields, start=1):
        field.number = number
    file.message_type.add(name=name, field=fields)
    try:
        found = pool.FindMessageTypeByName(f"satx.tests.{name}")
    except KeyError:
        pool.AddSerializedFile(file.SerializeToString())
        found = pool.FindMessageTypeByName(f"satx.tests.{name}")
    return message_factory.GetMessageClass(found)
