"""Errors that satx raises on purpose, by what the caller can do about them.

::

    SatxError
    ├── ConfigError          a YAML file, option or name is wrong; fix it and run again         (exit 2)
    ├── DataError            tiles are missing, broken or inconsistent; fix the folder          (exit 2)
    ├── WeightsError         pretrained weights are missing, unreachable or have a wrong digest (exit 2)
    ├── PromotionRefused     the candidate did not pass the gate; pick another or use --force   (exit 2)
    ├── TrackerUnavailable   MLflow or the study database does not answer                       (exit 1)
    ├── TrialFailed          one trial failed (NaN loss); the sweep continues                   (exit 1)
    │   └── OutOfMemory      memory ran out; batches as large are not tried again               (exit 1)
    ├── StateMismatch        a checkpoint or a tail does not match the configuration            (exit 1)
    ├── FleetError           AWS refused a request, or the fleet is in a wrong state            (exit 1)
    ├── SweepStopped         too many failures in a row; the sweep stopped                      (exit 1)
    └── Interrupted          Ctrl-C or a stop signal; work is checkpointed, run again           (exit 130)

Messages say what was expected, what was received and what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SatxError(Exception):
    """Base of all errors; `exit_code` is the exit code of the command line for the error."""

    exit_code = 1


class ConfigError(SatxError):
    """A setting is wrong; no training was started."""

    exit_code = 2


class DataError(SatxError):
    """Tiles are missing, broken or inconsistent."""

    exit_code = 2


class WeightsError(SatxError):
    """Pretrained weights are missing or unreachable, or their digest is not the recorded one."""

    exit_code = 2


class PromotionRefused(SatxError):
    """The promotion gate refused: the candidate is worse than the champion, or its export does not match."""

    exit_code = 2


class TrackerUnavailable(SatxError):
    """MLflow or the study's database does not answer."""


class TrialFailed(SatxError):
    """NaN loss or out of memory: the trial is recorded as failed and the sweep continues."""


class OutOfMemory(TrialFailed):
    """Memory ran out in training; the sweep does not try batches of this size or larger again."""


class StateMismatch(SatxError):
    """A checkpoint does not match, or a tail has other variables than its cut; not the fault of the configuration."""


class FleetError(SatxError):
    """AWS refused a request of a fleet, or could not be reached."""


class SweepStopped(SatxError):
    """The sweep stopped because too many trials in a row failed."""


class Interrupted(SatxError):
    """A stop was requested; the work is checkpointed, and the same command continues it."""

    exit_code = 130


def nearest_name(name: str, valid_names: Iterable[str]) -> str:
    """Return a hint for a misspelt name: the nearest valid name and all valid names, or only the latter.

    Args:
        name: The name that was received.
        valid_names: The names that are accepted.

    Returns:
        A sentence to put at the end of an error message.
    """
    valid = sorted(valid_names)
    # Cut a long name: the time of the search grows with the square of its length.
    close = difflib.get_close_matches(name[:100], valid, n=1, cutoff=0.5)
    if close:
        return f"Did you mean {close[0]!r}? Valid: {', '.join(valid)}."
    return f"Valid: {', '.join(valid)}."
