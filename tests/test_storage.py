from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from satx.errors import ConfigError
from satx.storage import (
    digest_of,
    file_digest,
    is_abandoned,
    is_held,
    locked,
    project_root,
    replacing,
    satx_home,
    shipped_file,
    write_json,
    write_text,
)

FULL_DISK = """
import resource, sys
from pathlib import Path
from satx.storage import write_text
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_text(Path(sys.argv[1]), "new" * 1000)
except OSError as error:
    print("OSError", error.errno)
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_completely(tmp_path: Path) -> None:
    path = tmp_path / "deeper" / "file.txt"
    write_text(path, "old")
    write_text(path, "new")
    assert path.read_text() == "new"
    assert names(path.parent) == ["file.txt"]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "old")
    with pytest.raises(ZeroDivisionError), replacing(path) as temporary:
        temporary.write_text("half of the n")
        _ = 1 / 0
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file.txt"]


def test_a_failure_leaves_no_file_where_there_was_none(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "file.txt") as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert names(tmp_path) == []


def test_a_folder_replaces_a_folder_without_mixing_them(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    for name in ("old", "new"):
        with replacing(folder) as temporary:
            temporary.mkdir()
            (temporary / name).write_text(name)
    assert names(folder) == ["new"]
    assert names(tmp_path) == ["folder"]


def test_a_failure_leaves_the_old_folder(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    with replacing(folder) as temporary:
        temporary.mkdir()
        (temporary / "old").write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(folder) as temporary:
        temporary.mkdir()
        (temporary / "new").write_text("new")
        raise KeyboardInterrupt
    assert names(folder) == ["old"]
    assert names(tmp_path) == ["folder"]


def test_a_full_disk_leaves_the_old_file_intact(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "old")
    ended = subprocess.run([sys.executable, "-c", FULL_DISK, path], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("OSError")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file.txt"]


def test_written_files_have_the_permissions_of_the_umask(tmp_path: Path) -> None:
    write_text(tmp_path / "file.txt", "x")
    plain = tmp_path / "plain.txt"
    plain.write_text("x")
    assert (tmp_path / "file.txt").stat().st_mode == plain.stat().st_mode


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(values, values)
def test_a_digest_is_equal_for_equal_json_only(left: object, right: object) -> None:
    same = json.dumps(left, sort_keys=True) == json.dumps(right, sort_keys=True)
    assert (digest_of(left) == digest_of(right)) == same


@given(st.dictionaries(st.text(max_size=3), st.integers(), min_size=2, max_size=5))
def test_a_digest_does_not_depend_on_the_order_of_keys(value: dict[str, int]) -> None:
    assert digest_of(value) == digest_of(dict(reversed(value.items())))


def test_a_file_digest_is_the_sha256_of_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert file_digest(tmp_path / "abc").startswith("ba7816bf8f01cfea414140de5dae2223b00361a396177a9c")


def test_a_lock_is_held_by_one_thread_at_a_time(tmp_path: Path) -> None:
    inside: list[int] = []
    most: list[int] = []

    def work() -> None:
        for _ in range(20):
            with locked(tmp_path / "thing"):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(most) == {1}


def test_satx_home_is_created_with_its_format(home: Path) -> None:
    assert satx_home() == home.resolve()
    assert json.loads((home / "format.json").read_text()) == {"format": 1, "path": str(home.resolve())}
    assert satx_home() == home.resolve()


def test_satx_home_is_in_the_project_folder_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SATX_HOME")
    (tmp_path / "project" / "deep").mkdir(parents=True)
    (tmp_path / "project" / "pyproject.toml").write_text('[project]\nname = "satx"\n')
    monkeypatch.chdir(tmp_path / "project" / "deep")
    assert satx_home() == (tmp_path / "project" / ".satx").resolve()


def test_satx_home_is_the_users_data_folder_outside_a_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SATX_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert satx_home().is_relative_to(tmp_path)
    assert satx_home().name == "satx"


@pytest.mark.parametrize("found", [2, "1"])
def test_a_home_of_another_format_is_refused(home: Path, found: object) -> None:
    home.mkdir()
    (home / "format.json").write_text(json.dumps({"format": found}))
    with pytest.raises(ConfigError) as caught:
        satx_home()
    assert all(value in str(caught.value) for value in (str(home), "format 1", f"got {found!r}"))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"3", b"\xff\xfe"])
def test_a_home_whose_format_cannot_be_read_is_refused(home: Path, content: bytes) -> None:
    home.mkdir()
    (home / "format.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"format\.json"):
        satx_home()


def test_a_home_that_cannot_be_created_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SATX_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(ConfigError) as caught:
        satx_home()
    assert str(tmp_path / "file" / "home") in str(caught.value)


def test_the_project_is_found_from_any_of_its_folders(tmp_path: Path) -> None:
    (tmp_path / "satx" / "a" / "b").mkdir(parents=True)
    (tmp_path / "satx" / "pyproject.toml").write_text('[project]\nname = "satx"\n')
    assert project_root(tmp_path / "satx" / "a" / "b") == (tmp_path / "satx").resolve()
    assert project_root(tmp_path) is None


@pytest.mark.parametrize("text", ["[project\nname=", "project = 3\n", '[project]\nname = "other"\n', "\udcff"])
def test_a_broken_pyproject_and_one_of_another_project_are_skipped(tmp_path: Path, text: str) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "satx"\n')
    (tmp_path / "inner" / "pyproject.toml").write_text(text, errors="surrogateescape")
    assert project_root(tmp_path / "inner") == tmp_path.resolve()


def test_the_error_for_a_file_that_is_not_shipped_lists_the_shipped_ones() -> None:
    with pytest.raises(ConfigError, match=r"sweeps/quik\.yaml.*\bquick\b"):
        shipped_file("sweeps/quik.yaml")


def test_a_shipped_file_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert shipped_file("sweeps/quick.yaml").is_file()


def test_json_is_written_sorted_and_ends_with_a_newline(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"b": 1, "a": 2})
    assert (tmp_path / "x.json").read_text() == '{\n  "a": 2,\n  "b": 1\n}\n'


KILLED = """
import os, signal, sys
from pathlib import Path
from satx.storage import replacing
with replacing(Path(sys.argv[1])) as temporary:
    temporary.write_text("half of the n")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("old", ["old", None])
