"""What the device asks for: precision, and what running out of its memory looks like."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import keras

from satx.errors import OutOfMemory, TrialFailed

OUT_OF_MEMORY_MARKS = ("RESOURCE_EXHAUSTED", "ResourceExhausted", "out of memory", "OOM when allocating")


def device_name() -> str:
    """The device that trains: `gpu` or `cpu`."""
    return "gpu" if any("gpu" in name.lower() for name in keras.distribution.list_devices()) else "cpu"


@contextmanager
def precision_policy(precision: str) -> Iterator[None]:
    """Set Keras's dtype policy while a training is built and run, and put back what was there.

    Args:
        precision: A `train.precision`; `auto` is mixed bfloat16 on a GPU and float32 elsewhere.
    """
    before = keras.config.dtype_policy()
    if precision == "auto":
        precision = "mixed_bfloat16" if device_name() == "gpu" else "float32"
    keras.config.set_dtype_policy(precision)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def is_out_of_memory(error: Exception) -> bool:
    """Whether this is a backend's way of saying so; TensorFlow and JAX have error classes of their own, without a common base."""
    said = f"{type(error).__name__}: {error}"
    return isinstance(error, MemoryError) or any(mark in said for mark in OUT_OF_MEMORY_MARKS)


@contextmanager
def out_of_memory_fails_the_trial(kind: type[TrialFailed] = OutOfMemory) -> Iterator[None]:
    """Turn every backend's way of saying "out of memory" into one error; let everything else pass.

    Args:
        kind: `OutOfMemory` is the fault of the trial's batch; what else needs memory fails the trial by `TrialFailed`.
    """
    remedy = "a smaller train.batch_size or a deeper cut needs less" if kind is OutOfMemory else "free some of it"
    try:
        yield
    except Exception as error:  # the backends' classes have no common base; all else is raised again
        if is_out_of_memory(error):
            raise kind(f"Memory ran out, of the machine or its device; {remedy}.") from error
        raise
