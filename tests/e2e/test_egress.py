"""A pod that cannot reach the operator: its ranks run on, and its job says what to look at."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import pytest
from live import Job, Namespace, condition

from mlenv_api import names
from mlenv_local import Cluster, Node, platform

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

COUNT = "import itertools, time; [print('step', n, flush=True) or time.sleep(1) for n in itertools.count()]"


@pytest.fixture(scope="module")
def space(installed: Cluster) -> Iterator[Namespace]:
    made = Namespace(installed, f"wall-{secrets.token_hex(3)}")
    yield made
    made.close()


@pytest.fixture
def steady(space: Namespace) -> Iterator[Job]:
    job = space.submit(
        "steady",
        launcher="MLEnv",
        trainer={"command": ["python", "-c", COUNT]},
        podTemplateOverrides={"spec": {"terminationGracePeriodSeconds": 3}},
    )
    yield job
    job.delete()
    job.until_gone()


class Wall:
    """A rule of a node's firewall that keeps one pod from the operator's port, whatever the address."""

    def __init__(self, node: Node, address: str) -> None:
        self._node, self._table = node, f"wall_{address.replace('.', '_')}"
        where = f"bridge {self._table}"
        rule = f"ip saddr {address} tcp dport {names.OPERATOR_PORT} drop"
        self._nft(
            f"add table {where}; add chain {where} c {{ type filter hook prerouting priority -300; }};"
            f" add rule {where} c {rule}"
        )

    def down(self) -> None:
        self._nft(f"delete table bridge {self._table}")

    def _nft(self, commands: str) -> None:
        self._node.run("nft", commands)


def test_a_pod_that_cannot_reach_the_operator_runs_on_and_the_job_says_what_to_look_at(
    installed: Cluster, space: Namespace, steady: Job
) -> None:
    steady.until_says("LauncherConnected", "True", "Connected")
    steady.until_phase("Running")
    (pod,) = steady.pods()
    steps = steps_of(installed, space.name)
    node = installed.node(int(pod["spec"]["nodeName"].removeprefix("node-")))
    wall = Wall(node, pod["status"]["podIP"])
    try:
        said = steady.until_says("LauncherConnected", "False", "NoHeartbeat")
    finally:
        wall.down()
    service = installed.kubectl.get("service", "mlenv-operator", "-n", platform.NAMESPACE)
    address = f"http://{service['spec']['clusterIP']}:{names.OPERATOR_PORT}"
    name = f"http://mlenv-operator.{platform.NAMESPACE}.svc:{names.OPERATOR_PORT}"
    assert said == (
        f"no heartbeat from 1 running pod, first steady-0-0: check that pods of namespace {space.name} reach"
        f" {address} and {name} (NetworkPolicy, egress), and their logs"
    )
    status = steady.until(
        lambda status: condition(status, "LauncherConnected").get("status") == "True", "recovery"
    )
    assert (status["phase"], status["attempt"]["number"]) == ("Running", 1)
    assert steps_of(installed, space.name) >= steps + 30, "ranks ran on all the time"
    assert "ranks run on" in installed.kubectl("logs", "-n", space.name, "steady-0-0")


def steps_of(cluster: Cluster, namespace: str) -> int:
    return cluster.kubectl("logs", "-n", namespace, "steady-0-0").count(" step ")
