"""What a run was trained on, written with the run and read from the run alone: its session, tiles and starting weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from satx.config import SessionConfig, validated
from satx.errors import ConfigError
from satx.models.weights_file import Weights

INPUTS = "inputs"  # the tag that holds them, as JSON


def inputs_tag(session: SessionConfig, store_folder: Path, weights: Mapping[str, Weights]) -> dict[str, str]:
    """The tag from which a run can be repeated and promoted.

    Args:
        session: The curated tiles it is about.
        store_folder: Of the tile store.
        weights: Starting weights of each backbone that may be trained.
    """
    inputs = {
        "session": session.model_dump(mode="json"),
        "store": str(store_folder),
        "weights": {name: found.as_dict() for name, found in weights.items()},
    }
    return {INPUTS: json.dumps(inputs)}


def recorded_inputs(run_id: str, tags: Mapping[str, str]) -> tuple[SessionConfig, Path, Weights]:
    """What a training read: its session, the folder of its tile store, and the starting weights of its backbone.

    Args:
        run_id: The run.
        tags: Its tags.

    Raises:
        ConfigError: The run is no training whose inputs are recorded.
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
