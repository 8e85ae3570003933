"""Lives of jobs on a real cluster with the chart's operator: many at once, each looked at by itself."""

from __future__ import annotations

import secrets
from datetime import datetime
from typing import TYPE_CHECKING

import pytest
from live import ENVIRONMENTS, PATIENCE, PODS, SLEEP, Namespace, RefusedError, condition
from scenarios import Scenarios, chosen

from mlenv_api import names
from mlenv_local.shell import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future

    from live import Raw

    from mlenv_local import Cluster

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

scenario: Scenarios[Namespace] = Scenarios()

ALL_REDUCE = """
import os, torch, torch.distributed as dist
dist.init_process_group("gloo")
value = torch.tensor([float(dist.get_rank() + 1)])
dist.all_reduce(value)
attempt = os.environ["MLENV_ATTEMPT"]
print("attempt", attempt, "of rank", dist.get_rank(), "sum", value.item(), flush=True)
dist.barrier()
if attempt == "1" and dist.get_rank() == 1:
    raise ValueError("the third shard is empty")
dist.barrier()
"""


@pytest.fixture(scope="module")
def lives(installed: Cluster, request: pytest.FixtureRequest) -> Iterator[dict[str, Future[None]]]:
    namespace = Namespace(installed, f"life-{secrets.token_hex(3)}")
    try:
        with scenario.running(namespace, chosen(request, "name")) as futures:
            yield futures
    finally:
        namespace.close()


@scenario
def two_nodes_train_fail_and_go_on_in_the_same_pods(ns: Namespace) -> None:
    job = ns.submit(
        "torch",
        launcher="MLEnv",
        trainer={"command": ["python", "-c", ALL_REDUCE], "numNodes": 2},
        podTemplateOverrides=_apart("torch"),
    )
    job.until_phase("Running")
    before = job.uids()
    ended = job.until_phase("Complete")
    assert job.uids() == before, "the launchers ran the second attempt in the same pods"
    assert len(set(ended["nodes"]["names"])) == 2
    assert ended["restarts"] == {"total": 1, "counted": 1, "withoutProgress": 1}
    assert ended["attempt"]["number"] == 2
    record = ended["attempts"][1]
    assert (record["number"], record["reason"], record["index"], record["exitCode"]) == (
        1,
        "ProgramFailed",
        1,
        1,
    )
    assert "rank 1 in pod torch-1-0" in record["message"]
    assert "the third shard is empty" in record["message"]
    for pod in before:
        assert "attempt 1 of rank" in job.logs(pod)
        assert "sum 3.0" in job.logs(pod).split("attempt 2 of rank")[1]


@scenario
def a_job_without_our_launcher_completes(ns: Namespace) -> None:
    program = 'test "$NNODES" = 2 || exit 1; until getent hosts "$MASTER_ADDR"; do sleep 0.2; done'
    job = ns.submit("plain", trainer={"command": ["sh", "-c", program], "numNodes": 2})
    kubectl, place = ns.cluster.kubectl, f"--namespace={ns.name}"
    job.until_phase("Complete")
    kubectl("wait", "--for=condition=Complete", "tj/plain", place, "--timeout=30s")
    status = job.status()
    assert status["observedGeneration"] == 1
    said = {one["type"]: one["status"] for one in status["conditions"]}
    assert said["Complete"] == "True"
    assert {said[one] for one in ("Failed", "Stalled", "Reconciling")} == {"False"}
    assert "LauncherConnected" not in said
    assert job.uids().keys() == {"plain-0-0", "plain-1-0"}, "finished pods stay, for their logs"
    header, row = kubectl("get", "tj", "plain", place).splitlines()
    assert header.split()[:5] == ["NAME", "PHASE", "READY", "NODES", "ATTEMPT"]
    assert row.split()[:2] == ["plain", "Complete"]
    assert row.split()[3:5] == ["2", "1"]
    words = ("attempt 1 runs: 2 pods on", "2 nodes finished with exit code 0")

    def described() -> str:
        return kubectl("describe", "tj", "plain", place)

    told = wait_until(lambda: all(one in described() for one in words), seconds=PATIENCE)
    assert told, described()  # events come after the status


