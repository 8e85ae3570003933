"""Fake nodes in a cluster of their own: what happens to pods there reads as a kubelet's word."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from mlenv_api import names
from mlenv_local import Cluster, LocalError, fakenodes, needs
from mlenv_local.cli import app
from mlenv_local.shell import wait_until
from mlenv_operator.core.project import project_node, project_pod

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mlenv_operator.core.world import NodeView, PodView

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).parents[2]
SECONDS = 120.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    missing = needs.judge(needs.look(), images=True)
    if missing:
        pytest.skip(needs.explain(missing))
    found = Cluster("mlenv-tk")
    found.down()
    found.up(nodes=1, fake_gpus=2, fake_nodes=3)
    yield found
    found.down()
    assert found.leftovers() == []


def submit(cluster: Cluster, name: str, node: str = "", **said: str) -> None:
    """A pod such as the operator makes."""
    annotations = {f"{fakenodes.GROUP}/{key.replace('_', '-')}": value for key, value in said.items()}
    slot = {names.ANNOTATION_INDEX: "0", names.ANNOTATION_INCARNATION: "0"}
    meta = {
        "name": name,
        "labels": {names.LABEL_JOB: name, names.LABEL_JOB_UID: f"uid-{name}"},
        "annotations": {**annotations, **slot},
        "finalizers": [names.ACCOUNTED_FINALIZER],
    }
    spec = {
        "restartPolicy": "Never",
        "nodeSelector": {**fakenodes.NODE_SELECTOR, **({"kubernetes.io/hostname": node} if node else {})},
        "tolerations": [fakenodes.TOLERATION],
        "containers": [{"name": names.TRAINER_CONTAINER, "image": "none.invalid/none:1"}],
    }
    manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}
    cluster.kubectl("create", "-f", "-", stdin=json.dumps(manifest))


def say(cluster: Cluster, name: str, **said: str) -> None:
    """Annotate a pod that is there."""
    pairs = [f"{fakenodes.GROUP}/{key.replace('_', '-')}={value}" for key, value in said.items()]
    cluster.kubectl("annotate", "--overwrite", "pod", name, *pairs)


def seen(cluster: Cluster, name: str) -> PodView:
    """The pod as the operator reads it."""
    view = project_pod(cluster.kubectl.get("pod", name))
    assert view is not None
    return view


def until(cluster: Cluster, name: str, holds: Callable[[PodView], bool]) -> PodView:
    assert wait_until(lambda: holds(seen(cluster, name)), seconds=SECONDS), seen(cluster, name)
    return seen(cluster, name)


def node(cluster: Cluster, name: str) -> NodeView:
    return project_node(cluster.kubectl.get("node", name))


def test_fake_nodes_are_ready_and_have_what_they_should(cluster: Cluster) -> None:
    assert cluster.status()["kwok"] is True
    assert cluster.ready_nodes() == ["fake-1", "fake-2", "fake-3", "node-1"]
    for name in cluster.layout.fake_node_names:
        capacity = cluster.kubectl.get("node", name)["status"]["allocatable"]
        assert (capacity["pods"], capacity["nvidia.com/gpu"]) == (str(fakenodes.PODS_PER_NODE), "2")
    shown = CliRunner().invoke(app, ["status", "--name", cluster.name])
    assert "Nodes that are Ready: node-1; fake ones: 3 of 3\n" in shown.output
    with pytest.raises(LocalError, match="has fake_nodes=3, not 4: take it down first"):
        cluster.up(fake_nodes=4)


def test_what_does_not_ask_for_a_fake_node_stays_off_it(cluster: Cluster) -> None:
    container = {"name": "main", "image": "none.invalid/none:1", "resources": {"requests": {"cpu": "200"}}}
    manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "big"}}
    cluster.kubectl.apply({**manifest, "spec": {"containers": [container]}})

    def says() -> str:
        conditions = cluster.kubectl.get("pod", "big")["status"].get("conditions", [])
        return " ".join(one.get("message", "") for one in conditions)

    assert wait_until(lambda: "untolerated taint" in says(), seconds=SECONDS), says()
    cluster.kubectl("delete", "pod", "big", "--force", "--grace-period=0")


def test_a_pod_starts_at_once_and_goes_on(cluster: Cluster) -> None:
    submit(cluster, "plain")
    view = until(cluster, "plain", lambda one: one.phase == "Running")
    assert view.pod_ip.startswith("198.1")
    assert view.node.startswith("fake-")
    assert view.running_since is not None
    assert view.scheduled_at is not None
    assert view.terminated is None


def test_a_pod_succeeds_when_its_time_is_over(cluster: Cluster) -> None:
    submit(cluster, "good", run_for="100ms")
    view = until(cluster, "good", lambda one: one.phase == "Succeeded")
    assert view.terminated is not None
    assert (view.terminated.exit_code, view.terminated.reason) == (0, "Completed")
    assert view.terminated.finished_at is not None
    assert view.running_since is None


def test_a_pod_fails_with_the_code_and_reason_it_is_given(cluster: Cluster) -> None:
    submit(cluster, "bad", run_for="0s", exit_code="77")
    submit(cluster, "oom", run_for="0s", exit_code="137", exit_reason="OOMKilled")
    for name, code, reason in (("bad", 77, "Error"), ("oom", 137, "OOMKilled")):
        view = until(cluster, name, lambda one: one.phase == "Failed")
        assert view.terminated is not None
        assert (view.terminated.exit_code, view.terminated.reason) == (code, reason)


def test_a_pod_starts_no_sooner_than_it_is_told(cluster: Cluster) -> None:
    submit(cluster, "slow", start_after="1h")
    submit(cluster, "quick")
    until(cluster, "quick", lambda one: one.phase == "Running")
    until(cluster, "slow", lambda one: bool(one.node))
    assert seen(cluster, "slow").phase == "Pending"
    say(cluster, "slow", start_after="0s")
    until(cluster, "slow", lambda one: one.phase == "Running")


def test_a_running_pod_ends_once_it_is_told(cluster: Cluster) -> None:
    submit(cluster, "told")
    until(cluster, "told", lambda one: one.phase == "Running")
    say(cluster, "told", exit_code="3", run_for="0s")
    view = until(cluster, "told", lambda one: one.phase == "Failed")
    assert view.terminated is not None
    assert view.terminated.exit_code == 3


def test_a_deleted_pod_ends_and_waits_for_the_finalizer_of_the_operator(cluster: Cluster) -> None:
    submit(cluster, "gone")
    until(cluster, "gone", lambda one: one.phase == "Running")
    cluster.kubectl("delete", "pod", "gone", "--wait=false")
    view = until(cluster, "gone", lambda one: one.killed)
    assert view.terminated is not None
    assert view.terminated.exit_code == 143
    assert view.finalizer_at == 0
    release(cluster, "gone")
    assert wait_until(lambda: not exists(cluster, "gone"), seconds=SECONDS)


def release(cluster: Cluster, name: str) -> None:
    """As the operator does when it has accounted for a pod."""
    cluster.kubectl("patch", "pod", name, "--type=merge", '--patch={"metadata":{"finalizers":null}}')


def exists(cluster: Cluster, name: str) -> bool:
    return bool(cluster.kubectl("get", "pod", name, "--ignore-not-found", "--output=name"))


def test_a_lost_node_goes_silent_and_comes_back(cluster: Cluster) -> None:
    submit(cluster, "left", "fake-2")
    until(cluster, "left", lambda one: one.phase == "Running")
    cluster.kubectl("label", "node", "fake-2", f"{fakenodes.LABEL_LOST}=true")
    assert wait_until(lambda: node(cluster, "fake-2").unreachable, seconds=SECONDS, interval=0.5)
    assert not node(cluster, "fake-2").ready
    assert node(cluster, "fake-1").ready
    say(cluster, "left", run_for="0s")  # nobody is there to obey
    cluster.up(nodes=1, fake_nodes=3)  # does not wait for what is lost on purpose
    assert seen(cluster, "left").phase == "Running"
    cluster.kubectl("label", "node", "fake-2", f"{fakenodes.LABEL_LOST}-")
    assert wait_until(lambda: node(cluster, "fake-2").ready, seconds=SECONDS, interval=0.5)
    until(cluster, "left", lambda one: one.phase in ("Succeeded", "Failed"))


def test_a_killed_kwok_is_seen_and_started_again(cluster: Cluster) -> None:
    cluster.kill_component("kwok")
    assert cluster.status()["kwok"] is False
    cluster.up()
    submit(cluster, "after", "fake-3")
    until(cluster, "after", lambda one: one.phase == "Running")


def test_the_benchmark_of_a_steady_stream_sees_every_job_through(cluster: Cluster) -> None:
    size = ("--rate=3", "--seconds=4", "--pods=2", "--run-for=1", "--ttl=1", f"--name={cluster.name}")
    argv = [sys.executable, str(ROOT / "benchmarks" / "steady.py"), *size]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=540, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert (told["jobs"], told["pods"], told["failed"]) == (12, 2, 0)
    for name in ("created_per_s", "done_per_s", "created_p99_s", "operator_cpu_s_per_job", "rss_mb_at_end"):
        assert told[name] > 0, name
    assert {"operator", "kube-apiserver", "etcd"} <= set(told["cpu"])
    # The chart, which the next one installs, brings the definitions itself, and takes over nobody's.
    cluster.kubectl("delete", "--filename", str(ROOT / "crds"))


def test_the_benchmark_of_gangs_counts_right_in_small(cluster: Cluster) -> None:
    jobs, pods = 6, 2
    size = (f"--jobs={jobs}", f"--pods={pods}", "--run-for=1", f"--name={cluster.name}", "--indexed")
    argv = [sys.executable, str(ROOT / "benchmarks" / "gangs.py"), *size]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=540, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert (told["jobs"], told["pods"], told["jobs_complete"]) == (jobs, pods, jobs)
    # One Service, the pods, the moves of the attempt and an Event or two.
    assert pods + 1 <= told["writes_until_created_per_job"] <= pods + 5
    assert told["api_writes_per_job"] >= told["writes_until_created_per_job"]
    for name in REPORTED:
        assert told[name] > 0, name
    assert told["indexed_job"]["jobs_complete"] == jobs
    assert cluster.exists()  # it was there before


REPORTED = (
    *("gangs_per_s", "running_per_s", "created_p50_s", "created_p99_s", "done_p50_s", "done_p99_s"),
    *("operator_cpu_s_per_job", "operator_rss_mb", "bare_client_gangs_per_s", "ratio_to_bare_client"),
)
