"""Errors that come from the environment and not from code: a full disk, a locked database, one that does not answer."""

from __future__ import annotations

import errno

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from satx.errors import ConfigError, SatxError, TrackerUnavailable
from satx.storage import satx_home, sqlite_path
from satx.study.database import study_url
from satx.tracking.client import FAILS, is_away, tracking_uri
from satx.tracking.database_errors import brief, database_problem, first_line, says_full

FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
BREAKS = (OSError, *FAILS, SQLAlchemyError, StorageInternalError)  # errors that a configuration did not cause

__all__ = ["BREAKS", "as_satx_error", "says_full"]


def as_satx_error(error: Exception) -> SatxError | None:
    """Convert an error of the environment into a SatxError that says how to fix it; None for a bug in satx."""
    if not isinstance(error, BREAKS):
        return None
    files = [file for url in (study_url(), tracking_uri()) if (file := sqlite_path(url))]
    problem = database_problem(error, files, home=satx_home())
    if problem is not None:
        return problem
    if isinstance(error, OSError):
        return _of_file(error)
    said = first_line(error) if is_away(error) else brief(error)  # MLflow's own message has the URL
    return TrackerUnavailable(
        f"MLflow or the study database does not respond: {said}. Once it does, the same command continues."
    )


def _of_file(error: OSError) -> ConfigError | None:
    if error.errno not in FORBIDDEN or error.filename is None:
        return None
    return ConfigError(
        f"{error.filename}: cannot be read or written ({error.strerror}). Fix its permissions, or choose another "
        f"folder; the same command then continues."
    )
