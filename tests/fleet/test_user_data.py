"""What a machine runs at its first start: its text, that a shell can read it, and that no secret is in it."""

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
    constraints_uri="s3://tiles/satx/wheels/constraints.txt",
    constraints_sha256="b" * 64,
    secret_prefix="/satx",
    lease_minutes=20,
    lease_seconds=1200,
    max_seconds=86400,
)


def test_the_script_is_what_was_reviewed() -> None:
    """A change of the script is looked at here: write the new text into the golden file once it is right."""
    assert user_data(VALUES) == GOLDEN.read_text()


def test_a_shell_can_read_it_and_what_it_writes(tmp_path: Path) -> None:
    script = tmp_path / "user-data.sh"
    script.write_text(user_data(VALUES))
    subprocess.run(["bash", "-n", script], check=True)
    text = script.read_text()
    for name in ("WATCHDOG", "LAST"):
        inner = text.split(f"<<'{name}'\n")[1].split(f"\n{name}\n")[0]
        subprocess.run(["bash", "-n"], input=inner, text=True, check=True)
    assert "{{" not in text


def test_the_watchdog_ends_a_machine_that_makes_no_progress_and_none_that_does(tmp_path: Path) -> None:
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
def test_what_a_shell_would_run_is_refused(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}: expected letters"):
        user_data(replace(VALUES, **{name: value}))


@pytest.mark.parametrize(
    ("name", "value", "where"),
    [
        ("study_url", "postgresql+psycopg://satx:hunter2@10.0.0.5/satx", "/satx/pgpass"),
        ("tracking_uri", "http://me:hunter2@10.0.0.5:5000", "/satx/mlflow"),
    ],
)
def test_a_password_is_refused_and_not_repeated(name: str, value: str, where: str) -> None:
    with pytest.raises(ConfigError, match=where) as refused:
        user_data(replace(VALUES, **{name: value}))
    assert "hunter2" not in str(refused.value)
