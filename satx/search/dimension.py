"""One dimension of a search space: its form in YAML, and how Optuna draws it."""

from __future__ import annotations

from typing import Any, Self

import optuna
from pydantic import Field, model_validator

from satx.config import Frozen, validated

Value = bool | int | float | str


class Dimension(Frozen):
    """The values that one setting may have: `choices`, or a range from `low` to `high` (both included).

    Attributes:
        choices: The values to choose from.
        low: Lowest number; the range is of integers when both ends are integers.
        high: Highest number.
        log: Draw uniformly on a logarithmic scale.
        step: Draw only `low` plus multiples of this step.
    """

    choices: list[Value] | None = Field(None, min_length=1)
    low: int | float | None = None
    high: int | float | None = None
    log: bool = False
    step: int | float | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        is_range = self.low is not None and self.high is not None
        says_range = any(value is not None for value in (self.low, self.high, self.step)) or self.log
        if is_range == (self.choices is not None) or (says_range and not is_range):
            raise ValueError("expected either `choices: [...]`, or both `low:` and `high:`")
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ValueError(f"expected low < high, got low={self.low} and high={self.high}")
        if self.log and (self.step is not None or not self.low or self.low <= 0):
            raise ValueError(f"expected `log` with low > 0 and without `step`, got low={self.low} and step={self.step}")
        if self.step is not None and (self.step <= 0 or (self._is_whole and self.step != int(self.step))):
            raise ValueError(f"expected step > 0, an integer between integers, got step={self.step}")
        return self

    @property
    def _is_whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)

    def distribution(self) -> optuna.distributions.BaseDistribution:
        """Return the dimension as an Optuna distribution."""
        if self.choices is not None:
            return optuna.distributions.CategoricalDistribution(self.choices)
        low, high = self.low or 0, self.high or 0
        if self._is_whole:
            return optuna.distributions.IntDistribution(int(low), int(high), step=int(self.step or 1), log=self.log)
        return optuna.distributions.FloatDistribution(float(low), float(high), step=self.step, log=self.log)

    def contains(self, value: Value) -> bool:
        """Return whether the dimension can draw this value."""
        if self.choices is not None:
            return value in self.choices
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number and self.distribution()._contains(float(value))

    def draw(self, trial: optuna.trial.BaseTrial, name: str) -> Value:
        """Draw a value from an Optuna trial."""
        if self.choices is not None:
            return trial.suggest_categorical(name, self.choices)  # type: ignore[return-value]  # Optuna's choices may be None, ours not
        low, high = self.low or 0, self.high or 0
        if self._is_whole:
            return trial.suggest_int(name, int(low), int(high), step=int(self.step or 1), log=self.log)
        return trial.suggest_float(name, float(low), float(high), step=self.step, log=self.log)

    def extremes(self) -> list[Value]:
        """Return the values to check against the bounds of the setting: all choices, or both ends of the range."""
        return self.choices if self.choices is not None else [self.low or 0, self.high or 0]


def read_dimension(name: str, value: Any) -> Dimension | dict[str, Dimension]:
    """Read a dimension from YAML, or a mapping of backbones to dimensions.

    Raises:
        ConfigError: The dimension is invalid; the message names the fault.
    """
    if isinstance(value, dict) and value and all(isinstance(part, dict | Dimension) for part in value.values()):
        return {key: validated(Dimension, part, source=f"{name}, {key}") for key, part in value.items()}
    return validated(Dimension, value, source=name)
