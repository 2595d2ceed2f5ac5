"""Tests of what `satx promote` prints."""

from __future__ import annotations

import csv
import re
import shlex
from pathlib import Path

import pytest

from satx.commands.promote import DIGEST_LINE, docker_line


@pytest.mark.parametrize("name", ["plain", "it's $HOME; `odd`", 'a, "b"'])
def test_the_printed_command_mounts_the_exports_at_their_own_path_whatever_it_is(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SATX_HOME", str(tmp_path / name))
    exports = (tmp_path / name).resolve() / "exports"
    words = shlex.split(docker_line())
    (mount,) = csv.reader([words[words.index("--mount") + 1]])  # as docker reads it
    assert mount == ["type=bind", f"source={exports}", f"target={exports}", "readonly"]
    assert f"--model_config_file={exports}/models.config" in words
    assert f"--batching_parameters_file={exports}/batching.conf" in words
    assert "127.0.0.1:8501:8501" in words


def test_the_variable_of_the_printed_command_is_set_by_the_line_above_it() -> None:
    (variable,) = re.findall(r"\$(\w+)", docker_line())
    assert (
        f"export {variable}=$(docker buildx imagetools inspect --format '{{{{.Manifest.Digest}}}}' tensorflow/serving:2.19.1)"
    ) == DIGEST_LINE
    assert f'"tensorflow/serving:2.19.1@${variable}"' in docker_line()
