"""Nodes without a machine, and pods on them without processes, played by KWOK: for thousands of either.

What a fake pod does is said by annotations on the pod, whether a fake node is lost by a label on the node;
the stages of KWOK that obey them are in fakenodes.yaml. All of it is pure.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Collection

    from mlenv_local.layout import Layout

GROUP = "local.mlenv.io"
LABEL_FAKE = f"{GROUP}/fake"
"""On every fake node, and the key of its taint: what is to run there selects one and tolerates the other."""
LABEL_LOST = f"{GROUP}/lost"
"""On a fake node: its kubelet is gone, as after a power cut; without the label it comes back."""
ANNOTATION_START_AFTER = f"{GROUP}/start-after"
"""On a pod: so long after it was bound it starts, such as 5s; at once without it."""
ANNOTATION_RUN_FOR = f"{GROUP}/run-for"
"""On a pod: so long after its start, or its last change since then, it ends; never without it."""
ANNOTATION_EXIT_CODE = f"{GROUP}/exit-code"
"""On a pod: the code with which all its containers then end; 0 without it."""
ANNOTATION_EXIT_REASON = f"{GROUP}/exit-reason"
"""On a pod: the reason that the kubelet would give, such as OOMKilled; Completed or Error without it."""

TOLERATION = {"key": LABEL_FAKE, "operator": "Exists", "effect": "NoSchedule"}
NODE_SELECTOR = {LABEL_FAKE: "true"}

PODS_PER_NODE = 256
CAPACITY = {"cpu": "256", "memory": "2Ti", "ephemeral-storage": "2Ti", "pods": str(PODS_PER_NODE)}
# Set aside for benchmarks by RFC 2544. Nobody can reach a fake pod, and 10/8 is too small for so many.
POD_ADDRESSES = "198.18.0.0/15"
# Renewed after a quarter of it, well within the grace that nodes have.
LEASE_SECONDS = 40
# Pods whose state is being written at once; real kubelets are as many as nodes.
POD_HANDS = 64
USER = "mlenv:kwok"
_RBAC = "rbac.authorization.k8s.io"
LEASES = "kube-node-lease"
"""The namespace of the Leases by which nodes live."""


def config(layout: Layout) -> str:
    """KWOK's configuration file: its options, then the stages of nodes and pods."""
    options = {
        "cidr": POD_ADDRESSES,
        "nodeIP": str(layout.control.address),
        "manageNodesWithLabelSelector": f"{LABEL_FAKE}=true,{LABEL_LOST}!=true",
        "nodeLeaseDurationSeconds": LEASE_SECONDS,
        # All of these must be set, or it ends at once.
        "nodeLeaseParallelism": 4,
        "nodePlayStageParallelism": 4,
        "podPlayStageParallelism": POD_HANDS,
        "podsOnNodeSyncParallelism": 1,
        "enablePodsOnNodeSyncListPager": False,  # from the API server's cache, without asking etcd
    }
    head = {
        "apiVersion": "config.kwok.x-k8s.io/v1alpha1",
        "kind": "KwokConfiguration",
        "options": options,
    }
    return f"{yaml.safe_dump(head, sort_keys=False)}---\n{STAGES.read_text()}"


STAGES = Path(__file__).with_suffix(".yaml")


def nodes(layout: Layout, names: Collection[str]) -> list[dict[str, Any]]:
    """The Node objects of these names."""
    return [_node(layout, name, number) for number, name in enumerate(sorted(names))]


def _node(layout: Layout, name: str, number: int) -> dict[str, Any]:
    gpus = {"nvidia.com/gpu": str(layout.fake_gpus)} if layout.fake_gpus else {}
    capacity = {**CAPACITY, **gpus}
    labels = {
        **NODE_SELECTOR,
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
        "node.kubernetes.io/instance-type": "mlenv-local.fake",
        "topology.kubernetes.io/region": "local",
        "topology.kubernetes.io/zone": f"local-{'ab'[number % 2]}",
    }
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "spec": {"taints": [{"key": LABEL_FAKE, "value": "true", "effect": "NoSchedule"}]},
        "status": {"capacity": capacity, "allocatable": capacity},
    }


def is_lost(node: dict[str, Any]) -> bool:
    """Whether the Node object says that nobody plays it."""
    return bool(node["metadata"].get("labels", {}).get(LABEL_LOST) == "true")


def rights() -> list[dict[str, Any]]:
    """What KWOK may do: a kubelet's work, and no more; its requests are let through as a kubelet's are."""
    watch = ["get", "list", "watch"]
    everywhere = [
        _rule("", ["nodes", "pods"], watch),
        _rule("", ["nodes/status", "pods/status"], ["patch"]),
        _rule("", ["pods"], ["delete"]),
    ]
    leases = [_rule("coordination.k8s.io", ["leases"], [*watch, "create", "update"])]
    return [
        _role("ClusterRole", everywhere),
        _binding("ClusterRole"),
        _role("Role", leases, namespace=LEASES),
        _binding("Role", namespace=LEASES),
        _flow(),
    ]


def _rule(group: str, resources: list[str], verbs: list[str]) -> dict[str, Any]:
    return {"apiGroups": [group], "resources": resources, "verbs": verbs}


def _role(kind: str, rules: list[dict[str, Any]], **where: str) -> dict[str, Any]:
    return {"apiVersion": f"{_RBAC}/v1", "kind": kind, "metadata": {"name": USER, **where}, "rules": rules}


def _binding(kind: str, **where: str) -> dict[str, Any]:
    return {
        "apiVersion": f"{_RBAC}/v1",
        "kind": f"{kind}Binding",
        "metadata": {"name": USER, **where},
        "roleRef": {"apiGroup": _RBAC, "kind": kind, "name": USER},
        "subjects": [{"apiGroup": _RBAC, "kind": "User", "name": USER}],
    }


def _flow() -> dict[str, Any]:
    """As kubelets have: a burst of others' requests must not make all nodes look lost."""
    everything = {
        "verbs": ["*"],
        "apiGroups": ["*"],
        "resources": ["*"],
        "clusterScope": True,
        "namespaces": ["*"],
    }
    return {
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1",
        "kind": "FlowSchema",
        "metadata": {"name": "mlenv-kwok"},
        "spec": {
            "priorityLevelConfiguration": {"name": "system"},
            "matchingPrecedence": 500,
            "distinguisherMethod": {"type": "ByUser"},
            "rules": [
                {
                    "subjects": [{"kind": "User", "user": {"name": USER}}],
                    "resourceRules": [everything],
                }
            ],
        },
    }
