"""The study's database: SQLite on one machine, PostgreSQL where several machines share a study.

Calls wait while PostgreSQL does not answer, so that no trial fails because of it. Trials on PostgreSQL send heartbeats,
so that dead workers on other machines are detected.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import BaseStorage, RDBStorage

from satx.environment import environment
from satx.errors import ConfigError, Interrupted, TrackerUnavailable
from satx.storage import locked, satx_home, sqlite_path, sqlite_uri
from satx.tracking.database_errors import brief, check_database_file, database_problem

logger = logging.getLogger(__name__)

optuna.logging.set_verbosity(optuna.logging.WARNING)

BEAT_SECONDS = 10
STALE_SECONDS = 60  # a worker without a heartbeat for this long counts as dead
PATIENCE_SECONDS = 3600.0
LOOK_AGAIN_SECONDS = 1.0
SAY_AGAIN_SECONDS = 60.0
OPEN_AGAIN_SECONDS = 10.0
WAIT_SECONDS = 0.1
LOCK_SECONDS = 60.0  # how long a sweep waits for another process to release the lock of an SQLite file
BRIEF_LOCK_SECONDS = 20.0  # the same for a command that somebody waits for
NETWORK = {  # libpq's: detect a server that silently drops packets within half a minute, not after a quarter of an hour
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,  # milliseconds
}
CONNECTIONS = {  # one connection for a worker's trial, one for its heartbeat thread
    "pool_pre_ping": True,
    "pool_size": 1,
    "max_overflow": 1,
    "connect_args": NETWORK,
}


def study_url() -> str:
    """Return `SATX_STUDY_URL` if it is set, otherwise the URL of `SATX_HOME/studies.db`."""
    return environment().study_url or sqlite_uri(satx_home() / "studies.db")


def open_storage(
    url: str | None = None,
    *,
    opening_seconds: float = 0.0,
    patience_seconds: float = 0.0,
    stop: Callable[[], bool] = lambda: False,
) -> RDBStorage:
    """Open Optuna's storage: `url` if given, else `SATX_STUDY_URL` if set, else `SATX_HOME/studies.db`.

    On SQLite, a transaction takes the write lock when it begins; Optuna's own read-then-write would hand one queued
    trial to several workers. On PostgreSQL, Optuna's heartbeat thread sends heartbeats while a trial runs.

    Args:
        url: The database to open instead of the default.
        opening_seconds: How long to wait for a server that does not answer at first; for workers, which run unattended.
        patience_seconds: How long a call waits for a connected server that stops answering, before it raises.
        stop: Checked while waiting; True ends the wait with the error.

    Raises:
        ConfigError: The database is neither SQLite nor PostgreSQL, cannot be written, is damaged, or was written by another
            version of Optuna; or the disk is full.
        Interrupted: `stop` returned True while waiting for the server to answer at first.
        TrackerUnavailable: The database does not answer, or another process holds its lock.
    """
    url = url or study_url()
    if not url.startswith(("sqlite:///", "postgresql")):
        raise ConfigError(
            f"SATX_STUDY_URL: expected sqlite:///FILE or postgresql+psycopg://USER@HOST/DATABASE, got {url.partition(':')[0]}."
        )
    file = sqlite_path(url)
    lock_seconds = LOCK_SECONDS if patience_seconds or opening_seconds else BRIEF_LOCK_SECONDS
    try:
        if file is None:
            return _opened(url, opening_seconds, patience_seconds, stop)
        check_database_file(file)
        with locked(file):  # Optuna races when it creates a new file
            storage = RDBStorage(url, engine_kwargs={"connect_args": {"timeout": lock_seconds}})
    except (sa.exc.SQLAlchemyError, StorageInternalError, ImportError, OSError, RuntimeError) as error:
        problem = database_problem(error, [file] if file else [], home=satx_home())
        if problem is None and type(error) is RuntimeError:  # Optuna raises it for tables of another version only
            raise
        raise problem or TrackerUnavailable(
            f"The study database does not answer: {brief(error)}. Check SATX_STUDY_URL."
        ) from error

    @sa.event.listens_for(storage.engine, "connect")
    def _connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # `_begin` issues BEGIN, so the driver must not
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    @sa.event.listens_for(storage.engine, "begin")
    def _begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    storage.engine.dispose()  # drop the connections that were opened before the hooks
    return storage


def set_value_name(study: optuna.Study) -> None:
    """Give the value of the trials its name, which Optuna's dashboard shows."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        study.set_metric_names(["best validation AUC"])


