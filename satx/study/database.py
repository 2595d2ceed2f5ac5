"""The study's database: SQLite on one machine, PostgreSQL where several machines share a study.

A lost PostgreSQL is waited for here, at the edge, so that no trial fails by it; and whoever works through it beats, so
that the dead of other machines are known.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import BaseStorage, RDBStorage

from satx.errors import ConfigError, Interrupted, TrackerUnavailable
from satx.storage import locked, satx_home

logger = logging.getLogger(__name__)

optuna.logging.set_verbosity(optuna.logging.WARNING)

BEAT_SECONDS = 10
STALE_SECONDS = 60  # without a beat for so long, a worker is taken for dead
PATIENCE_SECONDS = 3600.0
LOOK_AGAIN_SECONDS = 1.0
SAY_AGAIN_SECONDS = 60.0
OPEN_AGAIN_SECONDS = 10.0
WAIT_SECONDS = 0.1
NETWORK = {  # libpq's: a server that swallows what it is sent is a lost one within half a minute, not after a quarter of an hour
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,  # milliseconds
}
CONNECTIONS = {  # a worker's trial, and its beat beside it
    "pool_pre_ping": True,
    "pool_size": 1,
    "max_overflow": 1,
    "connect_args": NETWORK,
}


def open_storage(
    url: str | None = None,
    *,
    opening_seconds: float = 0.0,
    patience_seconds: float = 0.0,
    stop: Callable[[], bool] = lambda: False,
) -> RDBStorage:
    """Optuna's storage: `SATX_STUDY_URL` if set, else `SATX_HOME/studies.db`.

    On SQLite a transaction takes the write lock when it begins; Optuna's own read-then-write would hand one queued trial
    to several workers there. On PostgreSQL trials beat while they are worked on, by Optuna's own thread.

    Args:
        url: Another database.
        opening_seconds: How long a server that is away is waited for: by workers, which nobody watches.
        patience_seconds: How long a database that was open and is lost is waited for, before that is an error.
        stop: Asked every second meanwhile; True ends the waiting with the error.

    Raises:
        ConfigError: It is neither SQLite nor PostgreSQL.
        Interrupted: `stop` said so, before a server that was away came back.
        TrackerUnavailable: The database does not answer.
    """
    url = url or os.environ.get("SATX_STUDY_URL") or f"sqlite:///{satx_home() / 'studies.db'}"
    if not url.startswith(("sqlite:///", "postgresql")):
        raise ConfigError(
            f"SATX_STUDY_URL: expected sqlite:///FILE or postgresql+psycopg://USER@HOST/DATABASE, got {url.partition(':')[0]}."
        )
    try:
        if url.startswith("sqlite:///"):
            with locked(Path(url.removeprefix("sqlite:///"))):  # Optuna races on the first opening of a new file
                storage = RDBStorage(url, engine_kwargs={"connect_args": {"timeout": 60}})
        else:
            return _opened(url, opening_seconds, patience_seconds, stop)
    except (sa.exc.SQLAlchemyError, StorageInternalError, ImportError, OSError) as error:
        raise TrackerUnavailable(
            f"The study database does not answer: {str(error).splitlines()[0]}. Check SATX_STUDY_URL."
        ) from error

    @sa.event.listens_for(storage.engine, "connect")
    def _connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # BEGIN is ours to say
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    @sa.event.listens_for(storage.engine, "begin")
    def _begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    storage.engine.dispose()  # drop the connections that were opened before the hooks
    return storage


def _opened(url: str, opening_seconds: float, patience_seconds: float, stop: Callable[[], bool]) -> SharedStorage:
    """A server's storage, once the server is there."""
    begun_at, waited = time.monotonic(), 0.0
    while True:
        try:
            storage = SharedStorage(url, patience_seconds, stop)
            storage.back_at = time.monotonic() if waited else storage.back_at
            return storage
        except (StorageInternalError, sa.exc.SQLAlchemyError) as error:
            waited = time.monotonic() - begun_at
            if not is_lost(error) or _is_refused(error) or waited >= opening_seconds:
                raise
            if stop():
                raise Interrupted("Stopped while waiting for the study's database.") from error
            logger.warning("the study's database is away, for %.0f s by now; waiting for it", waited)
            time.sleep(OPEN_AGAIN_SECONDS)


def _is_refused(error: Exception) -> bool:
    """Whether the server is there and wants another password, user or database."""
    return any(words in str(error) for words in ("authentication failed", "does not exist", "no password supplied"))