def test_a_kill_during_a_write_leaves_the_old_file_or_none_and_the_next_write_succeeds(
    tmp_path: Path, old: str | None
) -> None:
    path = tmp_path / "file.txt"
    if old is not None:
        write_text(path, old)
    ended = subprocess.run([sys.executable, "-c", KILLED, path], capture_output=True, text=True, timeout=60)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert (path.read_text() if path.exists() else None) == old
    assert [name for name in names(tmp_path) if not name.startswith(".")] == ([] if old is None else ["file.txt"])
    write_text(path, "new")
    assert path.read_text() == "new"


def test_a_temporary_folder_tells_whether_its_writer_lives(tmp_path: Path) -> None:
    with replacing(tmp_path / "file.txt") as temporary:
        temporary.write_text("new")
        (holder,) = tmp_path.iterdir()
        assert is_abandoned(holder) is False
    assert not holder.exists()
    subprocess.run([sys.executable, "-c", KILLED, tmp_path / "file.txt"], check=False, timeout=60)
    (left,) = [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert is_abandoned(left) is True
    (tmp_path / ".other").mkdir()
    assert is_abandoned(tmp_path / ".other") is None, "made without `replacing`"


def test_looking_at_a_lock_changes_nothing(tmp_path: Path) -> None:
    with locked(tmp_path / "thing"):
        assert is_held(tmp_path / "thing.lock")
    before = (tmp_path / "thing.lock").stat().st_mtime_ns
    assert not is_held(tmp_path / "thing.lock")
    assert (tmp_path / "thing.lock").stat().st_mtime_ns == before
    assert not is_held(tmp_path / "gone" / "thing.lock")
    assert names(tmp_path) == ["thing.lock"]
