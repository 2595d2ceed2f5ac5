"""Settings, read from YAML into frozen values; wrong keys, types and bounds are rejected before any training starts.

`Configuration` holds one training's hyperparameters; its digest is its identity. Dotted names (`train.batch_size`) are
the same in YAML, in `--set`, in a search space, in Optuna and in MLflow. Imports the catalogue, never Keras.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from satx.catalogue import BACKBONES, NONE
from satx.errors import ConfigError, nearest_name
from satx.storage import digest_of

MAX_YAML_BYTES = 1_000_000
MAX_QUOTED = 200  # characters of a user's text that are repeated in an error

Positive = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0, le=1)]


class Frozen(BaseModel):
    """Base of all settings: immutable, and without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelConfig(Frozen):
    """The network: a backbone, how much of it is trained, and the head on top."""

    backbone: str = "xception"
    unfreeze: str = Field("block14", description="`none`, a cut of the backbone, or `all`")
    dense_units: int = Field(256, ge=0, le=4096, description="width of the hidden layer; 0 leaves it out")
    activation: Literal["relu", "elu", "gelu"] = "relu"
    dropout: float = Field(0.25, ge=0, lt=1)

    @model_validator(mode="after")
    def _cut_exists(self) -> Self:
        if self.backbone not in BACKBONES:
            raise ValueError(
                f"expected a known backbone, got {self.backbone!r}. {nearest_name(self.backbone, BACKBONES)}"
            )
        names = BACKBONES[self.backbone].unfreeze_names
        if self.unfreeze not in names:
            raise ValueError(
                f"expected a cut of {self.backbone}, got unfreeze={self.unfreeze!r}. {nearest_name(self.unfreeze, names)}"
            )
        return self


class TrainConfig(Frozen):
    """The two phases of training: the head alone, then the tail from the chosen cut at a lower rate."""

    seed: int = Field(20, ge=0, lt=2**31)
    batch_size: int = Field(32, ge=1, le=4096)
    head_epochs: int = Field(8, ge=1, le=1000)
    finetune_epochs: int = Field(12, ge=0, le=1000)
    head_learning_rate: Rate = 1e-3
    finetune_learning_rate: Rate = 1e-4
    optimizer: Literal["adam", "adamw", "rmsprop", "sgd"] = "adam"
    schedule: Literal["constant", "cosine"] = "constant"
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    weight_decay: float = Field(0.0, ge=0, le=1, description="decoupled, per step, scaled by the learning rate")
    class_weight: Literal["balanced", "none"] = "balanced"
    early_stopping_patience_epochs: Positive = 5
    plateau_patience_epochs: Positive = Field(
        3, description="epochs without a better validation loss before the rate drops"
    )
    plateau_factor: float = Field(0.3, gt=0, le=1, description="the learning rate is multiplied by it; 1 turns it off")
    precision: Literal["auto", "float32", "mixed_bfloat16"] = Field(
        "auto", description="auto: mixed bfloat16 on a GPU, float32 elsewhere"
    )


class AugmentationConfig(Frozen):
    """Views of a tile: `num_flips` flips and quarter turns, times `num_variants` randomly drawn variants.

    `mode: views` enumerates them, so that a trunk's outputs can be cached; `mode: random` draws new ones every epoch.
    """

    mode: Literal["views", "random"] = "views"
    num_flips: int = Field(8, ge=1, le=8)
    num_variants: int = Field(1, ge=1, le=64, description="the first is the tile itself, the others are drawn")
    rotation_degrees: float = Field(0.0, ge=0, le=180)
    zoom: float = Field(0.0, ge=0, lt=0.9, description="largest relative change of scale")
    brightness: float = Field(0.0, ge=0, lt=1, description="largest relative change of brightness")
    channel_shift: float = Field(0.0, ge=0, le=128, description="largest shift of a channel, in grey levels")

    @property
    def num_views(self) -> int:
        """Number of different views of a tile."""
        return self.num_flips * self.num_variants


class Configuration(Frozen):
    """All settings of one training, apart from tiles and weights; `cache` and `cache_gb` affect only its cost."""

    image_size_px: int = Field(256, ge=32, le=1024)
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    cache: Literal["auto", "off"] = Field("auto", description="whether to cache the outputs of frozen trunks")
    cache_gb: float = Field(
        20.0, gt=0, description="size limit of the trunk cache; the least recently used cuts are removed first"
    )

    @field_validator("cache", mode="before")
    @classmethod
    def _off_is_a_word(cls, value: Any) -> Any:
        return "off" if value is False else value  # YAML 1.1 reads a bare `off` as false

    def digest(self) -> str:
        """Return the identity, equal for configurations that train alike: settings that have no effect are left out."""
        value = self.model_dump(exclude={"cache", "cache_gb"})
        if self.model.unfreeze == NONE:
            del value["train"]["finetune_learning_rate"], value["train"]["finetune_epochs"]
        if not self.model.dense_units:
            del value["model"]["activation"]
        return digest_of(value)

    def with_values(self, values: Mapping[str, Any], *, source: str) -> Configuration:
        """Return this configuration with the values of dotted names replaced.

        Args:
            values: New values by dotted name, such as `{"train.batch_size": 16}`.
            source: Where the values come from, for the error message.

        Raises:
            ConfigError: A name is unknown, or a value is out of bounds.
        """
        tree = self.model_dump()
        for name, value in values.items():
            check_name(name, source=source)
            section, _, field = name.rpartition(".")
            (tree[section] if section else tree)[field] = value
        return validated(Configuration, tree, source=source)

    def flat(self) -> dict[str, Any]:
        """Return the settings by dotted name, as Optuna and MLflow see them."""
        return flatten(self.model_dump())


