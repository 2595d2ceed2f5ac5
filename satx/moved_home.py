"""A home that was moved or copied: absolute places of files in MLflow's database and in the configuration of servers.

Neither MLflow nor TensorFlow Serving has relative places. So they are rewritten once, when satx opens a home at another
path than the last one.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
LOCK_SECONDS = 20.0


def rewrite_places(database: Path, before: Path | None, now: Path) -> int:
    """Change the places of files below a home's earlier path to places below its present one.

    Args:
        database: `SATX_HOME/mlflow.db`; nothing is done if it does not exist.
        before: Earlier path of the home. None for a home that has not recorded it; then the places of its experiments tell.
        now: Present path of the home.

    Returns:
        How many places were changed.

    Raises:
        sqlite3.Error: The database cannot be read or written.
    """
    if not database.is_file():
        return 0
    with closing(sqlite3.connect(database, timeout=LOCK_SECONDS)) as connection, connection:
        old = before.as_uri() if before else _recorded_home(connection)
        if old is None or old == now.as_uri():
            return 0
        old, new = f"{old}/", f"{now.as_uri()}/"
        num_changed = 0
        for table, column in PLACES:
            if column in _columns(connection, table):
                # The new path may begin with the old one; what has been changed stays.
                statement = (
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                    f"WHERE substr({column}, 1, ?) = ? AND substr({column}, 1, ?) != ?"
                )
                values = (new, len(old) + 1, len(old), old, len(new), new)
                num_changed += connection.execute(statement, values).rowcount
    return num_changed


def rewritten_models_config(text: str, before: Path, now: Path) -> str:
    """Return `exports/models.config` with the models' folders below the present home.

    Args:
        text: The file's text. If it is no valid configuration, it is returned as it is.
        before: Earlier path of the home.
        now: Its present path.
    """
    from google.protobuf import text_format  # imported here because homes rarely move
    from tensorflow_serving.config import model_server_config_pb2

    config = model_server_config_pb2.ModelServerConfig()
    try:
        text_format.Parse(text, config)
    except text_format.ParseError:
        return text
    for model in config.model_config_list.config:
        path = Path(model.base_path)
        if path.is_relative_to(before) and not path.is_relative_to(now):  # the new path may lie below the old one
            model.base_path = str(now / path.relative_to(before))
    return str(text_format.MessageToString(config, as_utf8=False))


def _recorded_home(connection: sqlite3.Connection) -> str | None:
    """Return the URI of the home in which the newest experiment of satx was created."""
    if "artifact_location" not in _columns(connection, "experiments"):
        return None
    query = "SELECT artifact_location FROM experiments WHERE artifact_location LIKE 'file://%/mlartifacts/%'"
    newest = connection.execute(f"{query} ORDER BY experiment_id DESC").fetchone()
    return str(newest[0]).rpartition("/mlartifacts/")[0] if newest else None


def _columns(connection: sqlite3.Connection, table: str) -> set[str]:
    return {str(row[1]) for row in connection.execute(f"PRAGMA table_info({table})")}