def _patient(call: Callable[..., Any]) -> Callable[..., Any]:
    """The same call, made again while the database is lost.

    A connection that is lost while it commits leaves open whether it did. Values, attributes and parameters are set
    again to what they are; a trial that was begun twice is one that nobody owns, and is failed by `reconcile`.
    """

    @functools.wraps(call)
    def patient(self: SharedStorage, *args: Any, **options: Any) -> Any:
        lost_at, said_at = 0.0, 0.0
        while True:
            try:
                return call(self, *args, **options)
            except (StorageInternalError, sa.exc.SQLAlchemyError) as error:
                now = time.monotonic()
                lost_at = lost_at or now
                if not is_lost(error) or self.stop() or now - lost_at >= self.patience_seconds:
                    raise
                if now - said_at > SAY_AGAIN_SECONDS:
                    said_at = now
                    logger.warning("the study's database is lost for %.0f s; waiting for it", now - lost_at)
                time.sleep(LOOK_AGAIN_SECONDS)
                self.back_at = time.monotonic()  # now, if it is: the next call may look for who has not beaten

    return patient


def is_lost(error: BaseException | None) -> bool:
    """Whether it is the connection that failed, or the server that was stopping or starting, rather than a statement."""
    while error is not None:
        if isinstance(error, sa.exc.OperationalError | sa.exc.InterfaceError | sa.exc.TimeoutError):
            return True
        if isinstance(error, sa.exc.DBAPIError) and error.connection_invalidated:
            return True
        error = error.__cause__
    return False


class SharedStorage(RDBStorage):
    """Optuna's storage on a server: with heartbeats, few connections, and patience while the server is away."""

    def __init__(self, url: str, patience_seconds: float, stop: Callable[[], bool]) -> None:
        """Connect."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            super().__init__(
                url, engine_kwargs=CONNECTIONS, heartbeat_interval=BEAT_SECONDS, grace_period=STALE_SECONDS
            )
        self.patience_seconds, self.stop = patience_seconds, stop
        self.back_at = float("-inf")  # when this process saw the server come back last, on `time.monotonic`'s clock

    @_patient
    def lock(self, name: str) -> sa.Connection:
        """Wait for a lock that others who name it wait for, too; it goes with the connection that is returned.

        Raises:
            Interrupted: `stop` said so, while another had it.
        """
        while True:
            connection = self.engine.connect()
            try:
                key = sa.func.hashtext(name)
                if connection.scalar(sa.select(sa.func.pg_try_advisory_xact_lock(key))):
                    return connection  # in a transaction, which holds it
            except BaseException:
                connection.close()
                raise
            connection.close()
            if self.stop():
                raise Interrupted("Stopped while waiting for another process; the same command continues.")
            time.sleep(WAIT_SECONDS)

    def was_away_lately(self) -> bool:
        """Whether the server was away within the time after which who does not beat is taken for dead."""
        if time.monotonic() - self.back_at < STALE_SECONDS:
            return True
        with self.engine.connect() as connection:
            up = connection.scalar(sa.select(sa.func.now() - sa.func.pg_postmaster_start_time()))
        return bool(up is not None and up.total_seconds() < STALE_SECONDS)

    def _get_stale_trial_ids(self, study_id: int) -> list[int]:
        """Whoever worked while the server was away could not beat: they are given as long again."""
        return [] if self.was_away_lately() else super()._get_stale_trial_ids(study_id)


# What Optuna's cache in front of a storage calls: its interface, and these.
BEHIND_THE_CACHE = (
    "_create_new_trial",
    "_get_best_trial_id",
    "_get_stale_trial_ids",
    "_get_trials",
    "_set_trial_param",
    "get_trial_id_from_study_id_trial_number",
    "record_heartbeat",
)
for _name in (*BaseStorage.__abstractmethods__, *BEHIND_THE_CACHE):
    setattr(SharedStorage, _name, _patient(getattr(SharedStorage, _name)))


def was_away_lately(study: optuna.Study) -> bool:
    """Whether a study's server was; never one of this machine's own."""
    storage = shared_storage(study)
    return storage is not None and storage.was_away_lately()


def shared_storage(study: optuna.Study) -> SharedStorage | None:
    """The storage behind Optuna's cache of it, if it is one that machines share."""
    storage = getattr(study._storage, "_backend", study._storage)
    return storage if isinstance(storage, SharedStorage) else None


@contextlib.contextmanager
def alone_at(study: optuna.Study, what: str) -> Iterator[None]:
    """Do something to a study that no other process does meanwhile, on any machine; waits for those who do.

    Args:
        study: The study.
        what: The thing done.
    """
    storage = shared_storage(study)
    if storage is None:
        with locked(satx_home() / "locks" / f"{study.study_name}-{what}"):
            yield
        return
    connection = storage.lock(f"satx {study.study_name} {what}")
    try:
        yield
    finally:
        with contextlib.suppress(sa.exc.SQLAlchemyError):  # the database is gone, and the lock with it
            connection.close()


def open_study(storage: RDBStorage, name: str) -> optuna.Study:
    """A study that the driver created.

    Raises:
        ConfigError: There is no such study.
    """
    try:
        return optuna.load_study(study_name=name, storage=storage)
    except KeyError as error:
        names = optuna.get_all_study_names(storage=storage)
        raise ConfigError(
            f"Expected the name of a study, got {name!r}. Known: {', '.join(names) or 'none'}."
        ) from error
