"""`satx doctor`: check what a sweep, or a fleet, needs on this machine, and give a remedy for each problem."""

from __future__ import annotations

import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from satx.commands.console import out, print_json, table, talk_on_stderr
from satx.environment import environment, num_processors
from satx.errors import ConfigError, SatxError
from satx.storage import satx_home
from satx.tracking.client import FAILS, MlflowClient, open_tracker, tracking_uri

if TYPE_CHECKING:
    from satx.fleet.plan import Amazon
    from satx.fleet.settings import FleetConfig

LEAST_FREE_GB = 5.0
ANSWER_SECONDS = 10.0
KERAS_WEIGHTS = "https://storage.googleapis.com/tensorflow/keras-applications/xception/"


@dataclass(frozen=True)
class Finding:
    """Result of a check.

    Attributes:
        what: The thing checked.
        state: `ok`, `note` (it works, but could be better) or `broken`.
        found: What the check found.
        remedy: What to do; empty if there is nothing to do.
    """

    what: str
    state: str
    found: str
    remedy: str = ""


Check = Callable[[], Finding]


def doctor_command(*, fleet: bool, as_json: bool) -> None:
    """Run the checks and print their findings.

    Raises:
        ConfigError: Something is broken.
    """
    if as_json:
        talk_on_stderr()
    checks: list[Check] = [_python, _disk, _device, _weights, _study_database, _mlflow]
    checks += [_bucket, _fleet_settings, _passwords, _aws_rights] if fleet else []
    findings = [_checked(check) for check in checks]
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        rows = [[finding.what, finding.state, finding.found, finding.remedy] for finding in findings]
        table("Checks", ["check", "state", "found", "remedy"], rows)
    broken = [finding.what for finding in findings if finding.state == "broken"]
    if broken:
        raise ConfigError(f"Expected all checks to pass, found broken: {', '.join(broken)}. See the remedies above.")
    out.print("Nothing is broken.", highlight=False)


def _checked(check: Check) -> Finding:
    """Run a check; an error in the check itself is a finding too."""
    name = check.__name__.strip("_").replace("_", " ")
    try:
        return check()
    except SatxError as error:
        return Finding(name, "broken", "an error", str(error))


def _python() -> Finding:
    version = platform.python_version()
    if (3, 11) <= sys.version_info < (3, 13):
        return Finding("Python", "ok", version)
    return Finding("Python", "broken", version, "Use Python 3.11 or 3.12: make setup PYTHON=python3.11")


def _disk() -> Finding:
    free_gb = shutil.disk_usage(satx_home()).free / 1e9
    found = f"{free_gb:.0f} GB free at {satx_home()}"
    if free_gb >= LEAST_FREE_GB:
        return Finding("disk", "ok", found)
    return Finding("disk", "note", found, "Free some with `satx gc`, or set SATX_HOME to another disk.")


def _device() -> Finding:
    from satx.training.devices import device_name

    has_gpu = device_name() == "gpu"
    if has_gpu:
        return Finding("device", "ok", "gpu")
    remedy = "To use the NVIDIA GPU: pip install '.[gpu]'" if shutil.which("nvidia-smi") else ""
    return Finding("device", "note" if remedy else "ok", f"cpu, {num_processors()} cores", remedy)


def _weights() -> Finding:
    folder = environment().weights_dir
    remedy = "Download <backbone>_notop.weights.h5 on another machine, and give the folder: WEIGHTS=DIR."
    if folder:
        names = sorted(path.name.removesuffix("_notop.weights.h5") for path in folder.glob("*_notop.weights.h5"))
        state = "ok" if names else "broken"
        return Finding("weights", state, f"{', '.join(names) or 'none'} in {folder}", "" if names else remedy)
    try:
        httpx.head(KERAS_WEIGHTS, timeout=ANSWER_SECONDS)
    except httpx.HTTPError as error:
        return Finding("weights", "note", f"Keras's downloads cannot be reached ({type(error).__name__})", remedy)
    return Finding("weights", "ok", "Keras's downloads can be reached")


def _study_database() -> Finding:
    from satx.study.database import SharedStorage, open_storage

    storage = open_storage()
    shared = isinstance(storage, SharedStorage)
    storage.engine.dispose()
    if shared:
        return Finding("study database", "ok", "the database at SATX_STUDY_URL answers")
    return Finding("study database", "ok", f"SQLite in {satx_home()}, for this machine only")


def _mlflow() -> Finding:
    client, uri = open_tracker(), tracking_uri()
    if not uri.startswith("http"):
        return Finding("MLflow", "ok", f"{uri} answers")
    try:
        _write_a_file(client)
    except (*FAILS, OSError) as error:
        found = f"{uri} answers, but files cannot be written: {str(error).splitlines()[0]}"
        return Finding(
            "MLflow", "broken", found, "Let the server write to its artifact store (infra/iam/control.json)."
        )
    return Finding("MLflow", "ok", f"{uri} answers and stores files")


