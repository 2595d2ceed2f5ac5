"""What the protocols (REST, gRPC) and the models behind them tell each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

DEFAULT_SIGNATURE = "serving_default"  # called by requests without the name of a signature


Observe = Callable[[str, int, float], None]  # receives model, HTTP status and seconds of each request


class ServingError(Exception):
    """A request that is answered with an error.

    Attributes:
        status: HTTP status, 400 to 504.
        message: TensorFlow Serving's message where it has one.
        retry_after_seconds: Value of the header `Retry-After`, if the request may succeed later.
    """

    def __init__(self, status: int, message: str, *, retry_after_seconds: int | None = None) -> None:
        """Create an error with an HTTP status and a message."""
        super().__init__(message)
        self.status = status
        self.message = message
        self.retry_after_seconds = retry_after_seconds


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a signature.

    Attributes:
        name: Name of the tensor in the graph, such as `serving_default_image_bytes:0`.
        dtype: NumPy's dtype; `object` for strings, whose values are `bytes`.
        shape: Sizes of its axes; None for an unknown size, and None instead of the tuple for an unknown rank.
    """

    name: str
    dtype: np.dtype[np.generic]
    shape: tuple[int | None, ...] | None


@dataclass(frozen=True)
class Signature:
    """One signature of a model.

    Attributes:
        inputs: Its inputs by their names in requests.
        outputs: Its outputs by their names in responses.
        method_name: `tensorflow/serving/predict` for signatures that `:predict` calls.
    """

    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    method_name: str


@dataclass(frozen=True)
class VersionStatus:
    """State of one version of a model.

    Attributes:
        version: The version.
        state: `START`, `LOADING`, `AVAILABLE`, `UNLOADING` or `END`.
        error_code: `OK`, or the name of a gRPC status code.
        error_message: The error; empty if there is none.
    """

    version: int
    state: str
    error_code: str = "OK"
    error_message: str = ""


@dataclass(frozen=True)
class Servable:
    """A version of a model that is loaded.

    Attributes:
        model: Name of the model.
        version: Its version.
        signatures: Its signatures by name.
    """

    model: str
    version: int
    signatures: Mapping[str, Signature]


def signature_of(servable: Servable, name: str) -> Signature:
    """Return a signature of a model.

    Raises:
        ServingError: The model has no such signature (400).
    """
    if name not in servable.signatures:
        raise ServingError(400, f'Serving signature name: "{name}" not found in signature def')
    return servable.signatures[name]


class Models(Protocol):
    """The models that a server serves. Methods are called from the event loop."""

    def find(self, model: str, *, version: int | None = None, label: str | None = None) -> Servable:
        """Return the version with this number or label, or the one that requests without either get.

        Raises:
            ServingError: There is no such model (404), version (404) or label (400).
        """

    def statuses(self, model: str, *, version: int | None = None) -> list[VersionStatus]:
        """Return the states of all versions of a model, newest first, or of one.

        Raises:
            ServingError: There is no such model or version (404).
        """

    async def predict(
        self, servable: Servable, signature_name: str, inputs: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Return the outputs of a signature for a request, by name.

        Args:
            servable: What `find` returned. A version that was replaced meanwhile still answers.
            signature_name: One of its signatures.
            inputs: All inputs of the signature, with their dtypes; the first axis is the request's rows.

        Raises:
            ServingError: The inputs are no images or do not fit the model (400), there are more rows than a request may have
                (400), the request waited too long (429), the queue is full (503), or its deadline has passed (504).
        """
