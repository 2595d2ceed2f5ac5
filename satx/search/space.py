"""A sweep's YAML and its search space: define-by-run, conditional on the backbone.

A dimension has the dotted name of the setting it draws. Where backbones have different dimensions (of cuts, for
example), Optuna sees one per backbone, such as `model.unfreeze@xception`: it requires one distribution per name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

import optuna
from optuna.trial import FrozenTrial
from pydantic import Field, field_validator, model_validator

from satx.catalogue import BACKBONES, NONE
from satx.config import Configuration, Frozen, check_name, read_yaml, validated
from satx.errors import ConfigError, nearest_name
from satx.search.dimension import Dimension, Value, read_dimension
from satx.storage import shipped_file

BACKBONE, UNFREEZE, TAIL_ONLY = "model.backbone", "model.unfreeze", "train.finetune_learning_rate"
IMAGE_SIZE, HEAD_EPOCHS = "image_size_px", "train.head_epochs"
COST_ONLY = ("cache", "cache_gb")  # settings that do not affect scores


class SamplerConfig(Frozen):
    """Sampler of configurations: TPE (tree-structured Parzen estimator, Bergstra et al. 2011) or random."""

    name: Literal["tpe", "random"] = "tpe"
    num_startup_trials: int = Field(10, ge=1, description="of each backbone, drawn at random")
    seed: int = Field(20, ge=0)


class PrunerConfig(Frozen):
    """Pruner that stops trials early by comparing validation AUC at the same epoch.

    `rungs` decides after the head, by the cost of the tail, and twice within the tail; `median` decides at every epoch.
    """

    name: Literal["rungs", "median", "none"] = "rungs"
    num_startup_trials: int = Field(5, ge=0, description="trials to compare with before any is pruned")
    keep: float = Field(0.5, gt=0, le=1, description="share that passes a rung of `rungs`, at the sweep's median cost")
    num_warmup_epochs: int = Field(3, ge=0, description="epochs of a trial before `median` may prune it")


class ConfirmConfig(Frozen):
    """Confirmation after the search: train the best configurations with more seeds, so that the winner is not luck."""

    num_configurations: int = Field(0, ge=0, le=20, description="number of the best to confirm; 0 for none")
    num_seeds: int = Field(2, ge=1, le=20, description="additional seeds for each")


class SweepConfig(Frozen):
    """Contents of `sweeps/<name>.yaml`: the space, the sampler, the pruner, and the number of trials.

    Attributes:
        trials: Total number of finished and pruned configurations.
        keep_models_per_backbone: How many runs keep model, plots and predictions; others keep curves and settings.
        set: Settings that the sweep fixes; they override the session's defaults.
        start: Configurations tried first, as dotted names and values.
        space: Dimensions by setting; a mapping of backbones to dimensions where backbones differ.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,40}$")
    trials: int = Field(ge=1, le=100_000)
    keep_models_per_backbone: int = Field(2, ge=1)
    confirm: ConfirmConfig = ConfirmConfig()
    sampler: SamplerConfig = SamplerConfig()
    pruner: PrunerConfig = PrunerConfig()
    set: dict[str, Value] = Field(default_factory=dict)
    start: list[dict[str, Value]] = Field(default_factory=list)
    space: dict[str, Dimension | dict[str, Dimension]]

    @field_validator("space", mode="before")
    @classmethod
    def _of_dimensions(cls, space: Any) -> Any:
        """Read each dimension separately: pydantic would report an error once for each member of the union type."""
        try:
            return (
                {name: read_dimension(name, value) for name, value in space.items()}
                if isinstance(space, dict)
                else space
            )
        except ConfigError as error:
            raise ValueError(str(error)) from error

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.confirm.num_configurations > self.keep_models_per_backbone:
            raise ValueError(
                f"expected confirm.num_configurations <= keep_models_per_backbone, got {self.confirm.num_configurations} > "
                f"{self.keep_models_per_backbone}: only runs with a kept model are confirmed"
            )
        if self.pruner.name == "rungs" and HEAD_EPOCHS in self.space:
            raise ValueError(
                f"expected one {HEAD_EPOCHS} for all trials, since the pruner `rungs` compares them after the head; put it in "
                f"`set:`, or choose another pruner"
            )
        check_space(self)
        return self

    @property
    def backbones(self) -> tuple[str, ...]:
        """Every backbone that the sweep may draw."""
        found = self.space.get(BACKBONE)
        if isinstance(found, Dimension) and found.choices is not None:
            return tuple(str(name) for name in found.choices)
        return (str(self.set.get(BACKBONE)),)