def _opened(url: str, opening_seconds: float, patience_seconds: float, stop: Callable[[], bool]) -> SharedStorage:
    """Open the storage of a server, and wait for the server if it does not answer yet."""
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
                raise Interrupted("Stopped while waiting for the study database.") from error
            logger.warning("the study database has not answered for %.0f s; waiting for it", waited)
            time.sleep(OPEN_AGAIN_SECONDS)


def _is_refused(error: Exception) -> bool:
    """Return whether the server answered, but refused the password, the user or the database."""
    return any(words in str(error) for words in ("authentication failed", "does not exist", "no password supplied"))


def _patient(call: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a storage method so that it is retried while the database does not answer.

    If the connection is lost during a commit, it is unknown whether the commit succeeded. Setting values, attributes
    and parameters twice is harmless. If a trial was created twice, one has no owner, and `reconcile` fails it.
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
                    logger.warning("the study database has not answered for %.0f s; waiting for it", now - lost_at)
                time.sleep(LOOK_AGAIN_SECONDS)
                # Set before the retry, which may look for stale trials if the server is back.
                self.back_at = time.monotonic()

    return patient


def is_lost(error: BaseException | None) -> bool:
    """Return whether the connection failed or the server was stopping or starting, rather than a statement failed."""
    while error is not None:
        if isinstance(error, sa.exc.OperationalError | sa.exc.InterfaceError | sa.exc.TimeoutError):
            return True
        if isinstance(error, sa.exc.DBAPIError) and error.connection_invalidated:
            return True
        error = error.__cause__
    return False


class SharedStorage(RDBStorage):
    """Optuna's storage on a server, with heartbeats, few connections, and retries while the server does not answer."""

    def __init__(self, url: str, patience_seconds: float, stop: Callable[[], bool]) -> None:
        """Connect to the server."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            super().__init__(
                url, engine_kwargs=CONNECTIONS, heartbeat_interval=BEAT_SECONDS, grace_period=STALE_SECONDS
            )
        self.patience_seconds, self.stop = patience_seconds, stop
        self.back_at = float("-inf")  # when this process last saw the server come back, by `time.monotonic`

    @_patient
    def lock(self, name: str) -> sa.Connection:
        """Acquire a lock by name, and wait while another process holds it; closing the returned connection releases it.

        Raises:
            Interrupted: `stop` returned True while another process held the lock.
        """
        while True:
            connection = self.engine.connect()
            try:
                key = sa.func.hashtext(name)
                if connection.scalar(sa.select(sa.func.pg_try_advisory_xact_lock(key))):
                    return connection  # its open transaction holds the lock
            except BaseException:
                connection.close()
                raise
            connection.close()
            if self.stop():
                raise Interrupted("Stopped while waiting for another process; the same command continues.")
            time.sleep(WAIT_SECONDS)

    def was_away_lately(self) -> bool:
        """Return whether the server was down within the last `STALE_SECONDS`."""
        if time.monotonic() - self.back_at < STALE_SECONDS:
            return True
        with self.engine.connect() as connection:
            up = connection.scalar(sa.select(sa.func.now() - sa.func.pg_postmaster_start_time()))
        return bool(up is not None and up.total_seconds() < STALE_SECONDS)

    def _get_stale_trial_ids(self, study_id: int) -> list[int]:
        """Return no trials shortly after an outage: workers could not send heartbeats while the server was down."""
        return [] if self.was_away_lately() else super()._get_stale_trial_ids(study_id)


# Optuna's cache in front of a storage calls the methods of `BaseStorage` and these.
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
    """Return whether the study's server was down within the last `STALE_SECONDS`; always False for SQLite."""
    storage = shared_storage(study)
    return storage is not None and storage.was_away_lately()


def shared_storage(study: optuna.Study) -> SharedStorage | None:
    """Return the storage behind Optuna's cache if it is on a server that machines share, else None."""
    storage = getattr(study._storage, "_backend", study._storage)
    return storage if isinstance(storage, SharedStorage) else None


def do_not_wait(study: optuna.Study) -> None:
    """From now on, let calls fail at once if the study's server is away."""
    storage = shared_storage(study)
    if storage is not None:
        storage.stop = lambda: True


@contextlib.contextmanager
def alone_at(study: optuna.Study, what: str) -> Iterator[None]:
    """Hold a lock on one operation on a study, across processes and machines; waits while another process holds it.

    Args:
        study: The study.
        what: Name of the operation.
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
        with contextlib.suppress(sa.exc.SQLAlchemyError):  # without a connection to the database the lock is released
            connection.close()


def open_study(storage: RDBStorage, name: str) -> optuna.Study:
    """Load a study that the driver created.

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
