"""Tests of `satx gc`: it removes unneeded files and keeps those of runs, studies, exports and running sweeps."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

from satx.cli import main
from satx.commands.gc import DAY_SECONDS
from satx.errors import ConfigError
from satx.execution.driver import only_driver
from satx.storage import satx_home
from satx.study.database import open_storage
from satx.study.owner import named_owner, owner_of_this_process, owner_text

STUDY = "session2-quick-1a2b3c4d"
DIGESTS = {name: name[0] * 64 for name in ("done", "pruned", "failed", "waiting", "lost")}


def satx_gc(*arguments: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["satx", "gc", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert not stopped.value.code


def put(path: Path, *, days_old: float = 0.0) -> Path:
    """Write a file of 5000 bytes, and set its times and those of its two parent folders to `days_old`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * 5000)
    then = time.time() - days_old * DAY_SECONDS
    os.utime(path, (then, then))
    for folder in (path.parent, path.parent.parent):
        os.utime(folder, (then, then))
    return path


@pytest.fixture
def used_home(home: Path) -> Path:
    """Create a home as sweeps leave it.

    Files with `old` in their path are about 40 days old, runs and exports 400, all others at most 1.5.
    """
    home.mkdir()
    study = optuna.create_study(study_name=STUDY, storage=open_storage(), direction="maximize")
    states = {
        "done": (TrialState.COMPLETE, {}),
        "pruned": (TrialState.PRUNED, {}),
        "failed": (TrialState.FAIL, {"outcome": "failed"}),
        "waiting": (TrialState.WAITING, {}),
        "lost": (TrialState.FAIL, {"outcome": "lost"}),
    }
    for name, (state, attributes) in states.items():
        value = 0.9 if state == TrialState.COMPLETE else None
        drawn = {} if state == TrialState.WAITING else {"x": 0.5}
        space = {key: FloatDistribution(0, 1) for key in drawn}
        attributes = attributes | {"configuration": DIGESTS[name]}
        study.add_trial(
            create_trial(state=state, value=value, params=drawn, distributions=space, user_attrs=attributes)
        )
    (home / "locks").mkdir()
    (home / "locks" / f"{STUDY}.lock").touch()
    checkpoints = home / "cache" / "checkpoints"
    for digest in DIGESTS.values():
        put(checkpoints / STUDY / digest[:16] / "best-1.npz", days_old=1.5)
    for name, days in (("new", 1), ("old", 40)):
        put(checkpoints / "train" / name / "best-1.npz", days_old=days)
        put(home / "cache" / f"tiles-{name}-96px" / "pixels.npy", days_old=days)
        put(home / "cache" / "trunk" / f"xception-{name}" / "none" / "valid-flip0-0000.npy", days_old=days)
        put(home / "logs" / STUDY / f"worker-{name}.log", days_old=days)
        put(home / "cache" / f".tiles-{name}.abcd" / "pixels.npy", days_old=days - 0.5)
    for name in ("mlflow.db", "mlartifacts/1/run/artifacts/model.h5", "exports/school/1/saved_model.pb"):
        put(home / name, days_old=400)
    return home


def files_of(home: Path) -> set[str]:
    return {str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()}


EXPECTED = {f"cache/checkpoints/{STUDY}/{DIGESTS[name][:16]}/best-1.npz" for name in ("done", "pruned", "failed")} | {
    "cache/checkpoints/train/old/best-1.npz",
    "cache/tiles-old-96px/pixels.npy",
    "cache/trunk/xception-old/none/valid-flip0-0000.npy",
    "cache/.tiles-old.abcd/pixels.npy",
    f"logs/{STUDY}/worker-old.log",
}


