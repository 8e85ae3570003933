"""Facts about machines, from the nodes that stand for them."""

from __future__ import annotations

from dataclasses import replace
from sys import intern
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from mlenv_api import names
from mlenv_operator.cost.facts import SECOND, Node, NodeMark, NodeUse
from mlenv_operator.cost.moments import parsed
from mlenv_operator.cost.prices import provider_of
from mlenv_operator.cost.resources import of_list

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mlenv_operator.cost.facts import Micros

_REGION: Final = ("topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/region")
_ZONE: Final = ("topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone")
_TYPE: Final = ("node.kubernetes.io/instance-type", "beta.kubernetes.io/instance-type")
_CAPACITY: Final = (
    names.LABEL_CAPACITY_TYPE,
    "karpenter.sh/capacity-type",
    "eks.amazonaws.com/capacityType",
)
_SPOT: Final = {
    "cloud.google.com/gke-spot": "true",
    "cloud.google.com/gke-preemptible": "true",
    "kubernetes.azure.com/scalesetpriority": "spot",
}
_RESERVATION_KIND: Final = (
    "karpenter.k8s.aws/capacity-reservation-type",
    "eks.amazonaws.com/capacity-reservation-type",
)
_RESERVATION: Final = (
    names.LABEL_RESERVATION,
    "karpenter.k8s.aws/capacity-reservation-id",
    "eks.amazonaws.com/capacity-reservation-id",
    "cloud.google.com/reservation-name",
)
_GPU_MODEL: Final = (
    "nvidia.com/gpu.product",
    "amd.com/gpu.product-name",
    "karpenter.k8s.aws/instance-gpu-name",
    "eks.amazonaws.com/instance-gpu-name",
    "karpenter.k8s.aws/instance-accelerator-name",
    "cloud.google.com/gke-accelerator",
    "k8s.amazonaws.com/accelerator",
)
_GPU_COUNT: Final = (
    "karpenter.k8s.aws/instance-gpu-count",
    "eks.amazonaws.com/instance-gpu-count",
    "karpenter.k8s.aws/instance-accelerator-count",
    "cloud.google.com/gke-accelerator-count",
)
"""What a machine will have, said before its device plugin runs."""
_FIELDS: Final = {
    "region": _REGION,
    "zone": _ZONE,
    "instance_type": _TYPE,
    "reservation": _RESERVATION,
    "gpu_model": _GPU_MODEL,
    "gpus": _GPU_COUNT,
}
_CLOUDS: Final = frozenset({"aws", "gcp", "azure"})
_BOOT_TAINTS: Final = frozenset(
    {"node.cloudprovider.kubernetes.io/uninitialized", "karpenter.sh/unregistered"}
)
_DRAIN_TAINTS: Final = frozenset(
    {
        "node.kubernetes.io/unschedulable",
        "karpenter.sh/disrupted",
        "karpenter.sh/disruption",
        "ToBeDeletedByClusterAutoscaler",
        "cloud.google.com/impending-node-termination",
    }
)
FIRST_READY: Final = 60 * SECOND
"""A node that is not ready since so soon after its creation has never been."""


def machine(raw: Mapping[str, Any]) -> Node:
    """The machine behind a node, as far as the node tells; see `later` for what it tells later."""
    meta, status = raw["metadata"], raw.get("status") or {}
    labels: Mapping[str, str] = meta.get("labels") or {}
    provider = provider_of((raw.get("spec") or {}).get("providerID") or "")
    has = of_list(status.get("capacity"))
    return Node(
        uid=meta.get("uid") or "",
        name=intern(meta["name"]),
        provider=intern(provider),
        region=intern(_first(labels, _REGION)),
        zone=intern(_first(labels, _ZONE)),
        instance_type=intern(_first(labels, _TYPE)),
        capacity_type=intern(_capacity_type(labels, provider)),
        reservation=_first(labels, _RESERVATION),
        gpus=max(has.gpus, _expected(labels)),
        gpu_model=intern(_first(labels, _GPU_MODEL)),
        cpu_milli=has.cpu_milli,
        memory_bytes=has.memory_bytes,
        created=parsed(meta.get("creationTimestamp")) or 0,
    )


def meaning(label: str, value: str) -> tuple[str, str] | None:
    """What a label says of a machine, as the name of a field and its value; null when that is no price's."""
    if _SPOT.get(label) == value:
        return "capacity_type", "spot"
    if label in _CAPACITY:
        return "capacity_type", value.lower().replace("_", "-")
    return next(((name, value) for name, labels in _FIELDS.items() if label in labels), None)


