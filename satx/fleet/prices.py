"""Price of a machine per hour, from AWS's price list and spot history, or from a dated table if they do not answer."""

from __future__ import annotations

import datetime
import json
import logging
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

logger = logging.getLogger(__name__)

Client = Any  # a boto3 client; boto3 creates their classes at run time
PRICING_REGION = "us-east-1"  # serves the price list of all regions
# US dollars per hour on demand, Linux, us-east-1, and the date of that price
# (https://aws.amazon.com/ec2/pricing/on-demand/).
TABLE_USD = {
    "g4dn.xlarge": (0.526, "2024"),
    "g5.xlarge": (1.006, "2026-06"),
    "g6.xlarge": (0.8048, "2024"),
    "p3.2xlarge": (3.06, "2024"),
}


@dataclass(frozen=True)
class Price:
    """A machine's price.

    Attributes:
        usd_per_hour: US dollars per hour.
        source: `spot history`, `price list`, or `table of 2026-06`, which is an estimate.
    """

    usd_per_hour: float
    source: str


def price_of(
    ec2: Client, pricing: Client, region: str, instance_type: str, *, spot: bool, now: datetime.datetime
) -> Price | None:
    """Return the price of an instance type from the best source available; None if it is unknown.

    A spot price is the highest of the region's zones in the last hour, since the fleet chooses the zone by capacity.

    Args:
        ec2: Client of the region.
        pricing: Client of the price list.
        region: For example us-east-1.
        instance_type: For example g6.xlarge.
        spot: Whether it is a spot instance, which AWS may interrupt.
        now: The current time, UTC.
    """
    if spot:
        found = _spot_usd(ec2, instance_type, now)
        if found is not None:
            return Price(found, "spot history")
    found = _listed_usd(pricing, region, instance_type)
    if found is not None:
        return Price(found, "price list")
    if instance_type in TABLE_USD:
        usd, date = TABLE_USD[instance_type]
        return Price(usd, f"table of {date}")
    return None


def _spot_usd(ec2: Client, instance_type: str, now: datetime.datetime) -> float | None:
    try:
        answer = ec2.describe_spot_price_history(
            InstanceTypes=[instance_type],
            ProductDescriptions=["Linux/UNIX"],
            StartTime=now - datetime.timedelta(hours=1),
            EndTime=now,
        )
    except (ClientError, BotoCoreError) as error:
        logger.warning("No spot price of %s: %s", instance_type, str(error).splitlines()[0])
        return None
    return max((float(item["SpotPrice"]) for item in answer["SpotPriceHistory"]), default=None)


def _listed_usd(pricing: Client, region: str, instance_type: str) -> float | None:
    wanted = {
        "instanceType": instance_type,
        "regionCode": region,
        "operatingSystem": "Linux",
        "tenancy": "Shared",
        "preInstalledSw": "NA",
        "capacitystatus": "Used",
    }
    filters = [{"Type": "TERM_MATCH", "Field": field, "Value": value} for field, value in wanted.items()]
    try:
        products = pricing.get_products(ServiceCode="AmazonEC2", Filters=filters)["PriceList"]
    except (ClientError, BotoCoreError) as error:
        logger.warning("No list price of %s: %s", instance_type, str(error).splitlines()[0])
        return None
    prices = [
        float(dimension["pricePerUnit"]["USD"])
        for product in products
        for term in json.loads(product)["terms"].get("OnDemand", {}).values()
        for dimension in term["priceDimensions"].values()
    ]
    return max(prices, default=None)