def load_sweep(name: str) -> SweepConfig:
    """Load a sweep by name: `quick` reads `sweeps/quick.yaml`.

    Raises:
        ConfigError: The file does not exist or is invalid.
    """
    path = shipped_file(f"sweeps/{name}.yaml")
    return validated(SweepConfig, read_yaml(path), source=path.name)


def check_space(sweep: SweepConfig) -> None:
    """Check fixed values, start configurations and the extremes of every dimension against the settings' bounds.

    Raises:
        ValueError: A name or value is invalid; pydantic reports it with the file's name.
    """
    try:
        for name in (*sweep.set, *sweep.space, *(name for start in sweep.start for name in start)):
            check_name(name, source="space")
            if name == IMAGE_SIZE:
                raise ConfigError(
                    f"space: expected no {name}, the same for all trials; use SIZE= or the session's YAML."
                )
        _check_backbones(sweep)
        for backbone in sweep.backbones:
            base = Configuration().with_values({BACKBONE: backbone, UNFREEZE: NONE} | dict(sweep.set), source="set")
            for name, dimension in sweep.space.items():
                if isinstance(dimension, dict) and backbone not in dimension:
                    raise ConfigError(
                        f"space: {name} has no values for {backbone}, which {BACKBONE} may draw; add them."
                    )
                for value in _dimension(dimension, backbone).extremes():
                    if name != BACKBONE:
                        base.with_values({name: value}, source=f"space, {backbone}")
        for start in sweep.start:
            _check_start(sweep, start)
    except ConfigError as error:
        raise ValueError(str(error)) from error


def _check_backbones(sweep: SweepConfig) -> None:
    drawn = sweep.space.get(BACKBONE)
    if (drawn is None) == (BACKBONE not in sweep.set):
        raise ConfigError(f"expected {BACKBONE} once, in `set:` or in `space:`.")
    if drawn is not None and (not isinstance(drawn, Dimension) or drawn.choices is None):
        raise ConfigError(f"space: expected `{BACKBONE}: {{choices: [...]}}`, with names of backbones.")
    for name in sweep.backbones:
        if name not in BACKBONES:
            raise ConfigError(f"{BACKBONE}: expected a backbone, got {name!r}. {nearest_name(name, BACKBONES)}")
    for name in sweep.set:
        if name in sweep.space:
            raise ConfigError(f"{name} is in `set:` and in `space:`; remove one.")
    for name, dimension in sweep.space.items():
        for backbone in dimension if isinstance(dimension, dict) else ():
            if backbone not in sweep.backbones:
                raise ConfigError(
                    f"space: {name} has values for {backbone!r}, which {BACKBONE} does not draw. "
                    f"{nearest_name(backbone, sweep.backbones)}"
                )


def _check_start(sweep: SweepConfig, start: Mapping[str, Value]) -> None:
    """Check that the space can draw a `start` entry; Optuna would ignore other values, or fail at them hours later."""
    backbone = str(start.get(BACKBONE, sweep.set.get(BACKBONE, "")))
    if BACKBONE in sweep.space and BACKBONE not in start:
        raise ConfigError(f"start: expected each entry to name its {BACKBONE}, got {dict(start)}.")
    for name, value in start.items():
        if name not in sweep.space:
            raise ConfigError(f"start: {name} is not drawn. {nearest_name(name, sweep.space)}")
        dimension = sweep.space[name]
        if isinstance(dimension, dict) and backbone not in dimension:
            raise ConfigError(f"start: {BACKBONE}={backbone!r} is not drawn. {nearest_name(backbone, sweep.backbones)}")
        if not _dimension(dimension, backbone).contains(value):
            raise ConfigError(f"start: {name}={value!r} is outside the search space of {backbone}.")


