"""Tests of `satx serve`: where it finds what to serve, what it prints, and the process as a user starts and stops it."""

import base64
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from serving.small_exports import coloured, write_colours, write_config, write_numbers

from satx.commands import serve as command_module
from satx.commands.serve import is_loopback, serve_command
from satx.errors import ConfigError
from satx.serving.server import Address, Serving

# A server on a machine that only serves has no use for these, and may not have them.
BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("mlflow", "optuna", "keras_tuner"):
            raise ImportError(f"satx serve imported {name}")
sys.meta_path.insert(0, Blocked())
import typer
from satx.cli_process import run_with_exit_code
from satx.cli_serve import serve
import satx.cli
app = typer.Typer()
app.command()(serve)
run_with_exit_code(app)
"""


def start(*options: str, home: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-P", "-W", "ignore", "-c", BLOCKED, *options],
        env={"PATH": "/usr/bin:/bin", "SATX_HOME": str(home), "PYTHONUNBUFFERED": "1", "TF_CPP_MIN_LOG_LEVEL": "3"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_one_export_is_served_in_a_process_that_cannot_import_optuna_mlflow_or_keras_tuner(
    home: Path, tmp_path: Path
) -> None:
    folder = write_colours(tmp_path / "colours", 7)
    process = start("--export", str(folder), "--port", "0", "--access-log", home=home)
    try:
        assert process.stdout is not None
        printed = ""
        while "Ctrl-C stops it." not in printed:
            line = process.stdout.readline()
            assert line, printed + (process.stderr.read() if process.stderr else "")
            printed += line
        found = re.search(r"colours version 7: (http://127.0.0.1:\d+/v1/models/colours)", printed)
        assert found and f"curl --data-binary @- {found[1]}:predict" in printed
        image = {"b64": base64.b64encode(coloured(255, "WEBP")).decode()}
        response = httpx.post(f"{found[1]}:predict", json={"instances": [image]}, timeout=60)
        assert response.status_code == 200
        assert [round(value) for value in response.json()["predictions"][0]] == [0, 1]
        process.send_signal(signal.SIGTERM)
        stdout, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0
    assert "Stopping" in stdout and stdout.endswith("Stopped.\n")
    (line,) = [line for line in stderr.splitlines() if line.startswith("{")]
    assert json.loads(line)["status"] == 200 and image["b64"] not in stderr
    assert not home.exists()  # an export needs no home


def test_without_a_champion_it_says_which_command_makes_one(home: Path) -> None:
    with pytest.raises(ConfigError, match=r"Expected a champion to serve, found none in .*exports") as raised:
        serve_command(export=None, models_config=None, address=Address())
    assert "satx promote --run-id RUN" in str(raised.value) and raised.value.exit_code == 2


def test_options_that_name_nothing_are_refused(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    with pytest.raises(ConfigError, match="--export: expected the folder of an export"):
        serve_command(export=missing, models_config=None, address=Address())
    with pytest.raises(ConfigError, match="--models-config: expected a file"):
        serve_command(export=None, models_config=missing, address=Address())
    with pytest.raises(ConfigError, match="Expected --export or --models-config, got both"):
        serve_command(export=missing, models_config=missing, address=Address())


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, bool]]:
    """Record what would be served, and whether it is followed, instead of serving it."""
    calls: list[tuple[object, bool]] = []

    async def recorded(read: object, _address: Address, *, follows: bool, **_others: object) -> None:
        assert callable(read)
        calls.append((read(), follows))

    monkeypatch.setattr(command_module, "serve", recorded)
    return calls


def test_the_homes_champions_are_followed_by_default(home: Path, served: list[tuple[object, bool]]) -> None:
    write_config(home / "exports" / "models.config", home / "exports" / "school", 3, champion=3)
    serve_command(export=None, models_config=None, address=Address())
    ((models, follows),) = served
    assert isinstance(models, dict) and models["school"].labels == {"champion": 3} and follows


def test_a_models_config_is_followed_and_an_export_is_not(tmp_path: Path, served: list[tuple[object, bool]]) -> None:
    folder = write_numbers(tmp_path / "numbers", 2)
    config = write_config(tmp_path / "models.config", tmp_path / "numbers", 2)
    serve_command(export=None, models_config=config, address=Address())
    serve_command(export=folder, models_config=None, address=Address())
    assert served[0] == (served[1][0], True) and served[1][1] is False


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_addresses_are_known(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "example.org"])
def test_another_host_warns_that_there_is_no_authentication(
    host: str, tmp_path: Path, served: list[tuple[object, bool]], capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path / "models.config", tmp_path / "numbers", 2)
    serve_command(export=None, models_config=config, address=Address(host=host))
    assert "has no authentication" in " ".join(capsys.readouterr().out.split())
    serve_command(export=None, models_config=config, address=Address())
    assert "authentication" not in capsys.readouterr().out


def test_the_addresses_of_all_models_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    command_module._print_ready(Serving(Address("::1", 8501, 8500), {"school": [2, 1], "clinic": [4]}))
    printed = capsys.readouterr().out
    assert "school version 2 (also 1): http://[::1]:8501/v1/models/school" in printed
    assert "clinic version 4: http://[::1]:8501/v1/models/clinic" in printed and "gRPC: [::1]:8500" in printed