@scenario
def the_budget_is_used_up_and_the_end_is_the_end(ns: Namespace) -> None:
    fails = {"command": ["sh", "-c", "echo the disk is full >&2; exit 3"]}
    job = ns.submit("fails", launcher="MLEnv", trainer=fails, failurePolicy={"maxRestarts": 1})
    status = job.until_phase("Failed")
    told = condition(status, "Failed")
    assert told["reason"] == "MaxRestartsExceeded"
    assert "maxRestarts (1) is used up" in told["message"]
    assert "the disk is full" in told["message"]
    assert status["restarts"] == {"total": 1, "counted": 1, "withoutProgress": 1}
    assert [one["number"] for one in status["attempts"]] == [2, 1]
    (pod,) = job.until_pods(_all_ended, "end of its pod")
    assert pod["status"]["phase"] == "Failed"
    assert not pod["metadata"].get("finalizers")
    after = job.until_seen(job.edit(failurePolicy={"maxRestarts": 5}))
    assert (after["phase"], after["attempt"]) == (status["phase"], status["attempt"]), "the end is the end"


@scenario
def without_our_launcher_the_gang_is_replaced_and_peers_end_with_the_job(ns: Namespace) -> None:
    program = f'if [ "$NODE_RANK" = 1 ]; then exit 4; fi; {SLEEP[2]}'
    job = ns.submit(
        "gang", trainer={"command": ["sh", "-c", program], "numNodes": 2}, failurePolicy={"maxRestarts": 1}
    )
    status = job.until_phase("Failed")
    assert status["incarnations"] == [1, 1]
    job.until_pods(
        lambda pods: not any(_alive(one) or one["metadata"]["name"] == "gang-0-0" for one in pods),
        "end of the sleeping peers, and the first one's pod gone",
    )


@scenario
def exit_code_78_is_not_retried(ns: Namespace) -> None:
    trainer = {"command": ["sh", "-c", "exit 78"]}
    jobs = [ns.submit(f"never-{one.lower()}", launcher=one, trainer=trainer) for one in ("None", "MLEnv")]
    for job in jobs:
        status = job.until_phase("Failed")
        assert condition(status, "Failed")["reason"] == "DoNotRetry"
        assert status["restarts"]["total"] == 0


@scenario
def a_pod_that_somebody_deletes_is_replaced_alone(ns: Namespace) -> None:
    job = ns.sleeper("robbed", 2, launcher="MLEnv", failurePolicy={"maxRestarts": 0})
    job.until_phase("Running")
    before = job.uids()
    ns.api.delete(f"{PODS.format(ns.name)}/robbed-1-0")
    status = job.until(lambda seen: _runs(seen, 2), "second attempt")
    assert status["incarnations"] == [0, 1]
    assert status["restarts"] == {"total": 1, "counted": 0, "withoutProgress": 1}
    assert status["attempts"][0]["reason"] == "PodLost"
    assert "robbed-1-0" in status["attempts"][0]["message"]
    assert job.uids()["robbed-0-0"] == before["robbed-0-0"]
    job.until_pods(lambda pods: len(pods) == 2, "end of the deleted pod")
    job.delete()
    job.until_gone()


@scenario
def suspended_edited_resumed(ns: Namespace) -> None:
    _environment(ns, "own", "1")
    reference = {"kind": "TrainingEnvironment", "name": "own"}
    job = ns.sleeper("paused", 2, environmentRef=reference)
    before = job.until_phase("Running")
    uids = job.uids()
    assert _versions(job.pods()) == {"1"}
    _environment(ns, "own", "2")
    with pytest.raises(RefusedError, match="only while the job is suspended"):
        job.edit(trainer={"numNodes": 1})
    after = job.until_seen(job.edit(failurePolicy={"maxRestarts": 7}))
    assert (after["attempt"], after["environment"]) == (before["attempt"], before["environment"])
    assert job.uids() == uids, "neither the platform's edit nor the user's has touched the pods"

    status = job.until_seen(job.edit(suspend=True))
    status = job.until_phase("Suspended")
    assert condition(status, "Suspended")["status"] == "True"
    assert job.pods() == []
    assert status["attempts"][0]["reason"] == "Suspended"
    extra = [{"name": "LEVEL", "value": "high"}]
    job.until_seen(job.edit(trainer={"numNodes": 1, "env": extra}))
    assert job.pods() == []

    job.edit(suspend=False)
    status = job.until(lambda seen: _runs(seen, 2), "second attempt")
    (pod,) = job.pods()
    assert pod["metadata"]["name"] == "paused-0-1"
    assert _versions([pod]) == {"2"}
    assert {"name": "LEVEL", "value": "high"} in pod["spec"]["containers"][0]["env"]
    assert status["environment"]["generation"] == 2
    assert condition(status, "Suspended")["status"] == "False"
    assert status["restarts"]["total"] == 0


