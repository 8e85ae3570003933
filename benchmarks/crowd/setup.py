"""The stage of a burst: a local cluster with fake nodes, and the operator under test on it."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from crowd.ports import free_ports
from crowd.usage import find
from mlenv_local import Cluster, audit, fakenodes, platform
from mlenv_local.progress import Reporter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

ROOT = Path(__file__).parents[2]
NAME = "mlenv-bench"
OURS = "mlenv_operator run"
OUR_USER = audit.OPERATOR
AGENT = "mlenv-operator/"
JOB_CONTROLLER = "kube-controller-manager"
JOB_CONTROLLER_USER = "system:serviceaccount:kube-system:job-controller"
LINES = 20
PORT = free_ports(1)[0]
"""Of an operator outside: another in every process."""


@dataclass(frozen=True)
class Operator:
    """One under test: where its processes are, and which writes are its own."""

    pids: Callable[[], list[int]]
    writes: Callable[[audit.Write], bool]


@contextmanager
def cluster(pods: int, *, keep: bool, name: str = NAME) -> Iterator[Cluster]:
    """A cluster with fake nodes for so many pods; one that was there before stays, and must be big enough."""
    found = Cluster(name, reporter=Reporter())
    was_there = found.exists()
    wanted = fake_nodes(pods)
    if was_there and found.layout.fake_nodes < wanted:
        raise SystemExit(
            f"Cluster {name} has {found.layout.fake_nodes} fake nodes, and {wanted} are needed: take it down "
            f"first (mlenv local down --name {name})."
        )
    try:
        found.up(nodes=None if was_there else 1, fake_nodes=None if was_there else wanted)
        yield found
    finally:
        if not (keep or was_there):
            found.down()


def fake_nodes(pods: int) -> int:
    """With a tenth of the places to spare, or the scheduler looks longer and longer for the last ones."""
    return max(2, math.ceil(pods * 1.1 / fakenodes.PODS_PER_NODE))


def make_namespace(found: Cluster, namespace: str) -> None:
    """Where jobs run, once it has the account that pods need: before, writes are spent on refusals."""
    found.kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    found.kubectl.wait_for_account(namespace)


def state(found: Cluster, namespace: str, plural: str) -> str:
    """Why nothing moves, as far as anybody can see it."""
    lines = found.kubectl("-n", namespace, "get", plural, "-o", "wide").splitlines()[:LINES]
    return "\n".join((*lines, platform.state(found)))


@contextmanager
def from_image(found: Cluster, namespace: str) -> Iterator[Operator]:
    """Ours, installed by its chart, one replica, running from its image as it would anywhere."""
    platform.install(found, ROOT, values={"replicas": 1}, namespaces=(namespace,))
    yield Operator(lambda: find(found, OURS), lambda write: write.user == OUR_USER)


@contextmanager
def outside(found: Cluster, namespace: str, profile: Path | None) -> Iterator[Operator]:
    """Ours as a process beside the cluster: the same program, an administrator's rights, quick to profile."""
    prepare_outside(found, namespace)
    process = start_outside(found, profile)
    found.reporter.say(f"The operator is process {process.pid}")
    try:
        yield Operator(lambda: [process.pid], is_ours)
    finally:
        process.terminate()
        process.wait(60)


def prepare_outside(found: Cluster, *namespaces: str) -> None:
    """What an operator outside needs: definitions, and namespaces for its Lease and for jobs."""
    found.kubectl("apply", "--server-side", "-f", str(ROOT / "crds"))
    for one in (*namespaces, platform.NAMESPACE):
        make_namespace(found, one)


def start_outside(found: Cluster, profile: Path | None = None) -> subprocess.Popen[bytes]:
    """The operator's process."""
    variables = {
        "KUBECONFIG": str(found.kubeconfig),
        "POD_NAMESPACE": platform.NAMESPACE,
        "POD_NAME": "bench-operator",
        "MLENV_OPERATOR_HTTP_HOST": "127.0.0.1",
        "MLENV_OPERATOR_HTTP_PORT": str(PORT),
        "MLENV_OPERATOR_LOG_LEVEL": "WARNING",
    }
    wrapped = ["-m", "cProfile", "-o", str(profile)] if profile else []
    argv = [sys.executable, *wrapped, "-m", "mlenv_operator", "run"]
    return subprocess.Popen(argv, env=os.environ | variables)


def is_ours(write: audit.Write) -> bool:
    """Whether the operator wrote it, under whatever account."""
    return write.agent.startswith(AGENT)


@contextmanager
def somebody_elses(found: Cluster, namespace: str, *, process: str, user: str) -> Iterator[Operator]:
    """An operator that is there already, known by words of its command line and by its user."""
    make_namespace(found, namespace)
    yield Operator(lambda: find(found, process), lambda write: write.user == user)


def kubernetes_own(found: Cluster, namespace: str) -> AbstractContextManager[Operator]:
    """kube-controller-manager with its Jobs; its CPU time includes its many other controllers."""
    return somebody_elses(found, namespace, process=JOB_CONTROLLER, user=JOB_CONTROLLER_USER)
