"""Plan of a launch: which machines exist, how many are missing, where they would run and what they would cost."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Any

from satx.fleet.launching import image_of, places_for
from satx.fleet.machines import Machine, is_overdue, machines_of
from satx.fleet.prices import Price, price_of
from satx.fleet.settings import FleetConfig
from satx.fleet.spending import price_key

OLD_GPUS = {"p3": "its V100 is no longer supported by current CUDA builds, so training runs on the CPU"}


@dataclass(frozen=True)
class Amazon:
    """The boto3 clients of one region, and of the price list.

    Attributes:
        ec2: EC2, for machines.
        ssm: SSM, for image ids.
        s3: S3, for the bucket.
        pricing: The price list.
    """

    ec2: Any
    ssm: Any
    s3: Any
    pricing: Any


@dataclass(frozen=True)
class FleetPlan:
    """What `fleet up` is about to do.

    Attributes:
        there: The study's machines, except those that should have ended by themselves.
        num_wanted: The wanted number of machines.
        image_id: The AMI.
        places: Pairs of instance type and subnet, in order of preference.
        prices: Prices by `price_key`, of every type that may be launched, spot and on demand.
        spot: Whether spot machines are requested first.
        warnings: Warnings for the user, to be shown prominently.
    """

    there: list[Machine]
    num_wanted: int
    image_id: str
    places: tuple[tuple[str, str], ...]
    prices: dict[str, Price]
    spot: bool
    warnings: tuple[str, ...]

    @property
    def num_missing(self) -> int:
        """Number of machines to launch; negative if there are too many."""
        return self.num_wanted - len(self.there)

    def usd_per_hour(self) -> float | None:
        """Return the maximum cost per hour of all wanted machines; None if a price is unknown.

        Every machine counts with the most expensive price among those that may be launched.
        """
        if self.unpriced():
            return None
        return self.num_wanted * max(price.usd_per_hour for price in self.prices.values())

    def unpriced(self) -> list[str]:
        """Return the price keys without a known price, among those that may be launched.

        On-demand prices are included: on-demand machines replace spot machines that are not available.
        """
        kinds = dict.fromkeys(kind for kind, _ in self.places)
        keys = [price_key(kind, spot=spot) for kind in kinds for spot in ((True, False) if self.spot else (False,))]
        return [key for key in keys if key not in self.prices]


def clients_of(config: FleetConfig) -> Amazon:
    """Create the clients of the region that `infra/fleet.yaml` names."""
    import boto3
    from botocore.config import Config

    from satx.bucket import BRIEF
    from satx.fleet.prices import PRICING_REGION

    session = boto3.Session(region_name=config.region)
    pricing = session.client("pricing", region_name=PRICING_REGION, config=BRIEF)
    ec2 = session.client("ec2", config=BRIEF.merge(Config(read_timeout=60)))  # a launch is answered after many seconds
    return Amazon(ec2, session.client("ssm", config=BRIEF), session.client("s3", config=BRIEF), pricing)


def plan_fleet(
    amazon: Amazon, config: FleetConfig, study: str, num_machines: int, *, spot: bool, now: datetime.datetime
) -> FleetPlan:
    """Plan a fleet from what AWS reports; launch nothing.

    Raises:
        ConfigError: No wanted type is offered in the subnets' zones.
        FleetError: AWS cannot be reached, or does not know the image or a subnet.
    """
    places = places_for(amazon.ec2, config)
    kinds = list(dict.fromkeys(kind for kind, _ in places))
    prices = {}
    for kind in kinds:
        for is_spot in (True, False) if spot else (False,):
            price = price_of(amazon.ec2, amazon.pricing, config.region, kind, spot=is_spot, now=now)
            if price is not None:
                prices[price_key(kind, spot=is_spot)] = price
    warnings = [f"{kind}: {OLD_GPUS[kind.partition('.')[0]]}." for kind in kinds if kind.partition(".")[0] in OLD_GPUS]
    missing = [kind for kind in config.instance_types if kind not in kinds]
    if missing:
        warnings.append(f"{', '.join(missing)}: not offered in the zones of these subnets; left out.")
    return FleetPlan(
        there=[machine for machine in machines_of(amazon.ec2, study) if not is_overdue(machine, config, now=now)],
        num_wanted=num_machines,
        image_id=image_of(amazon.ec2, amazon.ssm, config),
        places=places,
        prices=prices,
        spot=spot,
        warnings=tuple(warnings),
    )