def later(known: Node, seen: Node) -> Node:
    """What is known of a machine after it was seen again: gaps are filled, and nothing is taken back.

    A device plugin starts minutes after its node, and drops its devices when it fails: the machine has them.
    """
    return replace(
        known,
        provider=known.provider or seen.provider,
        region=known.region or seen.region,
        zone=known.zone or seen.zone,
        instance_type=known.instance_type or seen.instance_type,
        capacity_type=known.capacity_type or seen.capacity_type,
        reservation=known.reservation or seen.reservation,
        gpus=max(known.gpus, seen.gpus),
        gpu_model=known.gpu_model or seen.gpu_model,
        cpu_milli=max(known.cpu_milli, seen.cpu_milli),
        memory_bytes=max(known.memory_bytes, seen.memory_bytes),
        deleted=seen.deleted if known.deleted is None else known.deleted,
    )


class Use(NamedTuple):
    """What the unheld part of a node is, and since when; null: not said by anything."""

    use: NodeUse | None
    since: Micros | None


UNSAID: Final = Use(None, None)


def use_of(raw: Mapping[str, Any]) -> Use:
    """What the unheld part of the node is now."""
    meta, spec, status = raw["metadata"], raw.get("spec") or {}, raw.get("status") or {}
    created, leaves = parsed(meta.get("creationTimestamp")), parsed(meta.get("deletionTimestamp"))
    conditions = status.get("conditions") or ()
    ready: Mapping[str, Any] = next((one for one in conditions if one.get("type") == "Ready"), {})
    since = parsed(ready.get("lastTransitionTime"))
    taints = {taint.get("key"): taint for taint in spec.get("taints") or ()}
    if leaves is not None:
        return Use(NodeUse.DRAINING, leaves)
    if _boots(raw, taints, created, since, ready=ready.get("status") == "True"):
        return Use(NodeUse.BOOTING, created)
    if ready.get("status") != "True":
        return Use(NodeUse.UNHEALTHY, since)
    drains = [parsed(taints[key].get("timeAdded")) for key in _DRAIN_TAINTS & taints.keys()]
    if drains or spec.get("unschedulable"):
        return Use(NodeUse.DRAINING, min((at for at in drains if at is not None), default=None))
    return Use(None, since)


def _boots(
    raw: Mapping[str, Any],
    taints: Mapping[str, Any],
    created: Micros | None,
    since: Micros | None,
    *,
    ready: bool,
) -> bool:
    if _BOOT_TAINTS & taints.keys():
        return True
    if not ready:
        return created is not None and (since is None or since <= created + FIRST_READY)
    has = of_list((raw.get("status") or {}).get("capacity")).gpus
    return has < _expected(raw["metadata"].get("labels") or {})


def next_mark(
    node_uid: str, now: Use, seen: Micros, before: NodeMark | None, *, metered: bool
) -> NodeMark | None:
    """The mark to add to those of the node, of which `before` was the last; null when nothing changed.

    Dated by the node's own word where that is newer than what it said before, else by when it was `seen`.
    Unless pods of others are `metered`, the unheld part of a healthy node is not ours to tell.
    """
    use = now.use or (None if metered else NodeUse.UNATTRIBUTED)
    if use == (before.use if before else None):
        return None
    at = now.since
    if at is None or (before is not None and at <= before.at):
        at = seen
    return NodeMark(node_uid, at, use)


def _capacity_type(labels: Mapping[str, str], provider: str) -> str:
    """One of on-demand, spot, reserved, savings-plan, capacity-block, on-prem; empty while nothing says."""
    said = _first(labels, _CAPACITY).lower().replace("_", "-")
    if _first(labels, _RESERVATION_KIND) == "capacity-block":
        return "capacity-block"
    if said:
        return said
    if any(labels.get(name) == value for name, value in _SPOT.items()):
        return "spot"
    if _first(labels, _RESERVATION):
        return "reserved"
    if not provider:
        return ""  # a cloud may still speak for it: a guess could not be taken back
    return "on-demand" if provider in _CLOUDS else "on-prem"


def _expected(labels: Mapping[str, str]) -> int:
    said = _first(labels, _GPU_COUNT)
    return int(said) if said.isdecimal() else 0


def _first(labels: Mapping[str, str], keys: Iterable[str]) -> str:
    return next((labels[key] for key in keys if labels.get(key)), "")
