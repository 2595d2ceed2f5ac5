"""The settings of the promotion gate: how a threshold is chosen, and the rules that a run must pass to become champion.

`rules.py` evaluates them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, PrivateAttr

from satx.config import Frozen, read_yaml, validated
from satx.errors import ConfigError
from satx.evaluation.operating_point import ThresholdRule
from satx.inference.export import MAX_DIFFERENCE, MAX_DIFFERENCE_OWN_SIZE
from satx.registry.judged import GateFile
from satx.storage import file_digest, shipped_file

DEFAULT_GATE = "experiments/gate.yaml"


class AucFloor(Frozen):
    """The test AUC is above a floor beyond chance."""

    at_least: float = Field(
        ge=0, lt=1, description="the whole interval of the AUC must be above it; 0.5 is that of guessing"
    )


class AucNotWorse(Frozen):
    """The test AUC is not below the champion's beyond chance, by paired bootstrap."""

    confidence: float = Field(gt=0.5, lt=1, description="confidence level of the interval of the difference")


class AccuracyNotWorse(Frozen):
    """The run is not right about fewer test tiles than the champion beyond chance, by McNemar's exact test."""

    alpha: float = Field(gt=0, lt=0.5, description="largest p-value that counts as beyond chance")


class SliceFloor(Frozen):
    """A score is not below a floor beyond chance in any slice."""

    metric: Literal["accuracy", "recall"]
    at_least: float = Field(ge=0, le=1)
    fewest_tiles: int = Field(
        ge=1, description="smaller slices are named, but not judged; recall counts its class only"
    )


class CalibrationGap(Frozen):
    """The mean confidence is not further from the accuracy than this beyond chance, in either direction."""

    at_most: float = Field(gt=0, lt=1)


class ServedParity(Frozen):
    """The largest difference in probability between the export and the network.

    Both limits can only be made stricter: an export that exceeds those of `satx.inference.export` is never written.
    """

    own_size_at_most: float = Field(gt=0, le=MAX_DIFFERENCE_OWN_SIZE, description="on tiles of the model's own size")
    resized_at_most: float = Field(gt=0, le=MAX_DIFFERENCE, description="on tiles that the export resizes")


class LatencyPerTile(Frozen):
    """The median time of a prediction of one tile with the export, on this machine."""

    at_most_seconds: float = Field(gt=0)


class ExportSize(Frozen):
    """The size of the export on disk."""

    at_most_gb: float = Field(gt=0)


class Rules(Frozen):
    """The rules of a gate; a rule that is left out is not asked."""

    auc_floor: AucFloor | None = None
    auc_not_worse: AucNotWorse | None = None
    accuracy_not_worse: AccuracyNotWorse | None = None
    slice_floor: SliceFloor | None = None
    calibration_gap: CalibrationGap | None = None
    served_parity: ServedParity | None = None
    latency_per_tile: LatencyPerTile | None = None
    export_size: ExportSize | None = None


class GateConfig(Frozen):
    """Contents of a gate's YAML, such as `experiments/gate.yaml`."""

    threshold: ThresholdRule
    rules: Rules
    _file: GateFile | None = PrivateAttr(default=None)

    @property
    def file(self) -> GateFile | None:
        """The file it was read from; None if it was made in Python."""
        return self._file


def load_gate(path: Path | None = None) -> GateConfig:
    """Read a gate from YAML.

    Args:
        path: The file. Default: `experiments/gate.yaml`.

    Raises:
        ConfigError: The file cannot be read or has no rules, or a rule or one of its settings is unknown, missing or out of
            bounds.
    """
    path = path or shipped_file(DEFAULT_GATE)
    gate = validated(GateConfig, read_yaml(path), source=path.name)
    if all(rule is None for _, rule in gate.rules):
        raise ConfigError(
            f"{path.name}: rules: expected at least one rule, got none. Copy those to ask from {DEFAULT_GATE}; to promote a run "
            f"that they refuse, pass `--force REASON`."
        )
    gate._file = GateFile(path.name, file_digest(path))
    return gate
