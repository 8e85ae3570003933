"""Bringing a cluster up, step by step; every step does only what is missing, so it also repairs."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

from mlenv_local import bootstrap, cgroups, configs, fakenodes, host, network, pki
from mlenv_local.components import control_plane, fake_node_components, node_components
from mlenv_local.errors import LocalError
from mlenv_local.images.load import import_archive
from mlenv_local.images.pause import pause_archive
from mlenv_local.kubectl import Kubectl
from mlenv_local.processes import Processes, tail
from mlenv_local.shell import run, succeeds, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from mlenv_local.components import Component
    from mlenv_local.layout import Layout, Machine
    from mlenv_local.progress import Reporter

API_SECONDS = 120
NODE_SECONDS = 120
GPU = "nvidia.com/gpu"
# What must run before the API server answers; the rest would only fail and try again.
FIRST = ("etcd", "kube-apiserver")


class BringUp:
    """The steps from a stored layout to Ready nodes."""

    def __init__(self, layout: Layout, binaries: Path, reporter: Reporter) -> None:
        self.layout = layout
        self.binaries = binaries
        self.reporter = reporter
        self.processes = Processes(layout, binaries)
        self.kubectl = Kubectl(layout.kubeconfig)

    def run(self) -> None:
        """Do everything that is missing."""
        with self.reporter.step("Certificates and configuration"):
            self.write_files()
        with self.reporter.step(f"Machines: control and {self.layout.node_count} nodes"):
            self.start_machines(self.layout.machines)
        with self.reporter.step("etcd and API server"):
            self.start_control_plane()
        with self.reporter.step("Nodes"):
            self.start_nodes(self.layout.nodes)
            self._await("no service account came", self._takes_pods, API_SECONDS, self._control)
        if self.layout.fake_nodes:
            with self.reporter.step(f"Fake nodes: {self.layout.fake_nodes}"):
                self.start_fake_nodes()

    def write_files(self) -> None:
        """Write certificates once, and configuration files always."""
        pki.write_pki(self.layout)
        host.give_to_caller(self.layout.kubeconfig)
        for path, text in configs.files(self.layout, host.facts(), self.binaries / "pause").items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def start_machines(self, machines: Sequence[Machine]) -> None:
        """Start the machines that don't run and plug them in."""
        host.make_covered_folders()
        for machine in machines:
            cgroups.create(machine.cgroup)
            if not self.processes.machine_runs(machine) and machine.run.exists():
                shutil.rmtree(machine.run)  # as a reboot empties /run
        self.processes.start_machines(machines)
        self._plug_host()
        for node in (m for m in machines if m.is_node):
            self._plug_node(node)

    def start_control_plane(self) -> None:
        """Start etcd and API server, beside them the nodes' containerd, and wait for an answer."""
        first = [part for part in self._control if part.name in FIRST]
        runtimes = [node_components(self.layout, node, self.binaries)[0] for node in self.layout.nodes]
        for part in (*first, *runtimes):
            self.processes.start(part)
        self._await("kube-apiserver did not become ready", self._api_is_ready, API_SECONDS, first)
        self.kubectl.apply(*bootstrap.manifests())
        for part in self._control:
            self.processes.start(part)

    def start_nodes(self, nodes: Sequence[Machine]) -> None:
        """Start what runs on the nodes and wait until each is Ready and carries its made-up GPUs."""
        started: list[Component] = []
        for node in nodes:
            runtime, *rest = node_components(self.layout, node, self.binaries)
            self.processes.start(runtime)
            self._await(f"{runtime.name} did not open its socket", _has_socket(node), NODE_SECONDS, [runtime])
            import_archive(node.containerd_socket, pause_archive(self.binaries))
            for part in rest:
                self.processes.start(part)
            started += [runtime, *rest]
        names = {node.name for node in nodes}
        self._await("a node did not register", lambda: names <= set(self._nodes()), NODE_SECONDS, started)
        for name in names:
            self._add_gpus(name)
        self._await("a node did not become Ready", lambda: self._are_ready(names), NODE_SECONDS, started)

    def start_fake_nodes(self) -> None:
        """Start KWOK, make the nodes that are missing, and wait until all that are not lost are Ready."""
        self.kubectl.apply(*fakenodes.rights())
        kwok = fake_node_components(self.layout, self.binaries)
        for part in kwok:
            if not self.processes.runs(part.name):
                self._free_leases()
            self.processes.start(part)
        wanted, present = set(self.layout.fake_node_names), set(self._nodes())
        missing = fakenodes.nodes(self.layout, wanted - present)
        if missing:
            listing = {"apiVersion": "v1", "kind": "List", "items": missing}
            # Not applied: that would leave the status out, and with it what the node has.
            self.kubectl("create", "-f", "-", stdin=json.dumps(listing), timeout=API_SECONDS)
        lost = {name for name, node in self._nodes().items() if fakenodes.is_lost(node)}
        ready = wanted - lost
        self._await("a fake node did not become Ready", lambda: self._are_ready(ready), NODE_SECONDS, kwok)

    def _free_leases(self) -> None:
        """A KWOK that died has left Leases under its own name; the next one would wait until they run out."""
        place = f"--namespace={fakenodes.LEASES}"
        options = ("--ignore-not-found", "--wait=false")
        self.kubectl("delete", "leases", place, *options, *self.layout.fake_node_names, timeout=API_SECONDS)

    @property
    def _control(self) -> tuple[Component, ...]:
        return control_plane(self.layout, self.binaries)

    def _plug_host(self) -> None:
        layout = self.layout
        if not self._has_link(layout.control, network.HOST_PORT):
            # The other end of a cable lives on for a moment after the machine it led to is dead.
            if host.link_exists(layout):
                succeeds(["ip", "link", "delete", layout.link])
            cable = network.host_cable(layout, self.processes.machine_pid(layout.control))
            run(["ip", "-batch", "-"], stdin=cable)
        self._ip(layout.control, network.control_setup(layout))
        run(["ip", "-batch", "-"], stdin=network.host_setup(layout))
        if layout.egress:
            host.open_egress(layout)

    def _plug_node(self, node: Machine) -> None:
        control, pid = self.layout.control, self.processes.machine_pid(node)
        if not self._has_link(node, "eth0"):
            if self._has_link(control, node.name):
                succeeds(self.processes.inside(control, ["ip", "link", "delete", node.name]))
            cable = network.node_cable(node, pid, self.processes.machine_pid(control))
            run(["ip", "-batch", "-"], stdin=cable)
        self._ip(control, network.node_port(node))
        self._ip(node, network.node_setup(self.layout, node))

    def _has_link(self, machine: Machine, name: str) -> bool:
        links = self.processes.run_inside(machine, ["ip", "-json", "link"])
        return name in {link["ifname"] for link in json.loads(links)}

    def _ip(self, machine: Machine, batch: str) -> None:
        self.processes.run_inside(machine, ["ip", "-batch", "-"], stdin=batch)

    def _api_is_ready(self) -> bool:
        try:
            return self.kubectl("get", "--raw=/readyz", "--request-timeout=5s") == "ok"
        except LocalError:
            return False

    def _takes_pods(self) -> bool:
        """Pods are refused until the controller manager has made their service account."""
        return "default" in self.kubectl("get", "serviceaccounts", "--namespace=default", "--output=name")

    def _nodes(self) -> dict[str, dict[str, Any]]:
        return {node["metadata"]["name"]: node for node in self.kubectl.get("nodes")["items"]}

    def _are_ready(self, names: set[str]) -> bool:
        nodes = self._nodes()
        return all(is_ready(nodes.get(name, {})) for name in names)

    def _add_gpus(self, node: str) -> None:
        """Advertise made-up GPUs; the kubelet leaves extended resources that it doesn't know alone."""
        if self.layout.fake_gpus:
            amount = {GPU: str(self.layout.fake_gpus)}
            patch = json.dumps({"status": {"capacity": amount, "allocatable": amount}})
            self.kubectl("patch", "node", node, "--subresource=status", "--type=merge", f"--patch={patch}")

    def _await(
        self, problem: str, ready: Callable[[], bool], seconds: float, needed: Iterable[Component]
    ) -> None:
        parts = list(needed)

        def look() -> bool:
            for part in parts:
                self.processes.require(part)
            return ready()

        if not wait_until(look, seconds=seconds, interval=0.2):
            logs = "".join(f"\n  {p.log}: {' / '.join(tail(p.log, 2))}" for p in parts)
            raise LocalError(f"Cluster {self.layout.name!r}: {problem} within {seconds:.0f} s. Logs:{logs}")


def is_ready(node: dict[str, Any]) -> bool:
    """Whether the Node object says that it is Ready."""
    conditions = node.get("status", {}).get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def _has_socket(node: Machine) -> Callable[[], bool]:
    return node.containerd_socket.exists
