"""What couriers say of the job's run becomes status: its page, for as long as the job lives."""

from __future__ import annotations

from typing import Any

import pytest
from fake_cluster import FakeLauncher, stamp
from runs import Run

from mlenv_api.protocol import Beat, Degraded, LastWords, Tracking
from mlenv_api.trainingjob import AttemptState

WANDB = {
    "wandb": {"entity": "ads", "project": "ranker", "apiKeySecretRef": {"name": "wandb", "key": "api-key"}}
}
PAGE = "https://w.example/ads/ranker/runs/77aa"


class Said:
    """What the courier in the first pod says of the run; None: it is of an image that does not tell."""

    tracking: Tracking | None = None


@pytest.fixture
def courier(monkeypatch: pytest.MonkeyPatch) -> type[Said]:
    said = type("Said", (Said,), {})
    plain = FakeLauncher.beat

    def beat(self: FakeLauncher, now: Any) -> Beat:
        return plain(self, now).model_copy(update={"tracking": said.tracking})

    monkeypatch.setattr(FakeLauncher, "beat", beat)
    return said


def page(run: Run) -> str | None:
    return run.status.tracking.url if run.status.tracking else None


def last_words(run: Run, words: LastWords) -> None:
    """All containers have ended; the couriers left these words."""
    for name in run.names():
        message = words.model_dump_json(by_alias=True, exclude_none=True)
        state = {"terminated": {"exitCode": 0, "message": message, "finishedAt": stamp(run.cluster.now)}}
        run.cluster.set_pod_status(name, initContainerStatuses=[{"name": "courier", "state": state}])
        run.cluster.end_pod(name, 0)
    run.settle().after(30).settle()


def test_the_page_is_in_status_with_the_first_beat_that_tells_it(courier: type[Said]) -> None:
    run = Run(tracking=WANDB).running()
    courier.tracking = Tracking()
    run.beat()
    assert page(run) is None
    courier.tracking = Tracking(url=PAGE)
    run.beat()
    assert page(run) == PAGE
    assert run.status.checkpoint is None, "without any checkpoint"


def test_it_stays_when_nobody_speaks_of_it(courier: type[Said]) -> None:
    run = Run(tracking=WANDB).running()
    courier.tracking = Tracking(url=PAGE)
    run.beat()
    for silent in (Tracking(), None):
        courier.tracking = silent
        run.beat().after(30).beat()
        assert page(run) == PAGE
    run.finish()
    assert run.state is AttemptState.COMPLETE
    assert page(run) == PAGE


def test_a_job_that_ended_before_any_beat_told_it_has_it_by_the_courier_s_last_words(
    courier: type[Said],
) -> None:
    run = Run(tracking=WANDB).running().finish()
    assert page(run) is None
    last_words(run, LastWords(tracking=Tracking(url=PAGE)))
    assert page(run) == PAGE


DRIFT = Degraded(reason="HistoryDrift", message="attempt 2 made steps again with another loss")


def kinds(run: Run) -> set[str]:
    return {one.type for one in run.status.conditions}


def test_trouble_is_a_condition_and_one_event_and_is_cleared(courier: type[Said]) -> None:
    run = Run(tracking=WANDB).running()
    assert "TrackingDegraded" not in kinds(run), "nobody has told anything yet"
    courier.tracking = Tracking(url=PAGE)
    run.beat()
    assert run.condition("TrackingDegraded") == ("False", "HistoryLogged", "")
    courier.tracking = Tracking(url=PAGE, trouble=DRIFT)
    run.beat().after(30).beat()
    assert run.condition("TrackingDegraded") == ("True", "HistoryDrift", DRIFT.message)
    assert [one.reason for one in run.operator.events].count("HistoryDrift") == 1
    assert run.condition("CheckpointDegraded")[0] == "False", "checkpoints are another matter"
    assert run.state is AttemptState.RUNNING
    courier.tracking = None
    run.beat().after(30).beat()
    assert run.condition("TrackingDegraded")[0] == "True", "silence mends nothing"
    courier.tracking = Tracking(url=PAGE)
    run.beat()
    assert run.condition("TrackingDegraded")[:2] == ("False", "HistoryLogged")


def test_a_reason_of_a_newer_courier_is_told_as_one_that_is_known(courier: type[Said]) -> None:
    run = Run(tracking=WANDB).running()
    courier.tracking = Tracking(trouble=Degraded(reason="SomethingNew", message="of a newer courier"))
    run.beat()
    assert run.condition("TrackingDegraded") == ("True", "HistoryNotLogged", "of a newer courier")


@pytest.mark.parametrize("last", [DRIFT, None])
def test_a_finished_job_has_it_where_the_courier_ended_with_trouble(
    courier: type[Said], last: Degraded | None
) -> None:
    run = Run(tracking=WANDB).running()
    courier.tracking = Tracking(url=PAGE, trouble=DRIFT)
    run.beat().finish()
    last_words(run, LastWords(tracking=Tracking(url=PAGE, trouble=last)))
    assert run.state is AttemptState.COMPLETE
    assert ("TrackingDegraded" in kinds(run)) == (last is not None)


def test_a_job_without_a_store_has_none(courier: type[Said]) -> None:
    courier.tracking = Tracking(url=PAGE, trouble=DRIFT)
    run = Run().running().beat()
    assert run.status.tracking is None
    assert "TrackingDegraded" not in kinds(run)
