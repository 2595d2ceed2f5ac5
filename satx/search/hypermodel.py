"""A user's own `keras_tuner.HyperModel`: loaded from its file, and given the tiles in the form that its `fit` takes."""

from __future__ import annotations

import functools
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import keras_tuner

from satx.errors import ConfigError, TrialFailed
from satx.tiles.store import TileStore
from satx.training.tile_batches import TileBatches, tile_arrays

SETTINGS = ("validation_data", "callbacks", "epochs", "batch_size", "verbose")
LABELS = ("y", "labels", "targets")
GIVEN_TWICE = re.compile(r"got multiple values for (?:keyword )?argument '(\w+)'")
LONGEST_REASON = 500  # characters


@dataclass(frozen=True)
class FitArguments:
    """What a HyperModel's `fit` takes, read from its signature.

    Attributes:
        data: Names of the parameters for the training tiles: one for batches, two for images and labels, none if the
            batches are passed by position.
        settings: Which of `SETTINGS` it takes.
    """

    data: tuple[str, ...]
    settings: tuple[str, ...]

    @property
    def as_arrays(self) -> bool:
        """Whether it takes images and labels apart."""
        return len(self.data) == 2


def fit_arguments(fit: Callable[..., Any], source: str) -> FitArguments:
    """Read from the signature of a HyperModel's `fit` how it takes the tiles.

    Two parameters after `hp` and `model`, such as `x, y`, get images and labels as arrays in memory. One such
    parameter, `*args` or `**kwargs` gets `TileBatches`. The validation tiles come in the same form.

    Args:
        fit: The method.
        source: Where it is, for messages.

    Raises:
        ConfigError: It takes no data, data of another form, or no callbacks.
    """
    parameters = [*inspect.signature(fit).parameters.values()]
    kinds = {parameter.kind for parameter in parameters}
    named = [parameter for parameter in parameters if parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD][2:]
    named += [parameter for parameter in parameters if parameter.kind is inspect.Parameter.KEYWORD_ONLY]
    data = tuple(
        parameter.name
        for parameter in named
        if parameter.name not in SETTINGS
        and (parameter.default is inspect.Parameter.empty or parameter.name in ("x", *LABELS))
    )
    takes_any = inspect.Parameter.VAR_KEYWORD in kinds
    if not data and inspect.Parameter.VAR_POSITIONAL not in kinds and takes_any:
        data = ("x",)  # as `tuner.search(x=...)` would pass it
    takes_none = not data and inspect.Parameter.VAR_POSITIONAL not in kinds
    of_another_form = len(data) > 2 or (len(data) == 2 and re.search("val|test", data[1]) is not None)
    settings = tuple(name for name in SETTINGS if takes_any or name in {parameter.name for parameter in named})
    if takes_none or of_another_form or "callbacks" not in settings:
        plain = inspect.Signature([parameter.replace(annotation=inspect.Parameter.empty) for parameter in parameters])
        raise ConfigError(
            f"{source}: expected fit(hp, model, x, y, validation_data, callbacks) for arrays or fit(hp, model, data, "
            f"validation_data, callbacks) for batches, with `**kwargs` for what it does not name, got fit{plain}."
        )
    return FitArguments(data, settings)


