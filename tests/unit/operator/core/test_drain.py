"""What a finished job's couriers could not carry is carried by a Job, or it is said that it is lost."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from fake_cluster import FakeCluster, FakeLauncher, checkpoint, stamp
from runs import Run

from mlenv_api import names
from mlenv_api.conditions import Reason
from mlenv_api.protocol import Beat, Degraded, LastWords, Tracking, Uploaded
from mlenv_api.trainingjob import AttemptState
from mlenv_operator.core.world import Rejection

WANDB = {
    "wandb": {"entity": "ads", "project": "ranker", "apiKeySecretRef": {"name": "wandb", "key": "api-key"}}
}
SPOOL = {"spool": {"volumeClaimName": "disk"}}


def uploaded(step: int) -> Uploaded:
    return Uploaded(**checkpoint(step, 1).model_dump(), artifact=f"ads/ranker/ranker-ckpt:v{step}")


@pytest.fixture(autouse=True)
def _behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Couriers have told of step 10, and of nothing since."""
    plain = FakeLauncher.beat

    def beat(self: FakeLauncher, now: Any) -> Beat:
        return plain(self, now).model_copy(update={"uploaded": uploaded(10)})

    monkeypatch.setattr(FakeLauncher, "beat", beat)


def finished(**spec: Any) -> Run:
    """A job that sealed step 20 last, and is complete; its pods are there, with their couriers."""
    run = Run(tracking=WANDB, **spec).running()
    for launcher in run.cluster.launchers.values():
        launcher.seal(20)
    run.beat().after(30).finish()
    assert run.state is AttemptState.COMPLETE
    return run


def end(run: Run, message: str = "") -> Run:
    """All containers have ended; the couriers left these words."""
    for name in run.names():
        state = {"terminated": {"exitCode": 1, "message": message, "finishedAt": stamp(run.cluster.now)}}
        run.cluster.set_pod_status(name, initContainerStatuses=[{"name": "courier", "state": state}])
        run.cluster.end_pod(name, 0)
    return run.settle().after(30).settle()


def stored(run: Run) -> int:
    record = run.status.checkpoint
    assert record is not None
    assert record.uploaded is not None
    return record.uploaded.step


def jobs(run: Run) -> list[str]:
    return [one for one in run.cluster.writes if one.startswith("create job")]


def name_of(cluster: FakeCluster) -> str:
    assert cluster.job is not None
    return names.drain_name("ranker", cluster.job["metadata"]["uid"])


def test_a_job_takes_over_once_the_couriers_have_ended() -> None:
    run = finished(checkpoint=SPOOL)
    said = (
        "the last checkpoint, of step 20, is being carried to the store for what is left of its pod's grace"
    )
    assert run.condition("CheckpointDegraded") == ("Unknown", "CheckpointNotStored", said)
    assert jobs(run) == []
    assert "CheckpointNotStored" not in [one.reason for one in run.operator.events], "so far it is as always"
    name = name_of(end(run).cluster)
    said = (
        f"the last checkpoint, of step 20, is being carried to the store from volume claim disk by Job {name}"
    )
    assert run.condition("CheckpointDegraded") == ("True", "CheckpointNotStored", said)
    assert "CheckpointNotStored" in [one.reason for one in run.operator.events]
    assert run.after(60).settle().after(60).settle().status.phase == "Complete"
    run.cluster.end_drain("Complete")
    run.after(60).settle().after(60).settle()
    assert stored(run) == 20
    assert "CheckpointDegraded" not in {one.type for one in run.status.conditions}
    assert jobs(run) == [f"create job {name}"]
    assert run.operator.last is not None
    assert run.operator.last.requeue_at is None, "nothing is left to look at"


