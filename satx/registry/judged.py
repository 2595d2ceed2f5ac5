"""What a promotion finds out about a run before it decides: its evaluation, and the verdict of each rule of the gate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # `satx show` reads verdicts, and must stay fast
    from satx.evaluation.assessment import Assessment

NOT_ASKED = "not asked"


@dataclass(frozen=True)
class Evaluation:
    """A run on the tiles that took no part in its training or selection.

    Attributes:
        labels: Class indices of the test tiles, (N,) int64, in the order of `store.rows("test")`.
        slices: The slice of each of them, (N,) str; empty for tiles without one.
        raw_probabilities: What the network returns, (N, C) float32.
        probabilities: The same after calibration, (N, C) float32: what the export returns.
        before: Scores of `raw_probabilities` on the test tiles, whole and per slice, at a threshold chosen by the same rule.
        after: Scores of `probabilities` on the test tiles, whole and per slice.
        temperature: The temperature in use; 1.0 if fitting one did not help on the validation tiles.
        valid_loss_before: Log loss on the validation tiles without a temperature, in nats.
        valid_loss_after: The same with the temperature in use.
        threshold: Probability of the class of interest at which a tile counts as positive, chosen on the validation tiles.
        threshold_rule: The rule that chose it, as text, such as `youden` or `recall_at_fpr(0.05)`.
    """

    labels: np.ndarray
    slices: np.ndarray
    raw_probabilities: np.ndarray
    probabilities: np.ndarray
    before: Assessment
    after: Assessment
    temperature: float
    valid_loss_before: float
    valid_loss_after: float
    threshold: float
    threshold_rule: str

    @property
    def temperature_effect(self) -> str:
        """What a temperature other than 1 does to the probabilities, such as `softened by a temperature of 2.663`."""
        return f"{'softened' if self.temperature > 1 else 'sharpened'} by a temperature of {self.temperature:.3f}"


@dataclass(frozen=True)
class Verdict:
    """What a rule of the gate says.

    Attributes:
        rule: Name of the rule in the gate's YAML.
        asked: What the rule asks for, with its numbers; "" if the gate leaves it out.
        seen: What it saw, with numbers; or why it cannot be evaluated; or `not asked`, if the gate leaves it out.
        passed: False if the candidate does not pass or the rule cannot be evaluated; True also if the gate leaves it out.
    """

    rule: str
    asked: str
    seen: str
    passed: bool

    @property
    def result(self) -> str:
        """`passed`, `refused` or `not asked`."""
        if not self.asked:
            return NOT_ASKED
        return "passed" if self.passed else "refused"


@dataclass(frozen=True)
class GateFile:
    """The file that a gate was read from.

    Attributes:
        name: Its name, without the folder.
        sha256: SHA-256 of its content.
    """

    name: str
    sha256: str


def outcome_of(verdicts: tuple[Verdict, ...], gate: GateFile | None) -> str:
    """Return how a gate decided in one line, such as `5 of 8 rules asked; all passed (gate: ours.yaml, sha256 0f3a…)`.

    Args:
        verdicts: One per rule that satx knows, also of those that the gate leaves out.
        gate: The gate; None if it is not recorded.
    """
    results = [verdict.result for verdict in verdicts]
    num_refused, num_asked = results.count("refused"), len(results) - results.count(NOT_ASKED)
    outcome = f"{num_refused} refused" if num_refused else "all passed"
    source = f" (gate: {gate.name}, sha256 {gate.sha256[:12]}…)" if gate else ""
    return f"{num_asked} of {len(results)} rules asked; {outcome}{source}"


@dataclass(frozen=True)
class Forced:
    """A promotion against the gate.

    Attributes:
        reason: The reason that `--force` was given.
        by: User and host.
        at: Time in UTC, ISO 8601.
    """

    reason: str
    by: str
    at: str
