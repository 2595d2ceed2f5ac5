"""What a run was trained on: session, tiles and starting weights, stored in the run and read from the run alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from satx.config import SessionConfig, validated
from satx.errors import ConfigError
from satx.models.weights_file import Weights

INPUTS = "inputs"  # name of the tag that contains them as JSON


def inputs_tag(session: SessionConfig, store_folder: Path, weights: Mapping[str, Weights]) -> dict[str, str]:
    """Return the tag from which a run can be repeated and promoted.

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
    return {INPUTS: json.dumps(inputs)}


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
            f"Run {run_id}: expected a training of `satx sweep` or `satx train`, got another kind of run (one of "
            f"`satx tune` keeps no model). Pick another; `make ui` lists them."
        )
    session = validated(SessionConfig, inputs["session"], source=f"run {run_id}")
    return session, Path(inputs["store"]), Weights(**inputs["weights"][backbone])
