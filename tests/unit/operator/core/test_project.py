from __future__ import annotations

from datetime import timedelta

import pytest
from worlds import ago, ended_pod, pod, raw_job, raw_pod, stamp

from mlenv_api.trainingjob import AttemptState
from mlenv_operator.core.project import (
    parse_environment,
    parse_job,
    parse_revision,
    project_node,
    project_pod,
)
from mlenv_operator.cost.moments import micros


def test_a_pod_of_ours_is_seen_with_its_slot_and_owner() -> None:
    view = pod(1, 2)
    assert (view.name, view.index, view.incarnation, view.job_uid) == ("ranker-1-2", 1, 2, "job-uid")
    assert (view.node, view.pod_ip, view.num_proc, view.finalizer_at) == ("n2", "10.0.0.2", 2, 0)
    assert view.running_since == ago(90)


def test_what_its_image_was_resolved_to_is_seen_and_bounded() -> None:
    assert pod().image == ""
    for said in ("registry/ranker@sha256:" + "7" * 64, "x" * 10_000):
        raw = raw_pod()
        raw["status"]["containerStatuses"][0]["imageID"] = said
        view = project_pod(raw)
        assert view is not None
        assert view.image == said[:512]


@pytest.mark.parametrize(
    "change",
    [
        {"annotations": {}},
        {"annotations": {"mlenv.io/index": "x", "mlenv.io/incarnation": "0"}},
        {"ownerReferences": [{"kind": "ReplicaSet", "uid": "other", "controller": True}]},
        {"ownerReferences": [], "labels": {}},
    ],
)
def test_a_pod_that_is_not_ours_is_not_seen(change: dict[str, object]) -> None:
    assert project_pod(raw_pod(**change)) is None


def test_an_orphan_is_known_by_its_label() -> None:
    view = project_pod(raw_pod(ownerReferences=[]))
    assert view is not None
    assert view.job_uid == "job-uid"


def test_deletion_is_dated_back_to_when_it_was_asked_for() -> None:
    view = pod(deletionTimestamp=stamp(ago(-25)), deletionGracePeriodSeconds=30)
    assert view.deleted_at == ago(5)
    assert not view.killed
    assert pod(deletionTimestamp=stamp(ago(0)), deletionGracePeriodSeconds=0).killed


def test_the_end_of_a_container_is_seen() -> None:
    view = ended_pod(0, 137, reason="OOMKilled", message="bye")
    assert view.terminated is not None
    assert (view.terminated.exit_code, view.terminated.reason) == (137, "OOMKilled")
    assert view.running_since is None


def test_waiting_disruption_and_scheduling_are_seen() -> None:
    conditions = [
        {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": "drain"},
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no room"},
    ]
    state = {"waiting": {"reason": "ErrImagePull", "message": "no such image"}}
    view = pod(phase="Pending", state=state, conditions=conditions)
    assert view.waiting is not None
    assert view.waiting.reason == "ErrImagePull"
    assert view.disruption is not None
    assert view.disruption.message == "drain"
    assert view.unscheduled == "no room"
    assert view.node == ""


def test_the_position_of_our_finalizer_is_seen() -> None:
    assert pod(finalizers=["other", "mlenv.io/accounted"]).finalizer_at == 1
    assert pod(finalizers=[]).finalizer_at == -1


def test_noise_of_a_kubelet_does_not_change_the_view() -> None:
    assert pod(resourceVersion="1") == pod(resourceVersion="2")


def test_a_node_in_trouble_is_seen_since_when() -> None:
    condition = {"type": "Ready", "status": "Unknown", "lastTransitionTime": stamp(ago(60))}
    raw = {
        "metadata": {"name": "n1"},
        "spec": {"taints": [{"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}]},
        "status": {"conditions": [condition]},
    }
    view = project_node(raw)
    assert (view.ready, view.unreachable, view.since) == (False, True, ago(60))


def test_a_node_is_seen_with_what_it_costs_by() -> None:
    raw = {
        "metadata": {"name": "n1", "uid": "u1", "labels": {"node.kubernetes.io/instance-type": "p5"}},
        "status": {
            "capacity": {"nvidia.com/gpu": "8"},
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": stamp(ago(60))}],
        },
    }
    view = project_node(raw)
    assert view.machine is not None
    assert (view.machine.uid, view.machine.instance_type, view.machine.gpus) == ("u1", "p5", 8)
    assert (view.use.use, view.use.since) == (None, micros(ago(60)))
    assert project_node(raw) == view


def test_a_job_is_parsed_with_its_status() -> None:
    status = {"attempt": {"number": 2, "state": "Running", "since": stamp(ago(1))}, "incarnations": [0, 1]}
    job = parse_job(raw_job(status=status))
    assert job.status.attempt is not None
    assert job.status.attempt.state is AttemptState.RUNNING
    assert job.problems == ()
    assert job.created == ago(3600)


def test_a_spec_that_cannot_be_read_becomes_sentences() -> None:
    job = parse_job(raw_job(trainer={"numNodes": -1, "env": [{"name": "1x"}]}))
    assert job.spec is None
    assert job.problems[0].startswith("spec.trainer.env[0].name: ")
    assert any(problem.startswith("spec.trainer.numNodes: ") for problem in job.problems)


def test_a_status_that_cannot_be_read_is_not_taken_for_none() -> None:
    job = parse_job(raw_job(status={"attempt": {"number": 1, "state": "Dreaming", "since": stamp(ago(1))}}))
    assert job.status_problem.startswith("status.attempt.state: ")


def test_the_digest_ignores_what_may_change_while_live() -> None:
    plain = parse_job(raw_job()).digest
    assert parse_job(raw_job(suspend=True, failurePolicy={"maxRestarts": 9})).digest == plain
    assert parse_job(raw_job(activeDeadlineSeconds=5, ttlSecondsAfterFinished=1)).digest == plain
    assert parse_job(raw_job(scheduling={"assemblyTimeoutSeconds": 1800})).digest == plain  # the default
    assert parse_job(raw_job(trainer={"args": ["--x"]})).digest != plain
    assert parse_job(raw_job(launcher="None")).digest != plain


def test_an_environment_is_kept_and_found_again() -> None:
    raw = {
        "kind": "TrainingEnvironment",
        "metadata": {"name": "e", "uid": "u", "generation": 4},
        "spec": {"image": "x"},
    }
    view = parse_environment(raw)
    assert view.spec is not None
    assert parse_revision({"data": {"spec": view.spec.wire()}}) == view.spec
    assert parse_revision({"data": {"spec": {}}}) is None


def test_creation_without_a_clock_is_long_ago() -> None:
    raw = raw_job()
    del raw["metadata"]["creationTimestamp"]
    assert parse_job(raw).created < ago(0) - timedelta(days=365)
