"""Tests of `satx fleet` and of watching a fleet, with a simulated AWS, a real PostgreSQL and a real MLflow."""

from __future__ import annotations

import base64
import datetime
import itertools
import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState
from projects import SIZE_PX, TINY_SWEEP, command, environment, furnish, furnished_region, with_databases
from sqlalchemy.exc import OperationalError

from satx.commands import fleet as looked_at
from satx.commands import fleet_up
from satx.commands import sweep as sweeping
from satx.commands.fleet import fleet_down_command, fleet_status_command
from satx.commands.fleet_up import fleet_up_command
from satx.commands.sweep import sweep_command
from satx.errors import ConfigError, FleetError, Interrupted, SweepStopped
from satx.execution import sharing
from satx.execution.driver import Sweep, open_sweep
from satx.execution.worker import MAX_DUPLICATES_IN_A_ROW, run_worker
from satx.fleet import prices
from satx.fleet import watch as watch_module
from satx.fleet.gpu import note_gpu_percent
from satx.fleet.launching import Launch, image_of
from satx.fleet.machines import machines_of
from satx.fleet.metadata import Identity
from satx.fleet.plan import Amazon
from satx.fleet.settings import FleetConfig
from satx.fleet.spending import ledger, note_spent
from satx.fleet.watch import Order, watch_fleet
from satx.fleet.wheel import Wheel, send_wheel
from satx.search.space import SweepConfig
from satx.sessions.prepare import SessionRequest
from satx.study.database import SharedStorage, open_storage, open_study
from satx.study.outcomes import Outcome
from satx.study.owner import owner_of_this_process
from satx.testing.changed_environment import changed_environment
from satx.testing.local_postgres import Postgres
from satx.testing.rehearsal import rehearsal_engine
from satx.tracking.client import MlflowClient
from satx.tracking.server import local_server

SECRET = "hunter2"  # must be only in the files and variables that clients read


@pytest.fixture
def region(clients: Any, monkeypatch: pytest.MonkeyPatch) -> FleetConfig:
    """Return the fleet settings, and make the commands load them."""
    config = furnished_region(clients).model_copy(update={"instance_types": ("p3.2xlarge", "g6.xlarge")})
    for module in (fleet_up, looked_at):
        monkeypatch.setattr(module, "load_fleet", lambda: config)
    monkeypatch.setattr("satx.execution.driver.s3_client", lambda: clients("s3"))
    sharing.s3_client.cache_clear()
    return config


@pytest.fixture(scope="module")
def tracking_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run MLflow's server for the module, since it takes seconds to start; yield its URI."""
    home = with_databases(tmp_path_factory.mktemp("mlflow"), tmp_path_factory.getbasetemp())
    with ExitStack() as held:
        with changed_environment(SATX_HOME=str(home), MLFLOW_TRACKING_URI=None):
            uri = held.enter_context(local_server())
        yield uri


