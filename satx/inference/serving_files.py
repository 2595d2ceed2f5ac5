"""The configuration files of TensorFlow Serving that `satx promote` writes, and `satx serve` reads too. Imports no TensorFlow.

Format: text of the protobuf messages `ModelServerConfig` and `BatchingParameters`, as in
https://www.tensorflow.org/tfx/serving/serving_config. Both files contain ASCII only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from satx.environment import num_processors
from satx.errors import ConfigError
from satx.storage import write_text

MODELS_CONFIG_NAME = "models.config"
BATCHING_NAME = "batching.conf"
MAX_REQUEST_ROWS = 128
MAX_BATCH_ROWS = 32
BATCH_TIMEOUT_MICROSECONDS = 5000
MAX_ENQUEUED_BATCHES = 100
_PLATFORM = "tensorflow"


@dataclass(frozen=True)
class ServedVersions:
    """The versions of one model that a server loads.

    Attributes:
        base_path: Folder with one folder for each version, named by its number.
        versions: Versions to load.
        labels: Version of each label, such as `champion`.
    """

    base_path: Path
    versions: tuple[int, ...]
    labels: Mapping[str, int] = field(default_factory=dict)


def write_models_config(path: Path, models: Mapping[str, ServedVersions]) -> None:
    """Write which versions of which models a server loads, atomically.

    A server that polls the file needs two writes to move a label: one with both versions, and once the new one is loaded,
    one with the label.

    Args:
        path: File to write.
        models: What to serve of each model, by its name.

    Raises:
        ConfigError: A model has no versions, a label of another version, or a name or path that is not valid UTF-8.
    """
    config = model_server_config_pb2.ModelServerConfig()
    config.model_config_list.SetInParent()  # a server accepts a file without models
    for name, served in sorted(models.items()):
        _check(path, name, served)
        try:
            config.model_config_list.config.append(_message(name, served))
        except (ValueError, UnicodeError) as error:
            raise ConfigError(
                f"{path}: expected a model's name and folder in UTF-8, and versions from 0 to 2^63 - 1, got {name!r} in "
                f"{str(served.base_path)!r} with versions {list(served.versions)}. Rename it."
            ) from error
    write_text(path, text_format.MessageToString(config, as_utf8=False))


def read_models_config(path: Path) -> dict[str, ServedVersions]:
    """Read which versions of which models to serve.

    A model whose policy is `latest`, `all` or absent gets the versions that its folder contains now.

    Args:
        path: A file of `write_models_config`, or one that was written for TensorFlow Serving.

    Returns:
        What to serve of each model, by its name.

    Raises:
        ConfigError: The file cannot be read or parsed, or describes something else than SavedModels in local folders.
    """
    config = model_server_config_pb2.ModelServerConfig()
    try:
        text_format.Parse(path.read_text(encoding="utf-8"), config)
    except (OSError, UnicodeError, text_format.ParseError) as error:
        raise ConfigError(
            f"{path}: expected a models.config of TensorFlow Serving (text of the protobuf ModelServerConfig), got: {error}. "
            f"Promote a run to write one, or correct the file."
        ) from error
    if config.WhichOneof("config") != "model_config_list":
        raise ConfigError(f"{path}: expected model_config_list, got {config.WhichOneof('config') or 'an empty file'}.")
    models: dict[str, ServedVersions] = {}
    for model in config.model_config_list.config:
        if not model.name or model.name in models:
            raise ConfigError(f"{path}: expected a different name for each model, got {model.name!r} again or empty.")
        base_path = Path(model.base_path)
        if model.model_platform != _PLATFORM or not base_path.is_absolute():
            raise ConfigError(
                f'{path}: model {model.name}: expected model_platform "{_PLATFORM}" and an absolute base_path, got '
                f'"{model.model_platform}" and "{model.base_path}".'
            )
        served = ServedVersions(base_path, _versions(model), dict(model.version_labels))
        _check(path, model.name, served)
        models[model.name] = served
    return models


def write_batching(path: Path) -> None:
    """Write the parameters of TensorFlow Serving's batches, atomically.

    A request may have `MAX_REQUEST_ROWS` rows; it is executed in batches of at most `MAX_BATCH_ROWS`.
    """
    # No allowed_batch_sizes: TensorFlow Serving would pad each batch to one of them, and on a CPU a padded row takes as long
    # as a real one. It also refuses a list that does not end in max_batch_size, so batches could not be split at 32.
    write_text(
        path,
        f"max_batch_size {{ value: {MAX_REQUEST_ROWS} }}\n"
        f"enable_large_batch_splitting {{ value: true }}\n"
        f"max_execution_batch_size {{ value: {MAX_BATCH_ROWS} }}\n"
        f"batch_timeout_micros {{ value: {BATCH_TIMEOUT_MICROSECONDS} }}\n"
        f"max_enqueued_batches {{ value: {MAX_ENQUEUED_BATCHES} }}\n"
        f"# One for each core of the machine that wrote this file.\n"
        f"num_batch_threads {{ value: {num_processors()} }}\n",
    )


def _message(name: str, served: ServedVersions) -> Any:
    if min(served.versions) < 0:
        raise ValueError("negative version")  # the message could hold it, but no server loads it
    message = model_server_config_pb2.ModelConfig(
        name=name, base_path=str(served.base_path.absolute()), model_platform=_PLATFORM
    )
    message.model_version_policy.specific.versions.extend(sorted(served.versions))
    for label, version in sorted(served.labels.items()):
        message.version_labels[label] = version
    return message


def _check(path: Path, name: str, served: ServedVersions) -> None:
    if not served.versions:
        raise ConfigError(
            f"{path}: model {name}: expected at least one version, got none in {served.base_path}. Promote a run first."
        )
    unknown = {label: version for label, version in served.labels.items() if version not in served.versions}
    if unknown:
        raise ConfigError(
            f"{path}: model {name}: expected labels of the versions {sorted(served.versions)}, got "
            f"{', '.join(f'{label}: {version}' for label, version in sorted(unknown.items()))}."
        )


def _versions(model: Any) -> tuple[int, ...]:
    policy = model.model_version_policy
    if policy.WhichOneof("policy_choice") == "specific":
        return tuple(sorted(set(policy.specific.versions)))
    base_path = Path(model.base_path)
    folders = base_path.iterdir() if base_path.is_dir() else ()
    found = sorted({int(folder.name) for folder in folders if folder.name.isdecimal() and folder.is_dir()})
    return tuple(found if policy.HasField("all") else found[-(policy.latest.num_versions or 1) :])
