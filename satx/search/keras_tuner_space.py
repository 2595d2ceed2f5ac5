"""KerasTuner hyperparameters drawn by an Optuna trial, so that a user's own `keras_tuner.HyperModel` can be swept.

`hp.Choice`, `Int`, `Float` and `Boolean` all call `_register` the first time they are used, also in conditional scopes;
`_register` draws the value from the trial. KerasTuner does not export its hyperparameter types publicly, hence the
exact pin of keras-tuner.
"""

from __future__ import annotations

import importlib.util
import inspect
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras_tuner
from keras_tuner.src.engine.hyperparameters import hp_types
from optuna.trial import BaseTrial

from satx.errors import ConfigError


class TrialHyperParameters(keras_tuner.HyperParameters):
    """Hyperparameters whose values an Optuna trial draws, in the order in which the user's code requests them."""

    def __init__(self, trial: BaseTrial) -> None:
        """Create an empty container that draws from this trial."""
        super().__init__()
        self.trial = trial

    def copy(self) -> TrialHyperParameters:
        """Return a copy that draws from the same trial; KerasTuner copies the container before it passes it on."""
        twin = type(self)(self.trial)
        twin.merge(self)
        return twin

    def _register(self, hyperparameter: Any, overwrite: bool = False) -> Any:
        name, known = hyperparameter.name, dict(self.values)
        value = super()._register(hyperparameter, overwrite)
        if isinstance(hyperparameter, hp_types.Fixed) or not self.is_active(hyperparameter):
            return value  # None if a condition does not hold
        # as in KerasTuner, a name that has a value from another condition that also holds keeps it
        self.values[name] = known[name] if name in known else draw(self.trial, hyperparameter)
        return self.values[name]


def draw(trial: BaseTrial, hyperparameter: Any) -> Any:
    """Draw the value of a KerasTuner hyperparameter from an Optuna trial.

    Optuna requires one distribution per name, but in KerasTuner a name may have another distribution under another
    condition. So the name in Optuna includes the conditions. For ranges that Optuna does not support, another number is
    drawn: the exponent of a logarithmic range with a step, the quantile of a reversed logarithmic range.
    """
    kind = hyperparameter
    name = "@".join([kind.name, *(f"{c.name}={'|'.join(map(str, c.values))}" for c in kind.conditions)])
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
        return trial.suggest_int(name, kind.min_value, kind.max_value, step=kind.step or 1, log=log)
    return trial.suggest_float(name, kind.min_value, kind.max_value, step=kind.step, log=log)


def load_hypermodel(path: Path) -> Callable[..., keras_tuner.HyperModel]:
    """Return the one HyperModel class that a Python file defines. The file is executed.

    Raises:
        ConfigError: There is no such file, it defines no or several such classes, or the class takes other arguments.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: expected a Python file with a keras_tuner.HyperModel, found none.")
    specification = importlib.util.spec_from_file_location(f"hypermodel_{path.stem}", path)
    if specification is None or specification.loader is None:
        raise ConfigError(f"{path}: expected a Python file, whose name ends in .py.")
    module = importlib.util.module_from_spec(specification)
    sys.modules[module.__name__] = module
    specification.loader.exec_module(module)
    found = [
        value
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, keras_tuner.HyperModel) and value.__module__ == module.__name__
    ]
    if len(found) != 1:
        names = ", ".join(kind.__name__ for kind in found) or "none"
        raise ConfigError(f"{path}: expected one class derived from keras_tuner.HyperModel, found {names}.")
    wanted = {"image_size_px", "num_classes"}
    if not wanted <= set(inspect.signature(found[0]).parameters):
        raise ConfigError(
            f"{path}: expected {found[0].__name__}(image_size_px, num_classes), so that it can fit the tiles."
        )
    return found[0]
