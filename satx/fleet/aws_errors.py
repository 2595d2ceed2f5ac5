"""AWS errors as satx errors: what was requested, what EC2 answered, what to do next."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

from satx.errors import FleetError

CAPACITY = ("InsufficientInstanceCapacity", "InsufficientFreeAddressesInSubnet", "UnfulfillableCapacity")
_SIGN_IN = "Sign in again (`aws sso login`, or new keys), and repeat the command."
_QUOTA = (
    "Ask for more vCPUs in Service Quotas (EC2, 'G and VT instances', on-demand and spot are two quotas), or launch fewer "
    "with --workers."
)
_PROFILE = "Create the role and instance profile of infra/iam/worker.json, or set `instance_profile`."
_RIGHTS = "The launcher needs the rights in infra/iam/launcher.json."
_IMAGE = "Set `image` in infra/fleet.yaml to an AMI of this region, or to an SSM parameter that holds one."
REMEDIES = {
    **dict.fromkeys(
        CAPACITY,
        "AWS has none free in these zones. Add `instance_types` or `subnets` of other zones to infra/fleet.yaml, or try "
        "again later; nothing that runs already was touched.",
    ),
    **dict.fromkeys(
        (
            "VcpuLimitExceeded",
            "InstanceLimitExceeded",
            "MaxSpotInstanceCountExceeded",
            "SpotInstanceCountLimitExceeded",
        ),
        _QUOTA,
    ),
    **dict.fromkeys(("UnauthorizedOperation", "AccessDenied", "AccessDeniedException"), _RIGHTS),
    **dict.fromkeys(
        ("InvalidAMIID.NotFound", "InvalidAMIID.Malformed", "InvalidAMIID.Unavailable", "ParameterNotFound"), _IMAGE
    ),
    **dict.fromkeys(
        (
            "RequestExpired",
            "ExpiredToken",
            "ExpiredTokenException",
            "AuthFailure",
            "InvalidClientTokenId",
            "UnrecognizedClientException",
        ),
        _SIGN_IN,
    ),
    "SpotMaxPriceTooLow": "The spot price is above what is offered for it. Leave out --spot, or name other `instance_types`.",
    "InvalidSubnetID.NotFound": "Set `subnets` in infra/fleet.yaml to subnets of this region.",
    "InvalidGroup.NotFound": "Set `security_groups` in infra/fleet.yaml to groups of the subnets' VPC.",
    "InvalidSecurityGroupID.NotFound": "Set `security_groups` in infra/fleet.yaml to groups of the subnets' VPC.",
    "NoSuchEntity": _PROFILE,
    "IdempotentParameterMismatch": "AWS remembers the same launch with other settings. Wait five minutes, look at `satx fleet "
    "status`, and repeat the command.",
    "RequestLimitExceeded": "AWS asks for fewer requests. Wait a minute and repeat the command.",
}


def refusal(code: str, message: str, what: str) -> FleetError:
    """Return the satx error for an EC2 error code.

    Args:
        code: EC2's error code.
        message: EC2's error message.
        what: The action that failed.
    """
    remedy = REMEDIES.get(code, "See AWS's message; `satx fleet status` shows what runs.")
    if code == "InvalidParameterValue" and "iamInstanceProfile" in message:
        remedy = _PROFILE  # EC2 uses this code for any invalid value
    return FleetError(f"{what}: EC2 refused ({code}: {message.rstrip('.')}). {remedy}")


@contextmanager
def explaining_aws_errors(what: str) -> Iterator[None]:
    """Convert boto3 exceptions into `FleetError`.

    Raises:
        FleetError: EC2, or another AWS service, refused the request or could not be reached.
    """
    try:
        yield
    except ClientError as error:
        raise refusal(error.response["Error"]["Code"], error.response["Error"]["Message"], what) from error
    except NoCredentialsError as error:
        raise FleetError(
            f"{what}: no AWS credentials were found. Set AWS_PROFILE, or {_SIGN_IN[0].lower()}{_SIGN_IN[1:]}"
        ) from error
    except BotoCoreError as error:
        raise FleetError(
            f"{what}: AWS could not be asked ({error}). Check the network and `region`, and repeat."
        ) from error
