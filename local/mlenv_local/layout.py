"""The shape of a local cluster as a pure value: all names, addresses and folders follow from a few fields.

A cluster is a control machine and some nodes. Each machine is a set of Linux namespaces (network, mount, pid,
uts, ipc) on this one host, so ports, firewall tables, mounts and processes of two clusters, or of two nodes,
cannot meet. Ending a machine's first process ends everything inside it.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from mlenv_local.errors import LocalError

STATE = Path("/var/lib/mlenv")
CGROUP_ROOT = "mlenv"
FIRST_SLOT = 201
LAST_SLOT = 250
MAX_NODES = 60
MAX_FAKE_NODES = 500
API_PORT = 6443
CLUSTER_DOMAIN = "cluster.local"
NAME_PATTERN = re.compile(r"[a-z]([-a-z0-9]{0,28}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine of the cluster: the control machine (index 0) or a node (index from 1)."""

    name: str
    index: int
    root: Path
    address: IPv4Address
    pods: IPv4Network | None
    cgroup: str

    @property
    def is_node(self) -> bool:
        """Whether pods run here."""
        return self.pods is not None

    @property
    def run(self) -> Path:
        """What must not outlive a power cut of this machine: sockets, task state, network namespaces."""
        return self.root / "run"

    @property
    def logs(self) -> Path:
        """One file per component, as seen from the host."""
        return self.root / "logs"

    @property
    def containerd_socket(self) -> Path:
        """Where `ctr` and the kubelet talk to this node's containerd."""
        return self.run / "containerd.sock"


@dataclass(frozen=True, slots=True)
class Layout:
    """All of a cluster that does not depend on whether it runs; slot is the second octet of 10/8."""

    name: str
    slot: int
    node_count: int
    state: Path = STATE
    cni_bin: Path = Path("/usr/lib/cni")
    egress: bool = True
    fake_gpus: int = 0
    fake_nodes: int = 0

    def __post_init__(self) -> None:
        """Refuse what would produce unusable names or addresses."""
        check_name(self.name)
        if not 1 <= self.node_count <= MAX_NODES:
            raise LocalError(f"A local cluster has 1 to {MAX_NODES} nodes, not {self.node_count}.")
        if not 0 <= self.fake_nodes <= MAX_FAKE_NODES:
            raise LocalError(f"A local cluster has 0 to {MAX_FAKE_NODES} fake nodes, not {self.fake_nodes}.")

    @property
    def root(self) -> Path:
        """The folder that holds all of this cluster, and nothing else."""
        return self.state / self.name

    @property
    def pki(self) -> Path:
        """Certificates, keys and the components' kubeconfigs."""
        return self.root / "pki"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.root / "kubeconfig"

    @property
    def journal(self) -> Path:
        """One file per process that was, or was about to be, started."""
        return self.root / "journal"

    @property
    def audit_log(self) -> Path:
        """Every write to the API server, one JSON object a line."""
        return self.control.logs / "audit.log"

    @property
    def sa_signing_key(self) -> Path:
        """The RSA key that signs service-account tokens."""
        return self.pki / "service-account.key"

    @property
    def link(self) -> str:
        """The cluster's only network interface on the host (names are limited to 15 characters)."""
        return f"ml{name_hash(self.name)}"

    @property
    def nft_table(self) -> str:
        """The cluster's only firewall table on the host."""
        return f"mlenv_{name_hash(self.name)}"

    @property
    def cgroup(self) -> str:
        """The cluster's cgroup below every controller."""
        return f"{CGROUP_ROOT}/{self.name}"

    @property
    def network(self) -> IPv4Network:
        """All addresses of the cluster."""
        return IPv4Network(f"10.{self.slot}.0.0/16")

    @property
    def lan(self) -> IPv4Network:
        """Machines, and the host as seen by them."""
        return IPv4Network(f"10.{self.slot}.0.0/20")

    @property
    def services(self) -> IPv4Network:
        """ClusterIPs."""
        return IPv4Network(f"10.{self.slot}.16.0/20")

    @property
    def pods(self) -> IPv4Network:
        """Pods of all nodes."""
        return IPv4Network(f"10.{self.slot}.64.0/18")

    @property
    def fake_node_names(self) -> tuple[str, ...]:
        """Names of the nodes that KWOK plays; they are no machines."""
        return tuple(f"fake-{i}" for i in range(1, self.fake_nodes + 1))

    @property
    def host_address(self) -> IPv4Address:
        """The host, as machines and pods reach it."""
        return self.lan[1]

    @property
    def kubernetes_service(self) -> IPv4Address:
        """The ClusterIP of `kubernetes.default`."""
        return self.services[1]

    @property
    def server(self) -> str:
        """The API server's URL, from the host and from every machine."""
        return f"https://{self.control.address}:{API_PORT}"

    @property
    def control(self) -> Machine:
        """The machine of etcd, API server, controller manager, scheduler and DNS."""
        return self._machine("control", 0)

    @property
    def nodes(self) -> tuple[Machine, ...]:
        """The machines with a kubelet."""
        return tuple(self._machine(f"node-{i}", i) for i in range(1, self.node_count + 1))

    @property
    def machines(self) -> tuple[Machine, ...]:
        """The control machine first."""
        return (self.control, *self.nodes)

    def machine(self, name: str) -> Machine:
        """Return the machine of that name, or say which there are."""
        for machine in self.machines:
            if machine.name == name:
                return machine
        known = ", ".join(m.name for m in self.machines)
        raise LocalError(f"Cluster {self.name!r} has no machine {name!r}; it has {known}.")

    def _machine(self, name: str, index: int) -> Machine:
        return Machine(
            name=name,
            index=index,
            root=self.root / name,
            address=self.lan[2] if index == 0 else self.lan[10 + index],
            pods=IPv4Network(f"10.{self.slot}.{64 + index}.0/24") if index else None,
            cgroup=f"{self.cgroup}/{name}",
        )


def check_name(name: str) -> None:
    """Raise a sentence unless the name can be part of folders, host names and socket paths."""
    if not NAME_PATTERN.fullmatch(name):
        raise LocalError(
            f"{name!r} cannot name a local cluster: use 1 to 30 characters a-z, 0-9 and '-', "
            "beginning with a letter and not ending with '-'."
        )


def name_hash(name: str) -> str:
    """Eight characters that stand for a cluster's name where space is short."""
    return hashlib.sha256(name.encode()).hexdigest()[:8]


def free_slot(taken: set[int], used: list[IPv4Network]) -> int:
    """Choose a 10.SLOT.0.0/16 that no cluster and no route of this host uses.

    Routes of 10.0.0.0/8 itself (company networks) don't count: the more specific route of the cluster wins.
    """
    for slot in range(FIRST_SLOT, LAST_SLOT + 1):
        candidate = IPv4Network(f"10.{slot}.0.0/16")
        if slot not in taken and not any(n.prefixlen > 8 and n.overlaps(candidate) for n in used):
            return slot
    raise LocalError(
        f"No network of 10.{FIRST_SLOT}.0.0/16 to 10.{LAST_SLOT}.0.0/16 is free: take a cluster down."
    )