Section = TypeVar("Section", bound=BaseModel)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings into one level of dotted names."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def setting_names() -> tuple[str, ...]:
    """Return every dotted name of a configuration."""
    return tuple(Configuration().flat())


def check_name(name: str, *, source: str) -> None:
    """Raise a ConfigError if no configuration has this dotted name."""
    if name not in setting_names():
        raise ConfigError(
            f"{source}: expected the dotted name of a setting, got {name[:MAX_QUOTED]!r}. {nearest_name(name, setting_names())}"
        )


def validated(kind: type[Section], value: Any, *, source: str) -> Section:
    """Validate `value` as a `kind`; a ConfigError names source, field, rule, value and the nearest valid name."""
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        lines = [_explain(kind, problem) for problem in error.errors()]
        raise ConfigError(f"{source}: " + f"\n{source}: ".join(lines)) from error


def _explain(kind: type[BaseModel], problem: Any) -> str:
    field = ".".join(str(part) for part in problem["loc"]) or kind.__name__
    if problem["type"] == "extra_forbidden":
        owner: Any = kind
        for part in problem["loc"][:-1]:
            owner = getattr(owner, "model_fields", {}).get(part)
            owner = owner.annotation if owner is not None else None
            owner = next(iter(get_args(owner)), owner)  # of a section that may be left out (`Section | None`)
        names = getattr(owner, "model_fields", {})
        return f"unknown setting {field[:MAX_QUOTED]!r}. " + (
            nearest_name(str(problem["loc"][-1]), names) if names else "Remove it."
        )
    if problem["type"] == "missing":
        return f"{field} is missing; add it."
    if problem["type"] == "value_error":
        return f"{field}: {_shortened(str(problem['ctx']['error']))}"
    return f"{field}: {problem['msg']}, got {repr(problem['input'])[:MAX_QUOTED]}"


def _shortened(text: str) -> str:
    """Return a message without the middle of a very long value that it quotes."""
    return text if len(text) <= 4 * MAX_QUOTED else f"{text[:MAX_QUOTED]} … {text[-2 * MAX_QUOTED :]}"


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Raises:
        ConfigError: The file cannot be read, is not YAML, or does not hold a mapping.
    """
    try:
        if path.stat().st_size > MAX_YAML_BYTES:
            raise ConfigError(f"{path}: expected at most {MAX_YAML_BYTES:,} bytes, got {path.stat().st_size:,}.")
        value = parse_yaml(path.read_text(encoding="utf-8"), source=str(path))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: expected text in UTF-8 ({error}). Save it as UTF-8.") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: expected a mapping of names to values, got {type(value).__name__}.")
    return value


def parse_yaml(text: str, *, source: str) -> Any:
    """Parse YAML without aliases, with which a short text can stand for a value that does not fit into memory.

    Args:
        text: The text.
        source: Where it comes from, for the error message.

    Raises:
        ConfigError: It is not YAML, uses an alias, is nested too deeply, or has a number with thousands of digits.
    """
    loader = _PlainLoader(text)
    try:
        return loader.get_single_data()
    except RecursionError:
        raise ConfigError(f"{source}: expected a short value, got one that is nested too deeply.") from None
    except (yaml.YAMLError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{source}: expected valid YAML: {reason[:MAX_QUOTED]}") from error
    finally:
        loader.dispose()


class _PlainLoader(yaml.SafeLoader):
    """The safe loader without aliases."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not supported; write the value again")
        return super().compose_node(parent, index)


def parse_assignments(assignments: list[str]) -> dict[str, Any]:
    """Parse assignments such as `["model.backbone=xception"]` into typed values by dotted name.

    Raises:
        ConfigError: An assignment has no `=`, or its value is not valid YAML.
    """
    values: dict[str, Any] = {}
    for assignment in assignments:
        name, separator, text = assignment.partition("=")
        if not separator:
            raise ConfigError(
                f"--set: expected name=value, got {assignment[:MAX_QUOTED]!r}. Example: --set train.batch_size=16"
            )
        try:
            value = parse_yaml(text, source="--set")
        except ConfigError as error:
            raise ConfigError(
                f"--set {assignment[:MAX_QUOTED]}: expected a number or a word after the =. Example: --set train.batch_size=16"
            ) from error
        if isinstance(value, str):
            value = _number(value)
        values[name.strip()] = value
    return values


def _number(text: str) -> str | float:
    # YAML 1.1 reads `1e-4` as a string, a usual way to write learning rates.
    try:
        return float(text)
    except ValueError:
        return text
