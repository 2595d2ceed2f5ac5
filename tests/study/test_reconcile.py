"""Reconciliation after a crash at any point: a configuration is queued again exactly once, or closed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState
from projects import databases

from satx.study import reconcile as module
from satx.study.database import open_storage
from satx.study.outcomes import CALLED_AT, MAX_VANISHED, Outcome, num_failures_in_a_row
from satx.study.owner import owner_of_this_process
from satx.study.reconcile import reconcile, settle_leftovers
from satx.tracking.client import MlflowClient, experiment_id, open_tracker
from satx.tracking.runs import WAITING, find_run, start_run

CONFIGURATIONS = ("a", "b", "c")
# Points at which a worker can die. They differ in what is recorded by then: the owner, the configuration, the run,
# the status of the run, the outcome of the trial.
DIES = (
    "before its name",
    "after its name",
    "after the configuration",
    "after the run was made",
    "after the run was closed",
    "while being failed",
    "failed but not queued",
    "by an error",
)
ENDS = ("finishes", "is pruned", "fails", "is interrupted")


class Record:
    """A study and its runs, written as workers write them, but without any training."""

    def __init__(self, name: str) -> None:
        self.client: MlflowClient = open_tracker()
        self.experiment = experiment_id(self.client, name)
        self.study = optuna.create_study(study_name=name, storage=open_storage(), direction="maximize")
        me = owner_of_this_process()
        self.alive, self.dead = me, me | {"started": me["started"] - 60}

    def take(self, configuration: str | None = None) -> optuna.Trial:
        """Return the next trial: a queued one if there is one, else a draw of this configuration."""
        queued = self.study.get_trials(states=(TrialState.WAITING,))
        if not queued and configuration is not None:
            self.study.enqueue_trial({"x": configuration})
        return self.study.ask()

    def work(self, trial: optuna.Trial, until: str) -> str:
        """Write what a worker writes until it dies or ends; return the configuration it drew, or "" if it drew none."""
        if until == "before its name":
            return ""
        trial.set_user_attr("owner", self.dead)
        if until == "after its name":
            return ""
        configuration = str(trial.suggest_categorical("x", CONFIGURATIONS))
        trial.set_user_attr("configuration", configuration)
        if until == "after the configuration":
            return configuration
        self.open_run(configuration)
        if until in ("after the run was made", "is alive"):
            if until == "is alive":
                trial.set_user_attr("owner", self.alive)
        elif until == "while being failed":
            trial.set_user_attr("outcome", Outcome.LOST)
        elif until == "failed but not queued" or until == "by an error":
            trial.set_user_attr("outcome", Outcome.LOST)
            self.study.tell(trial, state=TrialState.FAIL)
        elif until == "unheard of":  # its machine sent no more heartbeats, and Optuna failed the trial
            self.study.tell(trial, state=TrialState.FAIL)
        elif until == "is interrupted":
            trial.set_user_attr("outcome", Outcome.INTERRUPTED)
            self.client.update_run(self.run(configuration).info.run_id, status=WAITING)
            self.study.tell(trial, state=TrialState.FAIL)
        elif until == "fails":
            trial.set_user_attr("outcome", Outcome.FAILED)
            self.client.set_terminated(self.run(configuration).info.run_id, status="FAILED")
            self.study.tell(trial, state=TrialState.FAIL)
        else:
            status = "KILLED" if until == "is pruned" else "FINISHED"
            self.client.set_terminated(self.run(configuration).info.run_id, status=status)
            if until == "finishes":
                self.study.tell(trial, 0.5)
            elif until == "is pruned":
                trial.report(0.5, 1)
                self.study.tell(trial, state=TrialState.PRUNED)
        return configuration

    def open_run(self, configuration: str) -> None:
        found = self.run(configuration)
        if found is None:
            tags = {"study": self.study.study_name, "configuration": configuration}
            start_run(self.client, self.experiment, name=configuration, tags=tags, params={}, parent=None)
        else:
            self.client.update_run(found.info.run_id, status="RUNNING")

    def run(self, configuration: str) -> Any:
        return find_run(self.client, self.experiment, {"configuration": configuration})

    def status(self, configuration: str) -> str:
        return str(self.run(configuration).info.status)

    def reconcile(self, **more: Any) -> None:
        reconcile(self.study, self.client, self.experiment, **{"grace_seconds": -1.0} | more)

    def states(self) -> list[str]:
        return [trial.state.name for trial in self.study.get_trials()]

    def read_again(self) -> optuna.Study:
        """Load the study as another process would."""
        return optuna.load_study(study_name=self.study.study_name, storage=open_storage())

    def snapshot(self) -> Any:
        trials = [(t.number, t.state, t.user_attrs, t.params, t.system_attrs) for t in self.study.get_trials()]
        runs = self.client.search_runs([self.experiment])
        return trials, sorted((run.info.run_id, run.info.status, run.info.end_time) for run in runs)


@pytest.fixture
def record(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Record:
    shutil.copytree(databases(tmp_path_factory.getbasetemp()), home)
    return Record("session2-tiny-00000000")


@pytest.mark.parametrize("point", DIES)
def test_a_crash_at_any_point_queues_the_configuration_exactly_once(point: str, record: Record) -> None:
    configuration = record.work(record.take("a"), point)
    record.reconcile()
    assert record.states() == ["FAIL", "WAITING"]
    if record.run("a") is not None:
        assert record.status("a") == ("FINISHED" if point == "after the run was closed" else WAITING)
    before = record.snapshot()
    record.reconcile()
    assert record.snapshot() == before
    again = record.take()
    assert record.work(again, "finishes") == (configuration or "a") == "a", "the lost configuration is retried"
    record.reconcile()
    assert record.states() == ["FAIL", "COMPLETE"]
    assert record.status("a") == "FINISHED"
    assert len(record.client.search_runs([record.experiment])) == 1


@pytest.mark.parametrize("second", DIES)
def test_a_configuration_that_crashes_twice_is_closed_and_not_tried_again(second: str, record: Record) -> None:
    record.work(record.take("a"), "after the run was made")
    record.reconcile()
    record.work(record.take(), second)
    record.reconcile()
    assert record.states() == ["FAIL", "FAIL"]
    if second == "after the run was closed":
        assert record.status("a") == "FINISHED"
    else:
        assert record.status("a") == "FAILED"
        assert record.run("a").data.tags["reason"]


def test_a_start_configuration_whose_workers_die_twice_before_they_draw_is_given_up(record: Record) -> None:
    for _ in range(2):
        record.work(record.take("a"), "after its name")
        record.reconcile()
    assert record.states() == ["FAIL", "FAIL"]


def test_a_retry_that_dies_before_it_draws_does_not_lose_the_configuration(record: Record) -> None:
    """The parameters of such a retry are recorded as requested (`fixed_params`), not as drawn."""
    record.work(record.take("b"), "is interrupted")
    record.reconcile()
    record.work(record.take(), "after its name")
    record.reconcile()
    assert record.work(record.take(), "finishes") == "b"


def test_lost_machines_do_not_count_as_failures_until_the_configuration_is_given_up(record: Record) -> None:
    record.work(record.take("a"), "unheard of")
    for _ in range(MAX_VANISHED - 1):
        record.reconcile()
        assert record.status("a") == WAITING
        record.work(record.take(), "unheard of")
    assert num_failures_in_a_row(record.study) == 0
    record.reconcile()
    assert record.states() == ["FAIL"] * MAX_VANISHED
    assert record.status("a") == "FAILED"


def test_an_interrupted_configuration_is_queued_again_every_time(record: Record) -> None:
    record.work(record.take("a"), "is interrupted")
    for _ in range(4):
        record.reconcile()
        assert record.status("a") == WAITING
        record.work(record.take(), "is interrupted")
    record.reconcile()
    assert record.states() == ["FAIL"] * 5 + ["WAITING"]


def test_waiting_trials_are_closed_once_enough_is_done_and_queued_again_if_more_are_wanted(record: Record) -> None:
    record.study.set_user_attr("trials", 1)
    handed_back, other = record.take("a"), record.take("b")
    other.set_user_attr("owner", record.alive)
    record.work(handed_back, "is interrupted")
    record.study.enqueue_trial({"x": "c"})  # like an entry of a sweep's `start`
    record.reconcile()
    assert record.states() == ["FAIL", "RUNNING", "WAITING", "WAITING"]
    record.work(other, "finishes")
    record.reconcile()
    assert record.states() == ["FAIL", "COMPLETE", "FAIL", "FAIL"]
    assert record.status("a") == "KILLED"
    assert record.run("a").data.tags["reason"]
    before = record.snapshot()
    record.reconcile()
    assert record.snapshot() == before
    for _ in range(2):  # repeated calls, each time for more trials and then for fewer
        record.study.set_user_attr("trials", 3)
        record.reconcile()
        assert record.states().count("WAITING") == 2
        record.study.set_user_attr("trials", 1)
        record.reconcile()
    record.study.set_user_attr("trials", 3)
    record.reconcile()
    assert {record.work(record.take(), "finishes") for _ in range(2)} == {"a", "c"}
    record.reconcile()
    assert (record.states().count("COMPLETE"), record.status("a"), record.status("c")) == (3, "FINISHED", "FINISHED")


def test_a_trial_interrupted_just_before_the_last_result_is_closed_as_not_needed(record: Record) -> None:
    record.study.set_user_attr("trials", 1)
    handed_back, other = record.take("a"), record.take("b")
    record.work(handed_back, "is interrupted")
    record.work(other, "finishes")
    record.reconcile()
    assert record.states() == ["FAIL", "COMPLETE"]
    assert record.status("a") == "KILLED"
    assert record.run("a").data.tags["reason"]


def note_of(record: Record, number: int) -> str | None:
    """Return the note that Optuna's dashboard shows with a trial; its `get_note` reads these attributes."""
    trial = record.study.get_trials()[number]
    attributes = record.study._storage.get_study_system_attrs(record.study._study_id)
    if attributes.get(f"dashboard:{trial._trial_id}:note_ver") is None:
        return None
    return str(attributes[f"dashboard:{trial._trial_id}:note_str:0"])


