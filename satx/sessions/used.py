"""Which manifest the runs of an experiment were trained on: a session does not change once a run has used it."""

from __future__ import annotations

import json
from typing import Any

from satx.errors import ConfigError
from satx.session_config import SessionConfig
from satx.storage import sqlite_path
from satx.tracking.client import open_tracker, tracking_uri
from satx.tracking.provenance import INPUTS

_WITH_MANIFEST = f"tags.`{INPUTS}` LIKE '%\"manifest\": {{%'"


def recorded_digest(experiment: str) -> str | None:
    """Return the manifest's digest that the newest run of an experiment recorded; None if no run has used a manifest.

    Runs that were deleted do not count.

    Raises:
        TrackerUnavailable: MLflow does not answer.
    """
    if (file := sqlite_path(tracking_uri())) and not file.exists():
        return None  # not even the tables were created
    client = open_tracker()
    found = client.get_experiment_by_name(experiment)
    if found is None:
        return None
    newest = client.search_runs(
        [found.experiment_id], _WITH_MANIFEST, order_by=["attributes.start_time DESC"], max_results=1
    )
    return _digest_of(newest[0].data.tags[INPUTS]) if newest else None


def refuse_other_manifest(session: SessionConfig) -> None:
    """Raise a ConfigError if a run of this session recorded another manifest than the session has now."""
    if session.manifest is None:
        return
    recorded = recorded_digest(session.experiment_name)
    if recorded not in (None, session.manifest.digest):
        raise ConfigError(
            f"{session.experiment_name} was trained with the manifest {str(recorded)[:12]}…; now it has "
            f"{session.manifest.digest[:12]}…. Restore {session.manifest.file} and its YAML, for example with `git checkout`, "
            f"and make a new session of the changed tiles: `satx session new`."
        )


def _digest_of(inputs: str) -> str:
    recorded: dict[str, Any] = json.loads(inputs)
    return str(recorded["session"]["manifest"]["digest"])
