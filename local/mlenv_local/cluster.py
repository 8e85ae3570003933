"""A real Kubernetes on this machine, as an object: `Cluster("demo").up()` returns a kubeconfig."""

from __future__ import annotations

import contextlib
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlenv_local import cgroups, host, network, store, teardown
from mlenv_local.binaries import FAKE_NODES, ensure_binaries, programs_folder
from mlenv_local.bringup import BringUp, is_ready
from mlenv_local.components import component, components
from mlenv_local.errors import LocalError
from mlenv_local.images.load import import_archive
from mlenv_local.kubectl import Kubectl
from mlenv_local.layout import STATE, Layout, check_name, free_slot
from mlenv_local.needs import cni_folder, require_needs
from mlenv_local.processes import Processes
from mlenv_local.progress import Reporter, Silent

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlenv_local.layout import Machine

# What a new cluster has unless it is told otherwise.
NEW = {"node_count": 2, "fake_gpus": 4, "fake_nodes": 0, "egress": True}


class Cluster:
    """A local cluster by name; several live side by side. All methods need root.

    Methods raise LocalError, whose text is a sentence for a person.
    """

    def __init__(self, name: str = "mlenv", *, state: Path = STATE, reporter: Reporter | None = None) -> None:
        check_name(name)
        self.name = name
        self.state = state
        self.reporter = reporter or Silent()

    @property
    def layout(self) -> Layout:
        """Names, addresses and folders; LocalError if there is no such cluster."""
        found = store.load(self.name, self.state)
        if found is None:
            raise LocalError(f"There is no local cluster {self.name!r}: start it with `mlenv local up`.")
        return found

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.layout.kubeconfig

    @property
    def audit_log(self) -> Path:
        """Every write to the API server as one JSON object a line (audit.k8s.io/v1, level Metadata)."""
        return self.layout.audit_log

    @property
    def sa_signing_key(self) -> Path:
        """The RSA key that signs service-account tokens, for tests that forge one."""
        return self.layout.sa_signing_key

    @property
    def binaries(self) -> Path:
        """The folder of the built programs; `up` builds them."""
        return programs_folder()

    @property
    def helm(self) -> Path:
        """The helm program."""
        return self.binaries / "helm"

    @property
    def kubectl(self) -> Kubectl:
        """Kubectl with the administrator's kubeconfig."""
        return Kubectl(self.kubeconfig)

    def up(
        self,
        *,
        nodes: int | None = None,
        fake_gpus: int | None = None,
        fake_nodes: int | None = None,
        egress: bool | None = None,
        consent: bool = False,
    ) -> Path:
        """Start whatever of the cluster doesn't run and return the administrator's kubeconfig.

        What is None is as the cluster has it; what differs from that is refused, as it is fixed for its life.

        Args:
            nodes: Machines with a kubelet; a new cluster has 2.
            fake_gpus: Made-up `nvidia.com/gpu` of each node; 4 in a new cluster.
            fake_nodes: Nodes that KWOK plays, for thousands of pods without processes; none in a new cluster.
            egress: Whether machines and pods may reach the world outside through the host; True in a new one.
            consent: Whether missing Debian packages may be installed.
        """
        require_needs(self.reporter, consent=consent)
        binaries = ensure_binaries(self.reporter)
        with host.locked(f"cluster-{self.name}"):
            asked = {"node_count": nodes, "fake_gpus": fake_gpus, "fake_nodes": fake_nodes, "egress": egress}
            layout = store.load(self.name, self.state) or self._create(asked)
            self._refuse_change(layout, asked)
            if layout.fake_nodes:
                ensure_binaries(self.reporter, FAKE_NODES)
            BringUp(layout, binaries, self.reporter).run()
        return layout.kubeconfig

    def down(self) -> None:
        """Leave no process, mount, network link, firewall table, cgroup or file of the cluster."""
        host.require_root()
        with host.locked(f"cluster-{self.name}"):
            teardown.tear_down(store.by_name_only(self.name, self.state))
        with host.locked("slots"):
            host.forget_last_cluster(self.state)

    def leftovers(self) -> list[str]:
        """What is on this machine under the cluster's names, in words; empty after `down`."""
        return teardown.leftovers(store.by_name_only(self.name, self.state))

    def exists(self) -> bool:
        """Whether the cluster was brought up and not taken down since."""
        return store.load(self.name, self.state) is not None

    def status(self) -> dict[str, bool]:
        """Whether each component runs, by name; empty if there is no such cluster."""
        if not self.exists():
            return {}
        processes = self._processes()
        return {c.name: processes.runs(c.name) for c in components(self.layout, self.binaries)}

    def ready_nodes(self) -> list[str]:
        """Names of the nodes that the API server believes to be Ready."""
        return [n["metadata"]["name"] for n in self.kubectl.get("nodes")["items"] if is_ready(n)]

    def load_image(self, archive: Path) -> None:
        """Import an OCI archive into every node, into all at once."""
        sockets = [node.containerd_socket for node in self.layout.nodes]
        with ThreadPoolExecutor(max_workers=min(4, len(sockets))) as pool:
            list(pool.map(import_archive, sockets, [archive] * len(sockets)))

    def node(self, index: int) -> Node:
        """Return node 1, 2 and so on."""
        return Node(self, self.layout.machine(f"node-{index}"))

    def kill_component(self, name: str) -> None:
        """SIGKILL a component (`etcd`, `kube-apiserver`, `node-1/kubelet`, …) and wait until it is gone."""
        component(self.layout, self.binaries, name)
        self._processes().kill(name)

    def kill_pod(self, uid: str) -> None:
        """SIGKILL all processes of a pod at once, as if the power was gone: nothing is told before."""
        for pid in cgroups.pids(self.layout.cgroup):
            with contextlib.suppress(OSError):  # it has just ended
                if f"pod{uid}" in Path(f"/proc/{pid}/cgroup").read_text():
                    os.kill(pid, signal.SIGKILL)

    def start_component(self, name: str) -> None:
        """Start a component that was killed; it may need some seconds to be ready."""
        self._processes().start(component(self.layout, self.binaries, name))

    def log(self, name: str) -> Path:
        """Return the log file of a component."""
        return component(self.layout, self.binaries, name).log

    def _refuse_change(self, layout: Layout, asked: Mapping[str, int | None]) -> None:
        for field, value in asked.items():
            if value not in (None, getattr(layout, field)):
                raise LocalError(
                    f"Cluster {self.name!r} has {field}={getattr(layout, field)}, not {value}: take it down "
                    f"first, with `mlenv local down --name {self.name}`."
                )

    def _create(self, asked: Mapping[str, int | None]) -> Layout:
        fields: dict[str, Any] = NEW | {field: value for field, value in asked.items() if value is not None}

        def build(taken: set[int]) -> Layout:
            return Layout(
                self.name,
                slot=free_slot(taken, host.networks_in_use()),
                state=self.state,
                cni_bin=cni_folder(),
                **fields,
            )

        with host.locked("slots"):
            return store.create(self.state, self.name, build)

    def _processes(self) -> Processes:
        return Processes(self.layout, self.binaries)


