"""KerasTuner hyperparameters drawn by an Optuna trial, so that a user's own `keras_tuner.HyperModel` can be swept.

`hp.Choice`, `Int`, `Float` and `Boolean` all call `_register` the first time they are used, also in conditional scopes;
`_register` draws the value from the trial. KerasTuner does not export its hyperparameter types publicly, hence the
exact pin of keras-tuner.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import keras_tuner
from keras_tuner.src.engine.hyperparameters import hp_types
from optuna.trial import BaseTrial

from satx.storage import digest_of
from satx.study.outages import BREAKS


class Outage(keras_tuner.errors.FatalError):
    """An error of the environment in satx's own code, on its way through the user's code.

    KerasTuner takes any other error for a failure of the trial.

    Attributes:
        error: The error; not `__cause__`, which Keras removes.
    """

    def __init__(self, error: Exception) -> None:
        """Carry the error."""
        super().__init__(str(error))
        self.error = error


@contextlib.contextmanager
def outages_are_fatal() -> Iterator[None]:
    """Convert errors of the environment, such as a full disk or a lost database, into `Outage`."""
    try:
        yield
    except BREAKS as error:
        raise Outage(error) from error


class TrialHyperParameters(keras_tuner.HyperParameters):
    """Hyperparameters whose values an Optuna trial draws, in the order in which the user's code requests them.

    A copy, which KerasTuner makes for a HyperModel with `tunable=False`, draws nothing: new names get their default.
    """

    def __init__(self, trial: BaseTrial, on_value: Callable[[dict[str, Any]], None] = lambda values: None) -> None:
        """Create an empty container that draws from this trial, and calls `on_value` with all values after each."""
        super().__init__()
        self.trial, self.on_value = trial, on_value

    def _register(self, hyperparameter: Any, overwrite: bool = False) -> Any:
        name, known = hyperparameter.name, dict(self.values)
        value = super()._register(hyperparameter, overwrite)
        if not self.is_active(hyperparameter):
            return value  # None
        if name in known:  # as in KerasTuner, a name that has a value from another condition that also holds keeps it
            self.values[name] = known[name]
        elif not isinstance(hyperparameter, hp_types.Fixed):
            del self.values[name]  # KerasTuner's default, which must not stay if the study cannot be reached
            with outages_are_fatal():
                self.values[name] = draw(self.trial, hyperparameter)
        self.on_value(self.values)
        return self.values[name]


def draw(trial: BaseTrial, hyperparameter: Any) -> Any:
    """Draw the value of a KerasTuner hyperparameter from an Optuna trial.

    Optuna requires one distribution per name, but in KerasTuner a name may have another distribution under another
    condition, or in another branch of the user's code. So the name in Optuna includes the conditions and, if an earlier
    trial gave it another distribution, the digest of its own.
    """
    kind = hyperparameter
    name = "@".join([kind.name, *(f"{c.name}={'|'.join(map(str, c.values))}" for c in kind.conditions)])
    try:
        return _suggest(trial, name, kind)
    except ValueError:  # Optuna's, about a distribution that changes
        return _suggest(trial, f"{name}@{digest_of(repr(kind))[:8]}", kind)


def _suggest(trial: BaseTrial, name: str, kind: Any) -> Any:
    """Draw under a name of Optuna's.

    For ranges that Optuna does not support, another number is drawn: the exponent of a logarithmic range with a step,
    the quantile of a reversed logarithmic range.
    """
    if isinstance(kind, hp_types.Boolean):
        return trial.suggest_categorical(name, [False, True])
    if isinstance(kind, hp_types.Choice):
        return trial.suggest_categorical(name, list(kind.values))
    is_whole = isinstance(kind, hp_types.Int)
    if kind.sampling == "reverse_log":
        return kind.prob_to_value(trial.suggest_float(f"{name}@quantile", 0.0, 1.0 - 1e-12))
    if kind.sampling == "log" and kind.step is not None:
        largest = int(math.log(kind.max_value / kind.min_value, kind.step) + 1e-9)
        value = kind.min_value * kind.step ** trial.suggest_int(f"{name}@exponent", 0, largest)
        return int(value) if is_whole else value
    log = kind.sampling == "log"
    if is_whole:
        return trial.suggest_int(name, kind.min_value, _last_step(kind), step=kind.step or 1, log=log)
    return trial.suggest_float(name, kind.min_value, _last_step(kind), step=kind.step, log=log)


def _last_step(kind: Any) -> Any:
    """Return the largest value of a range that its steps reach; Optuna warns of a range that ends between two steps."""
    if kind.step is None or kind.sampling == "log":
        return kind.max_value
    low, high, step = (Decimal(str(value)) for value in (kind.min_value, kind.max_value, kind.step))
    last = low + (high - low) // step * step
    return int(last) if isinstance(kind, hp_types.Int) else float(last)
