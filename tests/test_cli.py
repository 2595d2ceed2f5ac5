"""Tests of the command line: help, exit codes, and that `--help` imports no large package."""

from __future__ import annotations

import errno
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy.exc
import typer.main
from projects import ROOT, environment, run_satx
from typer.testing import CliRunner

import satx
from satx.cli import app
from satx.cli_process import run_with_exit_code
from satx.errors import ConfigError, DataError, Interrupted, SatxError, SweepStopped, TrackerUnavailable, WeightsError

HEAVY = ("tensorflow", "keras", "mlflow", "optuna", "pandas", "sklearn", "matplotlib", "jax", "boto3", "rich.progress")


def all_commands() -> dict[tuple[str, ...], Any]:
    """Return satx itself, its groups and its commands, by the words that call them."""
    found: dict[tuple[str, ...], Any] = {}

    def walk(command: Any, path: tuple[str, ...]) -> None:
        found[path] = command
        for name, child in getattr(command, "commands", {}).items():
            if not child.hidden:
                walk(child, (*path, name))

    walk(typer.main.get_command(app), ())
    return found


def commands() -> list[tuple[str, ...]]:
    return [path for path, command in all_commands().items() if not hasattr(command, "commands")]


def plain(text: str) -> str:
    """Return a text without what only its markup and its box add."""
    return " ".join(text.replace("`", "").replace("│", " ").split())


@pytest.mark.parametrize("path", all_commands(), ids=" ".join)
def test_every_command_has_help_with_an_example_and_all_its_words(path: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "250", "TERM": "dumb"})
    command, said = all_commands()[path], plain(result.output)
    assert result.exit_code == 0
    assert " ".join(("Example: satx", *path)) in said
    assert "\\" not in said
    texts = [param.help for param in command.params if not getattr(param, "hidden", False)]
    texts += [command.help, command.epilog]
    assert [text for text in texts if text and plain(text) not in said] == []


@pytest.mark.parametrize("path", commands(), ids=" ".join)
def test_the_example_of_every_command_can_be_typed(path: tuple[str, ...]) -> None:
    command = all_commands()[path]
    words = shlex.split(plain(command.epilog).removeprefix("Example: "))
    assert words[: len(path) + 1] == ["satx", *path]
    command.make_context("satx", words[len(path) + 1 :])  # raises what the command line would refuse


def test_make_help_names_every_target_in_aligned_columns() -> None:
    said = subprocess.run(["make", "--silent", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    lines = [re.match(r"  make (\S+) +", line) for line in said.splitlines()]
    assert len({line.end() for line in lines if line is not None}) == 1 and None not in lines
    (phony,) = re.findall(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {line[1] for line in lines if line is not None} == set(phony.split())
    assert "\\" not in said


def test_the_expected_commands_exist() -> None:
    names = {" ".join(path) for path in commands()}
    assert {
        "sweep",
        "train",
        "compare",
        "promote",
        "rollback",
        "serve",
        "show",
        "ui",
        "gc",
        "data check",
        "data fetch",
        "data negatives",
        "data pairs",
        "data sample",
        "data split",
        "session diff",
        "session import",
        "session new",
        "session show",
    } <= names


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys, json\n"
        "sys.argv = ['satx', '--help']\n"
        "from satx.cli import main\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    code = stop.code\n"
        f"print(json.dumps([code or 0, [name for name in {HEAVY!r} if name in sys.modules]]))\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", script], env=environment(Path("/nowhere")), capture_output=True, text=True, timeout=60
    )
    code, imported = json.loads(process.stdout.splitlines()[-1])
    assert (code, imported) == (0, [])


@pytest.mark.parametrize(
    ("error", "code", "prefix"),
    [
        (ConfigError("fix it"), 2, "Error: "),
        (DataError("fix it"), 2, "Error: "),
        (WeightsError("fix it"), 2, "Error: "),
        (TrackerUnavailable("fix it"), 1, "Error: "),
        (SweepStopped("fix it"), 1, "Error: "),
        (SatxError("fix it"), 1, "Error: "),
        (Interrupted("fix it"), 130, ""),
    ],
)
def test_an_error_is_one_line_and_its_exit_code(
    error: SatxError, code: int, prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(SystemExit) as stop:
        run_with_exit_code(fail)
    assert stop.value.code == code
    assert capsys.readouterr().err == f"{prefix}fix it\n"


def test_an_interrupt_exits_with_130(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stop:
        run_with_exit_code(interrupted)
    assert stop.value.code == 130
    assert capsys.readouterr().err.strip() == "Stopped."


def test_usage_errors_exit_with_2_and_name_the_command_or_option(home: Path, tmp_path: Path) -> None:
    for arguments, words in (
        (["swep"], "sweep"),
        (["sweep", "--trails", "3"], "--trials"),
        (["sweep", "--trials", "0"], "--trials"),
        (["sweep", "--workers", "0"], "--workers"),
        (["data", "check"], "folder"),
    ):
        process = run_satx(*arguments, cwd=tmp_path, home=home)
        assert process.returncode == 2, process.stderr
        assert words in process.stderr
        assert "Traceback" not in process.stderr
    assert not home.exists()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["sweep", "--session", "9"], "session9.yaml"),
        (["sweep", "--sweep", "quik"], "quik.yaml"),
        (["sweep", "--data", "nowhere"], "nowhere"),
        (["sweep", "--size", "7"], "--size"),
        (["train", "--set", "train.batchsize=2"], "train.batch_size"),
        (["train", "--set", "train.batch_size=two"], "train.batch_size"),
        (["train", "--from-run", "abc", "--set", "train.batchsize=2"], "train.batch_size"),
        (["tune", "model.py", "--data", "nowhere"], "nowhere"),
    ],
)
def test_wrong_arguments_are_told_before_anything_slow_is_imported(arguments: list[str], named: str) -> None:
    script = (
        "import sys, json\n"
        f"sys.argv = ['satx', *{arguments!r}]\n"
        "from satx.cli import main\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    code = stop.code\n"
        "print(json.dumps([code, [name for name in ('keras', 'tensorflow', 'mlflow') if name in sys.modules]]))\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", script],
        env=environment(Path("/nowhere")),
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
    )
    assert json.loads(process.stdout.splitlines()[-1]) == [2, []], process.stderr
    assert named in process.stderr