def _write_a_file(client: MlflowClient) -> None:
    """Write a file to the artifact location of the newest experiment, and delete it; no run is changed."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    for experiment in client.search_experiments(max_results=1):
        files: Any = get_artifact_repository(experiment.artifact_location, tracking_uri=client.tracking_uri)
        with tempfile.NamedTemporaryFile(prefix="satx-doctor-") as file:
            files.log_artifact(file.name)
            files.delete_artifacts(Path(file.name).name)


def _bucket() -> Finding:
    from satx.fleet.aws_errors import explaining_aws_errors
    from satx.fleet.plan import clients_of
    from satx.fleet.settings import load_fleet

    config = load_fleet()
    name, _, prefix = config.bucket.removeprefix("s3://").partition("/")
    s3 = clients_of(config).s3
    with explaining_aws_errors(f"Writing to {config.bucket}"):
        s3.put_object(Bucket=name, Key=f"{prefix}/doctor", Body=b"")
        s3.delete_object(Bucket=name, Key=f"{prefix}/doctor")
    return Finding("bucket", "ok", f"{config.bucket} is writable")


def _fleet_settings() -> Finding:
    from satx.fleet.launching import image_of, places_for
    from satx.fleet.plan import clients_of
    from satx.fleet.settings import databases_of_machines, load_fleet

    config = load_fleet()
    databases_of_machines(config)
    amazon = clients_of(config)
    places = places_for(amazon.ec2, config)
    image = image_of(amazon.ec2, amazon.ssm, config)
    kinds = ", ".join(dict.fromkeys(kind for kind, _ in places))
    return Finding("fleet", "ok", f"{kinds} in {len({subnet for _, subnet in places})} subnets, image {image}")


def _passwords() -> Finding:
    """Check that the machines' passwords are in SSM, without reading them."""
    from satx.fleet.aws_errors import explaining_aws_errors
    from satx.fleet.plan import clients_of
    from satx.fleet.settings import load_fleet

    config = load_fleet()
    wanted = [f"{config.secrets}/pgpass", f"{config.secrets}/mlflow"]
    filters = [{"Key": "Name", "Option": "Equals", "Values": wanted}]
    with explaining_aws_errors("Looking for the SSM parameters"):
        pages = clients_of(config).ssm.get_paginator("describe_parameters").paginate(ParameterFilters=filters)
        there = {item["Name"] for page in pages for item in page["Parameters"]}
    missing = [name for name in wanted if name not in there]
    if missing:
        return Finding("passwords", "broken", f"no SSM parameter {', '.join(missing)}", "Create it: infra/README.md.")
    return Finding("passwords", "ok", f"{' and '.join(wanted)} are in SSM")


def _aws_rights() -> Finding:
    """Check with EC2 dry runs whether a launch would be permitted.

    Terminating a machine and CreateFleet are not checked: the first needs an existing machine, the second a launch
    template.
    """
    from botocore.exceptions import ClientError

    from satx.fleet.plan import clients_of
    from satx.fleet.settings import load_fleet

    config = load_fleet()
    asked, refused = _dry_runs(clients_of(config), config), []
    for what, ask in asked.items():
        try:
            ask()
        except ClientError as error:
            if error.response["Error"]["Code"] != "DryRunOperation":
                refused.append(f"{what} ({error.response['Error']['Code']})")
    if refused:
        remedy = "Attach the policy infra/iam/launcher.json to your user, or create what is missing: infra/README.md."
        return Finding("AWS rights", "broken", f"cannot {', '.join(refused)}", remedy)
    return Finding("AWS rights", "ok", f"may {' and '.join(asked)}")


def _dry_runs(amazon: Amazon, config: FleetConfig) -> dict[str, Callable[[], Any]]:
    """Return the dry-run requests of a launch: machines with their groups, role and tags, and launch templates."""
    from satx.fleet.launching import image_of, places_for
    from satx.fleet.machines import STUDY_TAG

    (instance_type, subnet), *_ = places_for(amazon.ec2, config)
    image = image_of(amazon.ec2, amazon.ssm, config)

    def tagged(*kinds: str) -> list[dict[str, Any]]:
        return [{"ResourceType": kind, "Tags": [{"Key": STUDY_TAG, "Value": "doctor"}]} for kind in kinds]

    return {
        "launch machines with their role": lambda: amazon.ec2.run_instances(
            DryRun=True,
            ImageId=image,
            InstanceType=instance_type,
            SubnetId=subnet,
            SecurityGroupIds=list(config.security_groups),
            IamInstanceProfile={"Name": config.instance_profile},
            TagSpecifications=tagged("instance", "volume"),
            MinCount=1,
            MaxCount=1,
        ),
        "create launch templates": lambda: amazon.ec2.create_launch_template(
            DryRun=True,
            LaunchTemplateName="satx-doctor",
            LaunchTemplateData={"ImageId": image},
            TagSpecifications=tagged("launch-template"),
        ),
    }