def settings_of(sweep: SweepConfig, defaults: Configuration) -> Configuration:
    """Return the session's defaults with the settings that the sweep fixes; settings it draws keep their defaults."""
    values: dict[str, Any] = {BACKBONE: sweep.backbones[0], UNFREEZE: NONE} | dict(sweep.set)
    return defaults.with_values(values, source=f"sweep {sweep.name}")


def fixed_settings(sweep: SweepConfig, defaults: Configuration) -> dict[str, Any]:
    """Return the settings that all configurations of the sweep share, except those that do not affect scores."""
    settings = settings_of(sweep, defaults).flat()
    return {name: value for name, value in settings.items() if name not in sweep.space and name not in COST_ONLY}


def unfreeze_choices(sweep: SweepConfig, backbone: str, settings: Configuration) -> list[str]:
    """Return the values that `model.unfreeze` may have for a backbone."""
    found = sweep.space.get(UNFREEZE)
    choices = _dimension(found, backbone).choices if found is not None else None
    return [str(choice) for choice in choices] if choices is not None else [settings.model.unfreeze]


def suggest(trial: optuna.trial.BaseTrial, sweep: SweepConfig, defaults: Configuration) -> Configuration:
    """Draw a configuration: the backbone first, then the rest; the learning rate of the tail only if there is a tail.

    Args:
        trial: A trial of the study, or a `FixedTrial` with the parameters of an earlier one.
        sweep: The sweep, with its space and fixed settings.
        defaults: The session's defaults.
    """
    values: dict[str, Any] = dict(sweep.set)
    ordered = sorted(sweep.space, key=lambda name: (name != BACKBONE, name != UNFREEZE))
    for name in ordered:
        backbone = str(values.get(BACKBONE))
        if name == TAIL_ONLY and values.get(UNFREEZE, NONE) == NONE:
            continue
        values[name] = _dimension(sweep.space[name], backbone).draw(trial, optuna_name(sweep, name, backbone))
    values.setdefault(UNFREEZE, NONE)
    return defaults.with_values(values, source=f"sweep {sweep.name}")


def distributions(sweep: SweepConfig) -> dict[str, optuna.distributions.BaseDistribution]:
    """Return the distributions of all parameters, of every backbone, by Optuna's name."""
    pairs = ((name, backbone) for name in sweep.space for backbone in sweep.backbones)
    return {optuna_name(sweep, name, b): _dimension(sweep.space[name], b).distribution() for name, b in pairs}


def start_params(sweep: SweepConfig, start: Mapping[str, Value]) -> dict[str, Value]:
    """Return a `start` entry under Optuna's parameter names."""
    backbone = str(start.get(BACKBONE, sweep.set.get(BACKBONE)))
    return {optuna_name(sweep, name, backbone): value for name, value in start.items()}


def value_of(sweep: SweepConfig, trial: FrozenTrial, name: str) -> Value | None:
    """Return the value that a trial drew for a setting, or the value that the sweep fixes."""
    if name not in sweep.space:
        return sweep.set.get(name, NONE if name == UNFREEZE else None)
    backbone = trial.params.get(BACKBONE, sweep.set.get(BACKBONE))
    return trial.params.get(optuna_name(sweep, name, str(backbone)))


def optuna_name(sweep: SweepConfig, name: str, backbone: str) -> str:
    """Return the parameter name in Optuna: the setting's name, with `@backbone` where backbones' dimensions differ."""
    return f"{name}@{backbone}" if isinstance(sweep.space[name], dict) else name


def _dimension(dimension: Dimension | dict[str, Dimension], backbone: str) -> Dimension:
    return dimension[backbone] if isinstance(dimension, dict) else dimension
