"""AWS errors as satx errors: what was requested, what EC2 answered, what to do next."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

from satx.errors import FleetError

CAPACITY = ("InsufficientInstanceCapacity", "InsufficientFreeAddressesInSubnet", "UnfulfillableCapacity")
_SIGN_IN = "Sign in again (`aws sso login`, or new keys), and repeat the command."
_QUOTA = (
    "Request more vCPUs in Service Quotas (EC2, 'G and VT instances'; on-demand and spot have separate quotas), or launch "
    "fewer machines with --workers."
)
_PROFILE = "Create the role and instance profile of infra/iam/worker.json, or set `instance_profile`."
_RIGHTS = "The launcher needs the permissions in infra/iam/launcher.json."
_IMAGE = "Set `image` in infra/fleet.yaml to an AMI of this region, or to an SSM parameter that contains one."
REMEDIES = {
    **dict.fromkeys(
        CAPACITY,
        "AWS has no free capacity in these zones. Add `instance_types`, or `subnets` in other zones, to infra/fleet.yaml, or "
        "try again later. Running machines are not affected.",
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
    "SpotMaxPriceTooLow": "The spot price is higher than the maximum price. Omit --spot, or set other `instance_types`.",
    "InvalidSubnetID.NotFound": "Set `subnets` in infra/fleet.yaml to subnets of this region.",
    "InvalidGroup.NotFound": "Set `security_groups` in infra/fleet.yaml to groups of the subnets' VPC.",
    "InvalidSecurityGroupID.NotFound": "Set `security_groups` in infra/fleet.yaml to groups of the subnets' VPC.",
    "NoSuchEntity": _PROFILE,
    "IdempotentParameterMismatch": "AWS has received this launch with other settings before. Wait five minutes, check `satx "
    "fleet status`, and repeat the command.",
    "RequestLimitExceeded": "AWS limits the rate of requests. Wait a minute and repeat the command.",
}


def refusal(code: str, message: str, what: str) -> FleetError:
    """Return the satx error for an EC2 error code.

    Args:
        code: EC2's error code.
        message: EC2's error message.
        what: The action that failed.
    """
    remedy = REMEDIES.get(code, "See AWS's message; `satx fleet status` lists the running machines.")
    if code == "InvalidParameterValue" and "iamInstanceProfile" in message:
        remedy = _PROFILE  # EC2 uses this code for any invalid value
    return FleetError(f"{what}: AWS rejected the request ({code}: {message.rstrip('.')}). {remedy}")


@contextmanager
def explaining_aws_errors(what: str) -> Iterator[None]:
    """Convert boto3 exceptions into `FleetError`.

    Raises:
        FleetError: AWS rejected the request or could not be reached.
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
            f"{what}: AWS could not be reached ({error}). Check the network and `region`, and repeat the command."
        ) from error
