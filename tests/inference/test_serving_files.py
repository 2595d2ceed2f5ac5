"""Tests of the files that `satx promote` writes for TensorFlow Serving, with TensorFlow Serving's own messages."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow_serving.config import model_server_config_pb2

from inference.serving_messages import batching_parameters
from satx.errors import ConfigError
from satx.inference.serving_files import (
    ServedVersions,
    read_models_config,
    write_batching,
    write_models_config,
)


def parsed(path: Path) -> model_server_config_pb2.ModelServerConfig:
    return text_format.Parse(path.read_text("ascii"), model_server_config_pb2.ModelServerConfig())


def test_a_model_is_written_with_its_versions_and_labels_as_tensorflow_serving_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "models.config"
    write_models_config(path, {"school": ServedVersions(tmp_path / "school", (43, 42), {"champion": 43})})
    (model,) = parsed(path).model_config_list.config
    assert (model.name, model.base_path, model.model_platform) == ("school", str(tmp_path / "school"), "tensorflow")
    assert list(model.model_version_policy.specific.versions) == [42, 43]
    assert dict(model.version_labels) == {"champion": 43}
    assert [entry.name for entry in tmp_path.iterdir()] == ["models.config"]


def test_a_relative_folder_is_written_as_an_absolute_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_models_config(Path("models.config"), {"school": ServedVersions(Path("exports/school"), (1,))})
    assert parsed(tmp_path / "models.config").model_config_list.config[0].base_path == str(tmp_path / "exports/school")


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
versions = st.integers(0, 2**63 - 1)


@st.composite
def served_versions(draw: st.DrawFn) -> ServedVersions:
    chosen = tuple(sorted(draw(st.sets(versions, min_size=1, max_size=4))))
    folder = draw(names).replace("\0", "").replace("/", "")
    return ServedVersions(
        Path("/") / f"x{folder}", chosen, draw(st.dictionaries(names, st.sampled_from(chosen), max_size=3))
    )


@settings(deadline=None, max_examples=40)
@given(models=st.dictionaries(names, served_versions(), max_size=4))
def test_what_was_written_is_read_back_whatever_characters_names_and_folders_have(
    models: dict[str, ServedVersions], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("config") / "models.config"
    write_models_config(path, models)
    assert read_models_config(path) == models
    assert path.read_bytes().isascii()


@pytest.mark.parametrize(
    ("served", "named"),
    [
        (ServedVersions(Path("/exports"), ()), "at least one version"),
        (ServedVersions(Path("/exports"), (1, 2), {"champion": 3}), "champion: 3"),
        (ServedVersions(Path("/exports"), (-1,)), "-1"),
        (ServedVersions(Path("/exports"), (2**63,)), str(2**63)),
        (ServedVersions(Path(os.fsdecode(b"/exports\xff")), (1,)), "UTF-8"),
    ],
)
def test_what_a_server_would_refuse_is_not_written(served: ServedVersions, named: str, tmp_path: Path) -> None:
    path = tmp_path / "models.config"
    path.write_text("before")
    with pytest.raises(ConfigError, match=named):
        write_models_config(path, {"school": served})
    assert path.read_text() == "before"


def model_text(body: str) -> str:
    return f"model_config_list {{ config {{ {body} }} }}"


MODEL = 'name: "school" model_platform: "tensorflow"'


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("", (43,)),
        ("model_version_policy { latest {} }", (43,)),
        ("model_version_policy { latest { num_versions: 2 } }", (9, 43)),
        ("model_version_policy { latest { num_versions: 9 } }", (1, 9, 43)),
        ("model_version_policy { all {} }", (1, 9, 43)),
        ("model_version_policy { specific { versions: 9 versions: 1 } }", (1, 9)),
    ],
)
def test_other_policies_of_tensorflow_serving_find_versions_in_the_folder(
    policy: str, expected: tuple[int, ...], tmp_path: Path
) -> None:
    for name in ("001", "9", "43", ".44.abc", "notes"):
        (tmp_path / "school" / name).mkdir(parents=True)
    (tmp_path / "school" / "99").write_text("a file")
    path = tmp_path / "models.config"
    path.write_text(model_text(f'{MODEL} base_path: "{tmp_path}/school" {policy}'))
    assert read_models_config(path) == {"school": ServedVersions(tmp_path / "school", expected, {})}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "an empty file"),
        ("model_config_list {", "ModelServerConfig"),
        ("model_config_list { config { nme: 'x' } }", "nme"),
        ("custom_model_config {}", "custom_model_config"),
        (model_text('name: "school" base_path: "/x"'), "model_platform"),
        (model_text(f'{MODEL} base_path: "exports"'), "absolute"),
        (model_text(f'{MODEL} base_path: "/absent"'), "at least one version"),
        (model_text('base_path: "/x" model_platform: "tensorflow"'), "name"),
        (
            model_text(
                f'{MODEL} base_path: "/x" model_version_policy {{ specific {{ versions: 1 }} }} '
                f'version_labels {{ key: "champion" value: 2 }}'
            ),
            "champion: 2",
        ),
        (
            "model_config_list {"
            + 2 * f'config {{ {MODEL} base_path: "/x" model_version_policy {{ specific {{ versions: 1 }} }} }}'
            + "}",
            "school",
        ),
    ],
)
def test_a_file_that_cannot_be_served_is_refused_and_named(text: str, named: str, tmp_path: Path) -> None:
    path = tmp_path / "models.config"
    path.write_text(text)
    with pytest.raises(ConfigError, match=named) as caught:
        read_models_config(path)
    assert str(path) in str(caught.value)


def test_a_missing_or_unreadable_file_is_refused_and_named(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for name in ("absent", "binary"):
        with pytest.raises(ConfigError, match=name):
            read_models_config(tmp_path / name)


def test_requests_of_128_rows_are_split_into_batches_of_32(tmp_path: Path) -> None:
    write_batching(tmp_path / "batching.conf")
    found = text_format.Parse((tmp_path / "batching.conf").read_text("ascii"), batching_parameters()())
    assert found.max_batch_size.value == 128
    assert found.enable_large_batch_splitting.value
    assert found.max_execution_batch_size.value == 32
    assert (found.batch_timeout_micros.value, found.max_enqueued_batches.value) == (5000, 100)
    assert 1 <= found.num_batch_threads.value <= (os.cpu_count() or 1)
    assert not found.allowed_batch_sizes, "TensorFlow Serving refuses a list that does not end in max_batch_size"


def test_the_files_are_read_without_tensorflow() -> None:
    code = "import sys, satx.inference.serving_files; sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
