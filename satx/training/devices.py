"""What the device asks for: precision, and what running out of its memory looks like."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import keras

from satx.errors import OutOfMemory

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


@contextmanager
def out_of_memory_fails_the_trial() -> Iterator[None]:
    """Turn every backend's way of saying "out of memory" into `OutOfMemory`; let everything else pass."""
    try:
        yield
    except MemoryError as error:
        raise OutOfMemory("Memory ran out; a smaller train.batch_size or a deeper cut needs less.") from error
    except Exception as error:  # TensorFlow and JAX have error classes of their own, without a common base
        if any(mark in f"{type(error).__name__}: {error}" for mark in OUT_OF_MEMORY_MARKS):
            raise OutOfMemory("Memory ran out on the device; a smaller train.batch_size needs less.") from error
        raise
