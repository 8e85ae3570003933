"""The text of every configuration file, as pure functions of the layout."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from mlenv_local import fakenodes
from mlenv_local.components import NODE_LEASE_SECONDS
from mlenv_local.layout import CLUSTER_DOMAIN
from mlenv_local.versions import PAUSE_IMAGE

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv4Network
    from pathlib import Path

    from mlenv_local.layout import Layout, Machine

# Folders that containerd, CNI and the kubelet use at fixed paths: every machine sees its own.
COVERED = ("/run", "/var/log", "/var/lib/cni", "/var/lib/kubelet")

# What the kubelet wants to find, and would otherwise set for the whole host.
KERNEL_TUNABLES = {
    "kernel/keys/root_maxbytes": 25_000_000,
    "kernel/keys/root_maxkeys": 1_000_000,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
}


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What the files depend on besides the layout: resolvers that machines can reach, and oom_score_adj."""

    resolvers: tuple[str, ...] = ()
    can_lower_oom_score: bool = True


def files(layout: Layout, facts: HostFacts, pause: Path) -> dict[Path, str]:
    """Every configuration file of the cluster by its path."""
    control = layout.control
    found = {
        control.root / "audit-policy.yaml": audit_policy(),
        control.root / "Corefile": corefile(layout, facts),
    }
    if layout.fake_nodes:
        found[control.root / "kwok.yaml"] = fakenodes.config(layout)
    for machine in layout.machines:
        found[machine.root / "init.sh"] = init_script(layout, machine, pause)
        found[machine.root / "kube-proxy.yaml"] = kube_proxy(layout, machine)
    for node in layout.nodes:
        found[node.root / "kubelet.yaml"] = kubelet(layout, node)
        found[node.root / "containerd.toml"] = containerd(layout, node, facts)
        found[node.root / "cni" / "10-mlenv.conflist"] = cni(node)
        found[node.root / "resolv.conf"] = "".join(f"nameserver {r}\n" for r in facts.resolvers)
    return found


