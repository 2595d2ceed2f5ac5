"""What can break under a running command through nobody's code: a full disk, a database that went away."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from satx.errors import ConfigError, TrackerUnavailable
from satx.storage import satx_home
from satx.tracking.tracker import MlflowException, tracking_uri

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FULL_DATABASE = ("database or disk is full", "disk I/O error", "No space left on device", "File too large")
BREAKS = (OSError, MlflowException, SQLAlchemyError, StorageInternalError)  # without fault of a configuration


@contextmanager
def breaks_explained() -> Iterator[None]:
    """One clear error instead of a traceback.

    Raises:
        ConfigError: The disk is full.
        TrackerUnavailable: MLflow or the study's database failed.
    """
    try:
        yield
    except BREAKS as error:
        if _says_full(error):
            raise ConfigError(
                f"The disk of SATX_HOME {satx_home()} is full ({_brief(error)}). Free some space, or run `satx gc`; "
                f"the same command then continues."
            ) from error
        if isinstance(error, OSError):
            raise
        raise TrackerUnavailable(
            f"The database of MLflow ({tracking_uri()}) or of the study stopped answering: {_brief(error)}. "
            f"When it is back, the same command continues."
        ) from error


def _says_full(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            return True
        if any(words in str(error) for words in FULL_DATABASE):
            return True
        error = error.__cause__ or error.__context__
    return False


def _brief(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