class TileHyperModel(keras_tuner.HyperModel):
    """A user's HyperModel with the session's tiles, which a user of KerasTuner would pass to `Tuner.search`."""

    def __init__(
        self, inner: keras_tuner.HyperModel, store: TileStore, *, batch_size: int, seed: int, source: str
    ) -> None:
        """Read how `inner.fit` takes the tiles.

        Args:
            inner: The user's HyperModel.
            store: The tiles.
            batch_size: Tiles per training step, unless `fit` sets its own.
            seed: Seed of initial weights and of the tiles' order.
            source: Where the HyperModel is, for messages.

        Raises:
            ConfigError: `fit` has a signature that cannot be served.
        """
        super().__init__()
        self.inner, self.store, self.batch_size, self.seed = inner, store, batch_size, seed
        self.arguments = fit_arguments(inner.fit, source)
        self.model: Any = None
        self.returned: Any = None

    def build(self, hp: keras_tuner.HyperParameters) -> Any:
        """Build the user's model, from the same seed in every trial."""
        keras.utils.set_random_seed(self.seed)
        self.model = self.returned = None
        self.inner.declare_hyperparameters(hp)
        built = self.inner.build(hp)
        self.model = built if isinstance(built, keras.Model) else None  # KerasTuner refuses anything else
        return built

    def fit(self, hp: keras_tuner.HyperParameters, model: Any, **settings: Any) -> float:
        """Train the user's model by the user's `fit`.

        A `fit` such as `model.fit(*args, epochs=hp.Int(...), **kwargs)` sets what `kwargs` contains too. Its own value
        counts: `fit` is called again without the setting, before it has trained anything.

        Returns:
            0, because KerasTuner checks the type; the trial's value is satx's own score of the validation tiles.
        """
        data, valid = self._data(model)
        settings |= {"validation_data": valid} | ({"batch_size": self.batch_size} if self.arguments.as_arrays else {})
        if not self.arguments.as_arrays:
            model.fit = _with_own_batch_size(model.fit)
        set_by_fit = set[str]()  # settings that `fit` passes to Keras itself, beside its `**kwargs`
        while True:
            taken = [name for name in self.arguments.settings if name in settings and name not in set_by_fit]
            passed = {name: settings[name] for name in taken}
            keras.utils.set_random_seed(self.seed)
            try:
                if self.arguments.data:
                    by_name = dict(zip(self.arguments.data, data, strict=True))
                    self.returned = self.inner.fit(hp, model, **by_name, **passed)
                else:
                    self.returned = self.inner.fit(hp, model, *data, **passed)
                return 0.0
            except TypeError as error:
                twice = GIVEN_TWICE.search(str(error))
                if twice is None or twice[1] not in passed or twice[1] == "callbacks":
                    raise
                set_by_fit.add(twice[1])
                optimizer = getattr(model, "optimizer", None)
                if optimizer is not None and int(optimizer.iterations) > 0:
                    raise TrialFailed(
                        f"fit passes {twice[1]!r} to Keras and, after it has trained, {twice[1]!r} of its **kwargs too; remove "
                        f"it from them there."
                    ) from error

    def _data(self, model: Any) -> tuple[tuple[Any, ...], Any]:
        """Return the training tiles as `fit` takes them, and the validation tiles."""
        one_hot = wants_one_hot(model)
        if self.arguments.as_arrays:
            train = tile_arrays(self.store, "train", seed=self.seed, one_hot=one_hot)
            return train, tile_arrays(self.store, "valid", seed=None, one_hot=one_hot)
        size = self.batch_size
        batches = TileBatches(self.store, "train", batch_size=size, seed=self.seed, one_hot=one_hot)
        return (batches,), TileBatches(self.store, "valid", batch_size=size, seed=None, one_hot=one_hot)


def wants_one_hot(model: Any) -> bool:
    """Return whether a model is compiled with a loss for one-hot labels, such as `categorical_crossentropy`."""
    loss = getattr(model, "loss", None)
    if isinstance(loss, str):
        loss = keras.losses.get(loss)
    name = getattr(loss, "name", None) or getattr(loss, "__name__", "")
    return str(name).startswith("categorical_")


def _with_own_batch_size(fit: Callable[..., Any]) -> Callable[..., Any]:
    """Return `Model.fit` that also obeys `batch_size` for `TileBatches`; Keras ignores it for batched data."""

    @functools.wraps(fit)
    def rebatched(x: Any = None, y: Any = None, batch_size: int | None = None, *args: Any, **settings: Any) -> Any:
        if isinstance(x, TileBatches) and batch_size is not None:
            x, batch_size = x.with_batch_size(batch_size), None
        return fit(x, y, batch_size, *args, **settings)

    return rebatched


def load_hypermodel(path: Path) -> Callable[..., keras_tuner.HyperModel]:
    """Return the one HyperModel class that a Python file defines. The file is executed.

    Raises:
        ConfigError: There is no such file, it raises an error, it defines no or several such classes, or the class
            takes other arguments.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: expected a Python file with a keras_tuner.HyperModel, found none.")
    specification = importlib.util.spec_from_file_location(f"hypermodel_{path.stem}", path.resolve())
    if specification is None or specification.loader is None:
        raise ConfigError(f"{path}: expected a Python file, whose name ends in .py.")
    module = importlib.util.module_from_spec(specification)
    sys.modules[module.__name__] = module
    try:
        specification.loader.exec_module(module)
    except Exception as error:  # the user's code may raise anything
        raise ConfigError(f"{path}: expected a file that Python can execute, got {reason_of(error, path)}.") from error
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


def reason_of(error: BaseException, path: Path) -> str:
    """Return what a user's code raised: the kind of error, its message, and the line of the user's file."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename) == path.resolve()]
    where = f" ({path.name}, line {lines[-1]})" if lines else ""
    said = " ".join(str(error).split())
    said = said if len(said) <= LONGEST_REASON else f"{said[:LONGEST_REASON]}…"
    return f"{type(error).__name__}: {said}{where}" if said else f"{type(error).__name__}{where}"
