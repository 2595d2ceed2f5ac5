"""Number of CPU threads that share one operation.

On TensorFlow the number determines the order of summation, and so the last bits of the results.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

THREADS = "TF_NUM_INTRAOP_THREADS"  # TensorFlow's own variable, read at its first computation


def num_threads() -> int:
    """Return the number set in the environment, else the number of CPUs that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    return int(os.environ.get(THREADS) or 0) or (len(affinity(0)) if affinity else os.cpu_count() or 1)


def use_threads_of(tags: Mapping[str, str]) -> None:
    """Use as many threads as a run did, to repeat it exactly. Call this before Keras is loaded.

    Args:
        tags: Tags of the run. Without the tag `threads` nothing changes.
    """
    if "threads" in tags:
        os.environ[THREADS] = tags["threads"]
