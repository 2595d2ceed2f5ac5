"""The PostgreSQL server of tests and rehearsals: it accepts its own user with the password, and no other client."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import psycopg
import pytest

from satx.testing.changed_environment import changed_environment
from satx.testing.local_postgres import Postgres, running_postgres


@pytest.fixture(scope="module")
def guarded(postgres: Postgres) -> Postgres:
    """Make a second user, with a password of its own."""
    with psycopg.connect(plain(postgres.url()), autocommit=True) as connection:
        connection.execute("CREATE ROLE other LOGIN PASSWORD 'of-the-other'")
    return postgres


def plain(url: str) -> str:
    return url.replace("+psycopg", "")


def password_in(file: Path) -> str:
    return file.read_text().strip().rpartition(":")[2]


@pytest.mark.parametrize(
    ("user", "password", "why"),
    [
        ("satx", "", "no password supplied"),
        ("satx", "wrong", "password authentication failed"),
        ("satx", "of-the-other", "password authentication failed"),
        ("other", "", "no password supplied"),
        ("nobodys", "of-the-other", "password authentication failed"),
    ],
)
def test_a_client_without_the_password_of_its_user_is_refused(
    guarded: Postgres, user: str, password: str, why: str
) -> None:
    with changed_environment(PGPASSFILE="/dev/null"), pytest.raises(psycopg.OperationalError, match=why):
        psycopg.connect(plain(guarded.url(user=user)), password=password or None)


def test_a_local_user_of_another_name_is_refused_at_the_socket(guarded: Postgres) -> None:
    with pytest.raises(psycopg.OperationalError, match="Peer authentication failed"):
        psycopg.connect(host=str(guarded.folder), port=guarded.port, user="other", dbname="postgres")


def test_only_its_owner_reads_the_password_and_no_command_line_url_or_log_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command_lines, run = list[str](), subprocess.run

    def noted(command: list[str], **options: Any) -> Any:
        command_lines.append(" ".join(command))
        return run(command, **options)

    monkeypatch.setattr("satx.testing.local_postgres.subprocess.run", noted)
    with running_postgres(tmp_path / "cluster") as server:
        file = Path(os.environ["PGPASSFILE"])
        password = password_in(file)
        assert (file.stat().st_mode & 0o777, file.stat().st_uid, len(password) >= 32) == (0o600, os.getuid(), True)
        seen = [*command_lines, server.url(), (server.folder / "log").read_text()]
    assert [Path(line.split()[0]).name for line in command_lines] == ["initdb", "pg_ctl", "pg_ctl"]
    assert not [text for text in seen if password in text]


def test_two_servers_differ_in_their_passwords_which_are_gone_at_the_end(tmp_path: Path, guarded: Postgres) -> None:
    outer = os.environ["PGPASSFILE"]
    with running_postgres(tmp_path / "cluster") as second:
        inner = Path(os.environ["PGPASSFILE"])
        with psycopg.connect(plain(second.url())) as connection:
            assert connection.execute("SELECT current_user").fetchone() == ("satx",)
        assert password_in(inner) != password_in(Path(outer))
    assert os.environ["PGPASSFILE"] == outer
    assert not inner.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["cluster"]
