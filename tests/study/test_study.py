"""The study: its storage with several processes, its identity, and the owners of its trials."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
from projects import TINY_SWEEP, environment

from satx.config import Configuration
from satx.errors import ConfigError, TrackerUnavailable
from satx.execution.driver import Sweep, name_of_study, open_sweep
from satx.search.identity import identity_of, study_name, what_changed
from satx.search.space import SweepConfig, fixed_settings
from satx.study.database import open_storage, open_study
from satx.study.outcomes import counted
from satx.study.owner import owner_is_dead, owner_of_this_process

# A process that imports the modules once and then forks four children, which all start at the same moment.
FOUR_AT_ONCE = """
import json, multiprocessing, os, sys
import optuna
from satx.study.database import open_storage
from satx.tracking.client import experiment_id, open_tracker

def child(number, start, write):
    os.read(start, 1)
    storage = open_storage()
    experiment = experiment_id(open_tracker(), f"made-by-{number}")
    sampler = optuna.samplers.RandomSampler(seed=1)
    study = optuna.create_study(study_name="queue", storage=storage, sampler=sampler, load_if_exists=True)
    for x in range(10 * number, 10 * number + 10):
        study.enqueue_trial({"x": x})
    all_are_queued.wait(120)
    handed = []
    for _ in range(10):
        trial = study.ask()
        handed.append([trial.number, trial.suggest_int("x", 0, 1000)])
        study.tell(trial, 0.0)
    os.write(write, (json.dumps([experiment, handed]) + "\\n").encode())

all_are_queued = multiprocessing.get_context("fork").Barrier(4)
start, go = os.pipe()
read, write = os.pipe()
pids = []
for number in range(4):
    pid = os.fork()
    if pid == 0:
        try:
            child(number, start, write)
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
    pids.append(pid)