def test_rows_of_the_history_that_waited_are_logged_with_it_and_it_is_done_once() -> None:
    run = finished(checkpoint=SPOOL)
    trouble = Degraded(reason="StoreUnreachable", message="history is not logged to the job's run")
    words = LastWords(uploaded=uploaded(10), tracking=Tracking(trouble=trouble))
    end(run, words.model_dump_json(by_alias=True, exclude_none=True))
    assert run.condition("TrackingDegraded") == ("True", trouble.reason, trouble.message)
    run.cluster.end_drain("Complete")
    run.after(60).settle().after(60).settle()
    assert (stored(run), len(jobs(run))) == (20, 1)
    assert "TrackingDegraded" not in {one.type for one in run.status.conditions}
    run.cluster.drains.clear()  # it went with its TTL, and another operator leads
    run.operator.drain = None
    run.after(4000).settle().after(60).settle()
    assert (stored(run), len(jobs(run))) == (20, 1), "what the courier said last is older than that"
    assert "TrackingDegraded" not in {one.type for one in run.status.conditions}


def test_it_holds_nothing_but_the_volume_and_the_key() -> None:
    run = end(finished(checkpoint=SPOOL))
    (made,) = run.cluster.drains.values()
    assert made["metadata"]["ownerReferences"][0]["kind"] == "TrainingJob"
    assert made["spec"]["ttlSecondsAfterFinished"] > 0
    pod = made["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    (container,) = pod["containers"]
    assert container["command"][-1] == f"--expect={checkpoint(20, 1).digest}"
    assert {one["name"] for one in pod["volumes"]} == {"mlenv-spool", "mlenv-wandb-key", "mlenv-courier-tmp"}
    assert {one["name"] for one in container["volumeMounts"]} == {one["name"] for one in pod["volumes"]}
    assert "restartPolicy" not in container
    assert "nvidia.com/gpu" not in container["resources"].get("limits", {})


def test_what_a_courier_said_last_counts_when_nobody_beats_any_more() -> None:
    run = finished(checkpoint=SPOOL)
    words = LastWords(uploaded=uploaded(20)).model_dump_json(by_alias=True)
    assert stored(end(run, words)) == 20
    assert jobs(run) == []


@pytest.mark.parametrize("message", ["killed", "{}", '{"uploaded": {"step": -1}}', "{"])
def test_last_words_that_make_no_sense_are_none(message: str) -> None:
    run = finished(checkpoint=SPOOL)
    assert stored(end(run, message)) == 10
    assert len(jobs(run)) == 1


def test_without_a_volume_it_is_said_that_it_is_lost() -> None:
    run = end(finished())
    said = run.condition("CheckpointDegraded")
    assert said[:2] == ("True", "CheckpointNotStored")
    assert said[2].endswith(
        "did not reach the store, and went with its pod: a volume in spec.checkpoint.spool keeps it"
    )
    assert jobs(run) == []


def test_a_job_that_fails_says_where_to_look_and_is_made_again_once_it_is_gone() -> None:
    run = end(finished(checkpoint=SPOOL))
    run.cluster.end_drain("Failed")
    run.after(60).settle().after(600).settle()
    assert f"see kubectl logs -n ns job/{name_of(run.cluster)}" in run.condition("CheckpointDegraded")[2]
    assert len(jobs(run)) == 1
    run.cluster.drains.clear()
    run.after(600).settle()
    assert len(jobs(run)) == 2


def test_a_job_that_is_refused_is_told_and_tried_again_later() -> None:
    run = finished(checkpoint=SPOOL)
    refused = Rejection(Reason.QUOTA_EXCEEDED, "Job drain", "exceeded quota: jobs", run.cluster.now)
    run.operator.rejection = replace(refused, retry_at=run.cluster.now + timedelta(seconds=90))
    end(run)
    assert jobs(run) == []
    said = "did not reach the store, and is on volume claim disk: Job drain was refused: exceeded quota: jobs"
    assert said in run.condition("CheckpointDegraded")[2]
    assert run.operator.last is not None
    assert run.operator.last.requeue_at == run.operator.rejection.retry_at
    run.after(90).settle()
    assert len(jobs(run)) == 1


def test_an_operator_that_is_new_makes_no_second_one() -> None:
    run = end(finished(checkpoint=SPOOL))
    run.operator.drain = None
    run.after(60).settle()
    assert len(jobs(run)) == 1


def test_a_job_without_couriers_has_none() -> None:
    run = Run(checkpoint=SPOOL).running()
    for launcher in run.cluster.launchers.values():
        launcher.seal(20)
    end(run.beat().after(30).finish())
    assert jobs(run) == []
