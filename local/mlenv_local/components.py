"""The argument vector of every component, as pure functions of the layout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlenv_local.binaries import FAKE_NODES, beside
from mlenv_local.errors import LocalError
from mlenv_local.layout import API_PORT

if TYPE_CHECKING:
    from pathlib import Path

    from mlenv_local.layout import Layout, Machine

# A lost node is noticed within this; its lease lives a little shorter. Kubernetes' own default is 50 s.
NODE_GRACE_SECONDS = 24
NODE_LEASE_SECONDS = 20


@dataclass(frozen=True, slots=True)
class Component:
    """A long-running program on one of the machines."""

    name: str
    machine: Machine
    argv: tuple[str, ...]

    @property
    def log(self) -> Path:
        """What it writes to its standard output and error."""
        return self.machine.logs / f"{self.name.split('/')[-1]}.log"


def control_plane(layout: Layout, binaries: Path) -> tuple[Component, ...]:
    """The components of the control machine, in the order in which they start."""
    vectors = {
        "etcd": _etcd(layout),
        "kube-apiserver": _api_server(layout),
        "kube-controller-manager": _controller_manager(layout),
        "kube-scheduler": _scheduler(layout),
        "coredns": ("-conf", str(layout.control.root / "Corefile")),
    }
    control = layout.control
    started = tuple(Component(name, control, (str(binaries / name), *argv)) for name, argv in vectors.items())
    return (*started, _kube_proxy(control, binaries))


def node_components(layout: Layout, node: Machine, binaries: Path) -> tuple[Component, ...]:
    """The components of a node, in the order in which they start."""
    containerd = ("containerd", "--config", str(node.root / "containerd.toml"))
    kubelet = (
        str(binaries / "kubelet"),
        f"--config={node.root / 'kubelet.yaml'}",
        f"--kubeconfig={layout.pki / node.name}.kubeconfig",
        f"--root-dir={node.root / 'kubelet'}",
        f"--hostname-override={node.name}",
        f"--node-ip={node.address}",
        f"--node-labels={','.join(f'{k}={v}' for k, v in node_labels(node).items())}",
    )
    return (
        Component(f"{node.name}/containerd", node, containerd),
        Component(f"{node.name}/kubelet", node, kubelet),
        _kube_proxy(node, binaries),
    )


def fake_node_components(layout: Layout, binaries: Path) -> tuple[Component, ...]:
    """What plays the fake nodes, where some are wanted."""
    if not layout.fake_nodes:
        return ()
    control = layout.control
    argv = (
        "env",
        f"HOME={control.root}",  # it also reads ~/.kwok, where a user may keep clusters of his own
        str(beside(binaries, FAKE_NODES) / "kwok"),
        f"--kubeconfig={layout.pki / 'kwok'}.kubeconfig",
        f"--config={control.root / 'kwok.yaml'}",
        "--v=WARN",
    )
    return (Component("kwok", control, argv),)


def node_labels(node: Machine) -> dict[str, str]:
    """What a cloud would say about the node."""
    return {
        "node.kubernetes.io/instance-type": "mlenv-local.gpu",
        "topology.kubernetes.io/region": "local",
        "topology.kubernetes.io/zone": f"local-{'ba'[node.index % 2]}",
    }


def components(layout: Layout, binaries: Path) -> tuple[Component, ...]:
    """Everything that runs when the cluster is up."""
    nodes = [c for node in layout.nodes for c in node_components(layout, node, binaries)]
    return (*control_plane(layout, binaries), *nodes, *fake_node_components(layout, binaries))


def component(layout: Layout, binaries: Path, name: str) -> Component:
    """Return the component of that name (`etcd`, `node-1/kubelet`), or say which there are."""
    known = {c.name: c for c in components(layout, binaries)}
    if name not in known:
        raise LocalError(f"Cluster {layout.name!r} has no component {name!r}; it has {', '.join(known)}.")
    return known[name]


def _etcd(layout: Layout) -> tuple[str, ...]:
    # Loopback of the control machine: neither pods nor the host can reach it. Without fsync a power cut may
    # lose the cluster's state, which a throw-away cluster trades for starting in a second.
    return (
        f"--data-dir={layout.control.root / 'etcd'}",
        "--listen-client-urls=http://127.0.0.1:2379",
        "--advertise-client-urls=http://127.0.0.1:2379",
        "--listen-peer-urls=http://127.0.0.1:2380",
        "--unsafe-no-fsync",
        "--log-level=warn",
    )


def _api_server(layout: Layout) -> tuple[str, ...]:
    pki = layout.pki
    return (
        f"--advertise-address={layout.control.address}",
        f"--secure-port={API_PORT}",
        "--etcd-servers=http://127.0.0.1:2379",
        f"--service-cluster-ip-range={layout.services}",
        "--allow-privileged=true",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction,OwnerReferencesPermissionEnforcement",
        f"--client-ca-file={pki / 'ca.crt'}",
        f"--tls-cert-file={pki / 'kube-apiserver.crt'}",
        f"--tls-private-key-file={pki / 'kube-apiserver.key'}",
        f"--kubelet-certificate-authority={pki / 'ca.crt'}",
        f"--kubelet-client-certificate={pki / 'kubelet-client.crt'}",
        f"--kubelet-client-key={pki / 'kubelet-client.key'}",
        "--kubelet-preferred-address-types=InternalIP",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={pki / 'service-account.pub'}",
        f"--service-account-signing-key-file={pki / 'service-account.key'}",
        f"--audit-policy-file={layout.control.root / 'audit-policy.yaml'}",
        f"--audit-log-path={layout.audit_log}",
        "--audit-log-maxsize=500",
        "--audit-log-maxbackup=2",
        "--profiling=false",
    )


def _controller_manager(layout: Layout) -> tuple[str, ...]:
    pki = layout.pki
    config = f"{pki / 'kube-controller-manager'}.kubeconfig"
    return (
        f"--kubeconfig={config}",
        f"--authentication-kubeconfig={config}",
        f"--authorization-kubeconfig={config}",
        "--bind-address=127.0.0.1",
        # There is one; an overloaded laptop that misses a renewal must not lose it.
        "--leader-elect=false",
        "--use-service-account-credentials=true",
        f"--service-account-private-key-file={pki / 'service-account.key'}",
        f"--root-ca-file={pki / 'ca.crt'}",
        f"--cluster-signing-cert-file={pki / 'ca.crt'}",
        f"--cluster-signing-key-file={pki / 'ca.key'}",
        # Pods of a gang come at once: otherwise each of them is a write of its own, by each controller.
        "--endpoint-updates-batch-period=1s",
        "--endpointslice-updates-batch-period=1s",
        "--node-monitor-period=2s",
        f"--node-monitor-grace-period={NODE_GRACE_SECONDS}s",
        *_client_limits(layout),
    )


def _scheduler(layout: Layout) -> tuple[str, ...]:
    config = f"{layout.pki / 'kube-scheduler'}.kubeconfig"
    return (
        f"--kubeconfig={config}",
        f"--authentication-kubeconfig={config}",
        f"--authorization-kubeconfig={config}",
        "--bind-address=127.0.0.1",
        "--leader-elect=false",
        *_client_limits(layout),
    )


def _client_limits(layout: Layout) -> tuple[str, ...]:
    """By default the scheduler binds 50 pods a second at most, and the controllers write 20 objects.

    That is for clusters whose nodes are real. With fake ones it would be all that a benchmark sees.
    """
    return ("--kube-api-qps=1000", "--kube-api-burst=1000") if layout.fake_nodes else ()


def _kube_proxy(machine: Machine, binaries: Path) -> Component:
    argv = (str(binaries / "kube-proxy"), f"--config={machine.root / 'kube-proxy.yaml'}")
    return Component(f"{machine.name}/kube-proxy", machine, argv)
