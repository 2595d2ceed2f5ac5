"""Every error satx raises on purpose, split by what the caller can do about it.

::

    SatxError
    ├── ConfigError          a YAML, an option or a name is wrong; mend it and call again      (exit 2)
    ├── DataError            tiles are missing, broken or inconsistent; mend the folder        (exit 2)
    ├── WeightsError         pretrained weights are absent, unreachable or not ours            (exit 2)
    ├── PromotionRefused     the candidate did not pass the gate; pick another or --force      (exit 2)
    ├── TrackerUnavailable   MLflow or the study database does not answer                      (exit 1)
    ├── TrialFailed          one trial is lost (NaN loss); the sweep goes on                   (exit 1)
    │   └── OutOfMemory      the same, and larger batches of its kind are not tried again      (exit 1)
    ├── StateMismatch        a checkpoint, or what a tail trains, is not its configuration's    (exit 1)
    ├── FleetError           AWS refused, or a fleet is not as it should be                     (exit 1)
    ├── SweepStopped         too many failures in a row; the sweep stopped itself              (exit 1)
    └── Interrupted          Ctrl-C or a stop signal; work is checkpointed, call again         (exit 130)

Messages say what was expected, what was received and what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SatxError(Exception):
    """Root of the tree; `exit_code` is what the command line returns for it."""

    exit_code = 1


class ConfigError(SatxError):
    """A setting is wrong; nothing was spent."""

    exit_code = 2


class DataError(SatxError):
    """Tiles are missing, broken or inconsistent."""

    exit_code = 2


class WeightsError(SatxError):
    """Pretrained weights are absent, unreachable, or have another digest than was recorded."""

    exit_code = 2


class PromotionRefused(SatxError):
    """The gate held: the candidate is worse than the champion, or its export does not match."""

    exit_code = 2


class TrackerUnavailable(SatxError):
    """MLflow or the study's database does not answer."""


class TrialFailed(SatxError):
    """NaN loss or out of memory: the trial is recorded as failed and the sweep goes on."""


class OutOfMemory(TrialFailed):
    """Memory ran out: the sweep learns the largest batch that fits."""


class StateMismatch(SatxError):
    """A checkpoint does not fit, or a tail would train other variables than its cut says: no fault of the configuration."""


class FleetError(SatxError):
    """AWS refused what a fleet needs, or could not be asked."""


class SweepStopped(SatxError):
    """The sweep stopped itself: too many trials in a row failed."""


class Interrupted(SatxError):
    """A stop was asked for; what was done is checkpointed and the same command continues it."""

    exit_code = 130


def nearest_name(name: str, valid_names: Iterable[str]) -> str:
    """A hint for a misspelt name: the nearest valid one, or all of them.

    Args:
        name: What was received.
        valid_names: What would have been accepted.

    Returns:
        A sentence to put at the end of an error message.
    """
    valid = sorted(valid_names)
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    if close:
        return f"Did you mean {close[0]!r}? Valid: {', '.join(valid)}."
    return f"Valid: {', '.join(valid)}."
