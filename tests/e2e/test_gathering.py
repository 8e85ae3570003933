"""Gangs that do not come together at once: no room, a quota, a rule; and what the operator writes."""

from __future__ import annotations

import re
import secrets
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest
from live import SLEEP, Namespace, RefusedError, condition
from scenarios import Scenarios, chosen

from mlenv_local import platform
from mlenv_local.audit import AuditLog
from mlenv_local.shell import wait_until
from mlenv_operator.adapters.pace import PROGRESS_S

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future

    from live import Job, Raw

    from mlenv_local import Cluster

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

scenario: Scenarios[Cluster] = Scenarios()
ADMISSION = "/apis/admissionregistration.k8s.io/v1"
SYSTEM_PODS = f"/api/v1/namespaces/{platform.NAMESPACE}/pods"
MAX_RSS = 150e6
WHOLE_NODE = {"limits": {"nvidia.com/gpu": 4}}
"""All that the local cluster's nodes pretend to have."""


@pytest.fixture(scope="module")
def gangs(installed: Cluster, request: pytest.FixtureRequest) -> Iterator[dict[str, Future[None]]]:
    with scenario.running(installed, chosen(request, "name")) as futures:
        yield futures


@scenario
def no_room_all_is_released_until_there_is(cluster: Cluster) -> None:
    """Whose turn it is among several is the core's to decide, and tested there: here jitter would decide."""
    with _namespace(cluster) as ns:
        holder = _whole_cluster(ns, "holder", 3600)
        holder.until_phase("Running")
        waits = _whole_cluster(ns, "waits", 20)  # in which pods must also start, once there is room
        _was_released(waits)
        holder.delete()
        holder.until_gone()
        status = waits.until_phase("Running")
        assert status["attempt"]["number"] == 1, "no world was formed before, so it is still the first"
        assert status["restarts"]["total"] == 0
        assert set(status["incarnations"]) == {status["incarnations"][0]} != {0}


@scenario
def a_full_quota_is_waited_for(cluster: Cluster) -> None:
    with _namespace(cluster) as ns:
        path = f"/api/v1/namespaces/{ns.name}/resourcequotas"
        ns.api.create(path, {"metadata": {"name": "small"}, "spec": {"hard": {"pods": "1"}}})
        job = ns.sleeper("eager", 2)
        message = job.until_says("PodsReady", "False", "QuotaExceeded")
        assert "exceeded quota: small" in message
        assert "ask for less" in message
        assert condition(job.status(), "Stalled")["status"] == "False"
        ns.api.patch(f"{path}/small", {"spec": {"hard": {"pods": "2"}}})
        status = job.until_phase("Running")
        assert status["incarnations"] == [0, 0]


@scenario
def an_account_that_is_made_a_moment_later_is_waited_for(cluster: Cluster) -> None:
    """As in a namespace that is made together with its jobs: Kubernetes makes its account a moment later."""
    with _namespace(cluster) as ns:
        job = ns.sleeper("early", 2, podTemplateOverrides={"spec": {"serviceAccountName": "late"}})
        message = job.until_says("PodsReady", "False", "ServiceAccountNotFound")
        assert f"{ns.name}/late" in message
        assert "create any other, or name one that exists" in message
        assert condition(job.status(), "Stalled")["status"] == "False"
        ns.api.create(f"/api/v1/namespaces/{ns.name}/serviceaccounts", {"metadata": {"name": "late"}})
        job.until_phase("Running")


@scenario
def what_pod_security_forbids_is_said_and_done_once_it_is_allowed(cluster: Cluster) -> None:
    with _namespace(cluster, security="restricted") as ns:
        job = ns.sleeper("strict", 2)  # the environment of this machine mounts its folders
        message = job.until_says("Stalled", "True", "PodSecurityViolation")
        assert "hostPath" in message
        assert "pod security level" in message
        assert job.pods() == []
        label = {"pod-security.kubernetes.io/enforce": "privileged"}
        ns.api.patch(f"/api/v1/namespaces/{ns.name}", {"metadata": {"labels": label}})
        _suspend_and_resume(job)
        status = job.until_phase("Running")
        assert condition(status, "Stalled")["status"] == "False"


@scenario
def what_a_policy_forbids_is_said_and_done_once_it_is_allowed(cluster: Cluster) -> None:
    with _namespace(cluster) as ns:
        rule = f"no-gangs-{ns.name}"
        _forbid_pods(ns, rule)
        try:
            job = ns.sleeper("banned", 2)
            message = job.until_says("Stalled", "True", "RejectedByWebhook")
            assert "no gangs on Sundays" in message
        finally:
            _allow_pods(ns, rule)
        _suspend_and_resume(job)
        job.until_phase("Running")