def test_only_files_that_are_no_longer_needed_are_removed(used_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = files_of(used_home)
    satx_gc(monkeypatch=monkeypatch)
    assert before - files_of(used_home) == EXPECTED
    assert not list((used_home / "cache").glob(".*.removed"))


def test_a_dry_run_lists_the_same_and_touches_nothing(
    used_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files_of(used_home)
    satx_gc("--dry-run", monkeypatch=monkeypatch)
    assert files_of(used_home) == before
    printed = capsys.readouterr().out
    for name in ("tiles-old-96px", "xception-old", "worker-old.log", ".tiles-old.abcd"):
        assert name in printed
    assert "Would free 0.000 GB" in printed and "tiles-new" not in printed


def test_older_than_days_sets_how_long_caches_are_kept(used_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    satx_gc("--older-than-days", "60", monkeypatch=monkeypatch)
    kept = files_of(used_home)
    assert {"cache/tiles-old-96px/pixels.npy", f"logs/{STUDY}/worker-old.log"} <= kept
    assert "cache/.tiles-old.abcd/pixels.npy" not in kept


def test_while_a_sweep_runs_its_files_and_all_caches_stay(
    used_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files_of(used_home)
    with only_driver(STUDY):
        satx_gc(monkeypatch=monkeypatch)
    gone = before - files_of(used_home)
    assert gone == {"cache/checkpoints/train/old/best-1.npz", "cache/.tiles-old.abcd/pixels.npy"}
    assert f"Sweep {STUDY} is running" in capsys.readouterr().out.replace("\n", " ")
    with only_driver(STUDY):  # the lock can still be acquired
        pass


def test_an_old_tile_store_that_was_read_recently_is_kept(used_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = used_home / "cache" / "tiles-old-96px" / "pixels.npy"
    os.utime(pixels, (time.time(), pixels.stat().st_mtime))
    satx_gc(monkeypatch=monkeypatch)
    assert pixels.is_file()


def test_checkpoints_of_unknown_studies_are_kept_for_the_same_number_of_days(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, days in (("new", 1), ("old", 40)):
        put(home / "cache" / "checkpoints" / "gone" / name / "best-1.npz", days_old=days)
    satx_gc(monkeypatch=monkeypatch)
    assert [path.name for path in (home / "cache" / "checkpoints" / "gone").iterdir()] == ["new"]
    assert not (home / "studies.db").exists()


def test_an_empty_home_has_nothing_to_remove(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    satx_gc(monkeypatch=monkeypatch)
    assert "Freed 0.000 GB" in capsys.readouterr().out


def test_a_removal_that_was_killed_half_way_is_finished_by_the_next(
    used_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(used_home / "cache" / ".tiles-old-96px.removed" / "pixels.npy", days_old=2)
    satx_gc(monkeypatch=monkeypatch)
    assert not [path for path in (used_home / "cache").iterdir() if "tiles-old-96px" in path.name]


def test_too_few_days_are_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["satx", "gc", "--older-than-days", "1"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2


def test_leftovers_of_killed_commands_are_removed_and_files_being_written_are_kept(
    used_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    abandoned = [
        put(used_home / "exports" / "school" / ".2.abcd" / "2" / "saved_model.pb", days_old=2),
        put(used_home / "sample" / ".session2.abcd" / "session2" / "tiles.csv", days_old=2),
        put(
            used_home / "cache" / "tune" / "session2-own-1a2b3c4d" / "trial_0000" / "checkpoint.weights.h5", days_old=2
        ),
    ]
    being_written = put(used_home / "exports" / "school" / ".3.abcd" / "3" / "saved_model.pb")
    satx_gc(monkeypatch=monkeypatch)
    assert not any(path.exists() for path in abandoned)
    assert being_written.exists()
    assert (used_home / "exports" / "school" / "1" / "saved_model.pb").exists()


WRITE = """
import sys, time
from pathlib import Path
from satx.storage import replacing
with replacing(Path(sys.argv[1])) as temporary:
    temporary.mkdir()
    (temporary / "saved_model.pb").write_bytes(b"x" * 5000)
    print("half done", flush=True)
    time.sleep(600)
"""
PLACES = (
    "exports/school/2",
    "cache/tiles-mine-96px",
    "cache/weights/w.h5",
    "sample/session2",
    "reports/figure",
    "own.json",
)


@contextmanager
def writer(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Write a folder with `replacing` in another process, which stops half way; yield the process."""
    with subprocess.Popen([sys.executable, "-c", WRITE, path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "half done\n"
        try:
            yield process
        finally:
            process.kill()


def made_earlier(folder: Path, days_old: float) -> None:
    """Set the times of a folder's files and of itself to `days_old`."""
    then = time.time() - days_old * DAY_SECONDS
    for path in [*folder.rglob("*"), folder]:
        os.utime(path, (then, then))


def holder_of(path: Path) -> Path:
    (found,) = path.parent.glob(f".{path.name}.*")
    return found


@pytest.mark.parametrize("place", PLACES)
def test_what_a_killed_writer_left_is_removed_and_what_a_living_one_writes_is_not(
    home: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    path = satx_home() / place
    with writer(path) as process:
        made_earlier(holder_of(path), days_old=3)
        satx_gc(monkeypatch=monkeypatch)
        assert (holder_of(path) / path.name / "saved_model.pb").exists(), "its writer is only slow"
        process.send_signal(signal.SIGKILL)
        process.wait()
        made_earlier(holder_of(path), days_old=0.01)
        satx_gc(monkeypatch=monkeypatch)
    assert not list(home.rglob("*saved_model.pb"))


def test_gc_frees_a_full_disk(used_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (used_home / "locks" / f"{STUDY}.lock").touch()
    log = put(used_home / "logs" / "old" / "worker.log", days_old=400)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("satx.commands.gc.write_text", full)
    satx_gc(monkeypatch=monkeypatch)
    assert not log.exists()


def test_hidden_folders_of_others_in_the_home_and_among_artifacts_are_kept(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = [put(home / name / "file", days_old=40) for name in (".config/own", "mlartifacts/1/run/artifacts/.own/x")]
    satx_gc(monkeypatch=monkeypatch)
    assert all(path.exists() for path in kept)


def test_a_sweep_beside_gc_is_told_of_gc_and_not_of_the_last_driver(
    used_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = owner_of_this_process() | {"pid": 2**22 + 7, "command": "satx sweep"}
    (used_home / "locks" / STUDY).write_text(json.dumps(dead))
    told: list[str] = []

    def refused(*_: object, **__: object) -> list[object]:
        with pytest.raises(ConfigError) as caught, only_driver(STUDY):
            pass
        told.append(str(caught.value))
        return []

    monkeypatch.setattr("satx.commands.gc.find_garbage", refused)
    satx_gc(monkeypatch=monkeypatch)
    assert f"process {os.getpid()} (`satx gc`)" in told[0]
    assert str(dead["pid"]) not in told[0]


def test_a_process_that_has_ended_or_whose_id_another_one_has_is_not_named(tmp_path: Path) -> None:
    file, me = tmp_path / "lock", owner_of_this_process()
    file.write_text(owner_text("satx sweep"))
    assert f"process {me['pid']} (`satx sweep`)" in named_owner(file)
    file.write_text(json.dumps(me | {"started": me["started"] - 60, "command": "satx sweep"}))
    assert str(me["pid"]) not in named_owner(file), "another process has the id now"
    file.write_text(json.dumps(me | {"host": "elsewhere", "command": "satx sweep"}))
    assert "on elsewhere" in named_owner(file)
    for text in ("123", "", "{}", "[]"):
        file.write_text(text)
        assert "123" not in named_owner(file)
    assert named_owner(tmp_path / "none") == named_owner(file)
