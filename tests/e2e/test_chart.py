"""The chart's life on a cluster of its own: install, upgrade, roll back, test, and remove in any state."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mlenv_api import names
from mlenv_local import Cluster, LocalError, needs, platform
from mlenv_local.images.runtime import host_runtime
from mlenv_local.progress import Reporter
from mlenv_local.shell import run, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[2]
KINDS = (names.TRAINING_JOBS, names.ENVIRONMENTS, names.CLUSTER_ENVIRONMENTS)
SYSTEM = platform.NAMESPACE
JOBS = {
    "running": {
        "trainer": {"command": ["sleep", "600"], "numNodes": 2},
        "podTemplateOverrides": {"spec": {"terminationGracePeriodSeconds": 1}},  # sleep hears no SIGTERM
    },
    "complete": {"trainer": {"command": ["true"]}},
    "suspended": {"trainer": {"command": ["true"]}, "suspend": True},
    "assembling": {
        "trainer": {
            "command": ["true"],
            "resourcesPerNode": {"limits": {"example.com/none": 1}},
        }
    },
}
PHASES = {
    "running": "Running",
    "complete": "Complete",
    "suspended": "Suspended",
    "assembling": "Assembling",
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    missing = needs.judge(needs.look(), images=True)
    if missing:
        pytest.skip(needs.explain(missing))
    found = Cluster("mlenv-tchart", reporter=Reporter())
    found.down()
    found.up(nodes=1)
    yield found
    found.down()
    assert found.leftovers() == []


@pytest.fixture(scope="module")
def values(cluster: Cluster) -> dict[str, Any]:
    tag = platform.load_images(cluster, ROOT)
    return platform.chart_values(host_runtime(), tag, {})


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """A namespace for jobs, which can be deleted in the end: nothing may hold it."""
    labels = {"pod-security.kubernetes.io/enforce": "privileged"}
    metadata = {"name": "chart", "labels": labels}
    cluster.kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
    yield "chart"
    cluster.kubectl("delete", "namespace", "chart", "--timeout=300s", timeout=330)


def helm(cluster: Cluster, *args: str, values: dict[str, Any] | None = None) -> str:
    argv = [
        str(cluster.helm),
        f"--kubeconfig={cluster.kubeconfig}",
        *args,
        f"--namespace={SYSTEM}",
    ]
    if values is None:
        return run(argv, timeout=400)
    return run([*argv, "--create-namespace", "--values=-"], stdin=json.dumps(values), timeout=400)


def install(cluster: Cluster, values: dict[str, Any], *args: str) -> None:
    helm(cluster, "upgrade", "--install", platform.RELEASE, str(ROOT / platform.CHART), *args, values=values)


def remove(cluster: Cluster) -> None:
    helm(cluster, "uninstall", platform.RELEASE)


def uid(cluster: Cluster, name: str) -> str:
    return str(cluster.kubectl.get(names.CLUSTER_ENVIRONMENTS, name)["metadata"]["uid"])


def start_jobs(cluster: Cluster, namespace: str) -> None:
    for name, spec in JOBS.items():
        manifest = {
            "apiVersion": names.API_VERSION,
            "kind": names.TRAINING_JOB,
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"environmentRef": {"name": "local"}, "launcher": "None", **spec},
        }
        cluster.kubectl.apply(manifest)
    for name, phase in PHASES.items():
        argument = f"--for=jsonpath={{.status.phase}}={phase}"
        cluster.kubectl("wait", argument, "-n", namespace, f"tj/{name}", "--timeout=300s", timeout=330)


def remains(cluster: Cluster) -> list[str]:
    """Whatever the chart or its operator made and that is still there, CRDs and jobs aside."""
    ours = ("-l", f"{names.LABEL_MANAGED_BY}={names.LABEL_MANAGED_BY_VALUE}")
    release = ("-l", f"app.kubernetes.io/instance={platform.RELEASE}")
    kinds = "deployment,replicaset,job,pod,service,serviceaccount,role,rolebinding,poddisruptionbudget"
    found = cluster.kubectl("get", kinds, "-A", *release, "-o", "name").split()
    found += cluster.kubectl("get", "clusterrole,clusterrolebinding", *release, "-o", "name").split()
    found += cluster.kubectl("get", "lease", "-n", SYSTEM, "-o", "name").split()
    found += cluster.kubectl(
        "get", "secret,configmap", "-n", SYSTEM, "-l", "owner=helm", "-o", "name"
    ).split()
    return found + cluster.kubectl("get", "service,controllerrevision", "-A", *ours, "-o", "name").split()


def until_empty(look: Callable[[], list[str]]) -> None:
    wait_until(lambda: not look(), seconds=300, interval=0.5)
    assert look() == []


def pods(cluster: Cluster, namespace: str) -> list[str]:
    return cluster.kubectl("get", "pods", "-n", namespace, "-o", "name").split()


def finalizers(cluster: Cluster, namespace: str) -> list[str]:
    found = cluster.kubectl.get("pods", "-n", namespace)["items"]
    return [word for pod in found for word in pod["metadata"].get("finalizers", ())]


def delete_crds(cluster: Cluster) -> None:
    cluster.kubectl("delete", "crd", "--ignore-not-found", *(f"{kind}.{names.GROUP}" for kind in KINDS))


def test_environments_come_with_the_first_install_and_live_through_upgrades(
    cluster: Cluster, values: dict[str, Any]
) -> None:
    install(cluster, values)  # without --wait: nothing has waited for the CRDs
    first = uid(cluster, "local")
    extra = {**values["environments"][0], "name": "extra"}
    install(cluster, {**values, "environments": [*values["environments"], extra]}, "--wait")
    assert uid(cluster, "local") == first, "the upgrade adopts the object, and does not make it anew"
    assert uid(cluster, "extra")
    install(cluster, values, "--wait")
    with pytest.raises(LocalError, match="not found"):
        uid(cluster, "extra")
    helm(cluster, "test", platform.RELEASE)
    helm(cluster, "rollback", platform.RELEASE, "1", "--wait")
    assert uid(cluster, "local")
    remove(cluster)
    until_empty(lambda: remains(cluster))
    assert cluster.kubectl.get(names.CLUSTER_ENVIRONMENTS)["items"] == []
    delete_crds(cluster)


def test_removed_at_once_after_the_first_install(cluster: Cluster, values: dict[str, Any]) -> None:
    install(cluster, values)
    remove(cluster)
    until_empty(lambda: remains(cluster))
    assert cluster.kubectl.get(names.CLUSTER_ENVIRONMENTS)["items"] == []
    delete_crds(cluster)


def test_removed_with_jobs_in_every_state_the_jobs_stay_and_hold_nothing(
    cluster: Cluster, values: dict[str, Any], namespace: str
) -> None:
    install(cluster, values, "--wait")
    start_jobs(cluster, namespace)
    assert finalizers(cluster, namespace)
    remove(cluster)
    assert finalizers(cluster, namespace) == []
    kept = cluster.kubectl.get(names.TRAINING_JOBS, "-n", namespace)["items"]
    assert {job["metadata"]["name"]: job["status"]["phase"] for job in kept} == PHASES
    # A new release takes the jobs over where they are.
    install(cluster, values, "--wait")
    cluster.kubectl("delete", "tj", "--all", "-n", namespace, "--timeout=300s", timeout=330)
    until_empty(lambda: pods(cluster, namespace))
    remove(cluster)
    delete_crds(cluster)
    until_empty(lambda: remains(cluster))


def test_removed_with_its_definitions_everything_goes(
    cluster: Cluster, values: dict[str, Any], namespace: str
) -> None:
    install(cluster, {**values, "crds": {"keep": False}}, "--wait")
    start_jobs(cluster, namespace)
    remove(cluster)
    until_empty(lambda: pods(cluster, namespace))
    until_empty(lambda: remains(cluster))
    assert names.GROUP not in cluster.kubectl("get", "crd", "-o", "name")
