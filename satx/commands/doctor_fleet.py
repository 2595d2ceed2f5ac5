"""The checks of `satx doctor --fleet`: settings, credentials, bucket, machines, passwords and rights in AWS."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from satx.commands.finding import Check, Finding, answer_of

if TYPE_CHECKING:
    from satx.fleet.plan import Amazon
    from satx.fleet.settings import FleetConfig

REACH = "Check the network, and `region` in infra/fleet.yaml."


def _fleet_settings() -> Finding:
    from satx.fleet.settings import databases_of_machines, load_fleet

    config = load_fleet()
    databases_of_machines(config)
    return Finding("fleet settings", "ok", f"infra/fleet.yaml, region {config.region}")


def _aws_credentials() -> Finding:
    import boto3
    from botocore.exceptions import BotoCoreError

    remedy = "Sign in (aws sso login), or choose a profile: export AWS_PROFILE=NAME"
    try:
        session = boto3.Session()
        credentials = answer_of(session.get_credentials, "AWS's credentials", remedy)
    except BotoCoreError as error:  # a profile that does not exist
        return Finding("AWS credentials", "broken", str(error), remedy)
    if credentials is None:
        return Finding("AWS credentials", "broken", "none were found", remedy)
    return Finding("AWS credentials", "ok", f"profile {session.profile_name}")


def _bucket() -> Finding:
    from satx.fleet.aws_errors import explaining_aws_errors
    from satx.fleet.plan import clients_of
    from satx.fleet.settings import load_fleet

    config = load_fleet()
    name, _, prefix = config.bucket.removeprefix("s3://").partition("/")
    s3 = clients_of(config).s3

    def write() -> None:
        with explaining_aws_errors(f"Writing to {config.bucket}"):
            s3.put_object(Bucket=name, Key=f"{prefix}/doctor", Body=b"")
            s3.delete_object(Bucket=name, Key=f"{prefix}/doctor")

    answer_of(write, config.bucket, REACH)
    return Finding("bucket", "ok", f"{config.bucket} is writable")


def _machines() -> Finding:
    from satx.fleet.launching import image_of, places_for
    from satx.fleet.plan import clients_of
    from satx.fleet.settings import load_fleet

    config = load_fleet()
    amazon = clients_of(config)
    places = answer_of(lambda: places_for(amazon.ec2, config), "EC2", REACH)
    image = answer_of(lambda: image_of(amazon.ec2, amazon.ssm, config), "EC2", REACH)
    kinds = ", ".join(dict.fromkeys(kind for kind, _ in places))
    return Finding("machines", "ok", f"{kinds} in {len({subnet for _, subnet in places})} subnets, image {image}")


def _passwords() -> Finding:
    """Check that the machines' passwords are in SSM, without reading them."""
    from satx.fleet.aws_errors import explaining_aws_errors
    from satx.fleet.plan import clients_of
    from satx.fleet.settings import load_fleet

    config = load_fleet()
    wanted = [f"{config.secrets}/pgpass", f"{config.secrets}/mlflow"]
    filters = [{"Key": "Name", "Option": "Equals", "Values": wanted}]
    ssm = clients_of(config).ssm

    def names() -> set[str]:
        with explaining_aws_errors("Looking for the SSM parameters"):
            pages = ssm.get_paginator("describe_parameters").paginate(ParameterFilters=filters)
            return {item["Name"] for page in pages for item in page["Parameters"]}

    there = answer_of(names, "SSM", REACH)
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
    amazon, refused = clients_of(config), []
    asked = answer_of(lambda: _dry_runs(amazon, config), "EC2", REACH)
    for what, ask in asked.items():
        try:
            answer_of(ask, "EC2", REACH)
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


FLEET_FIRST: tuple[Check, ...] = (_fleet_settings, _aws_credentials)
FLEET: tuple[Check, ...] = (_bucket, _machines, _passwords, _aws_rights)
