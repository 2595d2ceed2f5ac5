"""The bodies of a model's status and metadata, in the JSON form of TensorFlow Serving's protobufs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from satx.serving.contract import Servable, Signature, TensorSpec, VersionStatus
from satx.serving.json_tensor import tensorflow_name


def data_type_name(dtype: np.dtype[np.generic]) -> str:
    """Return the name of a dtype in TensorFlow's enumeration, such as `DT_FLOAT`."""
    return f"DT_{tensorflow_name(dtype).upper()}"


def format_statuses(statuses: Iterable[VersionStatus]) -> bytes:
    """Return the body of a response about the state of a model's versions."""
    return _format(
        {
            "model_version_status": [
                {
                    "version": str(status.version),  # 64-bit integers are strings in the JSON form of protobufs
                    "state": status.state,
                    "status": {"error_code": status.error_code, "error_message": status.error_message},
                }
                for status in statuses
            ]
        }
    )


def format_metadata(servable: Servable) -> bytes:
    """Return the body of a response about the signatures of a version."""
    signatures = {name: _signature_json(signature) for name, signature in servable.signatures.items()}
    return _format(
        {
            "model_spec": {"name": servable.model, "signature_name": "", "version": str(servable.version)},
            "metadata": {"signature_def": {"signature_def": signatures}},
        }
    )


def _signature_json(signature: Signature) -> dict[str, Any]:
    return {
        "inputs": _tensors_json(signature.inputs),
        "outputs": _tensors_json(signature.outputs),
        "method_name": signature.method_name,
        "defaults": {},
    }


def _tensors_json(tensors: Mapping[str, TensorSpec]) -> dict[str, Any]:
    return {
        name: {
            "dtype": data_type_name(spec.dtype),
            "tensor_shape": {
                "dim": [{"size": str(-1 if size is None else size), "name": ""} for size in spec.shape or ()],
                "unknown_rank": spec.shape is None,
            },
            "name": spec.name,
        }
        for name, spec in tensors.items()
    }


def _format(value: Any) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()