def audit_policy() -> str:
    """Log each write once, when it is answered: who, what, and the response's code. Bodies stay out."""
    rules = [
        {"level": "None", "verbs": ["get", "list", "watch"]},
        {"level": "Metadata", "omitStages": ["RequestReceived"]},
    ]
    return _yaml({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": rules})


def corefile(layout: Layout, facts: HostFacts) -> str:
    """Cluster names come straight from the API server's watch, uncached: a gang looks for itself at once."""
    zones = f"{CLUSTER_DOMAIN} {layout.slot}.10.in-addr.arpa"
    config = layout.pki / "coredns.kubeconfig"
    cluster = f"{zones} {{\n  errors\n  kubernetes {{\n    kubeconfig {config}\n    ttl 1\n  }}\n}}\n"
    if not facts.resolvers:
        return cluster
    return f"{cluster}. {{\n  errors\n  cache 30\n  forward . {' '.join(facts.resolvers)}\n}}\n"


def kubelet(layout: Layout, node: Machine) -> str:
    """The kubelet's configuration file."""
    pki = layout.pki
    return _yaml(
        {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(pki / "ca.crt")},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": str(pki / f"{node.name}-serving.crt"),
            "tlsPrivateKeyFile": str(pki / f"{node.name}-serving.key"),
            "clusterDNS": [str(layout.control.address)],
            "clusterDomain": CLUSTER_DOMAIN,
            "resolvConf": str(node.root / "resolv.conf"),
            "containerRuntimeEndpoint": f"unix://{node.containerd_socket}",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{node.cgroup}",
            "failCgroupV1": False,
            "failSwapOn": False,
            "podLogsDir": str(node.root / "pod-logs"),
            "volumePluginDir": str(node.root / "volume-plugins"),
            "serializeImagePulls": False,
            "nodeLeaseDurationSeconds": NODE_LEASE_SECONDS,
            # How soon a running pod sees that a Secret or ConfigMap has changed; Kubernetes' own is a minute.
            "syncFrequency": "10s",
            "oomScoreAdj": 0,
            # Images came by hand and nobody can pull them again, so a full disk must not cost them.
            "imageGCHighThresholdPercent": 100,
            "evictionHard": {
                "memory.available": "100Mi",
                "nodefs.available": "1Gi",
                "imagefs.available": "1Gi",
            },
        }
    )


def kube_proxy(layout: Layout, machine: Machine) -> str:
    """kube-proxy's configuration file; zeros leave conntrack's limits, which belong to the host, alone."""
    return _yaml(
        {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "nftables",
            # It waits half a minute for a Node of its name; the control machine has none and lends one.
            "hostnameOverride": machine.name if machine.is_node else layout.nodes[0].name,
            "clientConnection": {"kubeconfig": f"{layout.pki / 'kube-proxy'}.kubeconfig"},
            "clusterCIDR": str(layout.pods),
            "detectLocalMode": "ClusterCIDR",
            "nodePortAddresses": ["primary"],
            "nftables": {"minSyncPeriod": "100ms"},
            "conntrack": {
                "maxPerCore": 0,
                "min": 0,
                "tcpEstablishedTimeout": "0s",
                "tcpCloseWaitTimeout": "0s",
            },
            "oomScoreAdj": 0,
        }
    )


def containerd(layout: Layout, node: Machine, facts: HostFacts) -> str:
    """Containerd's configuration, version 2: what Debian's 1.6 reads and 2.x still understands.

    An AppArmor profile would be loaded into the kernel, where it would outlive the cluster.
    """
    return f"""version = 2
root = "{node.root}/containerd"
state = "{node.run}/containerd"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.btrfs", \
"io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs", \
"io.containerd.snapshotter.v1.devmapper"]

[grpc]
  address = "{node.containerd_socket}"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  restrict_oom_score_adj = {str(not facts.can_lower_oom_score).lower()}
  netns_mounts_under_state_dir = true
  disable_apparmor = true

  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{layout.cni_bin}"
    conf_dir = "{node.root}/cni"
    max_conf_num = 1

  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"

    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
"""


def cni(node: Machine) -> str:
    """A bridge per node; no masquerading, so every pod is seen under its own address."""
    ipam = {
        "type": "host-local",
        "ranges": [[{"subnet": str(node.pods)}]],
        "dataDir": f"{node.run}/cni",
    }
    bridge = {"type": "bridge", "bridge": "cni0", "isDefaultGateway": True, "hairpinMode": True, "ipam": ipam}
    return json.dumps({"cniVersion": "0.4.0", "name": "mlenv", "plugins": [bridge]}, indent=2)


def init_script(layout: Layout, machine: Machine, pause: Path) -> str:
    """What a machine's first process does before it only waits.

    Folders at fixed paths, and the kernel settings that the kubelet changes, are covered by bind mounts which
    nobody outside of this machine sees.
    """
    lines = ["set -eu", "mount --make-rshared /", f"hostname {machine.name}", "ip link set lo up"]
    lines += [f"mkdir -p {machine.run} {machine.root / 'host'}"]
    for path in COVERED:
        copy = machine.root / "host" / path[1:].replace("/", "-")
        lines += [f"mkdir -p {copy}", f"mount --bind {copy} {path}"]
    for key, value in KERNEL_TUNABLES.items():
        copy = machine.root / "host" / key.replace("/", "-")
        lines += [f"echo {value} > {copy}", f"mount --bind {copy} /proc/sys/{key}"]
    lines += ["echo 1 > /proc/sys/net/ipv4/ip_forward"]
    lines += _pod_bridge(machine.pods) if machine.pods else _switch(layout)
    return "\n".join([*lines, f"touch {machine.run}/ready", f"exec {pause}", ""])


def _pod_bridge(pods: IPv4Network) -> list[str]:
    """Made here, because the CNI plugin fails when two first pods of a node make it at once."""
    return _bridge("cni0", pods[1], pods.prefixlen)


def _switch(layout: Layout) -> list[str]:
    """The control machine is also the switch; its firewall must not look at what nodes say to each other."""
    # Without br_netfilter there is no such file, and nothing to switch off.
    filtering = "/proc/sys/net/bridge/bridge-nf-call-iptables"
    switch_off = f"if [ -e {filtering} ]; then echo 0 > {filtering}; fi"
    return [*_bridge("lan", layout.control.address, layout.lan.prefixlen), switch_off]


def _bridge(name: str, address: IPv4Address, prefix: int) -> list[str]:
    """A bridge whose MAC is set, or it would change with its ports while neighbours remember the old one."""
    mac = "02:00:" + ":".join(f"{byte:02x}" for byte in address.packed)
    return [
        f"ip link add {name} address {mac} type bridge",
        f"ip addr add {address}/{prefix} dev {name}",
        f"ip link set {name} up",
    ]


def _yaml(content: dict[str, Any]) -> str:
    return str(yaml.safe_dump(content, sort_keys=False))
