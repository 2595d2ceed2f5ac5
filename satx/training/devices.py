"""Device-dependent behaviour: the precision policy and the detection of out-of-memory errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import keras

from satx.errors import OutOfMemory, TrialFailed

OUT_OF_MEMORY_MARKS = ("RESOURCE_EXHAUSTED", "ResourceExhausted", "out of memory", "OOM when allocating")


def device_name() -> str:
    """Return the device that trains: `gpu` or `cpu`."""
    return "gpu" if any("gpu" in name.lower() for name in keras.distribution.list_devices()) else "cpu"


@contextmanager
def precision_policy(precision: str) -> Iterator[None]:
    """Set Keras's dtype policy while a training is built and run, then restore the previous policy.

    Args:
        precision: A value of `train.precision`; `auto` is mixed bfloat16 on a GPU and float32 elsewhere.
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
    """Return whether an error means that memory ran out.

    TensorFlow and JAX have their own error classes without a common base, so the class name and message are searched.
    """
    said = f"{type(error).__name__}: {error}"
    return isinstance(error, MemoryError) or any(mark in said for mark in OUT_OF_MEMORY_MARKS)


@contextmanager
def out_of_memory_fails_the_trial(kind: type[TrialFailed] = OutOfMemory) -> Iterator[None]:
    """Convert every backend's out-of-memory error into one error class; other errors pass unchanged.

    Args:
        kind: `OutOfMemory` where the trial's batch size is the cause, `TrialFailed` for other uses of memory.
    """
    remedy = "Use a smaller train.batch_size or a deeper cut" if kind is OutOfMemory else "Free some memory"
    try:
        yield
    except Exception as error:  # the backends' classes have no common base; other errors are re-raised
        if is_out_of_memory(error):
            raise kind(f"The machine or its GPU ran out of memory. {remedy}.") from error
        raise