def test_trials_that_did_not_fail_are_told_apart_in_optunas_dashboard(record: Record) -> None:
    for configuration, ends in {"a": "is interrupted", "b": "fails", "c": "unheard of"}.items():
        record.work(record.take(configuration), ends)
    record.study.set_user_attr("trials", 0)  # so that no trial is queued again
    record.reconcile()
    assert record.states() == ["FAIL"] * 3
    interrupted, failed, vanished = (note_of(record, number) for number in range(3))
    assert interrupted is not None and "Interrupted, not failed" in interrupted
    assert failed is None, "a configuration that failed has no note"
    assert vanished is not None and vanished != interrupted


def test_a_note_that_a_user_has_changed_stays(record: Record) -> None:
    record.work(record.take("a"), "is interrupted")
    record.reconcile()
    trial = record.study.get_trials()[0]
    storage, study_id = record.study._storage, record.study._study_id
    storage.set_study_system_attr(study_id, f"dashboard:{trial._trial_id}:note_str:0", "mine")
    storage.set_study_system_attr(study_id, f"dashboard:{trial._trial_id}:note_ver", 2)
    record.reconcile()
    assert note_of(record, 0) == "mine"


WORKS = """
import sys, time
import optuna
from satx.study.database import open_storage, open_study
from satx.study.owner import owner_of_this_process
study = open_study(open_storage(), sys.argv[1])
trial = study.ask()
trial.set_user_attr("owner", owner_of_this_process())
trial.set_user_attr("configuration", trial.suggest_categorical("x", ("a", "b", "c")))
print("ready", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("on_purpose", [True, False])
def test_the_note_of_a_trial_says_whether_its_killed_worker_was_stopped_on_purpose(
    on_purpose: bool, record: Record
) -> None:
    record.study.enqueue_trial({"x": "a"})
    arguments = [sys.executable, "-c", WORKS, record.study.study_name]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None and worker.stdout.readline() == "ready\n"
        worker.kill()
    record.reconcile(stopped_pids=frozenset({worker.pid}) if on_purpose else frozenset())
    assert record.states() == ["FAIL", "WAITING"]
    note = note_of(record, 0)
    assert note is not None and note.startswith("**Interrupted" if on_purpose else "**Lost")


def test_a_failed_configuration_stays_failed(record: Record) -> None:
    record.work(record.take("a"), "fails")
    record.reconcile()
    assert record.states() == ["FAIL"]
    assert record.status("a") == "FAILED"


def test_a_living_worker_and_one_on_another_host_are_left_alone(record: Record) -> None:
    record.work(record.take("a"), "is alive")
    elsewhere = record.take("b")
    record.work(elsewhere, "after the run was made")
    elsewhere.set_user_attr("owner", record.dead | {"host": "elsewhere"})
    before = record.snapshot()
    record.reconcile()
    assert record.snapshot() == before
    assert record.states() == ["RUNNING", "RUNNING"]
    assert record.status("a") == record.status("b") == "RUNNING"


def test_a_trial_that_has_just_started_and_has_no_owner_yet_is_left_alone(record: Record) -> None:
    record.take("a")
    record.reconcile(grace_seconds=30.0)
    assert record.states() == ["RUNNING"]


def test_a_worker_that_was_stopped_on_purpose_is_not_counted_as_a_crash(record: Record) -> None:
    for _ in range(3):
        trial = record.take("a")
        record.work(trial, "after the run was made")
        record.reconcile(stopped_pids=frozenset({os.getpid()}))
    assert record.states() == ["FAIL", "FAIL", "FAIL", "WAITING"]
    assert record.study.get_trials()[0].user_attrs["outcome"] == Outcome.INTERRUPTED


STARVES = """
import sys
from pathlib import Path
import optuna
from satx.study.database import open_storage, open_study
from satx.study.owner import owner_of_this_process
study, has_trained, group = open_study(open_storage(), sys.argv[1]), sys.argv[2] == "True", Path(sys.argv[3])
trial = study.ask()
trial.set_user_attr("owner", owner_of_this_process())
trial.set_user_attr("configuration", trial.suggest_categorical("x", ("a", "b", "c")))
if has_trained:
    trial.report(0.5, 1)
