"""What couriers say becomes status: what is uploaded, and what keeps checkpoints out of the store."""

from __future__ import annotations

from typing import Any

import pytest
from fake_cluster import FakeLauncher, checkpoint
from runs import Run

from mlenv_api.protocol import Beat, Degraded, Uploaded
from mlenv_api.trainingjob import AttemptState

WANDB = {
    "wandb": {"entity": "ads", "project": "ranker", "apiKeySecretRef": {"name": "wandb", "key": "api-key"}}
}


def uploaded(step: int, attempt: int = 1) -> Uploaded:
    one = checkpoint(step, attempt)
    return Uploaded(**one.model_dump(), artifact=f"ads/ranker/ranker-ckpt:v{step}", url="https://w/runs/1")


class Said:
    """What the courier in the pod of a launcher says."""

    uploaded: Uploaded | None = None
    degraded: Degraded | None = None


@pytest.fixture
def courier(monkeypatch: pytest.MonkeyPatch) -> type[Said]:
    said = type("Said", (Said,), {})
    plain = FakeLauncher.beat

    def beat(self: FakeLauncher, now: Any) -> Beat:
        return plain(self, now).model_copy(update={"uploaded": said.uploaded, "degraded": said.degraded})

    monkeypatch.setattr(FakeLauncher, "beat", beat)
    return said


def sealing(run: Run, step: int) -> Run:
    for launcher in run.cluster.launchers.values():
        launcher.seal(step)
    return run.beat().after(30).beat()


def test_what_is_uploaded_is_told_beside_what_is_sealed(courier: type[Said]) -> None:
    run = Run(tracking=WANDB).running()
    courier.uploaded = uploaded(5)
    sealing(run, 10)
    record = run.status.checkpoint
    assert record is not None
    assert record.sealed is not None
    assert record.uploaded is not None
    assert (record.sealed.step, record.uploaded.step) == (10, 5)
    assert record.uploaded.artifact == "ads/ranker/ranker-ckpt:v5"
    courier.uploaded = None
    run.beat().after(30).beat()
    assert run.status.checkpoint == record, "a courier that is silent has not forgotten for us"


def test_when_the_pods_go_what_is_uploaded_stays_a_past(courier: type[Said]) -> None:
    run = Run(tracking=WANDB).running()
    courier.uploaded = uploaded(5)
    sealing(run, 10)
    run.cluster.edit(suspend=True)
    run.settle()
    for name in sorted(run.cluster.pods):
        run.cluster.finish_deletion(name)
    run.settle()
    assert run.state is AttemptState.SUSPENDED
    record = run.status.checkpoint
    assert record is not None
    assert record.sealed is not None
    assert record.sealed.step == 5


def test_trouble_is_a_condition_and_an_event_and_stops_nothing(courier: type[Said]) -> None:
    run = Run(tracking=WANDB).running()
    assert run.condition("CheckpointDegraded")[:2] == ("False", "CheckpointsStored")
    courier.degraded = Degraded(reason="StoreUnauthorized", message="the API key is not accepted")
    run.beat()
    assert run.condition("CheckpointDegraded") == ("True", "StoreUnauthorized", "the API key is not accepted")
    assert run.state is AttemptState.RUNNING
    courier.degraded = Degraded(reason="SomethingNew", message="of a newer courier")
    run.beat()
    assert run.condition("CheckpointDegraded")[:2] == ("True", "UploadFailed")
    courier.degraded = None
    run.beat()
    assert run.condition("CheckpointDegraded")[:2] == ("False", "CheckpointsStored")


def test_a_job_without_a_store_has_no_such_condition(courier: type[Said]) -> None:
    run = Run().running()
    assert "CheckpointDegraded" not in [one.type for one in run.status.conditions]


def test_without_our_launcher_there_is_no_courier() -> None:
    run = Run(tracking=WANDB, launcher="None").settle()
    assert "spec.tracking.wandb is read with our launcher only" in run.condition("Stalled")[2]
