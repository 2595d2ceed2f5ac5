"""Run a simulated fleet with many failures, and check that nothing is lost and no machine is left running.

    make chaos SEED=1

Eight machines run 200 short trials with a real PostgreSQL server and a real MLflow server. EC2, S3 and the machines'
metadata are simulated, and the engine trains nothing, so that a machine starts within seconds. About every 15 seconds a
failure hits one machine: its worker gets SIGKILL or SIGTERM, it gets a spot notice, or it is terminated at once.
PostgreSQL is restarted twice, once as after a crash, and MLflow is down for a minute. The controller launches missing
machines. At the end, trials, runs and machines are counted, and every curve is compared with the uninterrupted one.
Writes chaos.json; exits with 1 if anything was lost, duplicated or left over.
`--mlflow-away-seconds 1800 --postgres-away-seconds 1800 --minutes 90` tests long outages.
"""

from __future__ import annotations

import argparse
import datetime
import logging
import os
import random
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import boto3
from chaos_counts import counts_on_record, finished_trials, runs_of
from chaos_machines import REGION, Machines, metadata_server
from moto.server import ThreadedMotoServer
from report import publish

from satx.execution.driver import Sweep, close_sweep, open_sweep
from satx.fleet.launching import Launch, image_of, launch
from satx.fleet.machines import end, machines_of
from satx.fleet.settings import FleetConfig
from satx.sample.sample import render_sample
from satx.search.space import SweepConfig
from satx.session_config import load_session
from satx.sessions.prepare import SessionRequest, prepare_folder
from satx.study.outcomes import counted_of
from satx.study.reconcile import reconcile
from satx.study.run_recovery import write_missing_records
from satx.testing.changed_environment import changed_environment
from satx.testing.local_mlflow import LocalMlflow
from satx.testing.local_postgres import Postgres, running_postgres
from satx.testing.rehearsal import rehearsed_curve
from satx.tiles.layout import read_layout
from satx.tracking.runs import curve_of

BUCKET = "s3://satx-chaos/fleet"
IMAGE = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64"
LEASE_MINUTES = 1.0
HITS = ("killed", "told to stop", "spot notice", "gone at once")


