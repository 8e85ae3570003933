"""When the demo kills the pods of its job, and what it says then."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from tests.unit.sdk.conftest import job

from mlenv_sdk import TrainingJob

sys.path.insert(0, str(Path(__file__).parents[3] / "tools"))

from tasks import demo

REF = {"attempt": 1, "digest": "a" * 64, "time": "2026-01-01T11:59:20Z"}


def at(step: int, sealed: int | None, phase: str = "Running") -> TrainingJob:
    known: dict[str, Any] = {} if sealed is None else {"checkpoint": {"sealed": {"step": sealed, **REF}}}
    return TrainingJob.from_server(job(phase=phase, progress={"step": step, "totalSteps": 1000}, **known))


@pytest.mark.parametrize(
    ("now", "due"),
    [
        (at(499, 400), False),
        (at(500, 400), True),
        (at(500, 481), False),  # too little would have to be made again to be seen
        (at(500, None), False),
        (at(500, 400, "Restarting"), False),
    ],
)
def test_pods_die_half_way_when_some_steps_would_be_lost(now: TrainingJob, due: bool) -> None:  # noqa: FBT001
    assert demo._time_to_lose(now) is due


def test_without_a_loss_the_demo_says_so() -> None:
    assert demo._recovery(at(1000, 980)).startswith("No pod was killed")


def test_what_was_lost_is_told_in_steps() -> None:
    origin = {"checkpoint": {"step": 400, **REF}}
    attempt = {"number": 2, "state": "Running", "since": "2026-01-01T12:00:00Z", "origin": origin}
    ended = {
        "number": 1,
        "startTime": "2026-01-01T11:58:00Z",
        "endTime": "2026-01-01T12:00:00Z",
        "reason": "PodLost",
        "message": "",
        "counted": False,
        "lastStep": 520,
        "lostSteps": 120,
    }
    told = demo._recovery(TrainingJob.from_server(job(attempt=attempt, attempts=[ended])))
    assert "went on from step 400: 120 of these steps were done again" in told
