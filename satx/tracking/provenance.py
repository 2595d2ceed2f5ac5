"""What a run was trained on: session, tiles, starting weights, configuration; stored in the run, read from it alone."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from satx.config import Configuration, read_yaml, validated
from satx.errors import ConfigError
from satx.models.weights_file import Weights
from satx.session_config import SessionConfig
from satx.storage import in_this_home
from satx.tracking.client import MlflowClient
from satx.tracking.runs import fetch_file

INPUTS = "inputs"  # name of the tag that contains them as JSON


def inputs_tag(session: SessionConfig, store_folder: Path, weights: Mapping[str, Weights]) -> dict[str, str]:
    """Return the tag from which a run can be repeated and promoted, and one with the digest of the session's manifest.

    Args:
        session: The session that is trained on.
        store_folder: Folder of the tile store.
        weights: Starting weights of each backbone that may be trained.
    """
    inputs = {
        "session": session.model_dump(mode="json"),
        "store": str(store_folder),
        "weights": {name: found.as_dict() for name, found in weights.items()},
    }
    digest = {} if session.manifest is None else {"manifest_digest": session.manifest.digest}
    return {INPUTS: json.dumps(inputs)} | digest


def recorded_inputs(run_id: str, tags: Mapping[str, str]) -> tuple[SessionConfig, Path, Weights]:
    """Return a training's session, the folder of its tile store, and the starting weights of its backbone.

    Args:
        run_id: Id of the run, for error messages.
        tags: Tags of the run.

    Raises:
        ConfigError: The run is not a training with recorded inputs.
    """
    inputs = json.loads(tags.get(INPUTS, "{}"))
    backbone = tags.get("backbone", "")
    if backbone not in inputs.get("weights", {}):
        raise ConfigError(
            f"Run {run_id}: expected a training of `satx sweep` or `satx train`, got another kind (runs of "
            f"`satx tune` keep no model). Choose another; `make ui` lists them."
        )
    session = validated(SessionConfig, inputs["session"], source=f"run {run_id}")
    weights = Weights(**inputs["weights"][backbone])
    here = replace(weights, file=str(in_this_home(Path(weights.file))))
    return session, in_this_home(Path(inputs["store"])), here


def recorded_configuration(client: MlflowClient, run_id: str) -> Configuration:
    """Return a training's configuration, from the file `config.json` of its run.

    Raises:
        ConfigError: The run has no such file, or the file is not a configuration.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = fetch_file(client, run_id, "config.json", Path(folder))
        if path is None:
            raise ConfigError(
                f"Run {run_id}: expected a training, got a run without config.json. Choose one in `make ui`."
            )
        return validated(Configuration, read_yaml(path), source=f"config.json of run {run_id}")
