"""How many threads share one operation on a processor: on TensorFlow that orders its sums, and so decides their last bits."""

from __future__ import annotations

import os
from collections.abc import Mapping

THREADS = "TF_NUM_INTRAOP_THREADS"  # TensorFlow's own variable; it reads it when it computes first


def num_threads() -> int:
    """What the environment says, else every processor that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    return int(os.environ.get(THREADS) or 0) or (len(affinity(0)) if affinity else os.cpu_count() or 1)


def use_threads_of(tags: Mapping[str, str]) -> None:
    """Compute with as many threads as a run did, to repeat it exactly; to be called before Keras is loaded.

    Args:
        tags: The run's; one without `threads` changes nothing.
    """
    if "threads" in tags:
        os.environ[THREADS] = tags["threads"]
