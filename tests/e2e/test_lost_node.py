"""A node loses its power: the gang goes on elsewhere, and the node finds nothing to hold when it is back."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import pytest
from live import Namespace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlenv_local import Cluster
    from mlenv_local.cluster import Node

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

DETECTED = 600.0
"""Seconds. Kubernetes takes half a minute to taint the node, and a launcher counts as silent after a minute;
if the leading operator was on that node, the next one begins to listen only then."""


@pytest.fixture
def node(installed: Cluster) -> Iterator[Node]:
    found = installed.node(2)
    yield found
    found.start()


@pytest.fixture
def ns(node: Node) -> Iterator[Namespace]:
    found = Namespace(node.cluster, f"lost-{secrets.token_hex(3)}")
    yield found
    node.start()
    found.close()


def test_a_lost_node_costs_an_attempt_and_no_budget(node: Node, ns: Namespace) -> None:
    job = ns.sleeper(
        "lost",
        launcher="MLEnv",
        podTemplateOverrides={"spec": {"affinity": _rather(node.name)}},
        failurePolicy={"maxRestarts": 0},
    )
    other = ns.sleeper("elsewhere", podTemplateOverrides={"spec": {"nodeSelector": _name("node-1")}})
    before = job.until_phase("Running")
    assert before["nodes"]["names"] == [node.name]
    untouched = other.until_phase("Running")["attempt"]
    node.stop()
    status = job.until(
        lambda seen: seen["phase"] == "Running" and seen["attempt"]["number"] == 2, "second attempt", DETECTED
    )
    assert status["nodes"]["names"] == ["node-1"]
    assert status["incarnations"] == [1]
    assert status["restarts"] == {"total": 1, "counted": 0, "withoutProgress": 1}
    assert status["attempts"][0]["reason"] == "NodeLost"
    assert node.name in status["attempts"][0]["message"]
    assert other.status()["attempt"] == untouched
    node.start()
    (pod,) = job.until_pods(lambda pods: len(pods) == 1, "end of the pod on the node that was lost")
    assert pod["metadata"]["name"] == "lost-0-1"
    assert job.status()["attempt"] == status["attempt"]


def _name(node: str) -> dict[str, str]:
    return {"kubernetes.io/hostname": node}


def _rather(node: str) -> dict[str, object]:
    """On this node as long as it is there."""
    match = {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}
    term = {"weight": 100, "preference": {"matchExpressions": [match]}}
    return {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [term]}}