os.write(go, b"1234")
codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
os.close(write)
lines = os.fdopen(read).read().splitlines()
print(json.dumps([codes, [json.loads(line) for line in lines]]))
"""


def test_four_processes_open_new_databases_at_once_and_each_queued_trial_is_handed_to_one_of_them(home: Path) -> None:
    process = subprocess.run(
        [sys.executable, "-c", FOUR_AT_ONCE],
        env=environment(home, TF_CPP_MIN_LOG_LEVEL="3"),
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert process.returncode == 0, process.stderr
    codes, found = json.loads(process.stdout.splitlines()[-1])
    assert codes == [0, 0, 0, 0], process.stderr
    assert len({experiment for experiment, _ in found}) == 4
    handed = Counter(number for _, numbers in found for number, _ in numbers)
    assert handed == Counter(range(40))
    assert {value for _, numbers in found for _, value in numbers} == set(range(40))


PARTS: dict[str, Any] = {
    "sweep": SweepConfig.model_validate(TINY_SWEEP),
    "fixed": {"train.batch_size": 32},
    "data_digest": "tiles",
    "weights": {"mobilenetv2": "abc"},
    "image_size_px": 32,
    "trainer": 1,
    "backend": "tensorflow",
}


def test_the_identity_of_a_study_does_not_depend_on_the_number_of_trials() -> None:
    more = SweepConfig.model_validate(TINY_SWEEP | {"trials": 99, "keep_models_per_backbone": 7})
    assert identity_of(**PARTS) == identity_of(**PARTS | {"sweep": more})


def test_cache_settings_do_not_change_the_name_of_a_study() -> None:
    defaults = Configuration()
    names = set()
    for changes in ({}, {"cache_gb": 60.0}, {"cache": "off"}, {"train.batch_size": 64}):
        sweep = SweepConfig.model_validate(TINY_SWEEP | {"set": TINY_SWEEP["set"] | changes})
        parts = PARTS | {"sweep": sweep, "fixed": fixed_settings(sweep, defaults)}
        names.add(study_name("session2", "tiny", identity_of(**parts)))
    assert len(names) == 2, "the batch size is part of the identity, the caches are not"


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"sweep": SweepConfig.model_validate(TINY_SWEEP | {"pruner": {"name": "median"}})}, "space"),
        ({"fixed": {"train.batch_size": 16}}, "space"),
        ({"data_digest": "other tiles"}, "data"),
        ({"weights": {"mobilenetv2": "abd"}}, "weights"),
        ({"image_size_px": 64}, "image_size_px"),
        ({"trainer": 2}, "trainer"),
        ({"backend": "jax"}, "backend"),
    ],
)
def test_a_changed_part_of_the_identity_makes_a_new_study_and_is_reported(
    change: dict[str, Any], part: str, home: Path
) -> None:
    old, new = identity_of(**PARTS), identity_of(**PARTS | change)
    names = [study_name("session2", "tiny", identity) for identity in (old, new)]
    assert names[0] != names[1]
    storage = open_storage()
    study = optuna.create_study(study_name=names[0], storage=storage)
    study.set_user_attr("identity", old)
    study.ask()
    assert what_changed(storage, "session2-tiny", names[1], new) == f"{part} changed since study {names[0]}"
    assert what_changed(storage, "session2-tiny", names[0], old) is None


def test_a_sweep_whose_name_has_the_same_beginning_is_not_compared_with(home: Path) -> None:
    storage = open_storage()
    study = optuna.create_study(study_name=study_name("session2", "tiny-two", identity_of(**PARTS)), storage=storage)
    study.set_user_attr("identity", identity_of(**PARTS))
    study.ask()
    assert what_changed(storage, "session2-tiny", "session2-tiny-00000000", identity_of(**PARTS)) is None


def test_opening_a_sweep_again_changes_nothing_and_new_defaults_make_a_new_study(
    open_tiny: Callable[..., Sweep], home: Path, tiny_tiles: Path
) -> None:
    from projects import furnish

    first, second = open_tiny(trials=2), open_tiny(trials=5)
    assert first.job.study_name == second.job.study_name
    assert first.job.parent_run_id == second.job.parent_run_id
    assert len(second.study.get_trials()) == len(first.job.sweep.start)
    assert second.job.trials == 5

    prepared = furnish(home, tiny_tiles)
    assert name_of_study(prepared, first.job.sweep)[0] == first.job.study_name
    import dataclasses

    other = dataclasses.replace(
        prepared, defaults=prepared.defaults.with_values({"train.batch_size": 8}, source="test")
    )
    first.study.ask()
    changed = open_sweep(other, first.job.sweep, 2, git_commit="0" * 40)
    assert changed.job.study_name != first.job.study_name
    assert changed.changed == f"space changed since study {first.job.study_name}"


def test_a_lost_parent_run_attribute_does_not_make_a_second_parent(open_tiny: Callable[..., Sweep]) -> None:
    """The driver may die after it created its run and before it wrote the id of the run into the study."""
    first = open_tiny()
    first.study._storage.set_study_user_attr(first.study._study_id, "parent_run_id", None)
    assert open_tiny().job.parent_run_id == first.job.parent_run_id


def test_an_unknown_study_is_refused_with_the_known_names(home: Path) -> None:
    storage = open_storage()
    optuna.create_study(study_name="known", storage=storage)
    with pytest.raises(ConfigError, match=r"'unknown'.* known\."):
        open_study(storage, "unknown")


@pytest.mark.parametrize(
    "url",
    ["postgresql://localhost:9/nothing", "sqlite:////proc/none/studies.db", "postgresql+no-such-driver://x"],
)
def test_an_unreachable_study_database_is_one_clear_error(url: str) -> None:
    with pytest.raises(TrackerUnavailable):
        open_storage(url)


@pytest.mark.parametrize("url", ["mysql://satx:hunter2@localhost/satx", "not a url"])
def test_a_database_of_another_kind_is_refused_without_repeating_its_address(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_storage(url)
    assert "SATX_STUDY_URL" in str(caught.value) and "hunter2" not in str(caught.value)


def test_an_owner_is_dead_only_if_its_process_has_certainly_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    me = owner_of_this_process()
    assert not owner_is_dead(me)
    assert not owner_is_dead(None)
    assert not owner_is_dead(me | {"host": "elsewhere", "pid": 2**22 + 1})
    assert owner_is_dead(me | {"started": me["started"] - 60}), "another process reuses the worker's id"
    assert owner_is_dead(me | {"boot": "another"})
    other_container = me | {"ids": "pid:[1]"}
    assert owner_is_dead(other_container), "on SQLite no other machine can own it"
    monkeypatch.setenv("SATX_STUDY_URL", "postgresql+psycopg://satx@10.0.0.5/satx")
    assert not owner_is_dead(other_container), "on PostgreSQL heartbeats decide"
    assert owner_is_dead(other_container | {"boot": "another"})
    child = subprocess.Popen(["sleep", "60"])
    owner = me | {"pid": child.pid, "started": psutil.Process(child.pid).create_time() - psutil.boot_time()}
    assert not owner_is_dead(owner)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert owner_is_dead(owner), "a zombie has ended"
    child.wait()
    assert owner_is_dead(owner)


def test_duplicates_do_not_count_towards_the_trials_wanted(home: Path) -> None:
    study = optuna.create_study(storage=open_storage())
    for duplicate in (False, True):
        trial = study.ask()
        if duplicate:
            trial.set_user_attr("duplicate_of", 0)
        study.tell(trial, 0.5)
    study.tell(study.ask(), state=optuna.trial.TrialState.PRUNED)
    study.tell(study.ask(), state=optuna.trial.TrialState.FAIL)
    assert [trial.number for trial in counted(study)] == [0, 2]
