"""The SDK against a real API server: what it sends is taken, what is refused becomes a sentence."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from mlenv_api import names
from mlenv_sdk import AlreadyExists, Client, NotFound, NotInstalled, Rejected, TrainingJob, Unauthorized

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .conftest import Kubectl

pytestmark = [pytest.mark.api, pytest.mark.timeout(3600)]  # the first one may build the server
NAME = "sdk-job"


def manifest(**trainer: Any) -> dict[str, Any]:
    spec = {"environmentRef": {"name": "local"}, "trainer": {"command": ["train.py"], **trainer}}
    return {"metadata": {"name": NAME, "labels": {"team": "ranking"}}, "spec": spec}


@pytest.fixture
def client(kubectl: Kubectl) -> Iterator[Client]:
    with Client(kubectl.kubeconfig) as client:
        yield client
        kubectl.ok("delete", "tj", NAME, "--ignore-not-found")


def set_status(kubectl: Kubectl, **status: Any) -> None:
    patch = json.dumps({"status": {"observedGeneration": 1, **status}})
    kubectl.ok("patch", "tj", NAME, "--subresource=status", "--type=merge", "-p", patch)


def condition(kind: str) -> dict[str, Any]:
    held = {"type": kind, "status": "True", "reason": "Completed", "message": "Done."}
    return held | {"lastTransitionTime": "2026-01-01T00:00:00Z"}


def test_a_job_from_submission_to_deletion(client: Client) -> None:
    made = client.submit(manifest(numNodes=2))
    assert made.metadata.uid
    assert made.spec.trainer.num_nodes == 2
    assert made.phase == "Pending"
    assert client.suspend(NAME).spec.suspend is True
    assert client.resume(NAME).spec.suspend is False
    assert client.get(NAME).metadata.generation == 3
    client.delete(NAME)
    client.wait_deleted(NAME, timeout=300)
    with pytest.raises(NotFound, match=f'There is no job "{NAME}"'):
        client.get(NAME)


def test_a_typed_job_is_taken_as_it_is(client: Client) -> None:
    job = TrainingJob.from_manifest(manifest(env=[{"name": "LR", "value": "0.1"}]))
    assert client.submit(job).spec.trainer.env == job.spec.trainer.env


def test_lists_can_be_selected_by_label(client: Client) -> None:
    client.submit(manifest())
    assert [job.metadata.name for job in client.list(labels="team=ranking")] == [NAME]
    assert client.list(labels="team=other") == ()
    assert NAME in [job.metadata.name for job in client.list(all_namespaces=True)]


def test_a_job_of_that_name_is_there_already(client: Client) -> None:
    client.submit(manifest())
    with pytest.raises(AlreadyExists, match="choose another name"):
        client.submit(manifest())


def test_a_misspelt_field_is_refused(client: Client) -> None:
    with pytest.raises(Rejected, match=r'unknown field "spec\.trainer\.numNode"'):
        client.submit(manifest(numNode=2))


def test_every_cause_is_told(client: Client) -> None:
    with pytest.raises(Rejected) as raised:
        client.submit(manifest(numNodes=-1, numProcPerNode=0))
    fields = {cause.field for cause in raised.value.causes}
    assert {"spec.trainer.numNodes", "spec.trainer.numProcPerNode"} <= fields


def test_an_edit_of_a_live_job_is_refused_with_a_sentence(client: Client, kubectl: Kubectl) -> None:
    client.submit(manifest())
    error = kubectl.error("patch", "tj", NAME, "--type=merge", "-p", '{"spec": {"trainer": {"numNodes": 3}}}')
    assert "suspend" in error


def test_waiting_sees_what_happens_meanwhile(client: Client, kubectl: Kubectl) -> None:
    client.submit(manifest())
    reached: list[TrainingJob] = []
    with Client(kubectl.kubeconfig) as other:
        waiter = threading.Thread(target=lambda: reached.append(other.wait(NAME, "Complete", timeout=300)))
        waiter.start()
        set_status(kubectl, phase="Running", conditions=[])
        set_status(kubectl, phase="Complete", conditions=[condition("Complete")])
        waiter.join()
    assert reached[0].complete


def test_a_checkpoint_is_ordered_by_annotation_and_served_by_status(client: Client, kubectl: Kubectl) -> None:
    client.submit(manifest())

    def serve() -> None:
        """What the operator does once it sees the order."""
        with Client(kubectl.kubeconfig) as other:
            ordered = other.wait(NAME, lambda job: job.ordered is not None, timeout=300)
        at = ordered.metadata.annotations[names.ANNOTATION_CHECKPOINT]
        made = {"step": 40, "attempt": 1, "digest": "a" * 64}
        set_status(kubectl, checkpoint={"request": {"requestedAt": at, "sealed": made}})

    with ThreadPoolExecutor(1) as pool:
        served = pool.submit(serve)
        assert client.checkpoint(NAME, timeout=300).step == 40
        served.result()
    assert client.get(NAME).metadata.generation == 1


def test_a_watch_ends_with_the_job(client: Client, kubectl: Kubectl) -> None:
    client.submit(manifest())
    jobs = client.watch(NAME, timeout=300)
    assert next(jobs).metadata.name == NAME
    kubectl.ok("delete", "tj", NAME)
    assert [job for job in jobs if job.metadata.deletion_timestamp is None] == []


def test_events_of_the_job(client: Client, kubectl: Kubectl) -> None:
    uid = client.submit(manifest()).metadata.uid
    event = {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": "sdk-event", "namespace": "default"},
        "eventTime": "2026-01-01T00:00:00.000000Z",
        "reportingController": "mlenv.io/operator",
        "reportingInstance": "test",
        "action": "Starting",
        "type": "Normal",
        "reason": "Started",
        "note": "attempt 1 runs",
        "regarding": {
            "apiVersion": names.API_VERSION,
            "kind": names.TRAINING_JOB,
            "name": NAME,
            "namespace": "default",
            "uid": uid,
        },
    }
    kubectl.ok("create", "-f", "-", stdin=event)
    found = client.events(NAME)
    kubectl.ok("delete", "event", "sdk-event")
    assert [(one.reason, one.message, one.regarding) for one in found] == [("Started", "attempt 1 runs", uid)]


def test_a_job_without_pods_says_so(client: Client) -> None:
    client.submit(manifest())
    assert client.pods(NAME) == ()
    with pytest.raises(NotFound, match="has no pod 0 now"):
        list(client.logs(NAME))


def test_a_namespace_that_does_not_exist(client: Client) -> None:
    nowhere = manifest() | {"metadata": {"name": NAME, "namespace": "nowhere"}}
    with pytest.raises(NotFound, match='The namespace "nowhere" does not exist'):
        client.submit(nowhere)


def test_wrong_credentials_are_a_sentence(kubectl: Kubectl, tmp_path: Path) -> None:
    text = kubectl.kubeconfig.read_text()
    token = text.split('"token": "')[1].split('"')[0]
    bad = tmp_path / "kubeconfig"
    bad.write_text(text.replace(token, "wrong"))
    with Client(bad) as client, pytest.raises(Unauthorized, match="log in again"):
        client.get(NAME)


def test_a_cluster_without_the_platform_is_told_as_such(
    kubectl: Kubectl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlenv_sdk.client.API_VERSION", "mlenv.io/v0")
    with Client(kubectl.kubeconfig) as client, pytest.raises(NotInstalled, match="helm install"):
        client.list()
