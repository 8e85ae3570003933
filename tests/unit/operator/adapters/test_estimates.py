"""Estimates over HTTP: from a job as it would be submitted to sums, or to a sentence that says why not."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest
from ledgers import filled
from tests.unit.operator.adapters.test_costs import NOW, Cluster, served

from mlenv_api.podtemplate import EnvironmentSpec
from mlenv_operator.adapters.estimates import Estimates
from mlenv_operator.core.world import EnvironmentView, NodeView
from mlenv_operator.cost.facts import DOLLAR, Node
from mlenv_operator.cost.prices import PriceBook, PriceRow
from mlenv_operator.cost.shares import parse_policy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mlenv_operator.adapters.caches import Caches

MACHINE = Node("n", "n", "aws", "us-east-1", "", "p5.48xlarge", "on-demand", "", 8, "H100", 192_000, 1 << 41)
PRICE = PriceRow("aws", "p5.48xlarge", "on-demand", 60 * DOLLAR, 50 * DOLLAR, 0, source="invoice")  # type: ignore[arg-type]
JOB = {"trainer": {"numNodes": 2, "resourcesPerNode": {"limits": {"nvidia.com/gpu": 4}}}}
SMALL = EnvironmentSpec.model_validate(
    {"image": "any", "defaults": {"resourcesPerNode": {"limits": {"nvidia.com/gpu": 1}}}}
)


@dataclass
class Cache:
    held: dict[tuple[str, str], Any] = field(default_factory=dict)

    def get(self, namespace: str, name: str) -> Any:
        return self.held.get((namespace, name))

    def views(self) -> Iterator[Any]:
        return iter(self.held.values())


@dataclass
class Seen:
    """What the informers have."""

    nodes: Cache = field(default_factory=lambda: Cache({("", "n"): NodeView("n", machine=MACHINE)}))
    environments: Cache = field(default_factory=lambda: Cache({("ns-ads", "small"): view("small", SMALL)}))
    cluster_environments: Cache = field(default_factory=lambda: Cache({("", "broken"): view("broken", None)}))


def view(name: str, spec: EnvironmentSpec | None) -> EnvironmentView:
    return EnvironmentView("TrainingEnvironment", name, "u", 1, spec)


@pytest.fixture
def estimates() -> Estimates:
    caches: Caches = Seen()  # type: ignore[assignment]
    return Estimates(caches, lambda: PriceBook([PRICE]))


@pytest.fixture
def dsn(tmp_path: Path) -> str:
    return filled(tmp_path, NOW)


def path(job: Any, namespace: str = "ns-ads", **more: Any) -> str:
    text = job if isinstance(job, str) else json.dumps(job)
    return f"/v1/costs/estimates/{namespace}?{urlencode({'job': text, **more})}"


async def test_a_job_by_the_hour_for_a_time_and_up_to_its_bounds(dsn: str, estimates: Estimates) -> None:
    bounded = {**JOB, "activeDeadlineSeconds": 7200, "cost": {"limit": "25", "onExceeded": "Suspend"}}
    async with served(dsn, Cluster(), estimates) as get:
        told = await get(path(bounded, seconds=3600 * 10), "ann")
    assert told.status == 200, told
    body = told.body
    assert body["asks"] == {"pods": 2, "gpus": 4, "cpuMilli": 0, "memoryBytes": 0}
    (only,) = body["options"]
    assert (body["assumed"], only["inCluster"], only["share"]) == (0, True, "1/2")
    assert (only["nanosPerHour"], only["listNanosPerHour"]) == (str(50 * DOLLAR), str(60 * DOLLAR))
    assert only["price"] == {"id": PRICE.id, "name": PRICE.name, "source": "invoice"}
    assert body["durations"] == [
        {"what": "asked", "seconds": 36000, "costNanos": str(500 * DOLLAR)},
        {"what": "activeDeadlineSeconds", "seconds": 7200, "costNanos": str(100 * DOLLAR)},
    ]
    assert body["limit"] == {
        "nanos": str(25 * DOLLAR), "onExceeded": "Suspend", "reachedAfterSeconds": 1800,
    }  # fmt: skip


async def test_shares_are_those_of_the_ledger(dsn: str) -> None:
    caches: Caches = Seen()  # type: ignore[assignment]
    by_weights = Estimates(caches, lambda: PriceBook([PRICE]), parse_policy("weights=1/0/1"))
    async with served(dsn, Cluster(), by_weights) as get:
        told = await get(path(JOB), "ann")
    # Four of eight devices, and nothing of 2 TiB: 4 of 8 + 2048.
    assert told.body["options"][0]["share"] == "1/514"


async def test_without_a_price_every_sum_is_null(dsn: str) -> None:
    nobody = Estimates(Seen(), PriceBook)  # type: ignore[arg-type]
    limited = {**JOB, "cost": {"limit": "25", "onExceeded": "Warn"}}
    async with served(dsn, Cluster(), nobody) as get:
        body = (await get(path(limited, seconds=60))).body
        none = (await get(path({"trainer": {"resourcesPerNode": {"limits": {"amd.com/gpu": 64}}}}))).body
    assert body["options"][0]["nanosPerHour"] is None
    assert body["options"][0]["price"] is None
    assert body["durations"][0]["costNanos"] is None
    assert body["limit"]["reachedAfterSeconds"] is None
    assert body["why"].startswith("unknown")
    assert (none["options"], none["assumed"], none["why"][:7]) == ([], None, "unknown")


async def test_the_environment_says_what_the_job_does_not(dsn: str, estimates: Estimates) -> None:
    job = {"environmentRef": {"kind": "TrainingEnvironment", "name": "small"}}
    async with served(dsn, Cluster(), estimates) as get:
        assert (await get(path(job))).body["asks"]["gpus"] == 1
        elsewhere = await get(path(job, "ns-feed"))
        assert (elsewhere.status, "'small' is not there" in elsewhere.body["message"]) == (400, True)
        broken = await get(path({"environmentRef": {"name": "broken"}}))
        assert (broken.status, "cannot be read" in broken.body["message"]) == (400, True)


async def test_who_may_not_know_what_a_namespace_cost_is_told_no_estimate(
    dsn: str, estimates: Estimates
) -> None:
    async with served(dsn, Cluster(), estimates) as get:
        assert (await get(path(JOB, "ns-feed"), "ann")).status == 403
        assert (await get(path(JOB), "forged")).status == 401
    async with served(dsn, Cluster()) as get:
        assert (await get(path(JOB), "ann")).status == 404


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("/v1/costs/estimates/ns-ads", "as JSON"),
        ("/v1/costs/estimates/ns-ads?colour=red", "job, seconds, format"),
        (path("[]"), "as JSON"),
        (path('{"trainer": 3}'), "as JSON"),
        (path({"trainer": {"numNodes": 0}}), "spec.trainer.numNodes"),
        (path({"trainer": {"resourcesPerNode": {"limits": {"cpu": "lots"}}}}), "'lots' of cpu"),
        (path({"cost": {"limit": "1e3", "onExceeded": "Warn"}}), "spec.cost.limit"),
        (path(JOB, seconds="0"), "seconds must be"),
        (path(JOB, seconds="-1"), "seconds must be"),
        (path(JOB, seconds=10**9), "seconds must be"),
        (path(JOB, format="csv"), "json alone"),
        (path("x" * 7500), "at most 7,000"),
    ],
)
async def test_nonsense_gets_a_sentence(dsn: str, estimates: Estimates, asked: str, words: str) -> None:
    async with served(dsn, Cluster(), estimates) as get:
        told = await get(asked)
        assert (told.status, words in told.body["message"]) == (400, True), told