(group / "cgroup.procs").write_text("0")
kept = [bytearray(b"x" * 10_000_000) for _ in range(60)]
"""


@pytest.fixture
def small_memory() -> Iterator[Path]:
    """Create a control group whose processes may use 200 MB of memory together."""
    root = Path("/sys/fs/cgroup")
    version_1 = (root / "memory" / "memory.limit_in_bytes").exists()
    group = root / ("memory" if version_1 else "") / f"satx-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / ("memory.limit_in_bytes" if version_1 else "memory.max")).write_text("200000000")
        (group / ("memory.swappiness" if version_1 else "memory.swap.max")).write_text("0")
    except OSError as error:
        pytest.skip(f"needs the right to make control groups of memory: {error}")
    yield group
    group.rmdir()


@pytest.mark.parametrize("has_trained", [True, False])
def test_two_kills_for_lack_of_memory_count_as_out_of_memory_if_the_trials_had_trained(
    has_trained: bool, record: Record, small_memory: Path
) -> None:
    record.study.enqueue_trial({"x": "a"})
    record.open_run("a")
    outcomes = [Outcome.STARVED, Outcome.OUT_OF_MEMORY] if has_trained else [Outcome.LOST]
    arguments = [record.study.study_name, str(has_trained), str(small_memory)]
    for attempt in range(len(outcomes)):
        assert record.states() == ["FAIL"] * attempt + ["WAITING"]
        ended = subprocess.run([sys.executable, "-c", STARVES, *arguments], timeout=120)
        assert ended.returncode == -signal.SIGKILL
        record.reconcile()
        assert record.study.get_trials()[attempt].user_attrs["outcome"] == outcomes[attempt]
    if not has_trained:
        return  # it was filling caches, which takes memory whatever the batch size
    assert record.states() == ["FAIL", "FAIL"], "it is not tried a third time"
    assert record.status("a") == "FAILED"
    assert "memory ran out" in record.run("a").data.tags["reason"]


def test_a_trial_marked_as_interrupted_before_its_worker_was_killed_is_no_crash(record: Record) -> None:
    trial = record.take("a")
    record.work(trial, "after the run was made")
    trial.set_user_attr("outcome", Outcome.INTERRUPTED)
    record.reconcile()
    assert record.study.get_trials()[0].user_attrs["outcome"] == Outcome.INTERRUPTED
    assert record.states() == ["FAIL", "WAITING"]


def test_one_kill_for_lack_of_memory_counts_once_even_if_the_reconciling_process_dies(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "memory_ran_out_since", lambda _: True)
    trial = record.take("a")
    record.work(trial, "after the run was made")
    trial.report(0.5, 1)
    trial.set_user_attr("outcome", Outcome.STARVED)  # by a process that died while it reconciled
    record.reconcile()
    assert record.study.get_trials()[0].user_attrs["outcome"] == Outcome.STARVED
    assert record.states() == ["FAIL", "WAITING"]


def test_kills_for_lack_of_memory_before_a_trial_began_do_not_explain_its_death(record: Record) -> None:
    trial = record.take("a")
    record.work(trial, "after the run was made")
    trial.report(0.5, 1)
    record.reconcile()
    assert record.study.get_trials()[0].user_attrs["outcome"] == Outcome.LOST


def test_a_run_without_a_trial_is_closed(record: Record) -> None:
    record.open_run("a")
    record.reconcile()
    assert record.status("a") == "FAILED"
    assert record.run("a").data.tags["reason"] == "its trial was never recorded"


def test_failures_in_a_row_are_counted_since_the_last_result_of_this_call(record: Record) -> None:
    record.work(record.take("a"), "fails")
    record.work(record.take("b"), "finishes")
    assert num_failures_in_a_row(record.study) == 0
    record.work(record.take("c"), "after the run was made")
    record.reconcile()
    record.work(record.take(), "after the run was made")
    record.reconcile()
    assert num_failures_in_a_row(record.study) == 2
    record.study.set_user_attr(CALLED_AT, time.time())
    assert num_failures_in_a_row(record.study) == 0, "the cause may have been fixed before this call"


@pytest.mark.parametrize("zone", ["UTC-9", "UTC+9"])
def test_failures_in_a_row_are_counted_correctly_across_time_zones(
    record: Record, monkeypatch: pytest.MonkeyPatch, zone: str
) -> None:
    def be_in(place: str) -> None:
        monkeypatch.setenv("TZ", place)
        time.tzset()

    try:
        record.study.set_user_attr(CALLED_AT, time.time() - 60)
        be_in(zone)
        record.work(record.take("a"), "fails")
        be_in("UTC")
        assert num_failures_in_a_row(record.read_again()) == 1
        record.study.set_user_attr(CALLED_AT, time.time())
        be_in(zone)
        assert num_failures_in_a_row(record.read_again()) == 0
    finally:
        monkeypatch.delenv("TZ")
        time.tzset()


numbers = iter(range(10_000))


@pytest.fixture
def many(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    shutil.copytree(databases(tmp_path_factory.getbasetemp()), home)
    yield


@given(
    st.lists(st.tuples(st.sampled_from(CONFIGURATIONS), st.sampled_from(DIES[2:] + ENDS), st.booleans()), max_size=7)
)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_sequence_of_crashes_loses_or_repeats_a_configuration_or_leaves_a_run_running(
    many: None, events: list[tuple[str, str, bool]]
) -> None:
    record = Record(f"session2-tiny-{next(numbers):08x}")
    attempts: dict[str, list[str]] = defaultdict(list)
    for drawn, until, reconciled in events:
        settled = {name for name, ends in attempts.items() if {*ends} & {"finishes", "is pruned", "fails"}}
        if drawn in settled or sum(end in DIES for end in attempts[drawn]) >= 2:
            continue  # the worker refuses a configuration that was trained or given up
        unfinished = [t for t in record.study.get_trials() if t.state in (TrialState.RUNNING, TrialState.WAITING)]
        if unfinished and attempts[drawn] and not record.study.get_trials(states=(TrialState.WAITING,)):
            continue
        attempts[record.work(record.take(drawn), until)].append(until)
        if reconciled:
            record.reconcile()
    record.reconcile()
    before = record.snapshot()
    record.reconcile()
    assert record.snapshot() == before
    open_trials = [t for t in record.study.get_trials() if not t.state.is_finished()]
    assert {trial.state for trial in open_trials} <= {TrialState.WAITING}
    queued = [t.user_attrs["configuration"] for t in open_trials]
    assert len(set(queued)) == len(queued)
    for name, ends in attempts.items():
        crashes = sum(end in DIES for end in ends)
        done = {"finishes": "FINISHED", "is pruned": "KILLED", "fails": "FAILED"}.get(ends[-1]) if ends else None
        if not ends:
            continue
        assert (name in queued) == (done is None and crashes < 2)
        run = record.run(name)
        if run is not None and "after the run was closed" not in ends:
            assert run.info.status == (done or (WAITING if crashes < 2 else "FAILED"))
        assert run is None or run.info.status != "RUNNING"


def test_runs_that_dead_sweeps_and_trainings_left_running_are_closed_or_set_to_waiting(home: Path) -> None:
    mine, other = Record("mine"), Record("other")
    trial = other.take("a")
    other.work(trial, "after the run was made")
    dead, alive = ({"owner": json.dumps(owner)} for owner in (mine.dead, mine.alive))
    kinds = {
        "a training's": (dead | {"kind": "train"}, WAITING),
        "a sweep's": (dead | {"kind": "sweep", "study": "other"}, "KILLED"),
        "a baseline's": (dead | {"kind": "baseline", "study": "other"}, "KILLED"),
        "a living one's": (alive | {"kind": "train"}, "RUNNING"),
        "another program's": ({}, "RUNNING"),
    }
    client, experiment = other.client, other.experiment
    made = {
        name: start_run(client, experiment, name=name, tags=tags, params={}, parent=None)
        for name, (tags, _) in kinds.items()
    }
    settle_leftovers(client, experiment, open_storage())
    assert {name: client.get_run(run.info.run_id).info.status for name, run in made.items()} == {
        name: status for name, (_, status) in kinds.items()
    }
    attempted = find_run(client, experiment, {"study": "other", "configuration": "a"})
    assert attempted is not None and attempted.info.status == WAITING
    states = [found.state for found in other.study.get_trials()]
    assert states == [TrialState.FAIL, TrialState.WAITING]


def test_a_configuration_is_given_up_after_the_eighth_lost_machine(record: Record) -> None:
    for attempt in range(1, 9):
        record.work(record.take("a"), "unheard of")
        record.reconcile()
        assert record.status("a") == (WAITING if attempt < 8 else "FAILED"), attempt
