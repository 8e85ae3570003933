"""What couriers say of the job's run becomes status: its page, for as long as the job lives."""

from __future__ import annotations

from typing import Any

import pytest
from fake_cluster import FakeLauncher, stamp
from runs import Run

from mlenv_api.protocol import Beat, LastWords, Tracking
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


def test_a_job_without_a_store_has_none(courier: type[Said]) -> None:
    courier.tracking = Tracking(url=PAGE)
    run = Run().running().beat()
    assert run.status.tracking is None
