"""The chart with a ledger, on a cluster of its own: the command tells what a person adds up by hand."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from live import Namespace

from mlenv_api import names
from mlenv_local import Cluster, needs, platform
from mlenv_local.progress import Reporter

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]

ROOT = Path(__file__).parents[2]
MLENV = Path(sys.prefix) / "bin" / "mlenv"
RESTRICTED_USER = 65532
NANOS_A_SECOND = 10**6
"""Half of a machine (two of its four made-up devices) at 7.20 dollars an hour."""
FLOORS = 10
"""Nanodollars that the floors of an open hour may take, one for each row."""
BOOK = {
    "apiVersion": names.API_VERSION,
    "kind": names.PRICE_BOOK,
    "metadata": {"name": "ours"},
    "spec": {
        "source": "the rack's invoice",
        "asOf": "2025-01-01T00:00:00Z",
        "prices": [
            {
                "match": {"provider": "on-prem", "instanceType": "rack", "capacityType": "on-prem"},
                "perHour": "7.20",
                "from": "2025-01-01T00:00:00Z",
            }
        ],
    },
}


@contextmanager
def volume(cluster: Cluster) -> Iterator[str]:
    """A claim for the ledger, on a folder of this machine."""
    with tempfile.TemporaryDirectory(prefix="mlenv-ledger-") as folder:
        os.chown(folder, RESTRICTED_USER, RESTRICTED_USER)
        same = {"accessModes": ["ReadWriteOnce"], "storageClassName": ""}
        held = {**same, "capacity": {"storage": "1Gi"}, "hostPath": {"path": folder}}
        wish = {**same, "volumeName": "ledger", "resources": {"requests": {"storage": "1Gi"}}}
        meta = {"name": "ledger", "namespace": platform.NAMESPACE}
        for one in (
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": platform.NAMESPACE}},
            {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "ledger"}, "spec": held},
            {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": meta, "spec": wish},
        ):
            cluster.kubectl.apply(one)
        yield "ledger"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    missing = needs.judge(needs.look(), images=True)
    if missing:
        pytest.skip(needs.explain(missing))
    found = Cluster("mlenv-tledger", reporter=Reporter())
    found.down()
    found.up(nodes=1)
    with volume(found) as claim:
        found.kubectl("label", "--overwrite", "nodes", "--all", "node.kubernetes.io/instance-type=rack")
        ledger = {"type": "sqlite", "sqlite": {"existingClaim": claim}}
        platform.install(found, ROOT, values={"replicas": 1, "ledger": ledger})
        found.kubectl.apply(BOOK)
        yield found
        found.down()
    assert found.leftovers() == []


@pytest.fixture
def ns(cluster: Cluster) -> Iterator[Namespace]:
    made = Namespace(cluster, "ads")
    account = {"name": "mlenv-costs", "namespace": made.name}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "mlenv-costs"}
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": account,
        "roleRef": role,
        "subjects": [{"kind": "ServiceAccount", **account}],
    }
    cluster.kubectl.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account})
    cluster.kubectl.apply(binding)
    yield made
    made.close()


def told(ns: Namespace, *words: str) -> Any:
    """What `mlenv cost` tells, as JSON."""
    argv = [MLENV, "--kubeconfig", ns.cluster.kubeconfig, "-n", ns.name, "cost", *words, "-o", "json"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def submitted(ns: Namespace, body: dict[str, Any]) -> list[str]:
    """What `mlenv submit` says."""
    argv = [MLENV, "--kubeconfig", ns.cluster.kubeconfig, "-n", ns.name, "submit", "-"]
    text = json.dumps(body)
    done = subprocess.run(argv, input=text, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def by_hand(pod: dict[str, Any]) -> int:
    """Nanodollars from the moment that the pod was scheduled to its trainer's end."""
    status = pod["status"]
    scheduled = next(one for one in status["conditions"] if one["type"] == "PodScheduled")
    ended = status["containerStatuses"][0]["state"]["terminated"]["finishedAt"]
    begin, end = (datetime.fromisoformat(one) for one in (scheduled["lastTransitionTime"], ended))
    return int((end - begin).total_seconds()) * NANOS_A_SECOND


def test_the_bill_is_what_one_adds_up_by_hand(ns: Namespace, tmp_path: Path) -> None:
    trainer = {"command": ["sleep", "20"], "resourcesPerNode": {"limits": {"nvidia.com/gpu": 2}}}
    job = ns.submit("counted", trainer=trainer)
    job.until_phase("Complete")
    (pod,) = job.until_pods(
        lambda pods: not any(one["metadata"].get("finalizers") for one in pods), "release"
    )
    expected = by_hand(pod)
    deadline = time.monotonic() + 600
    # The prices may have been read after the first charge: then it is charged again.
    while (cost := int(told(ns, "counted")["costNanos"])) < expected - FLOORS and time.monotonic() < deadline:
        ns.all_pods.wait(lambda _: False, 1)
    assert expected - FLOORS <= cost <= expected
    assert expected >= 20 * NANOS_A_SECOND
    # And an estimate of the same job is at the rate of that bill.
    manifest = tmp_path / "job.json"
    spec = {"environmentRef": {"name": "local"}, "trainer": trainer, "activeDeadlineSeconds": 7200}
    manifest.write_text(json.dumps({"metadata": {"name": "counted"}, "spec": spec}))
    estimate = told(ns, "estimate", str(manifest), "--for", "1h")
    assert estimate["durations"][0]["costNanos"] == str(3600 * NANOS_A_SECOND), estimate
    assert estimate["options"][estimate["assumed"]]["inCluster"]
    # Whoever submits it is told as well, unless the machine is so busy that no answer comes soon.
    line = "It will cost about $3.60 an hour on rack; at most $7.20 by its deadline, 2 h."
    for number in itertools.count():
        body = {"metadata": {"name": f"again-{number}"}, "spec": {**spec, "suspend": True}}
        said = submitted(ns, body)
        if line in said:
            break
        assert time.monotonic() < deadline, said
