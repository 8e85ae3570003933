"""Nodes as the clouds label them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mlenv_operator.cost.facts import SECOND, NodeMark, NodeUse
from mlenv_operator.cost.moments import parsed
from mlenv_operator.cost.observe_nodes import Use, later, machine, next_mark, use_of

CREATED, READY = "2026-11-20T10:00:00Z", "2026-11-20T10:03:00Z"
AWS = {
    "topology.kubernetes.io/region": "us-east-1",
    "topology.kubernetes.io/zone": "us-east-1a",
    "node.kubernetes.io/instance-type": "p5.48xlarge",
    "karpenter.sh/capacity-type": "spot",
    "karpenter.k8s.aws/instance-gpu-name": "h100",
    "karpenter.k8s.aws/instance-gpu-count": "8",
}
CAPACITY = {"cpu": "192", "memory": "2097152Ki", "nvidia.com/gpu": "8", "pods": "100"}


def raw(
    labels: dict[str, str] | None = None,
    *,
    provider: str = "aws:///us-east-1a/i-0abc",
    capacity: dict[str, str] | None = None,
    ready: tuple[str, str] = ("True", READY),
    taints: tuple[dict[str, str], ...] = (),
    unschedulable: bool = False,
    **meta: str,
) -> dict[str, Any]:
    return {
        "metadata": {"name": "n1", "uid": "u1", "creationTimestamp": CREATED, "labels": labels or {}, **meta},
        "spec": {"providerID": provider, "taints": list(taints), "unschedulable": unschedulable},
        "status": {
            "capacity": CAPACITY if capacity is None else capacity,
            "conditions": [{"type": "Ready", "status": ready[0], "lastTransitionTime": ready[1]}],
        },
    }


def test_a_machine_of_aws() -> None:
    found = machine(raw(AWS))
    assert (found.uid, found.name, found.provider, found.region, found.zone) == (
        "u1",
        "n1",
        "aws",
        "us-east-1",
        "us-east-1a",
    )
    assert (found.instance_type, found.capacity_type, found.gpu_model, found.gpus) == (
        "p5.48xlarge",
        "spot",
        "h100",
        8,
    )
    assert (found.cpu_milli, found.memory_bytes) == (192_000, 2 << 30)
    assert (found.created, found.deleted) == (parsed(CREATED), None)


def test_a_machine_of_google() -> None:
    labels = {
        "topology.kubernetes.io/region": "us-central1",
        "node.kubernetes.io/instance-type": "a2-highgpu-8g",
        "cloud.google.com/gke-accelerator": "nvidia-tesla-a100",
    }
    found = machine(raw(labels, provider="gce://project/us-central1-a/vm"))
    assert (found.provider, found.capacity_type, found.gpu_model) == ("gcp", "on-demand", "nvidia-tesla-a100")
    spot = machine(raw(labels | {"cloud.google.com/gke-spot": "true"}, provider="gce://p/z/vm"))
    assert spot.capacity_type == "spot"
    held = machine(raw(labels | {"cloud.google.com/reservation-name": "r-1"}, provider="gce://p/z/vm"))
    assert (held.capacity_type, held.reservation) == ("reserved", "r-1")


@pytest.mark.parametrize(
    ("labels", "provider", "expected"),
    [
        ({}, "", ""),
        ({}, "kwok://n1", "on-prem"),
        ({}, "azure:///subscriptions/x", "on-demand"),
        ({"kubernetes.azure.com/scalesetpriority": "spot"}, "azure:///x", "spot"),
        ({"eks.amazonaws.com/capacityType": "ON_DEMAND"}, "aws:///z/i", "on-demand"),
        ({"eks.amazonaws.com/capacityType": "CAPACITY_BLOCK"}, "aws:///z/i", "capacity-block"),
        ({"karpenter.sh/capacity-type": "reserved"}, "aws:///z/i", "reserved"),
        (
            {
                "karpenter.sh/capacity-type": "reserved",
                "karpenter.k8s.aws/capacity-reservation-type": "capacity-block",
            },
            "aws:///z/i",
            "capacity-block",
        ),
        (
            {"mlenv.io/capacity-type": "savings-plan", "karpenter.sh/capacity-type": "spot"},
            "",
            "savings-plan",
        ),
    ],
)
def test_how_a_machine_is_paid_for(labels: dict[str, str], provider: str, expected: str) -> None:
    assert machine(raw(labels, provider=provider)).capacity_type == expected


def test_slices_and_other_devices_are_devices() -> None:
    assert machine(raw(capacity={"nvidia.com/mig-1g.5gb": "7", "nvidia.com/mig-3g.20gb": "2"})).gpus == 9
    assert machine(raw(capacity={"aws.amazon.com/neuron": "16", "cpu": "8"})).gpus == 16
    assert machine(raw(capacity={"cpu": "8"})).gpus == 0


def test_devices_are_known_before_their_plugin_runs_and_stay_known_after_it_failed() -> None:
    young = raw(AWS, capacity={"cpu": "192"})
    assert machine(young).gpus == 8
    plain = machine(raw(capacity={"cpu": "4"}))
    grown = later(plain, machine(raw(AWS)))
    assert (grown.gpus, grown.gpu_model, grown.cpu_milli, grown.created) == (
        8,
        "h100",
        192_000,
        plain.created,
    )
    assert later(grown, plain) == grown
    assert later(grown, replace(plain, deleted=7)).deleted == 7


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        (raw(), Use(None, parsed(READY))),
        (raw(ready=("False", CREATED)), Use(NodeUse.BOOTING, parsed(CREATED))),
        (raw(taints=({"key": "karpenter.sh/unregistered"},)), Use(NodeUse.BOOTING, parsed(CREATED))),
        (raw(AWS, capacity={"cpu": "192"}), Use(NodeUse.BOOTING, parsed(CREATED))),
        (raw(ready=("Unknown", READY)), Use(NodeUse.UNHEALTHY, parsed(READY))),
        (raw(unschedulable=True), Use(NodeUse.DRAINING, None)),
        (
            raw(
                taints=(
                    {"key": "karpenter.sh/disrupted"},
                    {"key": "node.kubernetes.io/unschedulable", "timeAdded": "2026-11-20T11:00:00Z"},
                )
            ),
            Use(NodeUse.DRAINING, parsed("2026-11-20T11:00:00Z")),
        ),
        (raw(taints=({"key": "karpenter.sh/disrupted"},)), Use(NodeUse.DRAINING, None)),
        (
            raw(deletionTimestamp="2026-11-20T12:00:00Z", ready=("Unknown", READY)),
            Use(NodeUse.DRAINING, parsed("2026-11-20T12:00:00Z")),
        ),
    ],
)
def test_what_the_unheld_part_is(node: dict[str, Any], expected: Use) -> None:
    assert use_of(node) == expected


def test_marks_are_made_of_changes_and_dated_by_the_node_where_it_says_when() -> None:
    created, ready, seen = parsed(CREATED), parsed(READY), parsed("2026-11-20T11:30:00Z")
    assert created is not None
    assert ready is not None
    assert seen is not None
    boots = next_mark("u1", Use(NodeUse.BOOTING, created), seen, None, metered=True)
    assert boots == NodeMark("u1", created, NodeUse.BOOTING)
    up = next_mark("u1", Use(None, ready), seen, boots, metered=True)
    assert up == NodeMark("u1", ready, None)
    assert next_mark("u1", Use(None, ready), seen + SECOND, up, metered=True) is None
    drains = next_mark("u1", Use(NodeUse.DRAINING, None), seen, up, metered=True)
    assert drains == NodeMark("u1", seen, NodeUse.DRAINING)
    # Ready since long ago: what the node says is older than what it was since.
    again = next_mark("u1", Use(None, ready), seen + SECOND, drains, metered=True)
    assert again == NodeMark("u1", seen + SECOND, None)


def test_where_pods_of_others_are_not_metered_the_unheld_part_is_not_ours_to_tell() -> None:
    ready = parsed(READY) or 0
    first = next_mark("u1", Use(None, ready), ready, None, metered=False)
    assert first == NodeMark("u1", ready, NodeUse.UNATTRIBUTED)
    assert next_mark("u1", Use(None, ready), ready, first, metered=False) is None
    assert next_mark("u1", Use(None, ready), ready, None, metered=True) is None
