"""The script that a machine runs at its first boot: its text, its syntax, and that it contains no secret."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from satx.errors import ConfigError
from satx.fleet.user_data import FirstStart, user_data

GOLDEN = Path(__file__).with_name("user-data.golden.sh")
VALUES = FirstStart(
    study="session2-quick-1a2b3c4d",
    study_url="postgresql+psycopg://satx@10.0.0.5/satx",
    tracking_uri="http://10.0.0.5:5000",
    bucket="s3://tiles/satx",
    region="eu-west-1",
    wheel_uri="s3://tiles/satx/wheels/satx-0.1.0-py3-none-any.whl",
    wheel_name="satx-0.1.0-py3-none-any.whl",
    wheel_sha256="a" * 64,
    lock_uri="s3://tiles/satx/wheels/worker.txt",
    lock_sha256="b" * 64,
    secret_prefix="/satx",
    lease_minutes=20,
    lease_seconds=1200,
    max_seconds=86400,
)


def test_the_script_equals_the_reviewed_golden_file() -> None:
    """Review a change of the script here: write the new text to the golden file once it is right."""
    assert user_data(VALUES) == GOLDEN.read_text()


def test_bash_parses_the_script_and_the_scripts_that_it_writes(tmp_path: Path) -> None:
    script = tmp_path / "user-data.sh"
    script.write_text(user_data(VALUES))
    subprocess.run(["bash", "-n", script], check=True)
    text = script.read_text()
    for name in ("WATCHDOG", "LAST"):
        inner = text.split(f"<<'{name}'\n")[1].split(f"\n{name}\n")[0]
        subprocess.run(["bash", "-n"], input=inner, text=True, check=True)
    assert "{{" not in text


def test_the_watchdog_shuts_down_a_machine_without_progress_and_no_other(tmp_path: Path) -> None:
    text = user_data(replace(VALUES, lease_seconds=2, max_seconds=10**9))
    inner = text.split("<<'WATCHDOG'\n")[1].split("\nWATCHDOG\n")[0]
    alive = tmp_path / "alive"
    script = tmp_path / "watchdog"
    script.write_text(
        "shutdown() { echo ended; exit 0; }\n"
        + inner.replace("/var/lib/satx/alive", str(alive)).replace("sleep 30", "sleep 0.5")
    )
    alive.touch()
    process = subprocess.Popen(["bash", script], stdout=subprocess.PIPE, text=True)
    for _ in range(8):  # four seconds of progress
        alive.touch()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
    assert process.communicate(timeout=30)[0] == "ended\n"


@pytest.fixture
def played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Replace programs of a machine by fakes that log their calls; `aws` fails. Return the path of the log."""
    calls, programs = tmp_path / "calls", tmp_path / "programs"
    programs.mkdir()
    for name, code in {"aws": 1, "shutdown": 0, "systemctl": 0, "journalctl": 0}.items():
        (programs / name).write_text(f'#!/bin/sh\necho "{name} $*" >> {calls}\nexit {code}\n')
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    return calls


def test_a_failed_boot_uploads_its_log_and_shuts_down_the_machine(played: Path, tmp_path: Path) -> None:
    trap = user_data(VALUES).split("# If this script fails")[1].split("# Install satx")[0]
    script = f"set -euo pipefail\n# {with_id(trap, tmp_path)}\nfalse | true\necho goes on\n"
    ended = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (1, "")
    sent, shut = played.read_text().splitlines()
    assert sent.endswith("/var/log/cloud-init-output.log s3://tiles/satx/logs/i-123-start.log")
    assert shut == "shutdown -h now", "even though the upload of the log failed"


def test_the_last_worker_uploads_its_log_and_shuts_down_the_machine(played: Path, tmp_path: Path) -> None:
    inner = user_data(VALUES).split("<<'LAST'\n")[1].split("\nLAST\n")[0]
    subprocess.run(["bash", "-c", with_id(inner, tmp_path)], check=True)
    calls = played.read_text().splitlines()
    assert any(call.endswith("- s3://tiles/satx/logs/i-123-workers.log") for call in calls)
    assert calls[-1] == "shutdown -h now", "even though the upload of the log failed"
    played.write_text("")
    (tmp_path / "programs" / "systemctl").write_text("#!/bin/sh\necho satx-worker@1.service\n")
    subprocess.run(["bash", "-c", with_id(inner, tmp_path)], check=True)
    assert played.read_text() == "", "another worker is running"


def with_id(script: str, folder: Path) -> str:
    """Return the script, changed so that it reads the machine's id from a folder of the test."""
    (folder / "instance-id").write_text("i-123\n")
    return script.replace("/var/lib/cloud/data", str(folder))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("study", "a b"),
        ("bucket", "s3://x/$(reboot)"),
        ("region", 'eu"west'),
        ("wheel_uri", "s3://x/\nreboot"),
        ("tracking_uri", "http://10.0.0.5:5000/`id`"),
    ],
)
def test_values_with_shell_syntax_are_refused(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name}: "):
        user_data(replace(VALUES, **{name: value}))


@pytest.mark.parametrize(
    ("name", "value", "where"),
    [
        ("study_url", "postgresql+psycopg://satx:hunter2@10.0.0.5/satx", "/satx/pgpass"),
        ("study_url", "postgresql+psycopg://satx:hunter2$(@10.0.0.5/satx", "/satx/pgpass"),
        ("study_url", "postgresql+psycopg://satx@10.0.0.5/satx?password=hunter2", "/satx/pgpass"),
        ("study_url", "postgresql+psycopg://satx@10.0.0.5/satx?sslmode=require&passfile=hunter2", "/satx/pgpass"),
        ("tracking_uri", "http://me:hunter2@10.0.0.5:5000", "/satx/mlflow"),
        ("tracking_uri", "http://hunter2@10.0.0.5:5000", "/satx/mlflow"),
        ("tracking_uri", "http://10.0.0.5:5000/?token=hunter2", "/satx/mlflow"),
    ],
)
def test_a_password_is_refused_and_not_printed(name: str, value: str, where: str) -> None:
    with pytest.raises(ConfigError) as error:
        user_data(replace(VALUES, **{name: value}))
    assert name in str(error.value) and where in str(error.value)
    assert "hunter2" not in str(error.value)


def test_ssl_options_in_the_study_url_are_allowed() -> None:
    url = f"{VALUES.study_url}?sslmode=verify-full&sslrootcert=/etc/ssl/certs/ca-certificates.crt"
    assert f"SATX_STUDY_URL={url}\n" in user_data(replace(VALUES, study_url=url))
