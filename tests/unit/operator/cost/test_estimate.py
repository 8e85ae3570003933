"""What a job would cost: the ledger's own share of the price, never 0 for what is unknown."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlenv_api.podtemplate import EnvironmentSpec
from mlenv_api.pricebook import CapacityType
from mlenv_api.trainingjob import TrainingJobSpec
from mlenv_operator.cost.estimate import Wish, estimate, kinds, lasts
from mlenv_operator.cost.facts import DOLLAR, HOUR, SECOND, Node, Pod
from mlenv_operator.cost.hardware import NOTHING, Hardware, Instance
from mlenv_operator.cost.metering import close
from mlenv_operator.cost.prices import PriceBook, PriceRow
from mlenv_operator.cost.resources import Held
from mlenv_operator.cost.wishes import wish_of

NOW = 490_000 * HOUR
GIB = 1 << 30
P5 = Node("n1", "n1", "aws", "us-east-1", "us-east-1a", "p5", "on-demand", "", 8, "H100", 192_000, 2048 * GIB)
M6 = replace(P5, uid="n2", instance_type="m6", gpus=0, gpu_model="", cpu_milli=64_000, memory_bytes=256 * GIB)
WHOLE = Wish(4, Held(gpus=8))


def row(type_: str, dollars: int, capacity: str = "on-demand", **more: Any) -> PriceRow:
    paid = dollars * DOLLAR
    return PriceRow(
        "aws", type_, CapacityType(capacity), 2 * paid, paid, **{"since": 0, "region": "us-east-1", **more}
    )


def shape(type_: str, gpus: int, vcpus: int | None = 96, mib: int | None = 1 << 20) -> Hardware:
    return Hardware(
        {("aws", type_): Instance("aws", type_, gpus, "A100-40GB", None, vcpus, mib, None, None, "", "")}, {}
    )


def told(wish: Wish, nodes: tuple[Node, ...], *rows: PriceRow, hardware: Hardware = NOTHING) -> Any:
    return estimate(wish, nodes, PriceBook(rows), hardware, NOW)


def test_what_is_in_the_cluster_is_assumed_before_what_is_cheaper_elsewhere() -> None:
    found = told(WHOLE, (P5,), row("p5", 50), row("p4", 20), hardware=shape("p4", 8))
    assert [(one.machine.instance_type, one.in_cluster) for one in found.options] == [
        ("p4", False),
        ("p5", True),
    ]
    assert (found.assumed.machine.instance_type, found.assumed.rate) == ("p5", 4 * 50 * DOLLAR)
    assert found.assumed.list_rate == 4 * 100 * DOLLAR
    assert found.assumed.cost(90 * 60 * SECOND) == 4 * 75 * DOLLAR
    assert "the only kind that it fits in the cluster" in found.why


def test_without_a_node_the_cheapest_of_the_book_is_assumed_and_spot_is_only_told() -> None:
    rows = (row("p4", 20), row("p4", 5, "spot"), row("p4", 1, "capacity-block", reservation="cr-1"))
    found = told(Wish(1, Held(gpus=4)), (), *rows, hardware=shape("p4", 8))
    assert [(one.machine.capacity_type, one.rate) for one in found.options] == [
        ("spot", 5 * DOLLAR // 2), ("on-demand", 10 * DOLLAR),
    ]  # fmt: skip
    assert found.assumed.machine.capacity_type == "on-demand"
    assert "none fits" in found.why
    assert "spot left aside" in found.why


def test_spot_is_assumed_where_it_is_asked_for() -> None:
    wish = Wish(1, Held(gpus=8), {"capacity_type": frozenset({"spot"})})
    found = told(wish, (), row("p4", 20), row("p4", 5, "spot"), hardware=shape("p4", 8))
    assert [one.rate for one in found.options] == [found.assumed.rate] == [5 * DOLLAR]


def test_no_price_is_unknown_and_never_nothing() -> None:
    found = told(WHOLE, (P5,), row("p4", 20), hardware=shape("p4", 8))
    assert found.assumed.machine.instance_type == "p5"
    assert (found.assumed.rate, found.assumed.list_rate, found.assumed.cost(HOUR)) == (None, None, None)
    assert "PriceBook" in found.why
    assert found.options[-1] is found.assumed  # and what has a price stands before it
    ended = told(WHOLE, (P5,), row("p5", 50, until=NOW))
    assert ended.assumed.rate is None


def test_a_kind_without_a_price_beside_one_with_is_spoken_of() -> None:
    found = told(WHOLE, (P5, replace(P5, uid="x", instance_type="p9")), row("p5", 50))
    assert found.assumed.rate == 200 * DOLLAR
    assert "without a price: p9" in found.notes[0]


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        (Wish(1, Held(gpus=16)), "no machine whose shape is known fits a pod of 16 devices"),
        (Wish(1, Held(), {"instance_type": frozenset({"p99"})}), "is of type p99"),
        (Wish(1, Held(), {"zone": frozenset()}), "no machine"),
        (Wish(1, Held(0, 1000, GIB)), "no machine"),  # a p5 is given to nobody who asks for no device
        (Wish(1, Held(8, 1000, 4096 * GIB)), "no machine"),
    ],
)
def test_what_fits_nothing_says_so(wish: Wish, words: str) -> None:
    found = told(wish, (P5,), row("p5", 50), row("unshaped", 1))
    assert (found.options, found.assumed) == ((), None)
    assert found.why.startswith("unknown")
    assert words in found.why


def test_without_devices_the_larger_share_counts() -> None:
    wish = Wish(2, Held(0, 8_000, 128 * GIB))
    assert told(wish, (M6, P5), row("m6", 4), row("p5", 50)).assumed.rate == 4 * DOLLAR
    assert told(replace(wish, held=Held(0, 48_000, GIB)), (M6,), row("m6", 4)).assumed.rate == 6 * DOLLAR


def test_what_is_charged_nothing_is_said_to_be() -> None:
    named = Wish(1, Held(0, 1000, GIB), {"instance_type": frozenset({"p5"})})
    found = told(named, (P5,), row("p5", 50))
    assert found.assumed.rate == 0
    assert "holds nothing that is charged" in found.notes[0]


def test_a_price_for_a_zone_is_that_zones() -> None:
    wish = Wish(1, Held(gpus=8), {"zone": frozenset({"us-east-1b"})})
    rows = (row("p4", 20), row("p4", 7, zone="us-east-1b"), row("p4", 1, zone="us-east-1c"))
    found = told(wish, (), *rows, hardware=shape("p4", 8))
    assert [one.rate for one in found.options] == [7 * DOLLAR]


def test_nodes_of_a_type_are_one_kind_and_devices_that_come_later_count() -> None:
    booting = replace(P5, uid="n3", name="n3", gpus=0, memory_bytes=2047 * GIB)
    assert [one.gpus for one in kinds([booting, P5])] == [8]
    found = told(WHOLE, (replace(booting, instance_type="p4"),), row("p4", 20), hardware=shape("p4", 8))
    assert found.assumed.rate == 80 * DOLLAR


def test_a_model_is_known_by_its_words() -> None:
    for said, fits in (("NVIDIA-H100-80GB-HBM3", 1), ("NVIDIA-A100-SXM4-80GB", 0)):
        wish = Wish(1, Held(gpus=1), {"gpu_model": frozenset({said})})
        assert len(told(wish, (P5,), row("p5", 50)).options) == fits


def test_a_limit_lasts_so_long() -> None:
    assert lasts(100 * DOLLAR, 50 * DOLLAR) == 1800
    assert lasts(3, 1) == 1200
    assert lasts(0, 1) is None


@given(
    paid=st.integers(1, 10**12),
    devices=st.integers(1, 16),
    pods=st.integers(1, 5),
    data=st.data(),
)
def test_an_hour_is_what_the_ledger_charges_for_it(
    paid: int, devices: int, pods: int, data: st.DataObject
) -> None:
    gpus = data.draw(st.integers(1, devices))
    machine = replace(P5, gpus=devices, created=0)
    price = replace(row("p5", 1), effective_nanos_per_hour=paid, list_nanos_per_hour=paid)
    book = PriceBook([price])
    found = estimate(Wish(pods, Held(gpus=gpus)), (machine,), book, NOTHING, NOW).assumed
    held = Pod("p", "ns", "p", "j", machine.uid, gpus=gpus, scheduled=0)
    segments = [one.segment() for one in book.segments(machine, NOW, NOW + HOUR)]
    rows = close(NOW, machine, [held], [], [], [], segments).rows
    charged = sum(one.cost for one in rows if one.key.pod_uid)
    assert found is not None
    assert found.rate is not None
    assert abs(found.rate - pods * charged) <= pods  # each charge is rounded down or up


def spec(**said: Any) -> TrainingJobSpec:
    return TrainingJobSpec.model_validate({"trainer": {"image": "any", **said.pop("trainer", {})}, **said})


def test_a_wish_is_what_the_pods_would_hold() -> None:
    resources = {"limits": {"nvidia.com/gpu": 8, "memory": "64Gi"}, "requests": {"cpu": "12"}}
    job = spec(trainer={"numNodes": 3, "resourcesPerNode": resources})
    assert wish_of(job, None) == Wish(3, Held(8, 12_000, 64 * GIB))
    environment = EnvironmentSpec.model_validate(
        {
            "image": "any",
            "defaults": {"resourcesPerNode": {"limits": {"nvidia.com/gpu": 1}}},
            "podTemplate": {"spec": {"nodeSelector": {"node.kubernetes.io/instance-type": "p5"}}},
            "tracking": {
                "wandb": {"entity": "e", "project": "p", "apiKeySecretRef": {"name": "s", "key": "k"}}
            },
        }
    )
    found = wish_of(spec(), environment)
    assert found.held == Held(1, 100, 256 << 20)  # the courier's
    assert found.wanted == {"instance_type": {"p5"}}


def test_labels_that_prices_know_are_wanted_and_others_are_named() -> None:
    def expression(key: str, operator: str, *values: str) -> dict[str, Any]:
        return {"key": key, "operator": operator, "values": values}

    terms = [
        {
            "matchExpressions": [
                expression("topology.kubernetes.io/zone", "In", "a", "b"),
                expression("node.kubernetes.io/instance-type", "NotIn", "p4"),
            ]
        }
    ]
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
    selector = {"cloud.google.com/gke-spot": "true", "pool": "ads", "topology.kubernetes.io/zone": "b"}
    overrides = {"spec": {"nodeSelector": selector, "affinity": {"nodeAffinity": required}}}
    found = wish_of(spec(podTemplateOverrides=overrides), None)
    assert found.wanted == {"capacity_type": {"spot"}, "zone": {"b"}}
    assert found.unjudged == ("pool", "node.kubernetes.io/instance-type")
    terms.append({})
    assert wish_of(spec(podTemplateOverrides=overrides), None).wanted == {
        "capacity_type": {"spot"},
        "zone": {"b"},
    }