def test_an_unknown_run_is_told_before_keras_is_imported(home: Path) -> None:
    script = (
        "import sys\n"
        "sys.modules['keras'] = sys.modules['tensorflow'] = None\n"
        "sys.argv = ['satx', 'promote', '--run-id', 'abc']\n"
        "from satx.cli import main\n"
        "main()\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", script], env=environment(home), capture_output=True, text=True, timeout=90
    )
    assert (process.returncode, "'abc'" in process.stderr) == (2, True), process.stderr


def test_the_version_is_printed() -> None:
    assert CliRunner().invoke(app, ["--version"]).output == f"satx {satx.__version__}\n"


def test_help_keeps_names_in_angle_brackets() -> None:
    output = CliRunner().invoke(app, ["sweep", "--help"], env={"COLUMNS": "200", "TERM": "dumb"}).output
    assert "session<N>.yaml" in output and "<backbone>_notop.weights.h5" in output


def test_a_missing_folder_is_refused_through_the_command_line(home: Path, tmp_path: Path) -> None:
    process = run_satx("data", "check", "nowhere", cwd=tmp_path, home=home)
    assert process.returncode == 2
    assert process.stderr.startswith("Error: ")
    assert "nowhere" in process.stderr
    assert process.stdout == ""


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 2, "satx gc"),
        (PermissionError(errno.EACCES, "Permission denied", "tiles/train"), 2, "tiles/train"),
        (sqlalchemy.exc.OperationalError("INSERT", {}, Exception("database or disk is full")), 2, "satx gc"),
        (sqlalchemy.exc.OperationalError("SELECT", {}, Exception("server closed")), 1, "server closed"),
    ],
)
def test_an_error_of_the_environment_is_one_clear_error(
    error: Exception, code: int, words: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(SystemExit) as stop:
        run_with_exit_code(fail)
    said = capsys.readouterr().err
    assert stop.value.code == code
    assert said.startswith("Error: ") and words in said and "the same command" in said


@pytest.mark.parametrize("error", [ValueError("ours"), FileNotFoundError(errno.ENOENT, "No such file", "ours")])
def test_a_programming_error_keeps_its_traceback(error: Exception) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        run_with_exit_code(fail)
    assert caught.value is error


def test_a_backend_without_training_steps_is_refused_at_once(tmp_path: Path) -> None:
    refused = run_satx("sweep", "--dry-run", cwd=tmp_path, home=tmp_path / "home", KERAS_BACKEND="torch")
    assert refused.returncode == 2
    assert (
        "KERAS_BACKEND: expected tensorflow or jax, got 'torch'" in refused.stderr and "Traceback" not in refused.stderr
    )


def test_make_passes_what_the_user_typed_to_satx_unchanged(tmp_path: Path) -> None:
    odd = f"a'b $(touch {tmp_path}/ran) `touch {tmp_path}/ran` $x \"; touch {tmp_path}/ran"
    arguments = ["SATX=printf [%s]\\\\n", "READY=", f"DATA={odd}", f"SESSION={odd}", "SIZE=160"]
    process = subprocess.run(
        ["make", "--silent", "sweep", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    )
    passed = [line.removeprefix("[").removesuffix("]") for line in process.stdout.splitlines()]
    assert passed[:6] == ["sweep", "--session", odd, "--workers", "1", "--data"]
    assert passed[6:] == [odd, "--size", "160"]
    assert not (tmp_path / "ran").exists()