@scenario
def deadline_counts_active_time_only(ns: Namespace) -> None:
    job = ns.sleeper("bounded", activeDeadlineSeconds=3600)
    job.until_phase("Running")
    job.edit(suspend=True)
    used = job.until_phase("Suspended")["activeSeconds"]
    job.until_seen(job.edit(activeDeadlineSeconds=used + 10))
    job.edit(suspend=False)
    again = job.until(lambda seen: seen["attempt"]["number"] == 2, "second attempt")
    status = job.until_phase("Failed")
    assert condition(status, "Failed")["reason"] == "DeadlineExceeded"
    held = _time(status["completionTime"]) - _time(again["activeSince"])
    assert status["activeSeconds"] >= used + 10
    assert abs(status["activeSeconds"] - used - held.total_seconds()) <= 2, "the suspension is free"
    job.until_pods(lambda pods: not any(_alive(one) for one in pods), "end of its pods")


@scenario
def a_finished_job_is_deleted_when_its_time_to_live_is_over(ns: Namespace) -> None:
    job = ns.submit("brief", trainer={"command": ["true"]}, ttlSecondsAfterFinished=3600)
    job.until_phase("Complete")
    job.edit(ttlSecondsAfterFinished=1)
    job.until_gone()


@scenario
def limits_are_edited_while_live(ns: Namespace) -> None:
    job = ns.sleeper("edited", launcher="MLEnv")
    before = job.until_phase("Running")
    uids = job.uids()
    job.edit(failurePolicy={"maxRestarts": 9}, ttlSecondsAfterFinished=2)
    after = job.until_seen(job.edit(activeDeadlineSeconds=7200))
    assert after["attempt"] == before["attempt"]
    assert job.uids() == uids
    job.edit(activeDeadlineSeconds=1)
    job.until_gone()  # it fails, is told to stop, and its time to live is over


@scenario
def deleted_while_it_runs(ns: Namespace) -> None:
    jobs = [ns.sleeper("gone-plain", 2), ns.sleeper("gone-mlenv", launcher="MLEnv")]
    for job in jobs:
        job.until_phase("Running")
    # Launchers are told addresses; pods without ours find each other by name.
    assert {job.name for job in jobs} & ns.service_names() == {"gone-plain"}
    for job in jobs:
        job.delete()
    for job in jobs:
        job.until_gone()


@pytest.mark.parametrize("name", scenario.names)
def test_life(lives: dict[str, Future[None]], name: str) -> None:
    lives[name].result()


def _apart(gang: str) -> Raw:
    """One pod of this gang on each node."""
    term = {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"gang": gang}}}
    affinity = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
    return {"metadata": {"labels": {"gang": gang}}, "spec": {"affinity": affinity}}


def _environment(ns: Namespace, name: str, version: str) -> None:
    """An environment of the namespace, like this machine's but for a variable."""
    base = ns.cluster.kubectl.get(names.CLUSTER_ENVIRONMENTS, "local")["spec"]
    spec = {**base, "env": [*base["env"], {"name": "VERSION", "value": version}]}
    body = {
        "apiVersion": names.API_VERSION,
        "kind": names.ENVIRONMENT,
        "metadata": {"name": name, "namespace": ns.name},
        "spec": spec,
    }
    place = ENVIRONMENTS.format(ns.name)
    if version == "1":
        ns.api.create(place, body)
    else:
        ns.api.patch(f"{place}/{name}", {"spec": spec})


def _versions(pods: list[Raw]) -> set[str]:
    env = (one for pod in pods for one in pod["spec"]["containers"][0]["env"])
    return {one["value"] for one in env if one["name"] == "VERSION"}


def _runs(status: Raw, number: int) -> bool:
    return bool(status["phase"] == "Running" and status["attempt"]["number"] == number)


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _alive(pod: Raw) -> bool:
    return pod["status"].get("phase") in ("Pending", "Running")


def _all_ended(pods: list[Raw]) -> bool:
    return not any(_alive(one) or one["metadata"].get("finalizers") for one in pods)
