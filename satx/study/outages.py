"""Errors that come from the environment and not from code: a full disk, a database that does not answer."""

from __future__ import annotations

import errno

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from satx.errors import ConfigError, SatxError, TrackerUnavailable
from satx.storage import satx_home
from satx.tracking.client import FAILS

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
FULL_DATABASE = ("database or disk is full", "disk I/O error", "No space left on device", "File too large")
BREAKS = (OSError, *FAILS, SQLAlchemyError, StorageInternalError)  # errors that a configuration did not cause


def as_satx_error(error: Exception) -> SatxError | None:
    """Convert an error of the environment into a SatxError that says how to fix it; None for a bug in satx."""
    if not isinstance(error, BREAKS):
        return None
    if says_full(error):
        return ConfigError(
            f"The disk of SATX_HOME {satx_home()}, or of the folder written to, is full ({_brief(error)}). Free some space, or "
            f"run `satx gc`; the same command then continues."
        )
    if isinstance(error, OSError):
        return _of_file(error)
    return TrackerUnavailable(
        f"MLflow or the study database does not respond: {_brief(error)}. Once it does, the same command continues."
    )


def _of_file(error: OSError) -> ConfigError | None:
    if error.errno not in FORBIDDEN or error.filename is None:
        return None
    return ConfigError(
        f"{error.filename}: cannot be read or written ({error.strerror}). Fix its permissions, or choose another "
        f"folder; the same command then continues."
    )


def says_full(error: BaseException | None) -> bool:
    """Return whether an error, or one that led to it, says that a disk is full."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            return True
        if any(words in str(error) for words in FULL_DATABASE):
            return True
        error = error.__cause__ or error.__context__
    return False


def _brief(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
