"""What the demo's nodes pass for is what the operator then takes them for, at a price that is shipped."""

from __future__ import annotations

import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

from mlenv_local.cluster import NEW
from mlenv_operator.adapters.pricefiles import shipped_hardware, shipped_rows
from mlenv_operator.cost.moments import parsed
from mlenv_operator.cost.observe_nodes import machine
from mlenv_operator.cost.prices import PriceBook

sys.path.insert(0, str(Path(__file__).parents[3] / "tools"))

from tasks import demo_money

RAW: dict[str, Any] = {
    "metadata": {"name": "node-1", "uid": "n1", "creationTimestamp": "2026-11-01T00:00:00Z"},
    "status": {"capacity": {"cpu": "2", "memory": "8Gi", "nvidia.com/gpu": str(NEW["fake_gpus"])}},
}


def as_pretended() -> dict[str, Any]:
    patch = demo_money.PRETENDED.of_node("node-1")
    return {**RAW, "metadata": {**RAW["metadata"], **patch["metadata"]}, "spec": patch["spec"]}


def test_the_operator_prices_the_node_by_the_row_that_the_demo_names() -> None:
    seen, now = machine(as_pretended()), parsed("2026-11-26T00:00:00Z")
    assert now is not None
    (priced,) = PriceBook(shipped_rows()).segments(seen, now, now + 1)
    assert priced.price is not None
    paid = Decimal(demo_money.price()["effective_usd_per_hour"])
    assert priced.price.effective_nanos_per_hour == paid * 10**9
    assert f"${paid:.3f} an hour on-demand" in demo_money.terms()


def test_the_node_has_as_many_devices_as_that_instance_type() -> None:
    known = shipped_hardware().instance(demo_money.PRETENDED.provider, demo_money.PRETENDED.instance_type)
    assert known is not None
    assert known.gpus == machine(as_pretended()).gpus == demo_money.GPUS
