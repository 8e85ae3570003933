"""What a fresh API server must be told before nodes and DNS work, as manifests."""

from __future__ import annotations

from typing import Any

_RBAC = "rbac.authorization.k8s.io"


def manifests() -> list[dict[str, Any]]:
    """Roles and bindings of the cluster's own components."""
    return [
        # `kubectl logs` and `exec`: the API server asks kubelets under this name.
        _binding("mlenv:apiserver-kubelet", "system:kubelet-api-admin", "mlenv:apiserver"),
        _coredns_role(),
        _binding("mlenv:coredns", "mlenv:coredns", "mlenv:coredns"),
        # Machines without a Node still run kube-proxy under the one user name all kube-proxies share.
        _binding("mlenv:kube-proxy", "system:node-proxier", "system:kube-proxy"),
    ]


def _coredns_role() -> dict[str, Any]:
    verbs = ["list", "watch"]
    return {
        "apiVersion": f"{_RBAC}/v1",
        "kind": "ClusterRole",
        "metadata": {"name": "mlenv:coredns"},
        "rules": [
            {"apiGroups": [""], "resources": ["services", "namespaces", "pods"], "verbs": verbs},
            {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": verbs},
        ],
    }


def _binding(name: str, role: str, user: str) -> dict[str, Any]:
    return {
        "apiVersion": f"{_RBAC}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": _RBAC, "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": _RBAC, "kind": "User", "name": user}],
    }