class Node:
    """One node of a running cluster, to be lost and found again in tests and demonstrations."""

    def __init__(self, cluster: Cluster, machine: Machine) -> None:
        self.cluster = cluster
        self.machine = machine

    @property
    def name(self) -> str:
        """The name of the Node object."""
        return self.machine.name

    def stop(self) -> None:
        """Cut the power: kubelet, containerd, shims and all containers are gone at once."""
        self._bring_up().processes.kill_machine(self.machine)

    def start(self) -> None:
        """Boot again with the same disk, and wait until the node is Ready."""
        bring_up = self._bring_up()
        bring_up.start_machines([self.machine])
        bring_up.start_nodes([self.machine])

    def cut(self) -> None:
        """Unplug the network; kubelet and containers live on, unheard."""
        self._port("down")

    def heal(self) -> None:
        """Plug the network in again."""
        self._port("up")

    def block(self, *destinations: str) -> None:
        """Let nothing of this node's pods through to these addresses; without any, lift it again."""
        processes = self._bring_up().processes
        processes.run_inside(self.machine, ["nft", "-f", "-"], stdin=network.block_rules(destinations))

    def run(self, *argv: str) -> str:
        """Run a command inside the node (its network, mounts and processes) and return its output."""
        return self._bring_up().processes.run_inside(self.machine, argv)

    def _port(self, state: str) -> None:
        control = self.cluster.layout.control
        self._bring_up().processes.run_inside(control, ["ip", "link", "set", self.name, state])

    def _bring_up(self) -> BringUp:
        return BringUp(self.cluster.layout, self.cluster.binaries, Silent())
