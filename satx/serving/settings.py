"""Limits of the REST interface; gRPC has the defaults of two of them."""

from __future__ import annotations

from pydantic import Field

from satx.config import Frozen


class RestSettings(Frozen):
    """Limits on what a client of the REST interface may send, and how slowly."""

    max_body_bytes: int = Field(32 * 2**20, gt=0, description="128 tiles of 180 KB as base64")
    max_inflated_bytes: int = Field(100_000_000, gt=0, description="of a gzip body, as in TensorFlow Serving")
    max_held_bytes: int = Field(256 * 2**20, gt=0, description="requests of both interfaces together; beyond it 503")
    body_seconds: float = Field(30.0, gt=0, description="a body that takes longer is refused with 408")
    min_bytes_per_second: int = Field(64_000, gt=0, description="each as many bytes add a second to `body_seconds`")
