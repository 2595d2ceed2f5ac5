"""Prices come from AWS if it answers, else from a dated table."""

from __future__ import annotations

import datetime
import json
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError
from botocore.stub import ANY, Stubber

from satx.fleet.prices import TABLE_USD, price_of

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


def listed(usd: str) -> str:
    """Return one product of the price list as `get_products` returns it: a JSON string."""
    dimension = {"unit": "Hrs", "pricePerUnit": {"USD": usd}}
    return json.dumps({"product": {}, "terms": {"OnDemand": {"A.B": {"priceDimensions": {"A.B.C": dimension}}}}})


def price(ec2: Any, pricing: Any, kind: str = "g6.xlarge", *, spot: bool) -> Any:
    return price_of(ec2, pricing, "eu-west-1", kind, spot=spot, now=NOW)


def test_a_spot_price_is_that_of_the_most_expensive_zone(clients: Any) -> None:
    ec2 = clients("ec2")
    with Stubber(ec2) as stub:
        history = [{"SpotPrice": "0.31"}, {"SpotPrice": "0.42"}]
        stub.add_response("describe_spot_price_history", {"SpotPriceHistory": history})
        found = price(ec2, clients("pricing"), spot=True)
    assert (found.usd_per_hour, found.source) == (0.42, "spot history")


def test_without_a_spot_history_the_list_price_is_used(clients: Any) -> None:
    ec2, pricing = clients("ec2"), clients("pricing")
    with Stubber(ec2) as never, Stubber(pricing) as stub:
        never.add_response("describe_spot_price_history", {"SpotPriceHistory": []})
        stub.add_response("get_products", {"PriceList": [listed("0.9")]}, {"ServiceCode": "AmazonEC2", "Filters": ANY})
        found = price(ec2, pricing, spot=True)
    assert (found.usd_per_hour, found.source) == (0.9, "price list")


@pytest.mark.parametrize("spot", [True, False])
def test_without_any_answer_the_dated_table_is_used(clients: Any, spot: bool) -> None:
    ec2, pricing = clients("ec2"), clients("pricing")

    def gone(**_: Any) -> None:
        raise EndpointConnectionError(endpoint_url="https://nowhere")

    for client, name in ((ec2, "ec2.DescribeSpotPriceHistory"), (pricing, "pricing.GetProducts")):
        client.meta.events.register(f"before-send.{name}", gone)
    found = price(ec2, pricing, spot=spot)
    assert (found.usd_per_hour, found.source) == (TABLE_USD["g6.xlarge"][0], "table of 2024")
    assert price(ec2, pricing, "x1e.32xlarge", spot=spot) is None