@pytest.fixture
def databases_for_all(
    home: Path, tmp_path: Path, postgres: Postgres, tracking_uri: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Provide PostgreSQL and MLflow servers that machines can reach."""
    password_file = tmp_path / "pgpass"
    password_file.write_text(f"{Path(os.environ['PGPASSFILE']).read_text()}*:*:*:*:{SECRET}\n")
    password_file.chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(password_file))
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", SECRET)
    monkeypatch.setenv("SATX_STUDY_URL", postgres.url())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri)
    opened, connect = list[SharedStorage](), SharedStorage.__init__

    def noted(self: SharedStorage, *arguments: Any) -> None:
        connect(self, *arguments)
        opened.append(self)

    monkeypatch.setattr(SharedStorage, "__init__", noted)
    yield
    for storage in opened:  # normally closed when the command's process exits
        storage.engine.dispose()


def up(tiles: Path, workers: int, **options: Any) -> None:
    usual = {"dry_run": False, "yes": True}
    request, order = SessionRequest("2", tiles, "none", SIZE_PX), Order(workers, False, 5.0)
    fleet_up_command(request, order, sweep_name="tiny", trials=None, **(usual | options))


def build_one_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Build and upload the wheel at the first launch only, since the checkout does not change during a test."""
    sent: list[Wheel] = []

    def send_once(s3: Any, bucket: str) -> Wheel:
        if not sent:
            sent.append(send_wheel(s3, bucket))
        return sent[0]

    monkeypatch.setattr(fleet_up, "send_wheel", send_once)


def test_a_fleet_is_launched_once_shown_and_terminated_completely(
    tiny_tiles: Path,
    home: Path,
    region: FleetConfig,
    databases_for_all: None,
    clients: Any,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    furnish(home, tiny_tiles)
    monkeypatch.setattr(fleet_up, "sweep_for", lambda *_: SweepConfig.model_validate(TINY_SWEEP))
    build_one_wheel(monkeypatch)
    ec2 = clients("ec2")
    up(tiny_tiles, 2, dry_run=True)
    said = capsys.readouterr().out
    assert "2 to launch, 0 already running" in said
    assert "p3.2xlarge: not offered" in said
    assert "none: no trial of this study is done yet" in said
    assert machines_of(ec2) == []

    up(tiny_tiles, 2)
    up(tiny_tiles, 2)
    said = capsys.readouterr().out
    assert "2 machines launched, 0 already running" in said
    assert "0 machines launched, 2 already running" in said
    first, second = machines_of(ec2)
    name = first.study
    with pytest.raises(ConfigError, match="`satx fleet down --keep 1`"):
        up(tiny_tiles, 1)

    study = open_study(open_storage(), name)
    study.set_user_attr("usd_per_hour", {"g6.xlarge on-demand": {"usd_per_hour": 1.0, "source": "test"}})
    monkeypatch.setattr("satx.fleet.spending.psutil.boot_time", lambda: 0.0)
    me = Identity(first.instance_id, "g6.xlarge", "us-east-1", spot=False)
    assert not note_spent(study, me, now=datetime.datetime.fromtimestamp(3600 * 2.5, datetime.UTC)).is_spent
    assert note_spent(study, me, now=datetime.datetime.fromtimestamp(3600 * 5.0, datetime.UTC)).is_spent
    assert ledger(study).spent_usd == {first.instance_id: 5.0}
    note_gpu_percent(study, me, [20.0, 70.0])
    fleet_status_command(name, as_json=False)
    said = capsys.readouterr().out
    assert first.instance_id in said and "45%" in said
    fleet_status_command(None, as_json=True)
    report = json.loads(capsys.readouterr().out)
    assert (report["study"], report["machines_that_run"], report["wanted"]) == (name, 2, TINY_SWEEP["trials"])
    assert [machine["gpu_percent"] for machine in report["machines"]] == [45.0, None]
    assert 5.0 <= report["spent_usd"] < 5.1, "the cost of the other machine is added"
    assert (report["budget_usd"], report["usd_per_trial"]) == (5.0, None)

    assert secrets_in(ec2, clients("s3"), study.user_attrs) == []

    with pytest.raises(ConfigError, match=r"\$5\.0\d .* \$5\.00"):
        up(tiny_tiles, 3)
    monkeypatch.setattr(prices, "TABLE_USD", {})
    with pytest.raises(ConfigError, match=r"g6\.xlarge on-demand"):
        up(tiny_tiles, 3)
    assert len(machines_of(ec2)) == 2

    fleet_down_command(None, keep=1)
    assert machines_of(ec2) == [first] or machines_of(ec2) == [second]
    fleet_down_command(None, keep=0)
    assert machines_of(ec2) == []
    assert ec2.describe_launch_templates()["LaunchTemplates"] == []
    fleet_down_command(name, keep=0)


def secrets_in(ec2: Any, s3: Any, attributes: dict[str, Any]) -> list[str]:
    """Return where the password occurs: in machines, tags, user data, the bucket or the study."""
    texts = {"study": json.dumps(attributes), "machines": json.dumps(ec2.describe_instances(), default=str)}
    for template in ec2.describe_launch_templates()["LaunchTemplates"]:
        (version,) = ec2.describe_launch_template_versions(LaunchTemplateId=template["LaunchTemplateId"])[
            "LaunchTemplateVersions"
        ]
        texts["user data"] = base64.b64decode(version["LaunchTemplateData"]["UserData"]).decode()
    for item in s3.list_objects_v2(Bucket="satx-test")["Contents"]:
        texts[item["Key"]] = s3.get_object(Bucket="satx-test", Key=item["Key"])["Body"].read().decode(errors="replace")
    assert "satx worker --study" in texts["user data"]
    assert any(name.endswith(".whl") for name in texts)
    return [name for name, text in texts.items() if SECRET in text]


Watch = Callable[..., bool]


@pytest.fixture
def watched(tiny_tiles: Path, home: Path, region: FleetConfig, clients: Any) -> Watch:
    """Return a function that watches a fleet of two for a sweep of four trials.

    `on_sleep` is called instead of each sleep of the watch, and simulates what happens meanwhile. `attributes` are
    set in the study; `seconds` are keyword arguments of `watch_fleet`.
    """
    prepared = furnish(home, tiny_tiles)
    amazon = Amazon(clients("ec2"), clients("ssm"), clients("s3"), clients("pricing"))

    def watch(
        on_sleep: Callable[[Sweep, int], None], attributes: dict[str, Any] | None = None, **seconds: float
    ) -> bool:
        sweep = open_sweep(prepared, SweepConfig.model_validate(TINY_SWEEP), 4, git_commit="0" * 40)
        for name, value in (attributes or {}).items():
            sweep.study.set_user_attr(name, value)
        places = tuple(("g6.xlarge", subnet) for subnet in region.subnets)
        image = image_of(amazon.ec2, amazon.ssm, region)
        wanted = Launch(sweep.job.study_name, image, places, "#!/bin/sh\n", spot=False)
        calls = itertools.count(1)
        return watch_fleet(
            sweep,
            amazon,
            region,
            wanted,
            2,
            on_tick=lambda _: None,
            sleep=lambda _: on_sleep(sweep, next(calls)),
            **seconds,
        )

    return watch


def there(ec2: Any) -> list[str]:
    return [machine.instance_id for machine in machines_of(ec2)]


def end_themselves(ec2: Any) -> None:
    """Terminate all machines, as machines do when they have nothing left to do."""
    if there(ec2):
        ec2.terminate_instances(InstanceIds=there(ec2))


def launches(ec2: Any) -> int:
    """Return how many launch requests EC2 has received."""
    return len(ec2.describe_fleets()["Fleets"])


def test_a_watched_fleet_is_kept_at_its_size_and_has_ended_when_all_is_done(watched: Watch, clients: Any) -> None:
    ec2, seen = clients("ec2"), list[list[str]]()

    def on_sleep(sweep: Sweep, call: int) -> None:
        seen.append(there(ec2))
        if call == 1:
            ec2.terminate_instances(InstanceIds=seen[0][:1])
        elif call == 2:
            run_worker(sweep.job.study_name, rehearsal_engine(0.0), stop=lambda: False)
        elif call == 4:
            end_themselves(ec2)

    assert watched(on_sleep)
    assert [len(machines) for machines in seen] == [2, 2, 2, 2], "waits for machines to end"
    assert seen[0][1] in seen[1], "the other machine keeps running"
    assert there(ec2) == []


def test_no_more_machines_are_launched_than_there_are_configurations_left(watched: Watch, clients: Any) -> None:
    ec2, seen = clients("ec2"), list[int]()

    def on_sleep(sweep: Sweep, call: int) -> None:
        if call == 1:
            sweep.study.set_user_attr("trials", 3)
            run_worker(sweep.job.study_name, rehearsal_engine(0.0), stop=lambda: False)
        if call <= 2:
            end_themselves(ec2)
        seen.append(len(there(ec2)))
        if call == 3:
            sweep.study.set_user_attr("trials", 4)
            run_worker(sweep.job.study_name, rehearsal_engine(0.0), stop=lambda: False)
            end_themselves(ec2)

    assert watched(on_sleep)
    assert seen == [0, 0, 1], "one configuration is left, so one machine is launched although two were requested"


def test_machines_that_do_not_end_are_terminated_and_their_trials_are_queued_again(
    watched: Watch, clients: Any
) -> None:
    ec2, studies = clients("ec2"), list[Sweep]()

    def on_sleep(sweep: Sweep, call: int) -> None:
        studies.append(sweep)
        if call == 1:
            trial = sweep.study.ask()
            trial.set_user_attr("owner", owner_of_this_process() | {"host": "gone"})
            trial.set_user_attr("configuration", "cut off")
            sweep.study.set_user_attr("budget_usd", 0.0)
        else:  # the watch waits until the trial's heartbeat is stale
            assert there(ec2) == []
            sweep.study.tell(0, state=TrialState.FAIL)

    assert not watched(on_sleep, hand_back_seconds=-1e9)
    assert len(studies) == 2
    assert [trial.state for trial in studies[0].study.get_trials()] == [TrialState.FAIL, TrialState.WAITING]


def test_machines_are_terminated_although_mlflow_and_the_study_are_away_in_the_end(
    watched: Watch, clients: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ec2, seen, note, locked = clients("ec2"), list[int](), watch_module.note_watched, threading.Event()
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")

    def noted_unless_locked(*values: Any, **more: Any) -> None:
        if locked.is_set():
            raise OperationalError("UPDATE", {}, Exception("database is locked"))
        note(*values, **more)

    monkeypatch.setattr(watch_module, "note_watched", noted_unless_locked)

    def on_sleep(sweep: Sweep, call: int) -> None:
        seen.append(len(there(ec2)))
        if call == 1:
            run_worker(sweep.job.study_name, rehearsal_engine(0.0), stop=lambda: False)
        elif call == 2:
            locked.set()
        elif call == 4:
            locked.clear()
            sweep.client = MlflowClient("http://127.0.0.1:9")  # nothing listens there
            end_themselves(ec2)

    assert watched(on_sleep), "all configurations are done, so the outage is no failure"
    assert seen[:4] == [2, 2, 2, 2], "waits for the machines although the study cannot be written"
    assert there(ec2) == []
    assert "database is locked" in caplog.text and "reconciled later" in caplog.text


def test_after_the_budget_is_spent_nothing_is_launched_and_the_fleet_ends(watched: Watch, clients: Any) -> None:
    ec2 = clients("ec2")

    def on_sleep(sweep: Sweep, call: int) -> None:
        if call == 1:
            sweep.study.set_user_attr("spent_usd i123", 3.5)
            ec2.terminate_instances(InstanceIds=there(ec2)[:1])
        elif call == 3:
            end_themselves(ec2)

    assert not watched(on_sleep, {"budget_usd": 3.0})
    assert launches(ec2) == 1
    assert there(ec2) == []


def test_machines_that_fail_to_start_are_not_launched_endlessly_and_their_cost_is_counted(
    watched: Watch, clients: Any, region: FleetConfig
) -> None:
    ec2, studies = clients("ec2"), list[Sweep]()
    prices = {"g6.xlarge on-demand": {"usd_per_hour": 3600.0, "source": "test"}}  # one dollar per second

    def on_sleep(sweep: Sweep, call: int) -> None:
        studies.append(sweep)
        time.sleep(1.2)
        end_themselves(ec2)

    with pytest.raises(FleetError, match=rf" 4 .* {region.bucket}/logs"):
        watched(on_sleep, {"usd_per_hour": prices})
    assert launches(ec2) == 2
    money = ledger(studies[0].study)
    assert len(money.spent_usd) == 4
    assert money.total_usd >= 4.0


def test_a_machine_that_trains_is_not_ended_because_others_fail_to_start(watched: Watch, clients: Any) -> None:
    ec2, seen = clients("ec2"), list[int]()

    def on_sleep(sweep: Sweep, call: int) -> None:
        if call == 1:
            sweep.study.ask()
        if call <= 3:
            ec2.terminate_instances(InstanceIds=there(ec2)[1:])  # interrupted while they start
        elif call == 4:
            for number in range(4):
                if number:
                    sweep.study.ask()
                sweep.study.tell(number, 0.5)
        else:
            end_themselves(ec2)
        seen.append(len(there(ec2)))

    assert watched(on_sleep)
    assert seen[:3] == [1, 1, 1]


def test_a_short_outage_of_ec2_does_not_end_the_watch(
    watched: Watch, clients: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ec2, calls = clients("ec2"), itertools.count(1)
    look = watch_module.all_machines_of

    def sometimes(*asked: Any) -> Any:
        if next(calls) in (2, 4):
            raise FleetError("AWS could not be reached")
        return look(*asked)

    monkeypatch.setattr(watch_module, "all_machines_of", sometimes)

    def on_sleep(sweep: Sweep, call: int) -> None:
        if call == 2:
            run_worker(sweep.job.study_name, rehearsal_engine(0.0), stop=lambda: False)
        elif call == 4:
            end_themselves(ec2)

    assert watched(on_sleep, retry_seconds=0.0)
    assert there(ec2) == []


def test_too_many_failures_in_a_row_end_the_fleet_with_the_reason(watched: Watch, clients: Any) -> None:
    def on_sleep(sweep: Sweep, call: int) -> None:
        if call > 1:
            end_themselves(clients("ec2"))
            return
        for number in range(5):
            trial = sweep.study.ask()
            trial.set_user_attr("configuration", str(number))
            trial.set_user_attr("outcome", Outcome.FAILED)
            sweep.study.tell(trial, state=TrialState.FAIL)

    with pytest.raises(SweepStopped, match=r"\b5\b"):
        watched(on_sleep)
    assert launches(clients("ec2")) == 1
    assert there(clients("ec2")) == []


def test_after_fleet_down_the_watching_process_launches_no_more_machines(
    databases_for_all: None, watched: Watch, clients: Any
) -> None:
    def on_sleep(sweep: Sweep, call: int) -> None:
        if call == 1:
            fleet_down_command(sweep.job.study_name, keep=0)

    with pytest.raises(Interrupted):
        watched(on_sleep, {"budget_usd": 100.0})  # an earlier test has recorded costs in this study
    assert launches(clients("ec2")) == 1


def test_an_exhausted_space_is_not_finished_while_its_last_configuration_is_trained(
    watched: Watch, clients: Any
) -> None:
    ec2, seen = clients("ec2"), list[int]()

    def on_sleep(sweep: Sweep, call: int) -> None:
        if call == 1:
            sweep.study.ask()
            ec2.terminate_instances(InstanceIds=there(ec2)[:1])  # as a machine that found nothing to do
            for _ in range(MAX_DUPLICATES_IN_A_ROW):
                trial = sweep.study.ask()
                trial.set_user_attr("outcome", Outcome.DUPLICATE)
                sweep.study.tell(trial, state=TrialState.FAIL)
        elif call == 3:
            sweep.study.tell(0, 0.5)
        elif call > 3:
            end_themselves(ec2)
        seen.append(len(there(ec2)))

    assert watched(on_sleep)
    assert seen[:3] == [1, 1, 1], "no machine is launched without work, and the one that trains keeps running"


class PlayedMachines:
    """Runs a worker process for every launched machine, and kills the first worker that starts a trial, once."""

    def __init__(self, ec2: Any, folder: Path) -> None:
        self.ec2, self.folder, self.over = ec2, folder, threading.Event()
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.num_killed = 0
        self.thread = threading.Thread(target=self.play)
        self.thread.start()

    def play(self) -> None:
        while not self.over.wait(0.2):
            for machine in machines_of(self.ec2):
                process = self.processes.get(machine.instance_id)
                if process is None or process.poll():  # not started yet, or crashed: systemd restarts a crashed worker
                    home = self.folder / machine.instance_id
                    with (self.folder / f"{machine.instance_id}.log").open("ab") as log:
                        self.processes[machine.instance_id] = subprocess.Popen(
                            command("worker", "--study", machine.study), env=environment(home), stdout=log, stderr=log
                        )
                elif process.poll() == 0:  # the worker has finished, so the machine terminates itself
                    self.ec2.terminate_instances(InstanceIds=[machine.instance_id])
                elif not self.num_killed and is_running_a_trial(machine.study):
                    process.kill()
                    self.num_killed += 1

    def end(self) -> None:
        self.over.set()
        self.thread.join()
        for process in self.processes.values():
            process.kill()
            process.wait()


def is_running_a_trial(name: str) -> bool:
    trials = open_study(open_storage(), name).get_trials(deepcopy=False)
    return any(trial.state == TrialState.RUNNING and "configuration" in trial.user_attrs for trial in trials)


@pytest.mark.slow
@pytest.mark.faults
def test_one_command_launches_a_fleet_trains_on_it_scores_the_best_run_and_leaves_no_machine(
    tiny_tiles: Path,
    home: Path,
    tmp_path: Path,
    region: FleetConfig,
    databases_for_all: None,
    clients: Any,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    furnish(home, tiny_tiles)
    whole = SweepConfig.model_validate(TINY_SWEEP | {"name": "whole", "confirm": {"num_configurations": 1}})
    monkeypatch.setattr(sweeping, "sweep_for", lambda *_: whole)
    monkeypatch.setattr(sweeping, "load_fleet", lambda: region)
    monkeypatch.setattr("satx.fleet.watch.TICK_SECONDS", 0.5)
    machines = PlayedMachines(clients("ec2"), tmp_path)
    try:
        sweep_command(
            SessionRequest("2", tiny_tiles, "none", SIZE_PX),
            sweep_name="whole",
            trials=None,
            minutes=None,
            workers=1,
            order=Order(1, False, 5.0),
            dry_run=False,
            as_json=True,
        )
    finally:
        machines.end()
    said = capsys.readouterr()
    report = json.loads(said.out[said.out.index("{") :])  # moto prints to standard output too
    assert report["finished"]
    (best,) = report["runs"]
    assert best["test AUC"] != "-" and "mean of 3 seeds" in best["val AUC"]
    assert "trainings on this machine" in " ".join(said.err.split())
    assert machines_of(clients("ec2")) == []
    assert machines.num_killed == 1
    trials = open_study(open_storage(), report["study"]).get_trials()
    assert sum(trial.state == TrialState.COMPLETE for trial in trials) == whole.trials
    assert os.getpid() not in {trial.user_attrs["owner"]["pid"] for trial in trials}, "trained by the machines"


@pytest.mark.parametrize(
    ("study_url", "tracking_uri", "variable"),
    [
        ("", "http://10.0.0.5:5000", "SATX_STUDY_URL"),
        ("sqlite:////tmp/x.db", "http://10.0.0.5:5000", "SATX_STUDY_URL"),
        ("postgresql+psycopg://satx@10.0.0.5/satx", "sqlite:////tmp/x.db", "MLFLOW_TRACKING_URI"),
    ],
)
def test_databases_that_machines_cannot_reach_are_refused_before_anything_is_done(
    region: FleetConfig, monkeypatch: pytest.MonkeyPatch, study_url: str, tracking_uri: str, variable: str
) -> None:
    monkeypatch.setenv("SATX_STUDY_URL", study_url)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri)
    with pytest.raises(ConfigError, match=f"^{variable}: "):
        up(Path("nowhere"), 1)


def test_a_sweep_on_a_fleet_with_invalid_settings_is_refused_before_anything_is_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SATX_STUDY_URL", "postgresql+psycopg://satx@10.0.0.5/satx")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://10.0.0.5:5000")
    request, order = SessionRequest("2", Path("nowhere")), Order(1, False, 1.0)
    with pytest.raises(ConfigError, match=r"infra/fleet\.yaml: bucket"):  # as shipped: to be filled in
        sweep_command(
            request, sweep_name=None, trials=1, minutes=None, workers=1, order=order, dry_run=True, as_json=False
        )


def test_without_machines_a_study_must_be_named(region: FleetConfig) -> None:
    with pytest.raises(ConfigError, match="--study"):
        fleet_down_command(None, keep=0)