@scenario
def few_writes_until_it_runs(cluster: Cluster) -> None:
    with _namespace(cluster) as ns:
        for nodes, launcher in ((4, "None"), (1, "MLEnv")):
            log = AuditLog(cluster.audit_log)
            job = ns.sleeper(f"thrifty-{launcher.lower()}", nodes, launcher=launcher)
            job.until_phase("Running")
            job.until_seen(job.edit(failurePolicy={"maxRestarts": 2}))  # all before this has been written
            written = [one for one in log.writes() if one.namespace == ns.name]
            *until_running, _ = written
            seconds = (until_running[-1].time - written[0].time).total_seconds()
            # On a slow cluster, how many pods are ready is told now and then.
            numbers = int(seconds // PROGRESS_S)
            assert sum(one.resource == "pods" for one in written) == nodes
            assert len(until_running) <= nodes + 5 + numbers, "\n".join(map(str, written))
            job.delete()
            job.until_gone()


@pytest.mark.parametrize("name", scenario.names)
def test_gang(gangs: dict[str, Future[None]], name: str) -> None:
    gangs[name].result()


def test_deleted_while_the_operator_is_away(installed: Cluster) -> None:
    with _namespace(installed) as ns:
        jobs = [ns.sleeper("orphan", 2), ns.sleeper("kept", launcher="MLEnv")]
        for job in jobs:
            job.until_phase("Running")
        before = jobs[1].status()["attempt"], jobs[1].uids()
        _scale(ns, 0)
        try:
            jobs[0].delete()
            late = ns.submit("late", trainer={"command": ["true"]})
        finally:
            _scale(ns, 2)
        jobs[0].until_gone()
        late.until_phase("Complete")
        jobs[1].until_seen(jobs[1].edit(ttlSecondsAfterFinished=1))
        assert (jobs[1].status()["attempt"], jobs[1].uids()) == before
        jobs[1].edit(activeDeadlineSeconds=1)
        jobs[1].until_gone()


def test_the_operator_at_rest_is_small(installed: Cluster) -> None:
    with _namespace(installed) as ns:
        for pod in _operators(ns):
            page = ns.api.text("GET", f"{SYSTEM_PODS}/{pod['metadata']['name']}:8080/proxy/metrics")
            found = re.search(r"^process_resident_memory_bytes (\S+)$", page, re.MULTILINE)
            assert found
            assert float(found[1]) < MAX_RSS


@contextmanager
def _namespace(cluster: Cluster, security: str = "privileged") -> Iterator[Namespace]:
    """A namespace as long as it is needed; that it goes is asserted where nothing else went wrong."""
    found = Namespace(cluster, f"gang-{secrets.token_hex(3)}", security=security)
    try:
        yield found
    except BaseException:
        with suppress(AssertionError):
            found.close()
        raise
    found.close()


def _whole_cluster(ns: Namespace, name: str, timeout: int) -> Job:
    """A job that wants every GPU there is."""
    return ns.sleeper(
        name,
        2,
        trainer={"command": SLEEP, "numNodes": 2, "resourcesPerNode": WHOLE_NODE},
        scheduling={"assemblyTimeoutSeconds": timeout},
    )


def _was_released(job: Job) -> None:
    status = job.until(lambda seen: seen["attempt"]["timeouts"] > 0, "time-out")
    message = condition(status, "PodsReady")["message"]
    assert "not all pods were ready within 20 s" in message
    assert "Insufficient nvidia.com/gpu" in message
    job.until(lambda seen: seen["phase"] == "Queued", "phase Queued")
    job.until_pods(lambda pods: not any(one["metadata"]["name"].endswith("-0-0") for one in pods), "release")


def _suspend_and_resume(job: Job) -> None:
    """What the message advises: it is tried at once, not after some minutes."""
    job.edit(suspend=True)
    job.until_phase("Suspended")
    job.edit(suspend=False)


def _forbid_pods(ns: Namespace, name: str) -> None:
    here = {"matchLabels": {"kubernetes.io/metadata.name": ns.name}}
    rules = [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}]
    spec = {
        "failurePolicy": "Fail",
        "matchConstraints": {"resourceRules": rules, "namespaceSelector": here},
        "validations": [{"expression": "false", "message": "no gangs on Sundays"}],
    }
    binding = {"policyName": name, "validationActions": ["Deny"]}
    ns.api.create(f"{ADMISSION}/validatingadmissionpolicies", {"metadata": {"name": name}, "spec": spec})
    ns.api.create(
        f"{ADMISSION}/validatingadmissionpolicybindings", {"metadata": {"name": name}, "spec": binding}
    )
    _until_probed(ns, refused=True)


def _allow_pods(ns: Namespace, name: str) -> None:
    for kind in ("validatingadmissionpolicybindings", "validatingadmissionpolicies"):
        ns.api.delete(f"{ADMISSION}/{kind}/{name}")
    _until_probed(ns, refused=False)


def _until_probed(ns: Namespace, *, refused: bool) -> None:
    """A rule is obeyed a little after it was made, or removed: ask without making anything."""
    probe = {"metadata": {"name": "probe"}, "spec": {"containers": [{"name": "one", "image": "none"}]}}

    def is_refused() -> bool:
        try:
            ns.api.create(f"/api/v1/namespaces/{ns.name}/pods?dryRun=All", probe)
        except RefusedError as error:
            return "no gangs" in error.message
        return False

    assert wait_until(lambda: is_refused() is refused, seconds=300, interval=0.3)


def _operators(ns: Namespace) -> list[Raw]:
    label = "labelSelector=app.kubernetes.io/component=operator"
    found = ns.api.get(f"{SYSTEM_PODS}?{label}")["items"]
    return [one for one in found if not one["metadata"].get("deletionTimestamp")]


def _scale(ns: Namespace, replicas: int) -> None:
    """Until so many operators are there, and ready."""
    path = f"/apis/apps/v1/namespaces/{platform.NAMESPACE}/deployments/mlenv-operator"
    ns.api.patch(path, {"spec": {"replicas": replicas}})

    def settled() -> bool:
        ready = ns.api.get(path)["status"].get("readyReplicas", 0)
        return len(_operators(ns)) == ready == replicas

    assert wait_until(settled, seconds=300, interval=0.5)