def main() -> None:
    """Run the fleet with failures, and publish the counts."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--machines", type=int, default=8)
    parser.add_argument("--minutes", type=float, default=20.0, help="time limit; the rehearsal fails after it")
    parser.add_argument("--mlflow-away-seconds", type=float, default=60.0)
    parser.add_argument("--postgres-away-seconds", type=float, default=3.0, help="length of the first of two outages")
    options = parser.parse_args()
    chance = random.Random(options.seed)
    with ExitStack() as held:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="satx-chaos-")))
        held.enter_context(changed_environment(SATX_HOME=str(folder / "controller")))
        postgres = held.enter_context(running_postgres(folder / "postgres" / "cluster"))
        amazon(held)
        tracker = LocalMlflow(folder / "mlflow.log")
        held.callback(tracker.stop)
        tracker.start()
        shared = {"SATX_STUDY_URL": postgres.url(), "MLFLOW_TRACKING_URI": tracker.uri, "SATX_BUCKET": BUCKET}
        held.enter_context(changed_environment(**shared))
        config = region()
        sweep = opened(folder, options.trials)
        metadata = held.enter_context(metadata_server())
        arguments = ("0.5", str(LEASE_MINUTES))
        machines = Machines(boto3.client("ec2", REGION), sweep.job.study_name, folder, metadata, arguments)
        held.callback(machines.end)
        started = time.monotonic()
        hits = rehearse(sweep, machines, config, postgres, tracker, chance, options)
        minutes = (time.monotonic() - started) / 60
        counts = counted_at_the_end(sweep, machines)
    wrong = {what: number for what, number in counts.items() if number and what.startswith("wrong: ")}
    rows = [{"what": what, "count": count} for what, count in (counts | hits).items()]
    publish("chaos", rows, seed=options.seed, machines=options.machines, minutes=minutes)
    done = counts["trials finished"] == options.trials
    if wrong or not done:
        sys.exit(
            f"Expected {options.trials} finished trials and nothing wrong, got {counts['trials finished']} and {wrong}."
        )


def amazon(held: ExitStack) -> None:
    """Simulate AWS on loopback until `held` is closed."""
    os.environ |= {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": REGION}
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    held.callback(server.stop)
    host, port = server.get_host_and_port()
    os.environ["AWS_ENDPOINT_URL"] = f"http://{host}:{port}"


def region() -> FleetConfig:
    """Create what a fleet needs in its region."""
    ec2, s3 = boto3.client("ec2", REGION), boto3.client("s3", REGION)
    s3.create_bucket(Bucket=BUCKET.removeprefix("s3://").partition("/")[0])
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.0.0/24")["Subnet"]["SubnetId"]
    group = ec2.create_security_group(GroupName="satx", Description="none in", VpcId=vpc)["GroupId"]
    return FleetConfig(region=REGION, bucket=BUCKET, image=IMAGE, subnets=(subnet,), security_groups=(group,))


def opened(folder: Path, trials: int) -> Sweep:
    """Open a sweep of short trials on sample tiles."""
    tiles = read_layout(render_sample(folder / "sample", session=2, num_tiles=60, workers=1))
    parts = {
        "name": "chaos",
        "trials": trials,
        "keep_models_per_backbone": 1,
        "sampler": {"name": "random", "seed": 1},
        "pruner": {"name": "none"},
        "set": {"model.backbone": "mobilenetv2", "model.unfreeze": "none", "train.head_epochs": 8},
        "space": {"train.head_learning_rate": {"low": 0.0001, "high": 0.01, "log": True}},
    }
    config = SweepConfig.model_validate(parts)
    prepared = prepare_folder(
        tiles, load_session("2"), SessionRequest("2", weights="none", image_size_px=32), config.backbones
    )
    return open_sweep(prepared, config, trials, git_commit="0" * 40, bucket=BUCKET)


def rehearse(
    sweep: Sweep,
    machines: Machines,
    config: FleetConfig,
    postgres: Postgres,
    tracker: LocalMlflow,
    chance: random.Random,
    options: Any,
) -> dict[str, int]:
    """Cause failures until the study is done and all machines have ended; return the number of each kind."""
    started, hits = time.monotonic(), Counter[str]()
    image_id = image_of(machines.ec2, boto3.client("ssm", REGION), config)
    wanted = Launch(sweep.job.study_name, image_id, (("g6.xlarge", config.subnets[0]),), "#!/bin/sh\n", spot=True)
    outages = {0.25: ("fast", options.postgres_away_seconds), 0.6: ("immediate", 3.0)}
    next_hit_at, back_at, told = started + 20, 0.0, 0
    while time.monotonic() - started < options.minutes * 60:
        trials = sweep.study.get_trials(deepcopy=False)
        done = len(counted_of(trials))
        if done >= told + 20:
            told = done
            print(f"{time.monotonic() - started:6.0f} s: {done} of {options.trials} trials, {dict(hits)}", flush=True)
        if done < options.trials:
            launch(machines.ec2, config, wanted, options.machines, now=datetime.datetime.now(datetime.UTC))
        elif not machines.processes:
            break
        machines.tick()
        for share in [share for share in outages if done >= share * options.trials]:
            how, seconds = outages.pop(share)
            postgres.stop(how)
            time.sleep(seconds)
            postgres.start()
            hits["PostgreSQL restarted"] += 1
        if done >= 0.4 * options.trials and not hits["MLflow away"]:
            tracker.stop()
            back_at = time.monotonic() + options.mlflow_away_seconds
            hits["MLflow away"] += 1
        if back_at and time.monotonic() > back_at:
            tracker.start()
            back_at = 0.0
        if time.monotonic() > next_hit_at and done < options.trials:
            next_hit_at = time.monotonic() + chance.uniform(10, 20)
            hits[hit(machines, chance)] += 1
        time.sleep(0.5)
    if back_at:
        tracker.start()
    return dict(hits)


def hit(machines: Machines, chance: random.Random) -> str:
    """Cause a failure on one random machine; return its kind."""
    alive = sorted(name for name, process in machines.processes.items() if process.poll() is None)
    if not alive:
        return "no machine running"
    name, how = chance.choice(alive), chance.choice(HITS)
    process = machines.processes[name]
    if how == "killed":
        process.kill()
    elif how == "told to stop":
        process.terminate()
    elif how == "spot notice":
        machines.metadata.noticed.add(name)
    else:
        process.kill()
        machines.ec2.terminate_instances(InstanceIds=[name])
    return how


def counted_at_the_end(sweep: Sweep, machines: Machines) -> dict[str, int]:
    """End remaining machines, reconcile the study, and return the counts; those named `wrong: …` should be 0."""
    left = machines_of(machines.ec2, sweep.job.study_name)
    end(machines.ec2, left, sleep=lambda _: None)
    reconcile(sweep.study, sweep.client, sweep.job.experiment_id)
    written = write_missing_records(sweep.study, sweep.client, sweep.job.experiment_id)
    close_sweep(sweep, "FINISHED")
    runs, wanted = runs_of(sweep), finished_trials(sweep)
    return {
        **counts_on_record(sweep),
        "processes started": machines.starts,
        "runs written from the study": written,
        "wrong: curves that were changed": sum(not is_whole(sweep, run, wanted) for run in runs),
        "wrong: machines left": len(left),
    }


def is_whole(sweep: Sweep, run: Any, wanted: dict[str, Any]) -> bool:
    """Return whether a finished run's curve has exactly the points of the uninterrupted one, each once."""
    trial = wanted.get(run.data.tags["configuration"])
    if trial is None:
        return True
    expected = [(epoch.step, epoch.val_auc) for epoch in rehearsed_curve(sweep.job.configuration_of(trial))]
    history = curve_of(sweep.client, run.info.run_id, "val_auc")
    return sorted((metric.step, metric.value) for metric in history) == expected


if __name__ == "__main__":
    main()
